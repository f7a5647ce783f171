"""Which router finds the right slot? Harder questions on generated facts, per kind; and the time per question with many slots.

    python benchmarks/routers.py [--facts 605] [--json FILE]

Routers are fitted, and their thresholds set, on another benchmark (other names and values, other sentence forms, the other half of the thesaurus) and then
asked on this one. Fingerprints and hidden states are those of the tiny model. Times are for routing alone, in one batch, with stand-ins for the model's
own forward pass, whose time is given beside them.
"""
import argparse
import json
import time
from pathlib import Path

import torch

from casm.benchmark import FIT_KINDS, HARD_KINDS, add_twins, fit_questions, generate, hard_questions, invent_aliases, read_facts
from casm.facts import canonical
from casm.memory import record_access
from casm.adapter import memory_of
from casm.pretraining import closed_batch, load_lm
from casm.ranker import BackgroundStats
from casm.registry import Registry
from casm.router import Bm25Router, CascadeRouter, FingerprintRouter, HiddenRouter, LearnedRouter, LexicalRouter, TfidfRouter, TypoRouter
from casm.router import calibrate, default_router, route_report


class Features:
    "Rows read and mean last hidden state of a text, each text by itself, so that nothing beside it can matter."
    def __init__(self, lm): self.lm, self.known = lm, {}

    @torch.no_grad()
    def of(self, text):
        if text not in self.known:
            x = closed_batch(self.lm.tokenizer, [text])
            with record_access(memory_of(self.lm.model)) as got: y = self.lm.model(**x, output_hidden_states=True)
            self.known[text] = got[0].rows.flatten().to(torch.int16), y.hidden_states[-1][0].mean(0)
        return self.known[text]

    def reads(self, texts): return [self.of(t)[0].long() for t in texts]
    def embed(self, texts): return torch.stack([self.of(t)[1] for t in texts])


def ledger(bench, seed):
    "A registry that holds each version of each fact in a slot of its own, and the subjects' aliases"
    registry, n = Registry(), 0
    for period in bench.periods:
        facts = bench.facts(period)
        registry.assert_facts(facts, slots=list(range(n, n + len(facts))))
        n += len(facts)
    registry.add_aliases(invent_aliases(bench, seed))
    return registry


def likes(registry, features, stats, thresholds):
    "The four routers by likeness, over one registry"
    made = [TfidfRouter(registry), Bm25Router(registry), FingerprintRouter(registry, features.reads, stats), HiddenRouter(registry, features.embed)]
    for r in made: r.threshold = thresholds.get(r.name, r.threshold)
    return made


def all_routers(registry, features, stats, thresholds, fitted):
    "Every router over one registry, by name"
    by_likeness = likes(registry, features, stats, thresholds)
    learned = LearnedRouter(registry, [by_likeness[0], *by_likeness[2:]], thresholds["learned"], fitted=fitted)
    default = default_router(registry)
    return {"matching": LexicalRouter(registry), **{r.name: r for r in by_likeness}, "learned": learned, "default": default,
            "default+learned": CascadeRouter([*default.stages, learned])}


def fit(bench, features, stats, seed):
    "Thresholds and the learned router, from one half of the questions each"
    registry, questions = ledger(bench, seed), fit_questions(bench, seed, 200)
    key = lambda q: (canonical(q.gold[0][0]), canonical(q.gold[0][1])) if q.gold else None  # noqa: E731
    a, b = [([q.question for q in half], [key(q) for q in half]) for half in (questions[::2], questions[1::2])]
    made = likes(registry, features, stats, {})
    thresholds = {r.name: calibrate(r, *b) for r in made}
    learned = LearnedRouter(registry, [made[0], *made[2:]]).fit(*a)
    thresholds["learned"] = calibrate(learned, *b)
    return thresholds, learned


def measure(routers, questions, registry):
    "router -> its report over the questions"
    wanted = [tuple(registry.get(s, r, t).slot for s, r, t in q.gold if t is not None) for q in questions]
    asked, dates, kinds, known = [q.question for q in questions], [q.as_of for q in questions], [q.kind for q in questions], [bool(q.gold) for q in questions]
    return {name: route_report(r.route(asked, dates), wanted, kinds, known) for name, r in routers.items()}


def stand_ins(num_rows, seed=0):
    "Features of the same shape as the tiny model's, made of nothing but the words"
    def drawn(word): return torch.Generator().manual_seed(int.from_bytes(word.encode()[:7], "big") + seed)
    class Made(Features):
        def of(self, text):
            if text not in self.known:
                words = canonical(text).split()
                rows = torch.cat([torch.randint(num_rows, (64,), generator=drawn(w)) for w in words])
                self.known[text] = rows.to(torch.int16), torch.stack([torch.randn(128, generator=drawn(w)) for w in words]).mean(0)
            return self.known[text]
    return Made(None)


def milliseconds(router, asked, dates):
    "Processor time per question of one batch, the registry and the model's features already taken in"
    router.route(asked, dates)
    start = time.process_time()
    router.route(asked, dates)
    return (time.process_time() - start) / len(asked) * 1e3


def table(reports, kinds):
    "The per-kind table: hit / abstention / wrong"
    cell = lambda v: "  –  " if v is None else f"{v:.3f}"  # noqa: E731
    lines = ["| kind | " + " | ".join(reports) + " |", "|---|" + "---|" * len(reports)]
    for k in kinds: lines.append(f"| {k} | " + " | ".join(" ".join(cell(r["kinds"][k][m]) for m in ("hit", "abstention", "wrong")) for r in reports.values()) + " |")
    lines.append("| **all** | " + " | ".join(" ".join(cell(r["all"][m]) for m in ("hit", "abstention", "wrong")) for r in reports.values()) + " |")
    lines.append("| AUROC | " + " | ".join(cell(r["all"]["auroc"]) for r in reports.values()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", default="605", help="number of generated facts, or a facts file (default 605)")
    p.add_argument("--seed", type=int, default=0, help="of the facts and the questions; fitted on seed + 1000")
    p.add_argument("--per-kind", type=int, default=50, help="questions of each kind (default 50)")
    p.add_argument("--slots", type=int, default=10_000, help="slots for the timing; 0 leaves it out (default 10000)")
    p.add_argument("--json", type=Path, help="also write the numbers here")
    a = p.parse_args()
    torch.set_num_threads(1)
    lm = load_lm()
    features = Features(lm)
    of = lambda n, seed: add_twins(generate(n, seed=seed), seed)  # noqa: E731
    thresholds, learned = fit(of(605, a.seed + 1000), features, lm.stats, a.seed + 1000)
    print("thresholds:", ", ".join(f"{k} {v:.3f}" for k, v in thresholds.items()), flush=True)
    bench = of(int(a.facts), a.seed) if a.facts.isdigit() else add_twins(read_facts(a.facts), a.seed)
    questions, registry = hard_questions(bench, a.seed, a.per_kind), ledger(bench, a.seed)
    reports = measure(all_routers(registry, features, lm.stats, thresholds, learned), questions, registry)
    kinds = [k for k in HARD_KINDS if any(q.kind == k for q in questions)]
    print(f"\nhit, abstention, wrong over {len(questions)} questions on {len(bench.records)} facts\n\n{table(reports, kinds)}\n", flush=True)
    out = {"facts": len(bench.records), "questions": len(questions), "fit_kinds": FIT_KINDS, "thresholds": thresholds, "reports": reports}
    if a.slots:
        texts = [q.question for q in questions[:100]]
        start = time.process_time()
        for t in texts: Features(lm).of(t)
        out["features_ms"] = (time.process_time() - start) / len(texts) * 1e3
        big = generate(a.slots, seed=a.seed)
        registry, made, stats = ledger(big, a.seed), stand_ins(128 ** 2), BackgroundStats.empty(128 ** 2)
        for t in "the of is in;as of records;what is the".split(";"): stats.add(torch.cat(made.reads([t])), t)
        asked = hard_questions(big, a.seed, 50)
        out["slots"] = sum(len(big.facts(t)) for t in big.periods)
        routers = all_routers(registry, made, stats, thresholds, learned)
        routers["typos"] = TypoRouter(registry)
        out["route_ms_per_query"] = {n: milliseconds(r, [q.question for q in asked], [q.as_of for q in asked]) for n, r in routers.items()}
        print(f"ms per question with {out['slots']:,} slots, one batch of {len(asked)}, one core:", ", ".join(f"{k} {v:.2f}" for k, v in out["route_ms_per_query"].items()))
        print(f"the tiny model's features take {out['features_ms']:.2f} ms per question beside that")
    if a.json: a.json.write_text(json.dumps(out, indent=1))
