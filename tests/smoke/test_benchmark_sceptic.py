"The sceptic's tables run, are kept one by one, and measure what they say; what comes out is not asked here."
import importlib.util, json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import commands
from casm.benchmark import USE_KINDS, UseQuestion, generate
from casm.facts import Fact
from casm.pretraining import load_lm
from casm.registry import Registry

FOLDER = Path(__file__).parents[2] / "benchmarks"
spec = importlib.util.spec_from_file_location("sceptic", FOLDER / "sceptic.py")
sceptic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sceptic)


def run(*args): return commands.run(FOLDER / "sceptic.py", *args)


def test_every_table(tmp_path):
    got = run("--quick", "--facts", 8, "--json", tmp_path / "x.json")
    assert got.returncode == 0, got.stderr
    tables = json.loads((tmp_path / "x.json").read_text())["tables"]
    assert set(tables) == set(sceptic.PARTS) and all(t["rows"] for t in tables.values())
    assert {"as it is"} <= {r["choice"] for r in tables["a"]["rows"]} and all(r["kinds"]["known"]["n"] for r in tables["a"]["rows"])
    assert {r["routing"] for r in tables["d"]["rows"]} == {"oracle", "the router's", "none", "random", "adapter of the date's period", "the last adapter"}
    rules, = [r for r in tables["b"]["rows"] if r["method"] == "registry and rules"]
    assert rules["inverse"] == rules["yes_no"] == rules["changed"] == rules["sentence_value"] == 1
    before = (tmp_path / "x.json").read_bytes()
    again = run("--quick", "--facts", 8, "--json", tmp_path / "x.json")             # nothing is left to do
    assert again.returncode == 0 and not again.stdout and (tmp_path / "x.json").read_bytes() == before


@pytest.mark.parametrize("line, said", [(("--only", "a,z"), "'z'"), (("--facts", "9", "--json", "made"), "another file")])
def test_bad_line(tmp_path, line, said):
    (tmp_path / "made").write_text(json.dumps({"settings": {"facts": 8, "quick": False}, "tables": {}}))
    got = run(*[tmp_path / x if x == "made" else x for x in line])
    assert got.returncode == 2 and said in got.stderr and not got.stdout


def test_wrong_questions_are_about_something_else():
    bench = generate(60, seed=3)
    held = [(i, f) for i, f in enumerate(bench.facts("2020"))]
    asked = sceptic.wrong_questions(bench, held)
    assert {k for k, *_ in asked} >= {"same relation", "another fact", "background", "same relation, untaught", "same subject, untaught"}
    for kind, prompt, slot, value in asked:
        f = held[slot][1]
        assert value == f.value and not (f" of {f.subject} is" in prompt and f"The {f.relation} of" in prompt)
    assert asked == sceptic.wrong_questions(bench, held)


def test_an_heir_starts_from_its_parent():
    bench, method = generate(4, seed=1), sceptic.Heir(rows=4)
    method.prepare(load_lm())
    fact, other = bench.facts("2018")[:2]
    told = lambda f: [sceptic.Item(p.text, f, f.valid_from) for p in bench.passages([f])]  # noqa: E731
    method.begin_period("2018", told(fact))
    with torch.no_grad(): method.bank.param[1:] = torch.arange(1., 5)[:, None]
    method.end_period()
    method.begin_period("2020", [*told(Fact(fact.subject, fact.relation, "something else", "2020")), *told(replace(other, valid_from="2020"))])
    assert method.bank.param[1:, 0].tolist() == [1, 2, 3, 4, 0, 0, 0, 0]


def test_a_warned_slot_hears_questions_that_are_not_its_own():
    bench, method = generate(4, seed=1), sceptic.Warned(beside=8, pool=4, rows=4)
    method.prepare(load_lm())
    items = [sceptic.Item(p.text, p.fact, p.date) for p in bench.passages(bench.facts("2018")[:2])]
    kept = method.begin_period("2018", items)
    own = {(sceptic.split_answer(i)[0], i.fact) for i in items}
    assert len(method.others) == 8 and not {(p, f) for p, _, f in method.others} & own
    alone = sceptic.CASM.loss(method, kept[:4])
    torch.testing.assert_close(method.loss(kept[:4]), alone)                   # a slot of zeros says nothing to anybody
    with torch.no_grad(): method.bank.param.normal_()
    loss = method.loss(kept[:4])
    assert loss > sceptic.CASM.loss(method, kept[:4]) + .01
    loss.backward()
    assert method.bank.param.grad.abs().sum() > 0


def test_by_value_abstains_in_doubt():
    registry = Registry()
    registry.assert_facts([Fact("A Quay", "berth depth", "12 fathoms", "2018"), Fact("B Quay", "berth depth", "9 fathoms", "2018"), Fact("C Quay", "hull paint", "teal", "2018"),
                           Fact("D Quay", "hull paint", "teal", "2018"), Fact("A Quay", "berth depth", "7 fathoms", "2020")])
    ask = lambda relation, value, t: (r := sceptic.by_value(registry, f"In {t}, which quay has the {relation} {value}?", t)) and r.subject  # noqa: E731
    assert ask("berth depth", "12 fathoms", "2018") == "A Quay" and ask("berth depth", "9 fathoms", "2020") == "B Quay"
    assert ask("berth depth", "12 fathoms", "2020") is None and ask("hull paint", "teal", "2018") is None and ask("hull paint", "2 fathoms", "2018") is None


def test_use_scores():
    asked = [UseQuestion("q", "12 fathoms, and went home", "sentence", "2020", ("s", "r")), UseQuestion("q", "no", "yes_no", "2020", ("s", "r"))]
    assert sceptic.use_scores(asked, ["12 fathoms", "yes"]) == {"sentence": 0, "sentence_value": 1, "yes_no": 0, "yes_no_says_yes": 1}
    assert sceptic.use_scores(asked, ["12 fathoms, and went home", "no"]) == {"sentence": 1, "sentence_value": 1, "yes_no": 1, "yes_no_says_yes": 0}


def test_world_exercises_are_true():
    import random
    facts, rng = sceptic.background_world()[:300], random.Random(0)
    for kind in USE_KINDS:
        pairs = [sceptic.world_exercise(rng, facts, kind) for _ in range(60)]
        if kind in ("yes_no", "changed"): assert 15 < sum(a == " yes." for _, a in pairs) < 45
    for p, a in [sceptic.world_exercise(rng, facts, "changed") for _ in range(60)]:
        since, date = p.removesuffix("?").split(" between ")[1].split(" and ")
        subject = next(f.subject for f in facts if f" of {f.subject} change" in p)
        values = {next(f.value for f in facts if f.subject == subject and f" {f.relation} of" in p and sceptic.contains(f.valid_from, f.valid_until, t)) for t in (since, date)}
        assert since < date and (len(values) == 2) == (a == " yes.")
