"""What a slot carries over, and where it keeps quiet, on a real model: facts of the project's own taught to an untouched one.

    python benchmarks/real.py --facts 100 --seed 0 --out runs/real --json nbs/data/real-s0.json

Goes on where it was interrupted: facts are taught ten to a commit, and each answer is a line of OUT/answers.jsonl.
`--final` also opens the wordings that may choose nothing.
"""
import argparse
import json
import math
import random
import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm

from casm import TemporalLM
from casm.benchmark import generate
from casm.experiments import GENERAL
from casm.facts import Fact, answers_match
from casm.generation import answer_of, answer_scores, generate as decode
from casm.wordings import wordings

TEXT = ["The river rose in the night and by morning the lower fields were under water, so the farmers moved their cattle to the hill behind the church.",
        "A good map tells you not only where the roads are but how steep they will be, which matters more to a walker than to a driver.",
        "She kept the letters in a tin box under the stairs and never spoke of them until her grandson found the key many years later.",
        "Bread needs little more than flour, water, salt and time; the rest is patience and an oven that is hotter than you would think.",
        "When the trade winds fail, ships that depend on them may lie for weeks without moving, and their crews learn how long a day can be."]


def wilson(right: int, n: int) -> list[float]:
    "Share and its 95 % interval (Wilson)"
    z, p = 1.96, right / n
    mid, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [round(x, 4) for x in (p, max(0., mid - half), min(1., mid + half))]


class Study:
    "One seed's facts, the memory that is taught them, and the answers so far."
    def __init__(self, out: Path, n: int, seed: int):
        out.mkdir(parents=True, exist_ok=True)
        bench = generate(n, seed=1000 + seed)
        self.facts, self.path, self.rng = bench.facts(bench.periods[0])[:n], out / "answers.jsonl", random.Random(seed)
        self.lines = [json.loads(x) for x in self.path.read_text().splitlines()] if self.path.exists() else []
        home = out / "memory"
        self.lm = TemporalLM.load(home) if home.exists() else TemporalLM.create(home, "smollm2")

    def teach(self):
        "Teach what is not known yet"
        new = [f for f in self.facts if not self.lm.history(f.subject, f.relation)]
        for i in tqdm(range(0, len(new), 10), desc="learn", disable=None): self.lm.learn(new[i:i + 10])
        self.slot = [self.lm.registry.get(f.subject, f.relation, f.valid_from).slot for f in self.facts]

    def answers(self, kind: str, prompts: list[str], slots: list[int] | None) -> list[dict]:
        "The answers to prompts, through given slots (-1: none) or, with None, those that the router opens; from the file if they are there"
        done, m = [x for x in self.lines if x["kind"] == kind], self.lm.method
        for i in tqdm(range(len(done), len(prompts), 250), desc=kind, disable=None):
            some = prompts[i:i + 250]
            if slots is None: said = [(e.answer, e.slot) for e in self.lm.ask(some, explain=True)]
            else: said = zip(map(answer_of, decode(m.lm.model, m.lm.tokenizer, m.lm.asked(some), slots[i:i + 250])), slots[i:i + 250])
            new = [{"kind": kind, "prompt": p, "answer": a, "slot": s} for p, (a, s) in zip(some, said)]
            with self.path.open("a") as f: f.writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in new)
            self.lines += new
            done += new
        return done[:len(prompts)]

    def told(self, split: str) -> tuple[list[str], list]:
        "Five wordings of a split for each fact, and their facts"
        both = [(w.prompt, i) for i, f in enumerate(self.facts) for w in wordings(f, split)[:5]]
        return [p for p, _ in both], [i for _, i in both]

    def carried(self, split: str) -> dict:
        "Shares of a split's wordings that are answered with the value: through the right slot, and through the one that the router opens"
        prompts, who = self.told(split)
        right = self.answers(f"{split} slot", prompts, [self.slot[i] for i in who])
        routes = self.lm.method.router.route(prompts, [None] * len(prompts))
        astray = [k for k, (r, i) in enumerate(zip(routes, who)) if r.slot != self.slot[i] or r.also]
        routed = dict(enumerate(right)) | dict(zip(astray, self.answers(f"{split} router", [prompts[k] for k in astray], None)))   # the same slot says the same
        def share(said): return wilson(sum(answers_match(said[k]["answer"], self.facts[i].value) for k, i in enumerate(who)), len(who))
        return {"right slot": share(right), "router": share(routed)}

    def old_versions(self, later: int) -> dict:
        "The first twenty facts get `later` new values, one a year: the share of dated questions about the first value whose answer stays, to the letter"
        facts = self.facts[:20]
        asked = [(w.prompt, i) for i, f in enumerate(facts) for w in wordings(f, "choose")]
        prompts, slots = [p for p, _ in asked], [self.slot[i] for _, i in asked]
        before = [x["answer"] for x in self.answers("choose slot", self.told("choose")[0][:len(asked)], slots)]
        for k in range(1, later + 1):
            new = [Fact(f.subject, f.relation, facts[(i + k) % len(facts)].value, str(int(f.valid_from) + k)) for i, f in enumerate(facts)]
            self.lm.learn([f for f in new if not self.lm.registry.get(f.subject, f.relation, f.valid_from).valid_from == f.valid_from])
        after = [x["answer"] for x in self.answers("after later versions", prompts, slots)]
        asked_of = [e.slot for e in self.lm.ask(prompts, explain=True)]
        return {"versions": later, "answers": wilson(sum(a == b for a, b in zip(before, after)), len(after)), "slots found": wilson(sum(a == b for a, b in zip(slots, asked_of)), len(slots))}

    def bare(self, kind: str, prompts: list[str]) -> dict[str, str]:
        "The answers of the model alone, by prompt"
        once = list(dict.fromkeys(prompts))
        return {x["prompt"]: x["answer"] for x in self.answers(f"{kind} bare", once, [-1] * len(once))}

    def wrong(self, kind: str, prompts: list[str], own: list[int]) -> dict:
        "Questions read through another fact's slot: the share that keeps the bare model's answer, and the share that says the slot's value"
        others = [self.rng.choice([j for j in range(len(self.facts)) if j != i]) for i in own]
        bare, said = self.bare(kind, prompts), self.answers(f"{kind} wrong", prompts, [self.slot[j] for j in others])
        return {"kept": wilson(sum(x["answer"] == bare[x["prompt"]] for x in said), len(prompts)),
                "blurted": wilson(sum(answers_match(x["answer"], self.facts[j].value) for x, j in zip(said, others)), len(prompts))}

    def perplexity(self, slot: int | None) -> float:
        "Of running text, read through a slot at every position, or through none"
        m, heads = self.lm.method, [t.split()[0] for t in TEXT]
        got = answer_scores(m.lm.model, m.lm.tokenizer, heads, [t[len(h):] for t, h in zip(TEXT, heads)], None if slot is None else [slot] * len(TEXT), everywhere=True)
        return math.exp(-sum(p for p, _ in got) / sum(len(m.lm.tokenizer(t)["input_ids"]) - 1 for t in TEXT))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=100)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("runs/real"))
    p.add_argument("--versions", type=int, default=0, help="at the end, teach the first twenty facts so many later values, and ask for the first again")
    p.add_argument("--final", action="store_true", help="open the wordings that may choose nothing")
    p.add_argument("--json", type=Path)
    a = p.parse_args()
    torch.set_num_threads(1)
    s = Study(a.out, a.facts, a.seed)
    s.teach()
    bank = s.lm.method.bank
    found = {"facts": a.facts, "seed": a.seed, "rows": bank.num_rows, "bytes_per_fact": round((2 * bank.storage[1:bank.used].numel() + 8 * len(bank) + 8 * len(bank.marks)) / bank.num_slots)}
    found["wrong slot, what everybody knows"] = s.wrong("general", [q for q, _ in GENERAL] * 4, [-1] * 4 * len(GENERAL))
    asked = s.rng.sample(range(a.facts), min(a.facts, 60))
    found["wrong slot, taught neighbours"] = s.wrong("neighbour", [wordings(s.facts[i], "train")[1].prompt for i in asked], asked)
    found["perplexity of running text"] = {"bare": s.perplexity(None), "through a random slot": s.perplexity(s.rng.choice(s.slot))}
    for split in ("choose", "train", *["final"] * a.final): found[f"{split} wordings"] = s.carried(split)
    free, bare = s.answers("general router", [q for q, _ in GENERAL], None), s.bare("general", [q for q, _ in GENERAL])
    found["unrouted answers as the bare model's"] = wilson(sum(x["answer"] == bare[x["prompt"]] for x in free), len(free))
    if a.versions: found["old answers"] = s.old_versions(a.versions)
    print(json.dumps(found, indent=1))
    if a.json: a.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"results: {a.out}", file=sys.stderr)


if __name__ == "__main__": main()
