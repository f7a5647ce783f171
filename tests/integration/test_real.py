"What is claimed of a real model, on one: two facts, their never-trained wordings, an old version after a new one, and everybody else's questions."

from casm import TemporalLM
from casm.facts import Fact, answers_match
from casm.generation import answer_of, generate
from casm.wordings import wordings

OLD, NEW = (Fact("Torvik Harbour", "pilot boat", v, t) for v, t in (("Marigold", "2018"), ("Grey Heron", "2022")))
OTHER = Fact("Lower Sarn Mill", "chief engineer", "Lorien Vance", "2019")
PLAIN = ["What is the capital of France?", "Who wrote Romeo and Juliet?", "What is the largest planet of the solar system?"]

def test_a_pretrained_model_learns_facts_and_leaves_the_rest_alone(smollm2, tmp_path):
    with TemporalLM.create(tmp_path / "m", "smollm2") as lm:
        m = lm.method
        def bare(questions): return [answer_of(t) for t in generate(m.lm.model, m.lm.tokenizer, m.lm.asked(questions), [-1] * len(questions))]
        plain = bare(PLAIN)
        lm.learn([OLD, OTHER])
        held = [w.prompt for w in wordings(OLD, "choose")]
        before = lm.ask(held, explain=True)
        assert all(answers_match(e.answer, "Marigold") for e in before), [e.answer for e in before]
        flat = m.tensors()
        assert [o.kind for o in lm.learn([NEW])] == ["contradiction"]
        assert [e.answer for e in lm.ask(held, explain=True)] == [e.answer for e in before]          # the old version, to the letter
        assert all((m.tensors()["delta"][:len(flat["delta"])] == flat["delta"]).flatten())          # and to the bit
        assert answers_match(lm.ask("What is the pilot boat of Torvik Harbour?"), "Grey Heron")
        assert answers_match(lm.ask("What is the chief engineer of Lower Sarn Mill?"), "Lorien Vance")
        assert lm.ask(PLAIN) == plain
        slots = [lm.registry.get(*f.key, f.valid_from).slot for f in (OLD, NEW, OTHER)]
        shut = set()
        through = generate(m.lm.model, m.lm.tokenizer, m.lm.asked(PLAIN), slots, shut=shut)
        assert [answer_of(t) for t in through] == plain and shut == {0, 1, 2}                       # a slot opened by mistake keeps quiet
    with TemporalLM.load(tmp_path / "m") as again: assert [e.answer for e in again.ask(held, explain=True)] == [e.answer for e in before]

def test_its_name_is_kept_not_its_place(smollm2, tmp_path, monkeypatch):
    TemporalLM.create(tmp_path / "m", "smollm2").close()
    assert '"model": "smollm2"' in (tmp_path / "m" / "temporal_lm.json").read_text()
    monkeypatch.chdir(tmp_path)
    with TemporalLM.load("m") as lm: assert lm.method.lm.name == "smollm2"
