"""Uses of a fact that are no look-up, asked of SmolLM2: which subject has the value, is it this one, did it change, a sentence that takes the
value in its stride, two facts in one question; `casm get smollm2` first.

    python benchmarks/sceptic.py --json nbs/data/sceptic.json

The facts have two versions. Each way of knowing them is a line of the file, written when it is done; an interrupted call goes on with the next. About
an hour on one core.
"""
import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from casm.baselines import Copy, Frozen, LoRASlots, RAG, shots_prompt
from casm.benchmark import Benchmark, SeedRecord, UseQuestion, generate, use_questions
from casm.checkpoint import write_json_atomic
from casm.experiments import PRETRAINED, items_of
from casm.facts import answers_match, canonical, dated
from casm.generation import answer_of, generate as decode
from casm.methods import CASM, Item
from casm.pretraining import load_lm
from casm.trainer import train_period
from casm.wordings import KINDS, phrases, wordings


def two_versions(n: int) -> Benchmark:
    "Generated facts, of which half change between the two periods"
    bench = generate(n, seed=600)
    first, last = bench.periods[0], bench.periods[-1]
    return Benchmark((first, last), tuple(SeedRecord(r.entity, r.relation, {t: r.values[t] for t in (first, last)}) for r in bench.records))


def two_facts(bench: Benchmark, n: int) -> list[UseQuestion]:
    "Questions that name two facts and want both values"
    last, out = bench.periods[-1], []
    for a, b in list(zip(bench.records, bench.records[1:]))[:n]:
        named = [phrases(r.entity, r.relation)["np"] for r in (a, b)]
        out.append(UseQuestion(f"What are {named[0]} and {named[1]}?", f"{a.values[last]} and {b.values[last]}", "two facts", last, (a.entity, a.relation)))
    return out


def right(q: UseQuestion, said: str) -> bool:
    "Whether an answer is right: the value for a sentence, whatever follows; yes or no by its first word; both values of two facts, in any order"
    text = f" {canonical(said)} ".replace(",", " ").replace(".", " ")
    if q.kind in ("yes_no", "changed"): return text.split()[:1] == [q.answer]
    if q.kind == "sentence": return f" {canonical(q.answer.removesuffix(', and went home'))} " in text
    if q.kind == "two facts": return all(f" {canonical(v)} " in text for v in q.answer.split(" and "))
    return answers_match(said, q.answer) or f" {canonical(q.answer)} " in text


def teach(method, bench: Benchmark, recipe, more: tuple[str, ...] = ()) -> None:
    "Teach both periods to the untouched model, the facts in wordings of further kinds too"
    method.prepare(load_lm("smollm2"))
    for t in bench.periods:
        items = items_of(bench, t, tiny=False)
        own = {f: i for i, f in enumerate(dict.fromkeys(i.fact for i in items))}
        told = list(own)
        for f in told:
            other = told[own[f] - 1].value
            items += [Item(f"{w.prompt} {w.reply}", f, t, w.reply) for w in wordings(f, other=None if other == f.value else other, kinds=more)] if more else []
        train_period(method, t, items, recipe, Accelerator())


def with_the_fact(lm, bench: Benchmark, asked: list[UseQuestion]) -> list[str]:
    "The bare model with the fact's own sentences, of both versions with their dates, in its prompt"
    by = {(r.entity, r.relation): r for r in bench.records}
    order = list(by)
    def notes(q):
        keys = [q.gold, *([order[order.index(q.gold) + 1]] if q.kind == "two facts" else [])]
        times = bench.periods if q.kind == "changed" else [q.as_of]
        return [f"In {t}, {phrases(*k)['claim']} {by[k].values[t]}." for k in keys for t in times]
    prompts = lm.asked([shots_prompt(notes(q), q.question) for q in asked])
    return [answer_of(t) for t in decode(lm.model, lm.tokenizer, prompts)]


def answers(name: str, bench: Benchmark, asked: list[UseQuestion]) -> dict[str, list[str]]:
    "What one way of knowing the facts says; of casm also what it says when each question is led to its fact's slot"
    questions, dates = [q.question for q in asked], [q.as_of for q in asked]
    if name == "the fact in the prompt": return {name: with_the_fact(load_lm("smollm2"), bench, asked)}
    method, kind, more = {"frozen": (Frozen(), "frozen", ()), "copy": (Copy(), "copy", ()), "rag": (RAG(**PRETRAINED["rag"][0]), "rag", ()),
                          "casm": (CASM(**PRETRAINED["casm"][0]), "casm", ()), "casm, told the uses": (CASM(**PRETRAINED["casm"][0]), "casm", KINDS[3:]),
                          "lora_slots": (LoRASlots(rows=4, targets="layers.20.mlp.down_proj"), "lora_slots", ())}[name]
    recipe = PRETRAINED[kind][1]
    teach(method, bench, replace(recipe, wordings=0 if more else recipe.wordings), more)
    said = {name: [a.text for a in method.answer(questions, dates)]}
    if kind == "casm":
        gold = [method.registry.get(*q.gold, q.as_of or bench.periods[-1]).slot for q in asked]
        said[f"{name}, right slot"] = [a.text for a in method.answer_through(questions, dates, gold)]
    return said


WAYS = ("frozen", "copy", "the fact in the prompt", "rag", "casm", "casm, told the uses", "lora_slots")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=16)
    p.add_argument("--ways", default=",,".join(WAYS), help="some of the ways, with two commas between them")
    p.add_argument("--json", type=Path, default=Path("sceptic.json"))
    a = p.parse_args()
    torch.set_num_threads(1)
    bench = two_versions(a.facts)
    asked = use_questions(bench, 0, 16) + two_facts(bench, 12)
    found = json.loads(a.json.read_text()) if a.json.exists() else {"facts": a.facts, "ways": {}}
    if found["facts"] != a.facts: p.error(f"--json {a.json}: was made with {found['facts']} facts; give another file")
    for name in tqdm([w for w in a.ways.split(",,") if w not in found["ways"]], desc="ways", disable=None):
        start = time.perf_counter()
        for way, said in answers(name, bench, asked).items():
            hits = {k: [right(q, s) for q, s in zip(asked, said) if q.kind == k] for k in dict.fromkeys(q.kind for q in asked)}
            found["ways"][way] = {"right": {k: sum(h) / len(h) for k, h in hits.items()}, "n": {k: len(h) for k, h in hits.items()}, "said": [[q.kind, q.question, q.answer, s] for q, s in zip(asked, said)],
                                  "seconds": round(time.perf_counter() - start)}
            print(way, found["ways"][way]["right"], flush=True)
        write_json_atomic(a.json, found)
    print(f"results: {a.json}", file=sys.stderr)


if __name__ == "__main__": main()
