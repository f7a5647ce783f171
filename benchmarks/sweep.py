"""Learning-rate sweep behind `casm.experiments.RECIPES`: each method's best stability at plasticity >= 0.85, on generated facts.

    python benchmarks/sweep.py --facts 300 --out runs/sweep --json runs/sweep/sweep.json
"""
import argparse
import json
from dataclasses import replace
from pathlib import Path

from casm.benchmark import generate
from casm.experiments import RECIPES, run_one, start_checkpoint

RATES = {"full_ft": (2e-5, 5e-5, 1e-4, 2e-4, 5e-4), "lora": (2e-4, 5e-4, 1e-3, 2e-3, 5e-3), "smf": (2e-3, 5e-3, 1e-2, 2e-2, 5e-2), "casm": (2e-2, 5e-2, 1e-1, 2e-1)}


def sweep(methods: list[str], facts: int, out: Path, seed: int, size: int | None) -> list[dict]:
    bench, rows = generate(facts, seed=seed + 100), []
    for name in methods:
        settings, recipe = RECIPES[name]
        if size and "rows" in settings: settings = {"rows": size}
        for lr in RATES[name]:
            folder = out / "-".join([name, *map(str, settings.values()), f"{lr:g}"])
            row = run_one(name, seed, bench, "delta", start_checkpoint(bench, seed), folder, (settings, replace(recipe, lr=lr)))
            rows.append({"method": name, "rows": settings.get("rows"), "lr": lr, **{k: row[k] for k in ("plasticity", "stability", "history", "seconds")}})
            print("{method:8} lr {lr:<7g} plasticity {plasticity:.3f}  stability {stability:.3f}  history {history:.3f}".format(**rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=300, help="generated facts (default 300)")
    p.add_argument("--methods", default=",".join(RATES), help="comma-separated (default: all)")
    p.add_argument("--rows", type=int, help="rows for smf and casm, instead of their recipe's")
    p.add_argument("--out", type=Path, default=Path("runs/sweep"), help="folder for the runs; an interrupted sweep continues")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", type=Path, help="also write the rows here")
    a = p.parse_args()
    rows = sweep(a.methods.split(","), a.facts, a.out, a.seed, a.rows)
    if a.json: a.json.write_text(json.dumps(rows, indent=1))
