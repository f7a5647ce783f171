"""What ten thousand versions cost a question: the time of a generated token, the time to find the slot, and the bytes of a version.

    python benchmarks/slots.py --json slots.json
    python benchmarks/slots.py --only read --repeats 15

Every question of a batch is read through another slot, whose rows are among those the question reads. The model is as large as the one casm ships: in a larger
one a token costs more and a slot the same.
"""
import argparse
import random
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from memory import environment, meets, race, summary

from casm.adapter import add_slots, memory_of, reading, use_bank
from casm.benchmark import generate
from casm.checkpoint import write_json_atomic
from casm.facts import PROBE_FORM, Fact, question
from casm.memory import record_access
from casm.pretraining import new_tiny
from casm.registry import Registry
from casm.router import LexicalRouter
from casm.slots import SlotBank, from_flat, slot_bytes, to_flat
from casm.store import commit_bank

SIZES = (10, 100, 1_000, 10_000)


@dataclass(frozen=True)
class Shape:
    "`batch` questions of `tokens` tokens, `new` generated; slots of `rows` rows over a table of `n_keys**2`, as many as each of `sizes`."
    sizes: tuple[int, ...] = SIZES
    rows: int = 64
    batch: int = 128
    tokens: int = 16
    new: int = 16
    n_keys: int = 128
    vocab: int = 1024


TINY = Shape(sizes=(2, 8), rows=4, batch=4, tokens=6, new=2, n_keys=8, vocab=64)


# ---- reading: the time of a generated token

def model_and_questions(s: Shape):
    "An untrained model with an empty bank, and a batch of random questions (batch, tokens)"
    lm = add_slots(new_tiny(s.vocab, n_keys=s.n_keys)).eval()
    return lm, torch.randint(2, s.vocab, (s.batch, s.tokens), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def big_bank(s: Shape, lm, x: torch.Tensor) -> SlotBank:
    "Random deltas; slot i is for question i modulo batch, and has rows that this question reads, so that no read is spared"
    torch.manual_seed(1)
    memory, n = memory_of(lm), max(s.sizes)
    with record_access(memory, torch.ones_like(x)) as got: lm(input_ids=x)
    pools = [rows.unique() for rows in got[0].rows.view(s.batch, -1)]
    sets = [p[torch.randperm(len(p))[:s.rows]].sort().values for p in (pools[i % s.batch] for i in range(n))]
    offsets = torch.tensor([0, *map(len, sets)]).cumsum(0)
    delta = torch.randn(int(offsets[-1]), memory.config.value_dim).mul_(.05).half().float()
    return from_flat(memory.config.num_rows, delta, torch.cat(sets), offsets)


def of_size(bank: SlotBank, n: int) -> SlotBank:
    "The first n slots, as a bank of their own"
    return from_flat(bank.num_rows, **to_flat(bank, 0, n))


def slots_for(s: Shape, n: int, turn: int) -> torch.Tensor:
    "A slot for each question, all different if there are as many, others in each turn. int64 (batch,)"
    rng = random.Random(f"{n}-{turn}")
    return torch.tensor([rng.randrange(i % n, n, s.batch) for i in range(s.batch)])


def readers(s: Shape) -> tuple[dict, SlotBank]:
    "The contenders by name, and the largest bank. A step generates for the whole batch."
    lm, x = model_and_questions(s)
    whole = big_bank(s, lm, x)
    def reader(bank, slots):
        def step(i):
            use_bank(lm, bank)
            with reading(lm, slots(i)):
                lm.generate(input_ids=x, attention_mask=torch.ones_like(x), max_new_tokens=s.new, min_new_tokens=s.new, do_sample=False)
        return step
    n, none = max(s.sizes), torch.full((s.batch,), -1)
    contenders = {"empty": reader(SlotBank(whole.num_rows, whole.dim), lambda i: none)}
    contenders |= {f"slots_{k}": reader(of_size(whole, k), lambda i, k=k: slots_for(s, k, i)) for k in s.sizes}
    contenders[f"two_slots_{n}"] = reader(whole, lambda i: torch.stack([slots_for(s, n, i), slots_for(s, n, -1 - i)], 1))
    return contenders, whole


# ---- routing: from words and a date to a slot

def facts(n: int) -> list[Fact]:
    "n invented facts, every second one a later value of the one before"
    records = generate(-(-n // 2), seed=3, unchanged=0.).records
    return [Fact(r.entity, r.relation, r.values[p], p) for r in records for p in ("2018", "2024")][:n]


def register(n: int) -> Registry:
    "A registry of n facts, with a slot for each"
    registry = Registry()
    registry.assert_facts(facts(n), list(range(n)))
    return registry


def routers(s: Shape) -> tuple[dict, Registry]:
    "A contender for each number of facts, and the largest registry. A step routes a batch of questions, others in each turn."
    def router(registry, n):
        known, lexical = facts(n), LexicalRouter(registry)
        def step(i):
            asked = random.Random(i).choices(known, k=s.batch)
            found = lexical.route([question(PROBE_FORM, f.subject, f.relation) for f in asked], [f.valid_from for f in asked])
            if any(r.slot is None for r in found): raise AssertionError("a question of a known fact found no slot: nothing was measured")
        return step
    registries = {n: register(n) for n in s.sizes}
    return {f"facts_{n}": router(r, n) for n, r in registries.items()}, registries[max(s.sizes)]


# ---- bytes

def bytes_per_version(bank: SlotBank, registry: Registry) -> dict[str, float]:
    "Of a slot in flat form, of the file a commit writes, of the registry, and of the working memory the bank takes"
    n = bank.num_slots
    with tempfile.TemporaryDirectory() as d:
        there = Registry()
        commit_bank(d, bank, there, "benchmark", lambda name: there.assert_facts([Fact("a", "b", "c", "2018")], bank=name))
        size = sum(p.stat().st_size for p in Path(d).iterdir())
    held = sum(t.numel() * t.element_size() for t in (bank.entries, bank.lines, bank.storage, bank.where))
    return {"slot": slot_bytes(bank).sum().item() / n, "file": size / n, "registry": registry.nbytes() / n, "working_memory": held / n}


# ---- the run and its table

PARTS = ("read", "route", "bytes")
TARGETS = {"read_ratio_10000": "<= 1.25", "route_ms_per_query": "<= 2"}


def figures(s: Shape, times: dict[str, dict[str, list[float]]]) -> dict[str, dict]:
    "What is asked of the numbers: reading against the empty bank, turn by turn, and milliseconds per routed question"
    got, read, n = {}, times.get("read", {}), max(s.sizes)
    for name, xs in read.items():
        if name != "empty": got[name.replace("slots_", "read_ratio_", 1).replace("two_read_ratio_", "read_ratio_two_slots_")] = [a / b for a, b in zip(xs, read["empty"])]
    if "route" in times: got["route_ms_per_query"] = [1e3 * t / s.batch for t in times["route"][f"facts_{n}"]]
    return {k: summary(xs) | {"target": (t := TARGETS.get(k)), "met": t and meets(summary(xs)["median"], t)} for k, xs in got.items()}


def per_unit(s: Shape, times: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    "Milliseconds per generated token and per routed question"
    units = {"read": s.batch * s.new, "route": s.batch}
    return {part: {name: summary([1e3 * t / units[part] for t in xs]) for name, xs in rows.items()} for part, rows in times.items()}


def show(result: dict):
    for part, rows in result["ms"].items():
        print(f"\nms per {'generated token' if part == 'read' else 'routed question'}\n  {'':18}{'median':>9}{'min':>9}{'max':>9}")
        for name, x in rows.items(): print(f"  {name:18}{x['median']:9.4f}{x['min']:9.4f}{x['max']:9.4f}")
    if result["figures"]: print(f"\n{'':26}{'median':>9}{'min':>9}{'max':>9}   target")
    for name, x in result["figures"].items():
        print(f"{name:26}{x['median']:9.3f}{x['min']:9.3f}{x['max']:9.3f}   " + (f"{x['target']:8}{'met' if x['met'] else 'missed'}" if x["target"] else "-"))
    if result["bytes_per_version"]: print("\nbytes per version: " + ", ".join(f"{k} {v:,.0f}" for k, v in result["bytes_per_version"].items()))


def plot(result: dict):
    "Milliseconds per generated token and per routed question against the number of versions; a matplotlib figure"
    from matplotlib.figure import Figure
    fig = Figure(figsize=(9, 3.4), layout="constrained")
    for ax, (part, prefix, label) in zip(fig.subplots(1, 2), (("read", "slots_", "ms per generated token"), ("route", "facts_", "ms per routed question"))):
        points = {int(k.removeprefix(prefix)): v for k, v in result["ms"].get(part, {}).items() if k.startswith(prefix)}
        for k in ("min", "median", "max"): ax.plot(points.keys(), [p[k] for p in points.values()], color="C0", marker="o" if k == "median" else None, ls="-" if k == "median" else ":")
        if part in result["ms"] and "empty" in result["ms"][part]: ax.axhline(result["ms"][part]["empty"]["median"], color="grey", label="empty bank"); ax.legend(frameon=False)
        ax.set_xscale("log"); ax.set_ylim(bottom=0); ax.grid(alpha=.3)
        ax.set(xlabel="versions", ylabel=label)
    return fig


def measure(parts: list[str], quick: bool, repeats: int) -> dict:
    "Everything asked for"
    warnings.filterwarnings("ignore", category=FutureWarning)
    s, times, bank, registry = TINY if quick else Shape(), {}, None, None
    about = environment("cpu", torch.float32, repeats, quick)
    print(", ".join(f"{k} {v}" for k, v in about.items()), flush=True)
    if {"read", "bytes"} & set(parts): contenders, bank = readers(s)
    if "read" in parts: times["read"] = race(contenders, repeats, "cpu")
    if {"route", "bytes"} & set(parts): contenders, registry = routers(s)
    if "route" in parts: times["route"] = race(contenders, repeats, "cpu")
    result = {"environment": about, "shape": asdict(s), "ms": per_unit(s, times), "figures": figures(s, times),
              "bytes_per_version": bytes_per_version(bank, registry) if "bytes" in parts else {}}
    show(result)
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default=",".join(PARTS), help="parts, comma-separated (default: %(default)s)")
    p.add_argument("--repeats", type=int, help="timed turns of every contender (default: 7, with --quick 2)")
    p.add_argument("--quick", action="store_true", help="tiny shapes: shows that everything runs, the numbers mean nothing")
    p.add_argument("--json", type=Path, help="also write the results here")
    a = p.parse_args()
    parts = a.only.split(",")
    if unknown := set(parts) - set(PARTS): p.error(f"--only: {min(unknown)!r} is unknown; choose from {', '.join(PARTS)}")
    if a.repeats is not None and a.repeats < 1: p.error(f"--repeats: {a.repeats}; at least 1")
    if a.json and not a.json.parent.is_dir(): p.error(f"--json: {a.json.parent} is no folder")
    result = measure(parts, a.quick, a.repeats or (2 if a.quick else 7))
    if a.json: write_json_atomic(a.json, result)


if __name__ == "__main__": main()
