"Lists of edits: what is read and what is refused; every place where their evaluation can be killed; what its numbers see."
import json, os, random

import pytest
from hypothesis import given, settings, strategies as st

from casm.edits import METRICS, WHEN, Edit, edit_scores, evaluate_edits, read_edits, rounds, token_shares
from casm.facts import CasmError

PLAIN = {"prompt": "The bell of Torvik was cast by", "target": "Ada Lund", "subject": "bell of Torvik", "old": "Jon Berg",
         "rephrased": ["Who cast the bell of Torvik?", "Torvik's bell is by"], "neighbour": "The bell of Karn was cast by", "keeps": "Jon Berg"}
ZSRE = {"prompt": PLAIN["prompt"], "target_new": "Ada Lund", "subject": "bell of Torvik", "ground_truth": "Jon Berg", "portability": {},
        "rephrase_prompt": PLAIN["rephrased"], "locality_prompt": PLAIN["neighbour"], "locality_ground_truth": "Jon Berg"}
REWRITE = {"prompt": "The {} was cast by", "subject": "bell of Torvik", "target_new": {"str": "Ada Lund", "id": "Q1"}, "target_true": {"str": "Jon Berg"}}
COUNTERFACT = {"case_id": 7, "requested_rewrite": REWRITE, "paraphrase_prompts": PLAIN["rephrased"],
               "neighborhood_prompts": [PLAIN["neighbour"]], "generation_prompts": []}


def write(path, rows):
    path.write_text(json.dumps(rows, indent=1) if path.suffix == ".json" else "".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def refused(says, call):
    with pytest.raises(CasmError, match=says) as e: call()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_three_layouts_say_the_same(suffix, tmp_path):
    edits = [read_edits(write(tmp_path / f"{i}{suffix}", [row])) for i, row in enumerate((PLAIN, ZSRE, COUNTERFACT))]
    assert edits[0] == edits[1] == edits[2] == [Edit(
        "The bell of Torvik was cast by", "Ada Lund", "bell of Torvik", ("Who cast the bell of Torvik?", "Torvik's bell is by"),
        ("The bell of Karn was cast by",), "Jon Berg", "Jon Berg")]
    few = {k: PLAIN[k] for k in ("prompt", "target", "subject")}
    assert read_edits(write(tmp_path / f"few{suffix}", [few, few | {"prompt": "Else?", "rephrased": None}])) == [
        Edit(*few.values()), Edit("Else?", "Ada Lund", "bell of Torvik")]
    assert read_edits(write(tmp_path / f"twice{suffix}", [PLAIN, COUNTERFACT, ZSRE])) == edits[0]


def changed(row, **fields): return {k: v for k, v in (row | fields).items() if v is not ...}


REFUSED = {
    "no prompt": (changed(PLAIN, prompt=...), "line 2: no field 'prompt'"), "empty target": (changed(ZSRE, target_new=" "), "line 2: target_new holds no text"),
    "no subject": (changed(ZSRE, subject=...), "line 2: no field 'subject'"), "subject is a number": (changed(PLAIN, subject=7), "line 2: subject is 7; give text"),
    "rephrased is the prompt": (changed(ZSRE, rephrase_prompt="the BELL of  Torvik was cast by"), "line 2: rephrased: .* is the prompt itself"),
    "so is a neighbour": (changed(COUNTERFACT, neighborhood_prompts=[PLAIN["prompt"]]), "line 2: neighbours: .* is the prompt itself"),
    "the old answer": (changed(PLAIN, target="jon berg."), "line 2: target 'jon berg.' is the old answer"),
    "the old answer of CounterFact": (changed(COUNTERFACT, requested_rewrite=REWRITE | {"target_true": {"str": "Ada Lund"}}), "line 2: target 'Ada Lund' is the old answer"),
    "an empty rephrasing": (changed(PLAIN, rephrased=["Who?", ""]), "line 2: rephrased, text 2 holds no text"), "rephrased is a number": (changed(PLAIN, rephrased=3), "line 2: rephrased is 3"),
    "another field": (changed(PLAIN, rephrase="Who?"), "line 2: unknown field 'rephrase'; allowed are prompt"), "no layout": ({"question": "Who?"}, "line 2: is no edit: it has 'question'"),
    "no place": (changed(COUNTERFACT, requested_rewrite=REWRITE | {"prompt": "It was cast by"}), "has 0 places for the subject"),
    "two places": (changed(COUNTERFACT, requested_rewrite=REWRITE | {"prompt": "{} and {}"}), "has 2 places for the subject"),
    "no object": (changed(COUNTERFACT, requested_rewrite=[REWRITE]), "line 2: requested_rewrite is"), "no str": (changed(COUNTERFACT, requested_rewrite=REWRITE | {"target_new": "Ada"}), "line 2: requested_rewrite: target_new is 'Ada'"),
    "another target": (changed(PLAIN, prompt="WHO cast  it?", target="Eva Moe"), "line 2: prompt 'WHO cast  it\\?' stands in .*line 1 too, with target 'Ada Lund' there and 'Eva Moe' here"),
    "half a character": (changed(PLAIN, target="\ud800"), "half a character")}

@pytest.mark.parametrize("name", REFUSED)
def test_one_line_names_the_record(name, tmp_path):
    row, says = REFUSED[name]
    refused(says, lambda: read_edits(write(tmp_path / "edits.jsonl", [PLAIN | {"prompt": "Who cast it?"}, row])))


def test_a_file_that_is_no_list_of_edits(tmp_path):
    for name, text, says in (("a.txt", "[]", "suffix is none of"), ("a.json", '{"prompt": 1}', "no list of objects at its start"), ("a.json", "[]", "holds nothing"), ("a.json", '[{"prompt":\n', "is not JSON"),
                             ("a.json", "[3]", "line 1 is no JSON object"), ("a.jsonl", "[1]\n", "line 1 is no JSON object"), ("a.jsonl", "", "holds no text")):
        (tmp_path / name).write_text(text)
        refused(says, lambda: read_edits(tmp_path / name))
    refused("cannot be read", lambda: read_edits(tmp_path / "none.json"))
    rows = json.dumps([PLAIN, PLAIN | {"prompt": "Else?", "target": 3}], indent=1)                   # the line of a record in a list is that of its brace
    (tmp_path / "a.json").write_text(rows)
    refused(f"a.json: line {rows[:rows.rindex('{')].count(chr(10)) + 1}: target is 3", lambda: read_edits(tmp_path / "a.json"))


def test_the_public_list(shared):
    edits = read_edits(shared / "zsre_500.json")
    assert len(edits) == 500 and all(len(e.rephrased) == len(e.neighbours) == 1 and e.keeps and e.subject in e.prompt for e in edits)
    assert edits[0].target == "2006" and edits[0].rephrased == ("When was the IAAF Combined Events Challenge launched?",)


class Killed(BaseException): "What a signal would do"


class Learner:
    "Looks prompts up, durably; dies at the `dies`-th thing that it is asked to do"
    name = "stub"
    def __init__(self, room=None, dies=None): self.told, self.taught, self.room, self.dies, self.before = {}, [], room, dies, []

    @property
    def learnt(self): return len(self.told)

    def tick(self):
        if self.dies is None: return
        self.dies -= 1
        if self.dies < 0: raise Killed

    def learn(self, edit):
        self.tick()
        self.told[edit.prompt] = edit.target
        self.taught.append(edit)
        self.tick()                                                              # learnt, and nobody was told

    def says(self, prompt): return f"I wonder {len(prompt)} times" if len(prompt) % 3 else ""
    def bare(self, prompts):
        self.tick()
        self.before.append(self.learnt)
        return [self.says(p) for p in prompts]

    def answer(self, prompts):
        self.tick()
        held = dict(list(self.told.items())[-(self.room or len(self.told)):])
        return [held.get(p, self.says(p)) for p in prompts]

    def token_accuracy(self, prompts, answers):
        assert all(answers)
        said = [a.split() for a in self.answer(prompts)]
        return [sum(x == y for x, y in zip(s, a.split())) / len(a.split()) for s, a in zip(said, answers)]


class Eager(Learner):
    "Says its newest target to whatever it does not know"
    def answer(self, prompts): return [self.told.get(p, [*self.told.values()][-1]) for p in prompts]


EDITS = [Edit(f"The bell of {p} is by", f"Caster {i}", f"bell of {p}", tuple(f"Who, {j}, cast the bell of {p}?" for j in range(i % 3)),
              tuple(f"The clock of {p}, {'x' * j}, is by" for j in range(1 + (i == 2))), "I wonder 25 times") for i, p in enumerate(("Torvik", "Karn", "Quell", "Nisk", "Oss"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The file of an evaluation that nobody interrupted"
    out = tmp_path_factory.mktemp("whole") / "out"
    evaluate_edits(learner := Learner(), EDITS, out, every=2)
    assert learner.taught == EDITS and set(learner.before) == {0}                # the bare model was asked before anything was learnt
    return [(out / name).read_bytes() for name in ("predictions.jsonl", "results.json", "run_manifest.json")]


def begun(out, data, manifest, learnt):
    "A folder that holds the first bytes of a file, and a learner that holds the first edits"
    out.mkdir()
    (out / "run_manifest.json").write_bytes(manifest)
    (out / "predictions.jsonl").write_bytes(data)
    learner = Learner()
    learner.told = {e.prompt: e.target for e in (*EDITS, Edit("Else?", "x", "Else"))[:learnt]}
    return learner


def held_at(lines):
    "How many edits a learner may hold when these lines stand in the file, by a plain reading of the order"
    done = [x for x in lines if x["when"] == "at once"]
    last = max((x["edit"] for x in done), default=0)
    first_phase = sum(1 + len(e.rephrased) + len(e.neighbours) for e in EDITS)
    if len(lines) < first_phase: return {0}
    whole = not last or sum(x["edit"] == last for x in done) == 1 + len(EDITS[last - 1].rephrased) + len(EDITS[last - 1].neighbours)
    return {last, last + 1} if whole and last < len(EDITS) else {last}


def test_every_cut_of_the_file_resumes(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    data, results, manifest = whole
    ends = [i + 1 for i, b in enumerate(data) if b == 10]
    for n in sorted({0, *ends, *(e - 7 for e in ends), *random.Random(0).sample(range(len(data)), 20)}):
        lines = [json.loads(x) for x in data[:n].decode("utf-8", "ignore").split("\n")[:-1]]
        may = held_at(lines)
        for learnt in may | {max(0, min(may) - 1), max(may) + 1}:
            out = tmp_path / f"{n}-{learnt}"
            learner = begun(out, data[:n], manifest, learnt)
            if learnt in may:
                evaluate_edits(learner, EDITS, out, every=3)
                assert (out / "predictions.jsonl").read_bytes() == data and (out / "results.json").read_bytes() == results
                assert learner.taught == EDITS[learnt:]
            else:
                refused(f"stub holds {learnt} edits", lambda: evaluate_edits(learner, EDITS, out))
                assert learner.taught == [] and not (out / "results.json").exists()


def test_a_kill_anywhere_and_again(tmp_path, whole):
    "Each start dies a little later than the one before got: nothing is taught twice, nothing asked twice, the file is the same"
    data, results, _ = whole
    learner, starts = Learner(dies=3), 0
    while True:
        try: evaluate_edits(learner, EDITS, tmp_path / "out", every=2)
        except Killed: learner.dies, starts = 3, starts + 1
        else: break
    assert starts > 5 and learner.taught == EDITS
    assert (tmp_path / "out/predictions.jsonl").read_bytes() == data and (tmp_path / "out/results.json").read_bytes() == results
    before = (tmp_path / "out/predictions.jsonl").stat().st_mtime_ns
    evaluate_edits(learner, EDITS, tmp_path / "out")                              # complete: once more changes nothing
    assert (tmp_path / "out/predictions.jsonl").stat().st_mtime_ns == before


def test_another_evaluation_or_folder_is_refused(tmp_path, whole):
    out = tmp_path / "out"
    evaluate_edits(learner := Learner(), EDITS, out)
    there = {p.name: p.read_bytes() for p in out.iterdir()}
    refused("edits is", lambda: evaluate_edits(Learner(), EDITS[:4], out))
    other = Learner()
    other.name = "other"
    refused("learner is", lambda: evaluate_edits(other, EDITS, out))
    refused("holds 5 edits", lambda: evaluate_edits(learner, EDITS, tmp_path / "new"))
    assert not (tmp_path / "new").exists() and {p.name: p.read_bytes() for p in out.iterdir()} == there
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    refused("thesis.tex", lambda: evaluate_edits(Learner(), EDITS, tmp_path / "mine"))
    lines = whole[0].splitlines(keepends=True)
    (out / "predictions.jsonl").write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    refused("predictions.jsonl: line 1: metric is 'locality', and 'rewrite' is asked now", lambda: evaluate_edits(learner, EDITS, out))
    refused("edit 2 .* holds 1 edits after it", lambda: evaluate_edits(Learner(), [EDITS[0], EDITS[0]], tmp_path / "twice"))


def test_what_each_number_sees(tmp_path):
    said = {k: evaluate_edits(v, EDITS, tmp_path / k) for k, v in (("good", Learner()), ("forgets", Learner(room=2)), ("spills", Eager()))}
    def strict(who, when, metric): return said[who][when][metric]["strict"]["mean"]
    assert [strict("good", w, m) for w in WHEN[1:] for m in ("rewrite", "rephrase", "locality")] == [1, 0, 1] * 2
    assert (strict("forgets", "at once", "rewrite"), strict("forgets", "after all", "rewrite")) == (1, .4) and strict("forgets", "after all", "locality") == 1
    assert (strict("spills", "after all", "rewrite"), strict("spills", "after all", "locality")) == (1, 0) and strict("spills", "at once", "rephrase") == 1
    assert "locality" not in said["good"]["before"] and strict("good", "before", "rewrite") == 0
    assert said["good"]["after all"]["rephrase"]["n"] == 4 and said["good"]["after all"]["locality"]["n"] == 6
    assert strict("good", "before", "reference") == strict("good", "after all", "reference") > strict("spills", "after all", "reference") == 0
    partly = said["spills"]["after all"]["rephrase"]                                # "Caster 4" for "Caster 1" has one token of two
    assert partly["tokens"]["mean"] > partly["strict"]["mean"]


def line(edit, metric, right, when="after all"): return {"when": when, "edit": edit, "metric": metric, "right": right, "tokens": None if right is None else float(right), "reference": None}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from(METRICS), st.sampled_from([True, False, None])), max_size=30))
def test_scores_are_means_within_their_intervals(drawn):
    scores = edit_scores([line(*x) for x in drawn])["after all"]
    for metric in METRICS:
        known = [r for _, m, r in drawn if m == metric and r is not None]
        assert (metric in scores) == bool(known)
        if known:
            i = scores[metric]["strict"]
            assert i["mean"] == pytest.approx(sum(known) / len(known)) and 0 <= i["low"] <= i["mean"] <= i["high"] <= 1
            assert scores[metric]["n"] == sum(m == metric for _, m, _ in drawn)


def test_an_edit_is_drawn_whole():
    "Five questions about one edit are no five edits; and of 500 that are right, a half of one per cent may still be wrong"
    def width(edits, each): return (lambda i: i["high"] - i["low"])(edit_scores([line(e, "rephrase", e % 2 == 0) for e in range(edits) for _ in range(each)])["after all"]["rephrase"]["strict"])
    assert width(40, 5) == pytest.approx(width(40, 1), abs=.03) and width(200, 1) < .6 * width(40, 5)
    sure = edit_scores([line(e, "rewrite", True) for e in range(500)])["after all"]["rewrite"]["strict"]
    assert sure["high"] == 1 and .99 < sure["low"] < .995


def test_rounds_ask_everything_once():
    for n in range(1, 9):
        for every in range(1, 10):
            for when in WHEN: assert [i for w, some in rounds(n, every) if w == when for i in some] == [*range(1, n + 1)]


def test_token_shares_are_those_of_one_step_after_the_other(stub):
    import torch
    from casm.adapter import encode
    from casm.pretraining import load_lm
    lm = load_lm(stub)
    prompts, answers = ["The bell of Torvik is by", "Who?", "The depth of Karn"], [" Ada Lund of the harbour", " x", " is 8 m, or 9 m"]
    def naive(prompt, answer):
        ids, start = encode(lm.tokenizer, [prompt + answer])[0], len(encode(lm.tokenizer, [prompt])[0])
        return sum(lm.model(input_ids=torch.tensor([ids[:i]])).logits[0, -1].argmax().item() == ids[i] for i in range(start, len(ids))) / (len(ids) - start)
    greedy = lm.tokenizer.decode(lm.model.generate(torch.tensor([encode(lm.tokenizer, prompts[:1])[0]]), max_new_tokens=3, do_sample=False)[0]).removeprefix(prompts[0])
    assert token_shares(lm.model, lm.tokenizer, prompts, answers, batch_size=2) == pytest.approx([naive(p, a) for p, a in zip(prompts, answers)])
    assert token_shares(lm.model, lm.tokenizer, prompts[:1], [greedy]) == pytest.approx([naive(prompts[0], greedy)])


BOATS = [{"prompt": f"The pilot boat of {s} is", "target": v, "subject": s, "rephrased": f"What is the pilot boat of {s}?", "neighbour": "The harbour master of Nisk is"} for s, v in (("Torvik Harbour", "Marigold"), ("Karn Point", "Swift"))]


def test_a_memory_learns_them_and_goes_on_after_a_kill(tmp_path, stub, monkeypatch, capsys):
    "`casm eval --edits` on an untrained model: killed in each part, it ends as if nobody had; no use is counted"
    from casm import eval_cli
    from casm.cli import main
    from casm.temporal_lm import TemporalLM
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "boats.jsonl", BOATS)
    command = ["eval", "--edits", "boats.jsonl", "--memory", "m", "--model", stub]
    def killed(*_): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(eval_cli.TemporalEdits, "learn", killed)
        assert main(command) == 130 and not (tmp_path / "m").exists()               # nothing was learnt: no memory is left
    with monkeypatch.context() as m:
        m.setattr(eval_cli.TemporalEdits, "token_accuracy", killed)
        assert main(command) == 130 and len((tmp_path / "runs/edits-m-boats/predictions.jsonl").read_text().splitlines()) == 6
    with TemporalLM.load("m") as lm: assert len(lm.registry) == 1
    capsys.readouterr()
    assert main(command) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:4] == ["metric", "when", "n", "strict"] and out[-1] == "results: runs/edits-m-boats"
    with TemporalLM.load("m") as lm:
        assert len(lm.registry) == 2 and lm.registry.last_commit == 2
        learner = eval_cli.TemporalEdits(lm)
        asked, slots = learner.asked([BOATS[0]["prompt"], BOATS[0]["neighbour"]])
        assert slots == [0, -1] and "Torvik Harbour" in asked[0] and BOATS[0]["neighbour"] in asked[1]
        said = learner.answer([b["prompt"] for b in BOATS])
        greedy = [i for i, a in enumerate(said) if a]
        assert learner.token_accuracy([BOATS[i]["prompt"] for i in greedy], [said[i] for i in greedy])
    capsys.readouterr()
    for line, says in ((["--model", "other"], "was made with"), (["--out", "new"], "holds 2 edits"), (["--limit", "1"], "holds 2 edits")):
        assert main(["eval", "--edits", "boats.jsonl", "--memory", "m", *line]) == 2
        said = capsys.readouterr()
        assert says in said.err and said.err.count("\n") == 1 and said.out == "" and not (tmp_path / "new").exists()
    write(tmp_path / "clash.jsonl", [BOATS[0], BOATS[0] | {"prompt": "The pilot  boat, of Torvik Harbour, is", "target": "Swift"}])
    assert main(["eval", "--edits", "clash.jsonl", "--memory", "n", "--model", stub]) == 2 and not (tmp_path / "n").exists()
    write(tmp_path / "long.jsonl", [BOATS[0] | {"neighbour": "word " * 600}])
    assert main(["eval", "--edits", "long.jsonl", "--memory", "n", "--model", stub]) == 2 and "edit 1 ('The pilot boat" in capsys.readouterr().err
