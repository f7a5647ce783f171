"""What a slot's settings do on SmolLM2: one line of the table for each choice, on facts that are in no test; `casm get smollm2` first.

    python benchmarks/settings.py --facts 12 --json nbs/data/settings.json

Goes on where it was interrupted: a choice that is in the file is not measured again.
"""
import argparse
import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from casm.benchmark import generate
from casm.experiments import GENERAL, PRETRAINED
from casm.facts import answers_match
from casm.generation import answer_of, generate as decode
from casm.methods import CASM, lessons
from casm.pretraining import fit_memory, load_lm
from casm.trainer import train_period
from casm.wordings import wordings

# settings of CASM, of TrainConfig, and the layers of the memory, over the recipe's; the most telling first
CHOICES = [
    {}, *({"rows": r, "lr": lr} for r, lr in ((1, .12), (16, .06), (1, .25), (1, .06), (64, .06), (256, .06))),
    *({"layers": x} for x in ([10], [15], [25], [15, 20])), *({"wordings": n} for n in (1, 5, 20)),
    *({"rows": 16, "lr": .06, "stop": x} for x in (.02, .3)), *({"lr": x} for x in (.06, .25)), *({"quiet_below": x} for x in (0., .25, .75)), {"stop": .3},
]


def share(hits: list[bool]) -> float: return round(sum(hits) / len(hits), 4)


def measure(choice: dict, facts: list, alone: dict[str, str]) -> dict:
    "What slots with these settings learn, carry over and leave alone; `alone` has, and gets, the bare model's answers"
    settings, recipe = PRETRAINED["casm"]
    layers = choice.get("layers")
    settings = settings | {k: v for k, v in choice.items() if k in ("rows", "stop", "quiet_below")}
    recipe = replace(recipe, **{k: v for k, v in choice.items() if k in ("lr", "wordings")})
    with patch("casm.methods.fit_memory", partial(fit_memory, layers=tuple(layers)) if layers else fit_memory):
        method = CASM(**settings)
        method.prepare(load_lm("smollm2"))
    told = train_period(method, "2018", [i for f in facts for i in lessons(False, f)], recipe, Accelerator())
    slot = [method.registry.get(f.subject, f.relation, f.valid_from).slot for f in facts]
    rng, asked = random.Random(0), []                                          # asked: (kind, prompt, slot read, value it would say)
    for split in ("train", "choose"):
        asked += [(split, w.prompt, slot[i], f.value) for i, f in enumerate(facts) for w in wordings(f, split)[:5]]
    for q, _ in GENERAL: asked.append(("known", q, slot[j := rng.randrange(len(facts))], facts[j].value))
    for i, f in enumerate(facts): asked += [("near", w.prompt, slot[j := (i + 1) % len(facts)], facts[j].value) for w in wordings(f, "choose")[:3]]
    wrong, shut = [x for x in asked if x[0] in ("known", "near") and x[1] not in alone], set()
    prompts, slots = [p for _, p, *_ in asked + wrong], [s for *_, s, _ in asked] + [-1] * len(wrong)
    said = [answer_of(t) for t in decode(method.lm.model, method.lm.tokenizer, method.lm.asked(prompts), slots, max_new_tokens=12, shut=shut)]
    told_right = {k: share([answers_match(a, v) for a, (kind, _, _, v) in zip(said, asked) if kind == k]) for k in ("train", "choose")}
    alone.update(zip([p for _, p, *_ in wrong], said[len(asked):]))
    kept = {k: share([a == alone[p] for a, (kind, p, *_) in zip(said, asked) if kind == k]) for k in ("known", "near")}
    blurted = share([answers_match(a, v) for a, (kind, *_, v) in zip(said, asked) if kind in kept])
    quiet = share([i in shut for i, x in enumerate(asked) if x[0] == "choose"])
    bank = method.bank
    return {"choice": choice, "facts": len(facts), "trained": told_right["train"], "never trained": told_right["choose"], "kept quiet": quiet,
            "wrong slot, known: keeps": kept["known"], "wrong slot, neighbours: keeps": kept["near"], "blurts": blurted,
            "bytes per fact": round(2 * bank.num_rows * bank.storage.shape[-1]), "tokens": told["tokens"], "seconds": round(told["seconds"], 1)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=12)
    p.add_argument("--json", type=Path, default=Path("settings.json"))
    a = p.parse_args()
    torch.set_num_threads(1)
    bench = generate(a.facts, seed=500)
    facts, rows = bench.facts(bench.periods[0])[:a.facts], json.loads(a.json.read_text()) if a.json.exists() else []
    alone = {}
    for choice in tqdm(CHOICES, desc="choices", disable=None):
        if any(r["choice"] == choice and r["facts"] == a.facts for r in rows): continue
        rows.append(measure(choice, facts, alone))
        print(json.dumps(rows[-1]), flush=True)
        a.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"results: {a.json}")


if __name__ == "__main__": main()
