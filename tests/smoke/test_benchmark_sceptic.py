"The sceptic's questions run on the real model, are kept one way at a time, and are scored as they say; what comes out is not asked here."
import importlib.util, json
from pathlib import Path

import pytest

import commands
from casm.benchmark import UseQuestion

FOLDER = Path(__file__).parents[2] / "benchmarks"
spec = importlib.util.spec_from_file_location("sceptic", FOLDER / "sceptic.py")
sceptic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sceptic)


def run(*args): return commands.run(FOLDER / "sceptic.py", *args)


def test_a_way_is_kept_and_not_asked_again(smollm2, tmp_path):
    line = ("--facts", 2, "--ways", "copy,,the fact in the prompt", "--json", tmp_path / "x.json")
    got = run(*line)
    assert got.returncode == 0, got.stderr
    ways = json.loads((tmp_path / "x.json").read_text())["ways"]
    assert list(ways) == ["copy", "the fact in the prompt"] and all(w["n"] and len(w["said"]) == sum(w["n"].values()) for w in ways.values())
    before = (tmp_path / "x.json").read_bytes()
    again = run(*line)
    assert again.returncode == 0 and not again.stdout and (tmp_path / "x.json").read_bytes() == before


def test_another_file_is_left_alone(tmp_path):
    (tmp_path / "made").write_text(json.dumps({"facts": 8, "ways": {}}))
    got = run("--facts", "9", "--json", tmp_path / "made")
    assert got.returncode == 2 and "another file" in got.stderr and not got.stdout


def test_questions_are_true():
    bench = sceptic.two_versions(8)
    assert len(bench.periods) == 2 and 0 < sum(r.values[bench.periods[0]] != r.values[bench.periods[1]] for r in bench.records) < 8
    for q, (a, b) in zip(sceptic.two_facts(bench, 4), zip(bench.records, bench.records[1:])):
        assert a.entity in q.question and b.entity in q.question and q.answer == f"{a.values[q.as_of]} and {b.values[q.as_of]}"


@pytest.mark.parametrize("kind, answer, said, want", [
    ("yes_no", "yes", "Yes, it is.", True), ("yes_no", "yes", "No, it is not.", False), ("changed", "no", "No", True), ("changed", "no", "", False),
    ("sentence", "12 fathoms, and went home", "12 fathoms.", True), ("sentence", "12 fathoms, and went home", "112 fathoms", False),
    ("two facts", "ivory and 10 seconds", "It is 10 seconds, and ivory.", True), ("two facts", "ivory and 10 seconds", "ivory", False),
    ("inverse", "Yyquelm Harbor", "The Yyquelm Harbor has it.", True), ("inverse", "Yyquelm Harbor", "Yyquelm", False)])
def test_answers_are_scored_by_kind(kind, answer, said, want): assert sceptic.right(UseQuestion("?", answer, kind, "2018", ("s", "r")), said) == want
