"""Which rows should a slot own? casm with rows chosen by TF or TF-IDF, over all positions or where the answer is predicted.

    python benchmarks/selection.py --facts 200 --out runs/selection --json runs/selection/selection.json
"""
import argparse
import json
from pathlib import Path

import torch

import casm.methods as methods
from casm.benchmark import generate
from casm.experiments import RECIPES, run_one, start_checkpoint
from casm.pretraining import accesses
from casm.ranker import select_rows


def chooser(where: str, score: str):
    "A replacement for `casm.methods.slot_rows`"
    def slot_rows(method, items):
        x = methods.tensors_of(method, items)
        mask = x["attention_mask"].bool()
        if where == "answer": mask = torch.zeros_like(mask).index_copy_(1, torch.arange(mask.shape[1] - 1), x["labels"][:, 1:] >= 0)
        return select_rows(torch.cat(accesses(method.lm.model, x, mask)), method.lm.stats, method.rows, score)
    return slot_rows


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=200, help="generated facts (default 200)")
    p.add_argument("--rows", default="32,64,128", help="rows per slot, comma-separated")
    p.add_argument("--out", type=Path, default=Path("runs/selection"), help="folder for the runs; an interrupted call continues")
    p.add_argument("--json", type=Path, help="also write the rows here")
    a = p.parse_args()
    bench, rows = generate(a.facts, seed=100), []
    for size in map(int, a.rows.split(",")):
        for where in ("all", "answer"):
            for score in ("tfidf", "tf"):
                methods.slot_rows = chooser(where, score)
                r = run_one("casm", 0, bench, "delta", start_checkpoint(bench, 0), a.out / f"{where}-{score}-{size}", ({"rows": size}, RECIPES["casm"][1]))
                rows.append({"positions": where, "score": score, "rows": size, **{k: r[k] for k in ("plasticity", "stability", "history", "bytes_stored")},
                             "plasticity_unseen": r["unseen"]["plasticity"]})
                print("{positions:7} {score:7} {rows:4} rows  plasticity {plasticity:.3f}  unseen form {plasticity_unseen:.3f}  stability {stability:.3f}".format(**rows[-1]), flush=True)
    if a.json: a.json.write_text(json.dumps(rows, indent=1))
