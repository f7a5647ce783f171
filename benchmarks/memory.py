"""What the memory costs, measured side by side with what it replaces: row-sparse updates, ranking, lookup, a whole training step, peak memory.

    python benchmarks/memory.py --json memory.json
    python benchmarks/memory.py --only update,step --repeats 15
    python benchmarks/memory.py --device cuda --json memory-cuda.json
"""
import argparse
import heapq
import math
import os
import platform
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from casm.checkpoint import write_json_atomic
from casm.memory import Access, MemoryConfig, SparseMemory, read_rows, record_access, unit_rms
from casm.ranker import BackgroundStats, select_rows
from casm.slots import RowAdamW, RowSGD, SlotBank, read_slots, select, write_back

STEPS = 8  # batches held ready; the steps of a run take them in turn


# ---- update: read a table, train a few of its rows

@dataclass(frozen=True)
class Update:
    "One step's read of `batch * tokens` positions, `k` uniformly drawn rows each; `chosen` of the rows read are to train."
    rows: int = 2**20
    dim: int = 256
    chosen: int = 500
    batch: int = 8
    tokens: int = 128
    k: int = 32
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


def update_batch(u: Update, seed: int) -> tuple[Access, torch.Tensor, torch.Tensor]:
    "A step's accesses, the rows it may train and the gradient that reaches its read"
    torch.manual_seed(seed)
    rows = torch.randint(u.rows, (u.batch, u.tokens, u.k))
    read = rows.unique()
    chosen = read[torch.randperm(len(read))[:u.chosen]].sort().values
    weights, grad = torch.rand(rows.shape).softmax(-1), torch.randn(u.batch, u.tokens, u.dim)
    return Access(rows.to(u.device), weights.to(u.device, u.dtype)), chosen.to(u.device), grad.to(u.device, u.dtype)


def update_batches(u: Update): return [update_batch(u, i) for i in range(STEPS)]
def table_of(u: Update): return torch.full((u.rows, u.dim), .02, device=u.device, dtype=u.dtype)  # not zeros, whose pages no memory stands behind


def compact(u: Update, optimizer=RowAdamW):
    "casm: the chosen rows lie over the frozen table as one small parameter, with optimiser state per row"
    table, batches, bank = table_of(u), update_batches(u), SlotBank(u.rows, u.dim, u.device)
    bank.num_slots, slots = 1, torch.zeros(u.batch, dtype=torch.int64, device=u.device)
    opt = optimizer([select(bank, 0, batches[0][1][:0], u.chosen)], lr=1e-3)
    write_back(bank)
    def step(i):
        access, chosen, grad = batches[i % STEPS]
        select(bank, 0, chosen, u.chosen)
        (read_rows(table, *access[:2]) + read_slots(bank, access, slots)).to(u.dtype).backward(grad)
        opt.step(); opt.zero_grad()
        write_back(bank)
    return step


def compact_sgd(u: Update): return compact(u, RowSGD)


def dense_mask(u: Update):
    "A gradient as large as the table, zeroed outside the chosen rows, and AdamW over all of it"
    table, batches = nn.Parameter(table_of(u)), update_batches(u)
    opt = torch.optim.AdamW([table], lr=1e-3, weight_decay=0)
    def step(i):
        access, chosen, grad = batches[i % STEPS]
        mask = torch.zeros(u.rows, 1, device=u.device, dtype=u.dtype)
        mask[chosen] = 1
        read_rows(table, *access[:2]).backward(grad)
        table.grad.mul_(mask)
        opt.step(); opt.zero_grad()
    return step


def sparse_sgd(u: Update):
    "A sparse gradient and SGD: every row that was read trains, no state"
    table, batches = nn.Parameter(table_of(u)), update_batches(u)
    opt = torch.optim.SGD([table], lr=1e-3)
    def step(i):
        (rows, weights, *_), _, grad = batches[i % STEPS]
        y = F.embedding_bag(rows.flatten(0, 1), table, mode="sum", per_sample_weights=weights.flatten(0, 1), sparse=True)
        y.backward(grad.flatten(0, 1))
        opt.step(); opt.zero_grad()
    return step


# ---- ranking: from a batch's accesses to the rows to train

@dataclass(frozen=True)
class Ranking:
    "`accesses` row ids over `rows` rows, uniform or of Zipf's law with exponent `zipf`; the best `chosen` are wanted."
    rows: int = 2**20
    accesses: int = 524_288
    chosen: int = 500
    zipf: float = 0.
    device: str = "cpu"


def row_ids(r: Ranking, seed: int) -> torch.Tensor:
    "One batch's accesses, int64 (accesses,)"
    g = torch.Generator().manual_seed(seed)
    if not r.zipf: return torch.randint(r.rows, (r.accesses,), generator=g).to(r.device)
    shares = torch.arange(1, r.rows + 1, dtype=torch.float64) ** -r.zipf
    ids = torch.multinomial(shares, r.accesses, replacement=True, generator=g)
    return torch.randperm(r.rows, generator=torch.Generator().manual_seed(0))[ids].to(r.device)


def background(r: Ranking, batches: int = 32) -> BackgroundStats:
    stats = BackgroundStats.empty(r.rows)
    for i in range(batches): stats.add(row_ids(r, 1000 + i).cpu())
    return stats.to(r.device)


def rank(r: Ranking):
    "casm: whole tensors at a time"
    batches, stats = [row_ids(r, i) for i in range(STEPS)], background(r)
    def step(i): select_rows(batches[i % STEPS], stats, r.chosen)
    return step


def idf_of(stats: BackgroundStats) -> dict[int, float]:
    return {row: math.log((stats.batches + 1) / (df + 1)) for row, df in enumerate(stats.df.tolist())}


def select_by_dict(rows: torch.Tensor, idf: dict[int, float], t: int) -> list[int]:
    "What `select_rows` does (ties aside), one access at a time"
    counts = {}
    for row in rows.tolist(): counts[row] = counts.get(row, 0) + 1
    total = len(rows)
    scores = {row: n / total * idf[row] for row, n in counts.items()}
    return heapq.nlargest(t, scores, key=scores.get)


def rank_dict(r: Ranking):
    "Python dictionaries; idf is computed beforehand, as a favour"
    batches, idf = [row_ids(r, i) for i in range(STEPS)], idf_of(background(r))
    def step(i): select_by_dict(batches[i % STEPS], idf, r.chosen)
    return step


# ---- lookup: the best k rows of a large table for each token

@dataclass(frozen=True)
class Lookup:
    "`tokens` queries of one head over `n_keys**2` rows; brute force costs the same again for every further head."
    n_keys: int = 1024
    k: int = 32
    key_dim: int = 64
    hidden: int = 512
    tokens: int = 4096
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


def lookup_memory(x: Lookup) -> tuple[SparseMemory, torch.Tensor]:
    "A memory (its values are not read, so one number wide) and hidden states (1, tokens, hidden)"
    torch.manual_seed(0)
    memory = SparseMemory(MemoryConfig(x.hidden, n_keys=x.n_keys, heads=1, top_k=x.k, key_dim=x.key_dim, value_dim=1))
    return memory.requires_grad_(False).to(x.device, x.dtype), torch.randn(1, x.tokens, x.hidden).to(x.device, x.dtype)


def product_keys(x: Lookup):
    "casm: the best half-keys first"
    memory, hidden = lookup_memory(x)
    def step(i): memory.lookup(hidden)
    return step


def row_keys(memory: SparseMemory, n: int) -> torch.Tensor:
    "The whole key of every row, both halves side by side: (n * n, key_dim)"
    first, second = unit_rms(memory.readers[0].keys[0]).unbind(0)
    return torch.cat([first.repeat_interleave(n, 0), second.repeat(n, 1)], -1)


def brute_force(memory: SparseMemory, keys: torch.Tensor, hidden: torch.Tensor) -> Access:
    "A matrix product with every row's key; 128 tokens at a time, so that the scores fit in memory"
    c = memory.config
    query = memory.readers[0].query(hidden[0]).unflatten(-1, (2, c.key_dim // 2))
    best = [(q @ keys.T).topk(c.top_k) for q in unit_rms(query).flatten(-2).split(128)]
    scores = torch.cat([b.values for b in best])
    return Access(torch.cat([b.indices for b in best])[None], (scores / math.sqrt(c.key_dim // 2)).softmax(-1)[None])


def matmul_topk(x: Lookup):
    "Every row scored; the rows' keys are laid out beforehand, as a favour"
    memory, hidden = lookup_memory(x)
    keys = row_keys(memory, x.n_keys)
    def step(i): brute_force(memory, keys, hidden)
    return step


# ---- step: one optimiser step of a language model

@dataclass(frozen=True)
class Step:
    "A random Llama of about 30 M parameters, a memory beside the MLP of its middle layer, and the batch of one step."
    hidden: int = 512
    inner: int = 1408
    layers: int = 8
    attention_heads: int = 8
    kv_heads: int = 8
    vocab: int = 8192
    n_keys: int = 256
    heads: int = 4
    k: int = 32
    batch: int = 16
    tokens: int = 64
    chosen: int = 500
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


def llama(s: Step) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM      # here: a child that measures a table's memory should not carry it
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=s.hidden, intermediate_size=s.inner, num_hidden_layers=s.layers, num_attention_heads=s.attention_heads,
                         num_key_value_heads=s.kv_heads, vocab_size=s.vocab, max_position_embeddings=s.tokens, tie_word_embeddings=True)
    with torch.device(s.device): return LlamaForCausalLM(config).to(s.dtype).eval()


def texts(s: Step, seed: int) -> dict[str, torch.Tensor]:
    "A batch of random tokens without padding"
    ids = torch.randint(s.vocab, (s.batch, s.tokens), generator=torch.Generator().manual_seed(seed)).to(s.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def with_memory(s: Step) -> tuple[nn.Module, SparseMemory, BackgroundStats]:
    "The model with a filled memory and an empty slot, all frozen, and statistics over a few background batches"
    from casm.adapter import add_slots, attach, slot_bank
    model = llama(s)
    memory = SparseMemory(MemoryConfig(s.hidden, n_keys=s.n_keys, heads=s.heads, top_k=s.k))
    nn.init.normal_(memory.table, std=.02)
    model = add_slots(attach(model, memory)).requires_grad_(False).eval()
    slot_bank(model).num_slots = 1
    stats = BackgroundStats.empty(memory.config.num_rows)
    for i in range(8):
        with record_access(memory) as got, torch.no_grad(): model(texts(s, 1000 + i)["input_ids"])
        stats.add(got[0].rows.cpu())
    return model, memory, stats.to(s.device)


def smf(s: Step):
    "The step of `casm.methods.SMF`: rows selected inside the forward, backward, clip, RowAdamW, write back; returns what ranking took"
    from casm.adapter import reading, slot_bank
    model, memory, stats = with_memory(s)
    bank, batches = slot_bank(model), [texts(s, i) for i in range(STEPS)]
    slots = torch.zeros(s.batch, dtype=torch.int64, device=s.device)
    opt = RowAdamW([select(bank, 0, slots[:0], s.chosen)], lr=1e-3)
    write_back(bank)
    def step(i):
        x, took = batches[i % STEPS], {}
        def choose(access):
            start = now(s.device)
            rows = select_rows(access.rows[x["attention_mask"].bool()], stats, s.chosen)
            took["rank"] = now(s.device) - start
            select(bank, 0, rows, s.chosen)
        memory.watchers.append(choose)
        with reading(model, slots): loss = model(**x).loss
        memory.watchers.remove(choose)
        loss.backward()
        nn.utils.clip_grad_norm_([bank.param], 1.)
        opt.step(); opt.zero_grad()
        write_back(bank)
        return took
    return step


class Biased(nn.Module):
    "An MLP and a bias at the memory's place"
    def __init__(self, mlp: nn.Module, bias: torch.Tensor):
        super().__init__()
        self.mlp, self.bias = mlp, nn.Parameter(bias)

    def forward(self, hidden): return self.mlp(hidden) + self.bias


def frozen(s: Step):
    "Forward, and backward as far down as the memory would stand; nothing else"
    model = llama(s).requires_grad_(False)
    layer = model.model.layers[s.layers // 2]
    layer.mlp = Biased(layer.mlp, torch.zeros(s.hidden, device=s.device, dtype=s.dtype))
    batches = [texts(s, i) for i in range(STEPS)]
    def step(i):
        model(**batches[i % STEPS]).loss.backward()
        layer.mlp.bias.grad = None
    return step


def adamw_step(model: nn.Module, s: Step):
    "The step of the methods that train parameters of the model itself"
    params, batches = [p for p in model.parameters() if p.requires_grad], [texts(s, i) for i in range(STEPS)]
    opt = torch.optim.AdamW(params, lr=1e-4)
    def step(i):
        model(**batches[i % STEPS]).loss.backward()
        nn.utils.clip_grad_norm_(params, 1.)
        opt.step(); opt.zero_grad()
    return step


def full_ft(s: Step): return adamw_step(llama(s), s)


def lora(s: Step):
    from peft import LoraConfig, get_peft_model
    config = LoraConfig(r=16, lora_alpha=32, task_type="CAUSAL_LM", target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    return adamw_step(get_peft_model(llama(s), config).eval(), s)


# ---- taking turns

UPDATES, RANKS = (compact, compact_sgd, dense_mask, sparse_sgd), (rank, rank_dict)
PARTS = {"update": UPDATES, "ranking": RANKS, "ranking_zipf": RANKS, "lookup": (product_keys, matmul_topk), "step": (smf, frozen, full_ft, lora)}

FULL = {"update": Update(), "ranking": Ranking(), "ranking_zipf": Ranking(zipf=1.1), "lookup": Lookup(), "step": Step()}
TINY = {"update": {"rows": 256, "dim": 8, "chosen": 16, "batch": 2, "tokens": 8, "k": 4}, "ranking": (few := {"rows": 256, "accesses": 1024, "chosen": 16}),
        "ranking_zipf": few, "lookup": {"n_keys": 8, "k": 4, "key_dim": 8, "hidden": 16, "tokens": 64},
        "step": {"hidden": 32, "inner": 64, "layers": 2, "attention_heads": 2, "kv_heads": 2, "vocab": 64, "n_keys": 8, "heads": 2, "k": 4,
                 "batch": 2, "tokens": 8, "chosen": 16}}
LARGE = {"hidden": 2048, "inner": 8192, "layers": 16, "attention_heads": 32, "kv_heads": 8, "vocab": 32_768}  # 1 B parameters, for a GPU

RATIOS = {  # part, whose time is divided by whose, and what the quotient should be
    "compact_vs_dense_mask": ("update", "dense_mask", "compact", ">= 100"),
    "compact_vs_sparse_sgd": ("update", "sparse_sgd", "compact_sgd", ">= 1"),
    "rank_vs_dict": ("ranking", "rank_dict", "rank", ">= 30"),
    "rank_vs_dict_zipf": ("ranking_zipf", "rank_dict", "rank", ">= 5"),
    "lookup_vs_brute_force": ("lookup", "matmul_topk", "product_keys", None),
    "rank_share": ("step", "rank", "smf", "<= 0.05"),
    "smf_vs_frozen": ("step", "smf", "frozen", "<= 1.25"),
    "smf_vs_full_ft": ("step", "smf", "full_ft", "<= 0.7"),
    "smf_vs_lora": ("step", "smf", "lora", None),
}


def now(device: str) -> float:
    if device == "cuda": torch.cuda.synchronize()
    return time.perf_counter()


def race(steps: dict, repeats: int, device: str) -> dict[str, list[float]]:
    "Seconds of each contender's steps, and of what a step says it measured inside. Contenders take turns, so that noise hits all; turn 0 warms up."
    times = {}
    for i in range(repeats + 1):
        for name, step in steps.items():
            start = now(device)
            inside = step(i) or {}
            took = {name: now(device) - start} | inside
            for k in took if i else (): times.setdefault(k, []).append(took[k])
    return times


def summary(xs: list[float]) -> dict[str, float]: return {"median": median(xs), "min": min(xs), "max": max(xs)}


def quotients(times: dict[str, dict[str, list[float]]]) -> dict[str, dict]:
    "Every ratio whose contenders ran: the quotient of each turn, summarised, with its target"
    got = {}
    for name, (part, over, under, target) in RATIOS.items():
        if part not in times: continue
        q = summary([a / b for a, b in zip(times[part][over], times[part][under])])
        got[name] = q | {"target": target, "met": target and meets(q["median"], target)}
    return got


def meets(x: float, target: str) -> bool:
    sign, bound = target.split()
    return x >= float(bound) if sign == ">=" else x <= float(bound)


# ---- peak memory: each contender in a process of its own

def peaks_of(parts: list[str], arguments: list[str]) -> dict[str, dict[str, int]]:
    "Bytes at most in use while a child builds a contender and takes two steps; two children at a time, which takes neither more memory"
    def peak(part, name):
        child = [sys.executable, __file__, "--peak", f"{part}/{name}", *arguments]
        return int(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout)
    with ThreadPoolExecutor(2) as pool:
        started = {p: {c.__name__: pool.submit(peak, p, c.__name__) for c in PARTS[p]} for p in parts}
    return {p: {name: f.result() for name, f in fs.items()} for p, fs in started.items()}


def print_peak(part: str, name: str, shape):
    "The child's side. On a CPU the whole process counts, with what it imported"
    step = next(c for c in PARTS[part] if c.__name__ == name)(shape)
    step(0)
    step(1)
    print(torch.cuda.max_memory_allocated() if shape.device == "cuda" else max_rss())


def max_rss() -> int: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---- cost against size

def against_size(u: Update, field: str, sizes: list[int], contenders, repeats: int) -> dict[str, list[dict]]:
    "Seconds of an update step where `field` of its shape takes each of `sizes`; above 2**20 rows the compact path alone"
    curves = {c.__name__: [] for c in contenders}
    for n in sizes:
        shape = replace(u, **{field: n})
        times = race({c.__name__: c(shape) for c in contenders if c is compact or shape.rows <= 2**20}, repeats, u.device)
        for name, xs in times.items(): curves[name].append({field: n} | summary(xs))
    return curves


def cost_against_size(u: Update, quick: bool, repeats: int) -> dict:
    rows, chosen = ([2**6, 2**8], [4, 16]) if quick else ([2**i for i in range(12, 23)], [2**i for i in range(5, 15)])
    return {"rows": against_size(u, "rows", rows, (compact, dense_mask, sparse_sgd), repeats),
            "chosen": against_size(u, "chosen", chosen, (compact, compact_sgd, sparse_sgd), repeats)}


def plot(sizes: dict):
    "The `sizes` of a result: milliseconds a step against rows of the table and against rows that train; a matplotlib figure"
    from matplotlib.figure import Figure
    fig = Figure(figsize=(9, 3.6), layout="constrained")
    for ax, (field, label) in zip(fig.subplots(1, 2, sharey=True), {"rows": "rows in the table", "chosen": "rows that train"}.items()):
        for name, points in sizes[field].items():
            x, (low, mid, high) = [p[field] for p in points], ([1e3 * p[k] for p in points] for k in ("min", "median", "max"))
            ax.plot(x, mid, marker="o", markersize=3, label=name.replace("_", " "))
            ax.fill_between(x, low, high, alpha=.2)
        ax.set_xscale("log", base=2); ax.set_yscale("log"); ax.grid(alpha=.3)
        ax.set(xlabel=label, ylabel="milliseconds per step" if field == "rows" else None)
        ax.legend(frameon=False)
    return fig


# ---- the run and its table

def device_name(device: str) -> str:
    if device == "cuda": return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = [x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")] if info.exists() else []
    return names[0] if names else platform.machine()


def environment(device: str, dtype: torch.dtype, repeats: int, quick: bool) -> dict:
    "What the numbers depend on beside the code"
    return {"device": device, "device_name": device_name(device), "dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads(),
            "cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version(), "repeats": repeats, "quick": quick,
            **{name: version(name) for name in ("torch", "transformers", "peft")}, "import_bytes": max_rss()}


def shapes(quick: bool, device: str) -> dict:
    "The shape of each part; a GPU gets bfloat16 and the larger model"
    got = {k: replace(v, device=device, **(TINY[k] if quick else {})) for k, v in FULL.items()}
    if device == "cuda":
        got = {k: replace(v, dtype=torch.bfloat16) if hasattr(v, "dtype") else v for k, v in got.items()}
        if not quick: got["step"] = replace(got["step"], **LARGE)
    return got


def show_part(part: str, times: dict[str, list[float]], peaks: dict[str, int]):
    print(f"\n{part}\n  {'':14}{'ms':>11}{'min':>11}{'max':>11}{'peak MB':>11}")
    for name, xs in times.items():
        memory = f"{peaks[name] / 2**20:11.0f}" if name in peaks else ""
        print(f"  {name:14}" + "".join(f"{1e3 * x:11.2f}" for x in summary(xs).values()) + memory, flush=True)


def show_ratios(ratios: dict[str, dict], quick: bool):
    if quick: print("\nThe shapes are too small for the numbers to mean anything; goals are not judged.")
    print(f"\n{'ratio':24}{'median':>9}{'min':>9}{'max':>9}   target")
    for name, r in ratios.items():
        print(f"{name:24}{r['median']:9.3g}{r['min']:9.3g}{r['max']:9.3g}   " + ("-" if quick or not r["target"] else f"{r['target']:8}{'met' if r['met'] else 'missed'}"))


def show_sizes(sizes: dict[str, dict[str, list[dict]]]):
    for field, curves in sizes.items():
        print(f"\nms per update step against {field}")
        for name, points in curves.items(): print(f"  {name:12}" + "  ".join(f"{p[field]}: {1e3 * p['median']:.3g}" for p in points))


def measure(parts: list[str], quick: bool, device: str, repeats: int) -> dict:
    "Everything asked for, printed as it comes"
    shape, flags = shapes(quick, device), ["--device", device] + ["--quick"] * quick
    raced = [p for p in PARTS if p in parts]
    about = environment(device, shape["update"].dtype, repeats, quick)
    print(", ".join(f"{k} {v}" for k, v in about.items()), flush=True)
    peaks, times = peaks_of(raced, flags), {}       # peaks before all else: Linux starts a child at its parent's peak, so the parent must be small
    for p in raced:
        times[p] = race({c.__name__: c(shape[p]) for c in PARTS[p]}, repeats, device)
        show_part(p, times[p], peaks[p])
    ratios = quotients(times)
    if ratios: show_ratios(ratios, quick)
    sizes = cost_against_size(shape["update"], quick, repeats) if "sizes" in parts else {}
    show_sizes(sizes)
    return {"environment": about,
            "shapes": {p: {k: v for k, v in asdict(shape[p]).items() if k not in ("device", "dtype")} for p in raced},
            "times": {p: {n: summary(xs) for n, xs in t.items()} for p, t in times.items()}, "peak_bytes": peaks, "ratios": ratios, "sizes": sizes}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default=",".join([*PARTS, "sizes"]), help="parts, comma-separated (default: %(default)s)")
    p.add_argument("--repeats", type=int, help="timed turns of every contender (default: 7, with --quick 2)")
    p.add_argument("--quick", action="store_true", help="tiny shapes: shows that everything runs, the numbers mean nothing")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: bfloat16, and a Llama of 1 B parameters")
    p.add_argument("--json", type=Path, help="also write the results here")
    p.add_argument("--peak", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.peak:
        part, name = a.peak.split("/")
        return print_peak(part, name, shapes(a.quick, a.device)[part])
    parts = a.only.split(",")
    if unknown := set(parts) - {*PARTS, "sizes"}: p.error(f"--only: {min(unknown)!r} is unknown; choose from {', '.join(PARTS)}, sizes")
    if a.repeats is not None and a.repeats < 1: p.error(f"--repeats: {a.repeats}; at least 1")
    if a.device == "cuda" and not torch.cuda.is_available(): p.error("--device: no CUDA device here")
    if a.json and not a.json.parent.is_dir(): p.error(f"--json: {a.json.parent} is no folder")
    result = measure(parts, a.quick, a.device, a.repeats or (2 if a.quick else 7))
    if a.json: write_json_atomic(a.json, result)


if __name__ == "__main__": main()
