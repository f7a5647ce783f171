"benchmarks/memory.py runs and reports everything it names, and its contenders do the same work; how fast is not asked here."
import importlib.util, json, subprocess, sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"
spec = importlib.util.spec_from_file_location("benchmark_memory", SCRIPT)
bench = sys.modules[spec.name] = importlib.util.module_from_spec(spec)      # dataclasses look their module up
spec.loader.exec_module(bench)


def run(*args): return subprocess.run([sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True, timeout=600)


def numbers(x):
    "Every number in nested JSON, truth values left out"
    if isinstance(x, dict): x = list(x.values())
    if isinstance(x, list): return [n for y in x for n in numbers(y)]
    return [x] if isinstance(x, (int, float)) and not isinstance(x, bool) else []


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "memory.json"
    got = run("--quick", "--json", path)
    assert got.returncode == 0, got.stderr
    return json.loads(path.read_text()) | {"said": got.stdout}


def test_everything_is_reported_and_positive(result):
    assert result.keys() - {"said"} == {"environment", "shapes", "times", "peak_bytes", "ratios", "sizes"}
    contenders = {part: {c.__name__ for c in cs} for part, cs in bench.PARTS.items()}
    assert {p: set(t) - {"rank"} if p == "step" else set(t) for p, t in result["times"].items()} == contenders
    assert {p: set(t) for p, t in result["peak_bytes"].items()} == contenders
    assert all(x > 0 for x in numbers([result[k] for k in ("times", "peak_bytes", "ratios", "sizes")]))
    assert {"device_name", "dtype", "threads", "torch"} <= result["environment"].keys()


def test_ratios_carry_the_targets(result):
    assert {k: r["target"] for k, r in result["ratios"].items()} == {
        "compact_vs_dense_mask": ">= 100", "compact_vs_sparse_sgd": ">= 1", "rank_vs_dict": ">= 30", "rank_vs_dict_zipf": ">= 5",
        "lookup_vs_brute_force": None, "rank_share": "<= 0.05", "smf_vs_frozen": "<= 1.25", "smf_vs_full_ft": "<= 0.7", "smf_vs_lora": None}
    for name, r in result["ratios"].items():
        assert r["min"] <= r["median"] <= r["max"]
        assert r["met"] == (bench.meets(r["median"], r["target"]) if r["target"] else None)
        assert name in result["said"]


def test_sizes_are_plotted(result, tmp_path):
    curves = {k: set(v) for k, v in result["sizes"].items()}
    assert curves == {"rows": {"compact", "dense_mask", "sparse_sgd"}, "chosen": {"compact", "compact_sgd", "sparse_sgd"}}
    bench.plot(result["sizes"]).savefig(tmp_path / "sizes.png")


@pytest.mark.parametrize("line", [("--only", "updates"), ("--repeats", "0"), ("--json", "/nowhere/x.json")])
def test_bad_line(line):
    got = run(*line)
    assert got.returncode == 2 and line[0] in got.stderr and not got.stdout


def test_ratio_is_taken_turn_by_turn():
    q = bench.quotients({"update": {"dense_mask": [2., 30., 4.], "compact": [1., 10., 1.], "sparse_sgd": [1., 1., 1.], "compact_sgd": [2., 2., 2.]}})
    assert q["compact_vs_dense_mask"] == {"median": 3., "min": 2., "max": 4., "target": ">= 100", "met": False}
    assert q.keys() == {"compact_vs_dense_mask", "compact_vs_sparse_sgd"}


@pytest.mark.parametrize("zipf", [0., 1.1])
def test_dictionaries_rank_alike(zipf):
    r = bench.Ranking(rows=512, accesses=2048, chosen=20, zipf=zipf)
    stats, rows = bench.background(r), bench.row_ids(r, 0)
    counts, idf = torch.bincount(rows, minlength=512), bench.idf_of(stats)
    score = lambda ids: sorted(int(counts[i]) * idf[int(i)] for i in ids)
    assert score(bench.select_by_dict(rows, idf, 20)) == pytest.approx(score(bench.select_rows(rows, stats, 20)))


def test_brute_force_finds_the_same_rows():
    x = bench.Lookup(n_keys=16, k=8, key_dim=8, hidden=16, tokens=200)
    memory, hidden = bench.lookup_memory(x)
    mine, brute = memory.lookup(hidden), bench.brute_force(memory, bench.row_keys(memory, 16), hidden)
    assert torch.equal(mine.rows, brute.rows)
    torch.testing.assert_close(mine.weights, brute.weights)
