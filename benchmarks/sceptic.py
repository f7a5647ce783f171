"""What is a slot more than a line of a lookup table? Five tables for a sceptic, on generated facts and the tiny model.

    python benchmarks/sceptic.py --json nbs/data/sceptic.json
    python benchmarks/sceptic.py --only a,c --json nbs/data/sceptic.json

    a       a question read through a slot that is not its own: does it keep its answer, does it blurt the slot's value?
    b       uses that a lookup cannot copy: inverse, yes/no, did it change, the value inside a longer sentence
    c       rows per slot: accuracy against bytes
    d       routing: oracle, the router's, none, random; and period adapters of smf and lora chosen by the date alone
    parent  a new slot that starts from zero, or from its parent's rows

Each table is written to the file when it is done, and an interrupted call continues with the next. On one core the five take about half an hour.
"""
import argparse
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from casm.adapter import encode_pairs, reading
from casm.baselines import Copy, Frozen, RAG
from casm.benchmark import Benchmark, DOMAINS, SeedRecord, USE_KINDS, fact_passages, generate, invent_value, relations, use_exercise, use_questions
from casm.experiments import RECIPES, items_of, start_checkpoint
from casm.facts import PROBE_FORM, answers_match, canonical, contains, dated, question, relation_text
from casm.generation import answer_of, generate as continue_prompts
from casm.methods import CASM, Item, LoRA, SMF, casm_begin, split_answer
from casm.pretraining import YEARS, background_stats, background_world, load_lm, make_batch, sample_world, save_lm, train_steps, world_texts
from casm.slots import find, slot_bytes
from casm.trainer import train_period

PARTS = ("a", "parent", "d", "c", "b")
share = lambda xs: sum(xs) / len(xs) if xs else None  # noqa: E731


class World:
    "The facts, the start checkpoint and how long things are trained."
    def __init__(self, facts: int, quick: bool):
        self.bench, self.quick, self.accelerator = generate(facts, seed=100), quick, Accelerator()

    def start(self):
        "The start checkpoint of seed 0; in a quick run the tiny model as it is, which knows none of the facts"
        lm = load_lm() if self.quick else start_checkpoint(self.bench, 0)
        lm.facts = tuple(self.bench.facts(self.bench.periods[0]))
        return lm

    def recipe(self, name: str, **changes):
        config = replace(RECIPES[name][1], **changes)
        return replace(config, epochs=1, min_steps=2) if self.quick else config

    def teach(self, method, config, bench=None, start=None, more=None, before=lambda: None, after=lambda period: None):
        "The method, taught every period after the first; `more(fact)` gives further passages of a fact"
        bench, seconds = bench or self.bench, time.process_time()
        lm = start or self.start()
        torch.manual_seed(config.seed)
        method.prepare(lm)
        before()
        for period in bench.periods[1:]:
            items = items_of(bench, period)
            if more: items += [Item(text, f, period) for f in dict.fromkeys(i.fact for i in items) for text in more(f)]
            train_period(method, period, items, config, self.accelerator)
            after(period)
        method.seconds = time.process_time() - seconds
        return method


def settings_of(**changes) -> dict:
    "The recipe's settings of casm, changed"
    return RECIPES["casm"][0] | changes


def say(method, prompts: list[str], slots: list[int]) -> list[str]:
    "Greedy answers, each through the slot named, -1 for none"
    return [answer_of(t) for t in continue_prompts(method.lm.model, method.lm.tokenizer, prompts, slots)]


def scores(bench: Benchmark, answers) -> dict:
    "Plasticity, stability and history of `answers(probes) -> texts`, all asked after the last period, each probe as of its own"
    last, of = bench.periods[-1], defaultdict(list)
    probes = [p for t in bench.periods for p in bench.probes(t, last) if p.kind == "superseded" or t != bench.periods[0]]
    for p, text in zip(probes, answers(probes)): of[p.form, p.kind].append(answers_match(text, p.answer))
    names = {"changed": "plasticity", "unchanged": "stability", "superseded": "history"}
    return {name + ("" if form == "probe" else "_unseen"): share(of[form, kind]) for form in ("probe", "unseen") for kind, name in names.items()}


def slots_of(method, bench: Benchmark) -> list[tuple]:
    "(slot, fact) of all that was taught"
    return [(method.registry.get(f.subject, f.relation, t).slot, f) for t in bench.periods[1:] for f in bench.facts(t)]


def learnt(method, bench: Benchmark) -> dict:
    "How well a casm method answers for what it was taught, in the plain and the unseen form, by its own router"
    last = bench.periods[-1]
    probes = [p for t in bench.periods[1:] for p in bench.probes(t, last) if p.kind == "changed"]
    right = [answers_match(a.text, p.answer) for a, p in zip(method.answer([p.question for p in probes], [p.as_of for p in probes]), probes)]
    past = [p for t in bench.periods[:-1] for p in bench.probes(t, last) if p.kind == "superseded" and p.form == "probe"]
    old = [answers_match(a.text, p.answer) for a, p in zip(method.answer([p.question for p in past], [p.as_of for p in past]), past)]
    return {"plasticity": share([r for r, p in zip(right, probes) if p.form == "probe"]), "plasticity_unseen": share([r for r, p in zip(right, probes) if p.form == "unseen"]),
            "history": share(old)}


# a: forced wrong route
class Warned(CASM):
    "Each batch brings questions that are not the slots' own, to be answered as the bare model would."
    def __init__(self, beside: int = 16, pool: int = 15, **settings):
        super().__init__(**settings)
        self.beside, self.pool = beside, pool

    def begin_period(self, period, items):
        rng = self.rng = random.Random(f"others-{period}")
        kept, passages = casm_begin(self, period, items), defaultdict(list)
        for i in kept: passages[i.fact].append(i)
        names = [(s, relation_text(r)) for _, s, r in self.registry.keys()] + [(f.subject, relation_text(f.relation)) for f in passages]
        def other(fact, k):
            head, subject, relation = split_answer(rng.choice(passages[fact]))[0], fact.subject, relation_text(fact.relation)
            else_ = [rng.choice([n[i] for n in names if n[i] != mine]) for i, mine in enumerate((subject, relation))]
            asked = else_[0] if k % 3 != 1 else subject, else_[1] if k % 3 else relation            # another subject, another relation, both
            return head.replace(subject, "\0").replace(relation, asked[1]).replace("\0", asked[0])
        self.others = [(other(f, k), f) for f in passages for k in range(self.pool)]
        own = continue_prompts(self.lm.model, self.lm.tokenizer, [p for p, _ in self.others])
        self.others = [(p, a, f) for (p, f), a in zip(self.others, own)]
        return kept

    def loss(self, batch):
        beside = self.rng.sample(self.others, min(self.beside, len(self.others)))
        pairs = [(p, a) for p, a, _ in beside]
        x, slots = make_batch(self.lm.tokenizer, pairs), torch.tensor([self.slot_of[f] for *_, f in beside])
        labels = x.pop("labels")[:, 1:]
        start = torch.tensor([len(head) - 1 for head, _ in encode_pairs(self.lm.tokenizer, pairs)])
        with torch.no_grad(): bare = self.lm.model(**x).logits[:, :-1][labels >= 0]
        with reading(self.lm.model, slots, start, gated=False): read = self.lm.model(**x).logits[:, :-1][labels >= 0]
        away = F.kl_div(read.log_softmax(-1), bare.log_softmax(-1), log_target=True, reduction="batchmean")
        return super().loss(batch) + len(batch) * away                          # the loss is a sum over passages


CHOICES = (  # name, method, its settings, changes to the recipe
    ("as it is", CASM, {}, {}),
    ("at any prompt", CASM, {"quiet_below": 0.}, {}),
    ("at any prompt, half the rate, decay", CASM, {"quiet_below": 0.}, {"lr": .1, "weight_decay": .4}),
    ("at any prompt, trained on others' questions", Warned, {"quiet_below": 0.}, {}),
    ("half of the marks", CASM, {"quiet_below": .5}, {}),
    ("three quarters of the marks", CASM, {"quiet_below": .75}, {}))
KNOWN_KINDS = ("same relation", "same subject", "another fact", "background")


def base_relation(relation: str) -> str:
    "The hand-written relation in a generated one, whatever its qualifier"
    names = [r.name for d in DOMAINS for r in relations(d) if canonical(relation).endswith(canonical(r.name))]
    return max(names, key=len, default=canonical(relation))


def wrong_questions(bench: Benchmark, held: list[tuple], each: int = 2) -> list[tuple]:
    "(kind, prompt, slot, the slot's value): questions about something else, dated as the slot"
    rng, world, out = random.Random("wrong"), background_world(), []
    subjects, names = sorted({r.entity for r in bench.records}), sorted({r.relation for r in bench.records})
    keys = {r.key for r in bench.records}
    for slot, f in held:
        def ask(kind, subject, relation, date=f.valid_from): out.append((kind, question(PROBE_FORM, subject, relation, date), slot, f.value))
        others = [r for r in bench.records if r.key != f.key]
        alike = {"same relation": [r for r in others if base_relation(r.relation) == base_relation(f.relation)], "same subject": [r for r in others if r.key[0] == f.key[0]],
                 "another fact": [r for r in others if r.key[0] != f.key[0] and base_relation(r.relation) != base_relation(f.relation)]}
        for kind, records in alike.items():
            for r in rng.sample(records, min(each, len(records))): ask(kind, r.entity, r.relation)
        for w in rng.sample(world, each): ask("background", w.subject, w.relation, rng.choice([y for y in YEARS if contains(w.valid_from, w.valid_until, y)]))
        for s in rng.sample([s for s in subjects if (canonical(s), f.key[1]) not in keys], each): ask("same relation, untaught", s, f.relation)
        for n in rng.sample([n for n in names if (f.key[0], canonical(n)) not in keys], each): ask("same subject, untaught", f.subject, n)
    return out


def read_wrongly(method, asked: list[tuple]) -> dict:
    "kind -> n, share that keeps the answer of the bare model, share that says the slot's value where the bare model does not"
    prompts = [p for _, p, _, _ in asked]
    bare, read = say(method, prompts, [-1] * len(asked)), say(method, prompts, [s for *_, s, _ in asked])
    of = defaultdict(list)
    for (kind, _, _, value), b, r in zip(asked, bare, read): of[kind].append((b == r, answers_match(r, value) and not answers_match(b, value)))
    of["known"] = [x for k in KNOWN_KINDS for x in of[k]]
    return {k: {"n": len(v), "keeps": share([a for a, _ in v]), "blurts": share([b for _, b in v])} for k, v in of.items()}


def table_a(world: World):
    for name, kind, settings, changes in CHOICES if not world.quick else CHOICES[::3]:
        method = world.teach(kind(**settings_of(**settings)), world.recipe("casm", **changes))
        yield {"choice": name, "settings": settings | changes, **learnt(method, world.bench), "train_seconds": method.seconds, "bytes_per_slot": round(slot_bytes(method.bank).double().mean().item()),
               "kinds": read_wrongly(method, wrong_questions(world.bench, slots_of(method, world.bench)))}


# parent: where a slot starts
class Heir(CASM):
    "A new slot starts from its parent's rows."
    def begin_period(self, period, items):
        kept, bank = casm_begin(self, period, items), self.bank
        rows = torch.arange(bank.num_rows)
        with torch.no_grad():
            for f, s in self.slot_of.items():
                parent = self.registry.get(f.subject, f.relation, period)
                if parent is None or parent.slot is None: continue
                before = bank.storage[find(bank, parent.slot * bank.num_rows + rows)]
                bank.param[bank.where[find(bank, s * bank.num_rows + rows)]] = before
        return kept


def restless(bench: Benchmark, n: int = 25) -> Benchmark:
    "`n` of the records with a new value in every period; the first period, and so the start checkpoint, as it was"
    rng, kinds = random.Random("restless"), {r.name: r.kind for d in DOMAINS for r in relations(d)}
    def values(r):
        out = [r.values[bench.periods[0]]]
        while len(out) < len(bench.periods):
            if not any(answers_match(v := invent_value(rng, kinds[base_relation(r.relation)]), x) for x in out): out.append(v)
        return dict(zip(bench.periods, out))
    still = lambda r: {t: r.values[bench.periods[0]] for t in bench.periods}  # noqa: E731
    return Benchmark(bench.periods, tuple(SeedRecord(r.entity, r.relation, values(r) if i < n else still(r)) for i, r in enumerate(bench.records)))


def table_parent(world: World):
    bench = restless(world.bench)
    for passes in (20, 3) if not world.quick else (1,):
        for name, kind in (("zero", CASM), ("parent", Heir)):
            method = world.teach(kind(**settings_of()), world.recipe("casm", epochs=passes), bench)
            yield {"start": name, "passes": passes, **learnt(method, bench)}


# d: who chooses the slot
def table_d(world: World):
    bench, rng = world.bench, random.Random("random slots")
    method = world.teach(CASM(**settings_of()), world.recipe("casm"))
    prompts = lambda probes: [dated(p.question, p.as_of) for p in probes]  # noqa: E731
    through = {"oracle": lambda p: -1 if (s := method.gold_slot(p)) is None else s, "none": lambda p: -1, "random": lambda p: rng.randrange(method.bank.num_slots)}
    for name, pick in through.items():
        yield {"method": "casm", "routing": name, **scores(bench, lambda probes: say(method, prompts(probes), [pick(p) for p in probes]))}
    yield {"method": "casm", "routing": "the router's", **scores(bench, lambda probes: [a.text for a in method.answer([p.question for p in probes], [p.as_of for p in probes])])}
    for name, method in (("smf", SMF(**RECIPES["smf"][0])), ("lora", LoRA(**RECIPES["lora"][0]))):
        kept = {}
        def keep(period): kept[period] = {k: v.detach().clone() for k, v in method.tensors().items()}
        world.teach(method, world.recipe(name), before=lambda: keep(bench.periods[0]), after=keep)
        yield {"method": name, "routing": "adapter of the date's period", **scores(bench, lambda probes: by_adapter(method, kept, probes, [p.as_of for p in probes]))}
        after = lambda p: bench.periods[-1] if p.kind == "superseded" else p.as_of  # noqa: E731
        yield {"method": name, "routing": "the last adapter", **scores(bench, lambda probes: by_adapter(method, kept, probes, list(map(after, probes))))}


def by_adapter(method, kept: dict, probes: list, adapters: list) -> list[str]:
    "Answers, each by the state that the method had after the period named"
    texts = {}
    for t in dict.fromkeys(adapters):
        mine = [i for i, a in enumerate(adapters) if a == t]
        method.load_state(kept[t], {"method": method.name, "periods": list(kept)})
        texts |= {i: a.text for i, a in zip(mine, method.answer([probes[i].question for i in mine], [probes[i].as_of for i in mine]))}
    return [texts[i] for i in range(len(probes))]


# c: how much goes into a slot
SIZES = (1, 4, 16, 64, 256)  # rows


def table_c(world: World):
    first, last = world.bench.periods[0], world.bench.periods[-1]
    bench = Benchmark((first, last), tuple(SeedRecord(r.entity, r.relation, {t: r.values[t] for t in (first, last)}) for r in world.bench.records))
    n = len(bench.facts(last))
    for rows in SIZES if not world.quick else SIZES[::3]:
        method = world.teach(CASM(**settings_of(rows=rows)), world.recipe("casm"), bench)
        stored = int(slot_bytes(method.bank).sum())
        yield {"rows": rows, "slots": method.bank.num_slots, "bytes": stored, "bytes_per_fact": stored / n,
               **learnt(method, bench)}


# b: uses that are no look-up
def untaught(n: int = 200) -> list:
    "Facts of the background world that no use form is taught on"
    return background_world()[-n:]


def world_exercise(rng: random.Random, facts: list, kind: str) -> tuple[str, str]:
    "A background fact in a use form, as (prompt, answer)"
    ends = [(a, b) for a, b in zip(facts, facts[1:]) if a.key == b.key]
    f, other, since = rng.choice(facts), "", ""
    if kind == "changed":
        a, f = rng.choice(ends) if rng.random() < .5 else (f, f)
        if a is f and (f.valid_until or f.valid_from != YEARS[0]): f = a = rng.choice([x for x in facts if x.valid_until is None and x.valid_from == YEARS[0]])
        before = [y for y in YEARS if contains(a.valid_from, a.valid_until, y)]
        since = rng.choice(before[:-1] if a is f else before)
        years = [y for y in YEARS if contains(f.valid_from, f.valid_until, y) and y > since]
        return use_exercise(kind, f.subject, f.relation, f.value, rng.choice(years), a.value, since)
    if kind == "yes_no" and rng.random() < .5: other = rng.choice(facts).value
    return use_exercise(kind, f.subject, f.relation, f.value, rng.choice([y for y in YEARS if contains(f.valid_from, f.valid_until, y)]), other)


def teach_forms(world: World, steps: int = 500):
    "The start checkpoint, which has also read the use forms on background facts, and still reads what it knew"
    lm, taught = world.start(), background_world()[:-200]
    old, told = sample_world(background_world(), 24), [split_answer(i) for i in items_of(world.bench, world.bench.periods[0])]
    def sample(rng): return [world_exercise(rng, taught, k) for k in USE_KINDS for _ in range(10)] + old(rng) + rng.sample(told, min(24, len(told)))
    train_steps(lm.model, lm.tokenizer, sample, 2 if world.quick else steps, 1e-3, 0, label="use forms")
    lm.stats = background_stats(lm.model, lm.tokenizer, world_texts(background_world(), 64 if world.quick else 8000), progress=None)
    return lm


class UseRAG(RAG):
    "A reader that has practised the use forms too, each after two passages of which one states the fact."
    def begin_period(self, period, items):
        plain = super().begin_period(period, items)
        rng, taught = random.Random("use reading"), background_world(seed="use reading")
        return plain and plain[::2] + [reading_exercise(rng, taught, USE_KINDS[i % 4], self.passages) for i in range(len(plain) // 2)]


def reading_exercise(rng: random.Random, facts: list, kind: str, passages: int) -> Item:
    "A use question after passages; what must follow stands as the item's value, so that only that is trained"
    prompt, answer = world_exercise(rng, facts, kind)
    told = [f for f in facts if f.subject in prompt + answer]
    said = [f for f in told if f" {f.value}" in prompt + answer] or told                          # of a fact that changed, the version asked about
    near = [said[0], *rng.sample(facts, passages - 1)]
    lines = rng.sample([rng.choice(fact_passages([f])).text for f in near], passages)
    return Item("\n".join([*lines, prompt]) + answer, replace(said[0], value=answer.strip().removesuffix(".")), YEARS[-1])


def by_value(registry, asked: str, t: str):
    "The one record in force at `t` whose relation and value both stand in the question, or None"
    words = f" {canonical(asked)} ".replace("?", " ").replace(",", " ")
    held = [r for _, s, n in registry.keys() if f" {canonical(n)} " in words and (r := registry.get(s, n, t))]
    found = [r for r in held if f" {canonical(r.value)} " in words]
    return found[0] if len(found) == 1 else None


def use_answers(method, asked: list, slots=None) -> list[str]:
    "Answers by the method itself; for a method with slots an inverse question is led to its slot by `by_value`, or by `slots(q)` all are"
    if slots is None and not isinstance(method, CASM): return [a.text for a in method.answer([q.question for q in asked], [q.as_of for q in asked])]
    if slots is None:
        routes = method.router.route([q.question for q in asked], [q.as_of for q in asked])
        held = [by_value(method.registry, q.question, q.as_of) if q.kind == "inverse" else r for q, r in zip(asked, routes)]
        slots = lambda q, at=iter(held): getattr(next(at), "slot", None)  # noqa: E731
    return say(method, [q.question for q in asked], [-1 if (s := slots(q)) is None else s for q in asked])


def rule_answers(method: Copy, asked: list) -> list[str]:
    "What a program does with the registry where it knows each form: finds the subject by its value, compares two values, looks twice"
    def one(q):
        if q.kind == "inverse": return (r := by_value(method.registry, q.question, q.as_of)) and r.subject or ""
        if q.kind == "changed":
            a, b = (method.registry.get(*q.gold, t) for t in (method.registry.history(*q.gold)[0].valid_from, None))
            return "no" if a.value == b.value else "yes"
        value = method.registry.get(*q.gold, q.as_of).value
        return value if q.kind == "sentence" else "yes" if q.question.removesuffix("?").endswith(f" {value}") else "no"
    return [one(q) for q in asked]


def use_scores(asked: list, texts: list[str]) -> dict:
    "kind -> accuracy; of a sentence also whether its value is right, whatever follows; of yes/no also how often it says yes"
    of = defaultdict(list)
    for q, t in zip(asked, texts):
        of[q.kind].append(answers_match(t, q.answer))
        if q.kind == "sentence": of["sentence_value"].append(canonical(t).startswith(canonical(q.answer.removesuffix(", and went home"))))
        if q.kind in ("yes_no", "changed"): of[q.kind + "_says_yes"].append(t == "yes")
    return {k: share(v) for k, v in of.items()}


def gold_slot(method, q, last: str):
    "The slot that holds the fact a question is about, at its date"
    r = method.registry.get(*q.gold, q.as_of or last)
    return r and r.slot


def inverse_and_yes(f) -> list[str]:
    "A fact's own inverse, and the question that is to be answered with yes"
    return ["".join(use_exercise(k, f.subject, f.relation, f.value, f.valid_from)) for k in ("inverse", "yes_no")]


def longer_sentence(f) -> list[str]:
    "A sentence that goes on after the value, and is in no form that is asked"
    return [f"It is known that in {f.valid_from} the {relation_text(f.relation)} of {f.subject} is {f.value}, as the books say."]


def table_b(world: World):
    bench, folder = world.bench, Path(tempfile.mkdtemp())
    asked = use_questions(bench, 0, 2 if world.quick else 50)
    save_lm(teach_forms(world), folder / "start")
    def start():
        lm = load_lm(folder / "start")
        lm.facts = tuple(bench.facts(bench.periods[0]))
        return lm
    lm, rng = start(), random.Random("ceiling")
    held, n = untaught(), 2 if world.quick else 100
    for k in USE_KINDS:
        pairs = [world_exercise(rng, held, k) for _ in range(n)]
        texts = [answer_of(t) for t in continue_prompts(lm.model, lm.tokenizer, [p for p, _ in pairs])]
        yield {"method": "the model, on background facts it knows", "kind": k, "accuracy": share([answers_match(t, a.strip().removesuffix(".")) for t, (_, a) in zip(texts, pairs)])}
    rag = {"passages": 2, "exercises": 64 if world.quick else 6400}
    for name, method in (("frozen", Frozen()), ("copy", Copy()), ("rag", UseRAG(**rag)), ("smf", SMF(**RECIPES["smf"][0])), ("lora", LoRA(**RECIPES["lora"][0])), ("casm", CASM(**settings_of()))):
        world.teach(method, world.recipe(name), start=start())
        yield {"method": name, **use_scores(asked, use_answers(method, asked))}
        if name == "copy": yield {"method": "registry and rules", **use_scores(asked, rule_answers(method, asked))}
    plain = scores(bench, lambda probes: [a.text for a in method.answer([p.question for p in probes], [p.as_of for p in probes])])
    routes = method.router.route([q.question for q in asked], [q.as_of for q in asked])
    hits = {k: share([r.slot == gold_slot(method, q, bench.periods[-1]) for q, r in zip(asked, routes) if q.kind == k and gold_slot(method, q, bench.periods[-1]) is not None]) for k in USE_KINDS}
    yield {"method": "casm's plain questions", **plain, "route_hit": hits}
    yield {"method": "casm, gold slot", **use_scores(asked, use_answers(method, asked, lambda q: gold_slot(method, q, bench.periods[-1])))}
    for told, more, rows in (("inverse and yes", inverse_and_yes, 64), ("inverse and yes, 256 rows", inverse_and_yes, 256), ("a longer sentence", longer_sentence, 64)):
        method = world.teach(CASM(**settings_of(rows=rows)), world.recipe("casm"), start=start(), more=more)
        yield {"method": f"casm, slots told {told}", **use_scores(asked, use_answers(method, asked))}
        yield {"method": f"casm, slots told {told}, gold slot", **use_scores(asked, use_answers(method, asked, lambda q: gold_slot(method, q, bench.periods[-1])))}


TABLES = {"a": table_a, "b": table_b, "c": table_c, "d": table_d, "parent": table_parent}


def line(row: dict) -> str:
    "A row as text"
    return "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if not isinstance(v, dict))


def write(path: Path, out: dict):
    "The file whole or not at all"
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(out, indent=1, ensure_ascii=False), encoding="utf-8")
    beside.replace(path)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default=",".join(PARTS), help="tables to make, comma-separated")
    p.add_argument("--facts", type=int, default=100, help="generated facts (default 100)")
    p.add_argument("--json", type=Path, help="file for the numbers; tables it already holds are not made again")
    p.add_argument("--quick", action="store_true", help="a few steps on the untaught tiny model: whether it runs, not what comes out")
    a = p.parse_args()
    wanted = a.only.split(",")
    if bad := [x for x in wanted if x not in TABLES]: p.error(f"--only {bad[0]!r}: choose from {', '.join(PARTS)}")
    settings = {"facts": a.facts, "quick": a.quick}
    out = json.loads(a.json.read_text(encoding="utf-8")) if a.json and a.json.exists() else {"settings": settings, "tables": {}}
    if out["settings"] != settings: p.error(f"--json {a.json}: was made with {out['settings']}; give another file")
    torch.set_num_threads(1)
    world = World(a.facts, a.quick)
    for part in (x for x in PARTS if x in wanted and x not in out["tables"]):
        start, rows = time.process_time(), []
        for row in TABLES[part](world):
            rows.append(row)
            print(f"{part}  {line(row)}", flush=True)
        out["tables"][part] = {"rows": rows, "cpu_seconds": round(time.process_time() - start)}
        if a.json: write(a.json, out)
    sys.exit(0)
