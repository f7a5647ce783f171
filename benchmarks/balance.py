"""How evenly is a retrofitted memory read, and what does it cost? Random queries, whitened ones, and half-keys drawn from the data's own queries.

    python benchmarks/balance.py --json runs/balance.json
"""
import argparse
import json
from pathlib import Path

import torch

import casm.pretraining as pretraining
from casm.memory import MemoryConfig, whiten_queries
from casm.pretraining import TINY, background_world, load_backbone, warmup, world_texts


@torch.no_grad()
def drawn_keys(reader, hidden):
    "Half-keys that are half-queries of the data, different ones for each half"
    heads, _, n, half = reader.keys.shape
    q = reader.query(hidden).unflatten(-1, (heads, 2, half))
    for s in (0, 1): reader.keys[:, s] = q[torch.randperm(len(q))[:n], :, s].transpose(0, 1)


def both(reader, hidden):
    whiten_queries(reader, hidden)
    drawn_keys(reader, hidden)


REMEDIES = {"random": lambda *_: None, "whitened": whiten_queries, "drawn": drawn_keys, "both": both}


def measure(remedy: str, layers: tuple[int, ...], placement: str, n_texts: int, steps: int, seed: int) -> dict:
    "A row of the table: a fresh memory in the tiny model's backbone"
    pretraining.whiten_queries = REMEDIES[remedy]
    model, tokenizer = load_backbone(TINY)
    config = MemoryConfig(128, layers=layers, placement=placement)
    _, r = warmup(model, tokenizer, world_texts(background_world(), n_texts), config, steps, 32, seed=seed)
    return {"queries": remedy, "layers": layers, "placement": placement, "seed": seed, "top1": r.shares[0], "top5": r.shares[1],
            "top1_after": r.shares_after[0], "top5_after": r.shares_after[1], "perplexity": r.without, "attached": r.attached, "after": r.after}


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--remedies", default=",".join(REMEDIES), help="comma-separated (default: all)")
    p.add_argument("--placement", choices=("add", "replace"), default="add")
    p.add_argument("--texts", type=int, default=4000, help="background texts, every 20th held out (default 4000)")
    p.add_argument("--steps", type=int, default=300, help="of 32 texts (default 300)")
    p.add_argument("--seeds", default="0,1", help="comma-separated (default 0,1)")
    p.add_argument("--json", type=Path, help="also write the rows here")
    a = p.parse_args()
    rows = []
    for layers in ((2,), (1, 3)):
        for remedy in a.remedies.split(","):
            for seed in map(int, a.seeds.split(",")):
                rows.append(measure(remedy, layers, a.placement, a.texts, a.steps, seed))
                print("{queries:9} layers {layers}  seed {seed}  top 1 % {top1:.1%} -> {top1_after:.1%}  top 5 % {top5:.1%} -> {top5_after:.1%}  "
                      "perplexity {perplexity:.4f} -> {attached:.4f} -> {after:.4f}".format(**rows[-1]), flush=True)
    if a.json: a.json.write_text(json.dumps(rows, indent=1))
