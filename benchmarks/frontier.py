"""Learning against forgetting: each method over its own knobs, on generated facts. Behind `casm.experiments.RECIPES` and the frontier's figure.

    python benchmarks/frontier.py --facts 100 --out runs/frontier --json runs/frontier/frontier.json
    python benchmarks/frontier.py --model smollm2 --facts 12 --questions 20 --out runs/rates --json nbs/data/rates.json
"""
import argparse
import json
import random
from itertools import product
from pathlib import Path

import torch
from tqdm.auto import tqdm

from casm.benchmark import generate
from casm.checkpoint import RunFolder, write_json_atomic
from casm.experiments import KNOWN, own_memory, recipes, run_one, start_checkpoint
from casm.facts import BACKGROUND_FORMS, answers_match, question
from casm.methods import make_method
from casm.pretraining import background_world
from casm.ranker import SCORES
from casm.trainer import TrainConfig

SMALL, MIDDLE, LARGE = 256, 1024, 4096  # rows a step trains, of the tiny model's 16,384
GRID = {  # method -> settings by name, then learning rates
    "full_ft": [({}, (3e-5, 5e-5, 1e-4, 2e-4))],
    "lora": [({"rank": r, "alpha": 2 * r}, (5e-4, 1e-3, 2e-3)) for r in (4, 16, 64)],
    "smf": [({"rows": t, "score": s}, rates) for s, (t, rates) in product(SCORES, ((SMALL, (5e-2, 1e-1)), (MIDDLE, (2e-2, 5e-2)), (LARGE, (1e-2, 2e-2))))]
         + [({"rows": t, "score": "tfidf", "optimizer": "sgd"}, (10., 50., 100., 200.)) for t in (MIDDLE, LARGE)],
    "casm": [({"rows": t, "quiet_below": .25}, (1e-1, 2e-1)) for t in (16, 64)],
}
PRETRAINED = {  # the same for a model that is taught untouched
    "full_ft": [({}, (1e-5, 3e-5, 1e-4))], "replay": [({"nbytes": 4608}, (1e-5, 3e-5))], "lora": [({"rank": 16, "alpha": 32}, (2e-4, 5e-4, 2e-3))],
    "smf": [({"rows": 2048, "score": "tfidf", "optimizer": "adamw"}, (2e-3, 1e-2, 5e-2))], "lora_slots": [({"rows": 4}, (1e-3, 5e-3))],
}
KEPT = ("plasticity", "stability", "stability_never_changed", "history", "params_per_step", "seconds")


def background_questions(n: int) -> tuple[list[str], list[str], list[str]]:
    "Questions about the world that pretraining taught, which no period mentions: texts, dates and answers"
    facts = random.Random("background questions").sample(background_world(), n)
    return [question(BACKGROUND_FORMS[6], f.subject, f.relation) for f in facts], [f.valid_from for f in facts], [f.value for f in facts]


def background_accuracy(method, n: int = 300) -> float:
    texts, dates, answers = background_questions(n)
    return sum(answers_match(a.text, want) for a, want in zip(method.answer(texts, dates), answers)) / n


def point(name: str, settings: dict, lr: float, bench, seed: int, out: Path, model: str | None, questions: int | None) -> dict:
    "One run, or what is stored of it"
    folder = out / "-".join([name, *(f"{v:g}" if isinstance(v, float) else str(v) for v in settings.values()), f"{lr:g}"])
    done = folder / "point.json"
    if done.exists(): return json.loads(done.read_text())
    config = TrainConfig(**{**vars(recipes(model)[name][1]), "lr": lr})
    row = run_one(name, seed, bench, "delta", start_checkpoint(bench, seed, model), folder, (settings, config), questions)
    got = {"method": name, **settings, "lr": lr, **{k: row[k] for k in KEPT}}
    if own_memory(model):
        method, saved = make_method(name, KNOWN, **settings), RunFolder(folder).load_latest()
        method.prepare(start_checkpoint(bench, seed, model))
        before = background_accuracy(method)
        method.load_state(saved.tensors, saved.meta, saved.folder)
        got |= {"background": background_accuracy(method), "background_before": before}
    else: got |= {"unseen": row["unseen"], "background": row["locality_background"], "background_before": 1., "perplexity_drift": row["perplexity_drift"]}
    write_json_atomic(done, got)
    return got


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=100, help="generated facts (default 100)")
    p.add_argument("--methods", help="comma-separated (default: all)")
    p.add_argument("--model", help="smollm2, or any causal language model (default: the tiny model)")
    p.add_argument("--questions", type=int, help="of a kind, form and moment at most")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("runs/frontier"), help="folder for the runs; an interrupted call continues")
    p.add_argument("--json", type=Path, help="also write the points here")
    a = p.parse_args()
    grid = GRID if own_memory(a.model) else PRETRAINED
    methods = a.methods.split(",") if a.methods else list(grid)
    if unknown := set(methods) - grid.keys(): p.error(f"--methods: {min(unknown)!r} is unknown; choose from {', '.join(grid)}")
    torch.set_num_threads(1)
    bench = generate(a.facts, seed=a.seed + 100)
    todo = [(m, s, lr) for m in methods for s, rates in grid[m] for lr in rates]
    points = []
    for name, settings, lr in tqdm(todo, unit="run"):
        points.append(point(name, settings, lr, bench, a.seed, a.out, a.model, a.questions))
        tqdm.write("{method:8} {s:32} lr {lr:<7g} plasticity {plasticity:.3f}  stability {stability:.3f}  background {background:.3f}  history {history:.3f}".format(
            s=" ".join(f"{k}={v}" for k, v in settings.items()), **points[-1]))
    if a.json: write_json_atomic(a.json, points)
    print(f"results: {a.json or a.out}")
