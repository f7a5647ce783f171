"""What does asking in batches save? An evaluation's questions together, and every eighth of them by itself: same answers, ratio of times per question.

    python benchmarks/evaluation.py --json nbs/data/evaluation.json
    python benchmarks/evaluation.py --quick

The tiny model answers through slots of random rows (what they say does not matter, how they are read does), every question through its own.
"""
import argparse
import json
import time
from pathlib import Path

import torch

from casm.benchmark import generate
from casm.checkpoint import write_json_atomic
from casm.evaluation import evaluate
from casm.experiments import RECIPES
from casm.methods import CASM, Item
from casm.pretraining import load_lm


def method_of(benchmark) -> CASM:
    "casm with a slot of random rows for each fact"
    casm = CASM(**RECIPES["casm"][0])
    casm.prepare(load_lm())
    casm.begin_period("2018", [Item(p.text, p.fact, p.date) for p in benchmark.passages(benchmark.facts("2018"))])
    torch.manual_seed(0)
    with torch.no_grad(): casm.bank.param.add_(.01 * torch.randn_like(casm.bank.param))
    casm.end_period()
    return casm


def measure(n: int, repeats: int) -> dict:
    "Each way `repeats` times in turn; medians"
    benchmark = generate(n)
    casm, probes = method_of(benchmark), [p for t in benchmark.periods for p in benchmark.probes(t, t)]
    evaluate(casm, probes[:8], "2018", 0)                                # warm up
    together, alone = [], []
    for _ in range(repeats):
        start = time.perf_counter(); a = evaluate(casm, probes, "2018", 0); together.append((time.perf_counter() - start) / len(a))
        start = time.perf_counter(); b = [x for p in probes[::8] for x in evaluate(casm, [p], "2018", 0)]; alone.append((time.perf_counter() - start) / len(b))
        if a[::8] != b: raise SystemExit(f"{sum(x != y for x, y in zip(a[::8], b))} of {len(b)} predictions differ between a batch and one by one")
    ratios = sorted(y / x for x, y in zip(together, alone))
    return {"questions": len(probes), "alone": len(b), "slots": len({x["slot"] for x in a}), "same": True, "ratio": ratios[repeats // 2], "least": ratios[0], "most": ratios[-1]}


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=256, help="facts asked for, in four periods and two forms (default 256)")
    p.add_argument("--quick", action="store_true", help="4 facts, to see that it runs")
    p.add_argument("--json", type=Path, help="also write the numbers here")
    a = p.parse_args()
    result = measure(4, 1) if a.quick else measure(a.facts, 3)
    print(json.dumps(result, indent=2))
    if a.json:
        write_json_atomic(a.json, result)
        print(f"results: {a.json}")
