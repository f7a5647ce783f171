"""In which memory does sparse memory finetuning forget least? Shapes retrofitted to the tiny model's backbone by `warmup`, then taught facts that change.

    python benchmarks/shapes.py --facts 100 --out runs/shapes --json runs/shapes/shapes.json
"""
import argparse
from pathlib import Path

from tqdm.auto import tqdm

from casm.adapter import detach
from casm.benchmark import generate
from casm.checkpoint import write_json_atomic
from casm.memory import MemoryConfig
from casm.pretraining import background_world, load_lm, save_whole, warmup, world_texts
from frontier import point

SHAPES = {  # name -> memory
    "4,096 rows": dict(n_keys=64, layers=(2,)),
    "16,384 rows": dict(n_keys=128, layers=(2,)),
    "65,536 rows": dict(n_keys=256, layers=(2,)),
    "16,384 rows, 2 heads": dict(n_keys=128, heads=2, layers=(2,)),
    "16,384 rows, 8 heads": dict(n_keys=128, heads=8, layers=(2,)),
    "16,384 rows, layers 1 and 3": dict(n_keys=128, layers=(1, 3)),
}
RUNS = (("adamw", 2e-2), ("sgd", 50.))  # a quarter of the rows train in each step


def model_of(name: str, out: Path, steps: int) -> Path:
    "The folder of the tiny model's backbone with a warmed-up memory of this shape"
    folder = out / name.replace(",", "").replace(" ", "-")
    if not folder.exists():
        lm = load_lm()
        detach(lm.model)
        lm, _ = warmup(lm.model, lm.tokenizer, world_texts(background_world(), 8000), MemoryConfig(128, **SHAPES[name]), steps, batch=32)
        save_whole(lm, folder)
    return folder


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=100, help="generated facts (default 100)")
    p.add_argument("--steps", type=int, default=300, help="of warm-up (default 300)")
    p.add_argument("--out", type=Path, default=Path("runs/shapes"), help="folder for the models and runs; an interrupted call continues")
    p.add_argument("--json", type=Path, help="also write the points here")
    a = p.parse_args()
    bench, points = generate(a.facts, seed=100), []
    for name, (optimizer, lr) in tqdm([(n, r) for n in SHAPES for r in RUNS], unit="run"):
        folder = model_of(name, a.out, a.steps)
        settings = {"rows": MemoryConfig(128, **SHAPES[name]).num_rows // 4, "score": "tfidf", "optimizer": optimizer}
        points.append({"shape": name, **point("smf", settings, lr, bench, 0, a.out / f"{folder.name}-runs", str(folder))})
        tqdm.write("{shape:28} {optimizer:6} plasticity {plasticity:.3f}  stability {stability:.3f}  background {background:.3f}".format(**points[-1]))
    if a.json: write_json_atomic(a.json, points)
    print(f"results: {a.json or a.out}")
