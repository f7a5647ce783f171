"""How large is a checkpoint, and how long does it take to save, against saving the whole model?

    python benchmarks/checkpoint.py --json nbs/data/checkpoint.json
    python benchmarks/checkpoint.py --quick

Tiny model: each method after two steps on 150 facts, saved as a period's end is. One billion weights (a Llama of 2048 by 16 layers with 128,256 words, in half precision, and a memory of 128 half-keys): tensors of the shapes that each
method would save, filled at random, for the size and the time hang on nothing else. Every save writes, syncs, hashes and renames as in a run.
"""
import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch

from casm.benchmark import generate
from casm.checkpoint import RunFolder, State, write_json_atomic
from casm.methods import METHODS, Item, make_method
from casm.pretraining import load_lm
from casm.trainer import TrainConfig, train_period
from accelerate import Accelerator

HIDDEN, LAYERS, INNER, WORDS, KV = 2048, 16, 8192, 128_256, 512         # Llama 3.2 1B
SLOTS, ROWS, SHARED, RANK = 150, 96, 4096, 16


def taught(name: str, facts: int):
    "A method after two steps on `facts` facts"
    benchmark, method = generate(facts), make_method(name)
    method.prepare(load_lm())
    items = [Item(p.text, p.fact, p.date) for p in benchmark.passages(benchmark.facts("2018"))]
    if name != "casm": items = items[:64]                                # the others' states do not grow with the facts
    train_period(method, "2018", items, TrainConfig(epochs=1, min_steps=1, batch_size=max(1, (len(items) + 1) // 2)), Accelerator())
    return method


def billion(name: str) -> State:
    "A state with the shapes that a method would save for a model of a billion weights"
    half = lambda *shape: torch.randn(shape).half()  # noqa: E731
    sparse = lambda n, rows: {"delta": half(n * rows, HIDDEN), "rows": torch.zeros(n * rows, dtype=torch.int64), "offsets": torch.zeros(n + 1, dtype=torch.int64)}  # noqa: E731
    if name == "casm": return State(sparse(SLOTS, ROWS))
    if name == "smf": return State(sparse(1, SHARED))
    sizes = {"q": (HIDDEN, HIDDEN), "k": (KV, HIDDEN), "v": (KV, HIDDEN), "o": (HIDDEN, HIDDEN)}
    if name == "lora": return State({f"{i}.{n}.{x}": half(*s) for i in range(LAYERS) for n, (a, b) in sizes.items() for x, s in (("a", (RANK, b)), ("b", (a, RANK)))})
    mlp = {"gate": (INNER, HIDDEN), "up": (INNER, HIDDEN), "down": (HIDDEN, INNER)}
    return State({"embed": half(WORDS, HIDDEN)} | {f"{i}.{n}": half(*s) for i in range(LAYERS) for n, s in (sizes | mlp).items()})


def saved(state: State, repeats: int) -> dict:
    "Bytes of a checkpoint with its manifest, and the median seconds of a save"
    with tempfile.TemporaryDirectory() as d, RunFolder(Path(d) / "run", {"benchmark": "checkpoint"}) as run:
        seconds = []
        for n in range(repeats):
            start = time.perf_counter()
            folder = run.save(state, step=n, period="2018")
            seconds.append(time.perf_counter() - start)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        shutil.rmtree(run.checkpoints)
    return {"bytes": size, "seconds": sorted(seconds)[repeats // 2]}


def measure(facts: int, repeats: int, big: bool) -> dict:
    "Every method, and the whole model; sizes in bytes, times also as shares of the whole model's"
    tiny = {"whole model": saved(State(load_lm().model.state_dict()), repeats)}
    for name in METHODS: tiny[name] = saved(taught(name, facts).state(), repeats)
    out = {"tiny": tiny}
    if big: out["1B"] = {name: saved(billion(name), 3) for name in ("whole model", *METHODS)}
    for rows in out.values():
        whole = rows["whole model"]["seconds"]
        for r in rows.values(): r["of_whole"] = r["seconds"] / whole
    return out


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="tiny model and 8 facts, to see that it runs")
    p.add_argument("--json", type=Path, help="also write the numbers here")
    a = p.parse_args()
    result = measure(8, 1, False) if a.quick else measure(SLOTS, 7, True)
    print(json.dumps(result, indent=2))
    if a.json:
        write_json_atomic(a.json, result)
        print(f"results: {a.json}")
