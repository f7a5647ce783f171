"""What the project claims of casm, on the 605 public facts and on the same file in other words. Minutes long: `pytest -m full`."""
import json

import pytest

from casm.benchmark import read_facts, rename
from casm.experiments import run


@pytest.mark.full
@pytest.mark.parametrize("words", ["public", "renamed"])
def test_casm_learns_keeps_and_remembers(tmp_path, shared, words):
    facts = read_facts(shared / "synthetic_facts_raw.json")
    row, = run(facts if words == "public" else rename(facts, 1), tmp_path / "run", methods=["casm"])
    assert row["plasticity"] >= .97 and row["stability"] >= .98 and row["history"] >= .99 and row["stale_rate"] <= .02
    assert row["route_hit_rate"] >= .99 and row["route_abstention"] >= .99
    first = {}
    for p in map(json.loads, (tmp_path / "run/predictions.jsonl").read_text(encoding="utf-8").splitlines()):
        if p["as_of"] is None or p["as_of"] > p["after"]: continue             # about the present, which moves on, or about what nobody had told yet
        key = p["as_of"], p["form"], p["subject"], p["relation"]
        assert first.setdefault(key, p["answer"]) == p["answer"]              # no later update changes an answer about an earlier time
