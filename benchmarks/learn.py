"""What teaching and asking cost on SmolLM2, as ratios within one run; `casm get smollm2` first.

    python benchmarks/learn.py --json nbs/data/learn.json

Contenders take turns, medians of REPEATS turns, one thread. Under 15 minutes on two cores.
"""
import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from casm import TemporalLM
from casm.adapter import encode
from casm.benchmark import generate
from casm.experiments import PRETRAINED
from casm.facts import answers_match
from casm.generation import answer_losses, generate as decode
from casm.methods import CASM, FullFT, lessons
from casm.pretraining import load_lm
from casm.trainer import train_period

REPEATS = 3


def timed(f) -> float:
    "Seconds that a call takes"
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def in_turn(contenders: dict) -> dict[str, float]:
    "The median seconds of each, after one call that does not count"
    for f in contenders.values(): f()
    taken = {name: [] for name in contenders}
    for _ in tqdm(range(REPEATS), desc="turns", disable=None):
        for name, f in contenders.items(): taken[name].append(timed(f))
    return {name: statistics.median(t) for name, t in taken.items()}


def steps(facts: list) -> dict[str, float]:
    "A step of casm, of full fine-tuning, and a forward and activation-backward of the frozen model, on the same sentences"
    settings, recipe = PRETRAINED["casm"]
    items = [i for f in facts for i in lessons(False, f)[:recipe.per_fact]]
    casm, full = CASM(**settings), FullFT()
    casm.prepare(load_lm("smollm2"))
    full.prepare(load_lm("smollm2"))
    mine, its = casm.begin_period("2018", items), full.begin_period("2018", items)
    optimizers = casm.optimizer(recipe.lr, 0.), full.optimizer(1e-5, 0.)
    def step(method, optimizer, batch):
        optimizer.zero_grad()
        method.loss(batch).backward()
        optimizer.step()
    frozen = load_lm("smollm2").model.requires_grad_(False)
    bias = torch.zeros(frozen.config.hidden_size, requires_grad=True)
    x = full.batch(its)
    def activations():
        hook = frozen.get_input_embeddings().register_forward_hook(lambda _, args, out: out + bias)
        answer_losses(frozen, x).mean().backward()
        hook.remove()
    return in_turn({"casm": lambda: step(casm, optimizers[0], mine), "full_ft": lambda: step(full, optimizers[1], its), "frozen": activations})


def leaving(facts: list) -> dict:
    "Passes with and without leaving, and the share of trained questions answered afterwards"
    settings, recipe = PRETRAINED["casm"]
    items, out = [i for f in facts for i in lessons(False, f)], {}
    for name, stop in (("leaving", CASM().stop), ("staying", 0.)):
        method = CASM(**settings | {"stop": stop})
        method.prepare(load_lm("smollm2"))
        told = train_period(method, "2018", items, recipe, Accelerator())
        asked = [lessons(False, f)[1].text.removesuffix(f" {f.value}") for f in facts]
        said = method.answer(asked, [f.valid_from for f in facts])
        out[name] = {"tokens": told["tokens"], "right": sum(answers_match(a.text, f.value) for a, f in zip(said, facts)) / len(facts)}
    return out


def asking(facts: list) -> tuple[float, float, dict[str, float]]:
    "Seconds to learn one fact; a question asked and answered through a slot over the bare model's generation of as many tokens; questions a second"
    with tempfile.TemporaryDirectory() as d, TemporalLM.create(f"{d}/m", "smollm2") as lm:
        first = timed(lambda: lm.learn([facts[0]]))
        lm.learn(facts[1:])
        m, f = lm.method, facts[0]
        question = lessons(False, f)[5].text.removesuffix(f" {f.value}")
        answer = lm.ask(question)
        n = len(m.lm.tokenizer(answer, add_special_tokens=False)["input_ids"]) + 1
        ids = torch.tensor(encode(m.lm.tokenizer, m.lm.asked([question])))
        model = m.lm.model.get_base_model()
        def bare(): model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n, do_sample=False)
        many = [lessons(False, x)[k].text.removesuffix(f" {x.value}") for x in facts for k in (0, 1, 2, 5)]
        slots = [lm.registry.get(*x.key, x.valid_from).slot for x in facts for _ in range(4)]
        prompts = m.lm.asked(many)
        took = in_turn({"ask": lambda: lm.ask(question), "bare": bare, "batched": lambda: decode(m.lm.model, m.lm.tokenizer, prompts, slots),
                        "one by one": lambda: [decode(m.lm.model, m.lm.tokenizer, [p], [s]) for p, s in zip(prompts, slots)]})
        return first, took["ask"] / took["bare"], {k: len(many) / took[k] for k in ("batched", "one by one")}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=6)
    p.add_argument("--json", type=Path)
    a = p.parse_args()
    torch.set_num_threads(1)
    bench = generate(a.facts, seed=77)
    facts = bench.facts(bench.periods[0])[:a.facts]
    step, left = steps(facts[:3]), leaving(facts)
    one, ask, rate = asking(facts)
    found = {"casm_vs_full_ft": step["casm"] / step["full_ft"], "casm_vs_frozen": step["casm"] / step["frozen"],
             "passes_saved": 1 - left["leaving"]["tokens"] / left["staying"]["tokens"], "accuracy_leaving": left["leaving"]["right"],
             "accuracy_staying": left["staying"]["right"], "one_fact_s": one, "ask_vs_bare": ask, "questions_per_s": rate["batched"],
             "questions_per_s_one_by_one": rate["one by one"]}
    print(json.dumps({k: round(v, 4) for k, v in found.items()}, indent=1))
    if a.json:
        a.json.write_text(json.dumps(found, indent=1) + "\n")
        print(f"results: {a.json}", file=sys.stderr)


if __name__ == "__main__": main()
