"""How large is a checkpoint, and how long does it take to save, against saving the whole model?

    python benchmarks/checkpoint.py --json nbs/data/checkpoint.json
    python benchmarks/checkpoint.py --quick

Tiny model: each method after two steps on 150 facts, saved as a period's end is. One billion weights: a Llama of the shape of Llama 3.2 1B, its weights random and in half precision, with a fresh memory of 128 half-keys; each method
takes it over as in a run, and gets random numbers where it would have learnt 150 facts. Every save writes, syncs, hashes and renames as in a run, and what was saved is read back and compared.

A run would keep the large model in single precision, twice as large as here; what is trained beside it (`lora`, `smf`) is in single precision here too, and `casm` stores its deltas in half.
"""
import argparse
import gc
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from casm.adapter import attach, memory_of
from casm.benchmark import generate
from casm.checkpoint import RunFolder, State, write_json_atomic
from casm.memory import MemoryConfig, SparseMemory
from casm.methods import METHODS, Item, make_method
from casm.pretraining import LM, empty_stats, load_lm
from casm.slots import open_slots, select
from casm.trainer import TrainConfig, train_period
from accelerate import Accelerator

SHAPE = dict(vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True)       # Llama 3.2 1B
FACTS = 150


def taught(name: str, facts: int):
    "A method after two steps on `facts` facts"
    benchmark, method = generate(facts), make_method(name)
    method.prepare(load_lm())
    items = [Item(p.text, p.fact, p.date) for p in benchmark.passages(benchmark.facts("2018"))]
    if name != "casm": items = items[:64]                                # the others' states do not grow with the facts
    train_period(method, "2018", items, TrainConfig(epochs=1, min_steps=1, batch_size=max(1, (len(items) + 1) // 2)), Accelerator())
    return method


def billion() -> LM:
    "A model of a billion random weights with a fresh memory, in half precision"
    gc.collect()                                                         # the model before lies in cycles
    model = LlamaForCausalLM._from_config(LlamaConfig(**SHAPE), dtype=torch.float16)
    attach(model, SparseMemory(MemoryConfig(model.config.hidden_size)).half())
    stats = empty_stats(memory_of(model))
    stats.add(torch.arange(len(stats.df)))
    return LM(model.eval(), load_lm().tokenizer, stats, "1B")


@torch.no_grad()
def filled(name: str):
    "A method over such a model at a period's end, with random numbers where it would have learnt the facts"
    method, facts = make_method(name), generate(FACTS).facts("2018")
    method.prepare(billion())
    method.periods.append("2018")
    draw = lambda: torch.randperm(method.bank.num_rows)[:method.rows]  # noqa: E731
    if name == "smf": select(method.bank, 0, draw(), method.rows)
    if name == "casm":
        method.slot_of = dict(zip(facts, open_slots(method.bank, [draw() for _ in facts])))       # a slot for each of them
        method.pending = list(method.slot_of.items())
    if name != "full_ft":                                                # whose weights are random as they are
        for p in method.parameters(): p.normal_()
    method.after_step()
    method.end_period()
    return method


def whole(lm: LM) -> State:
    "The whole model, memory included, tied weights once"
    return State(dict(lm.model.named_parameters()))


def saved(state: State, repeats: int) -> dict:
    "Bytes of a checkpoint with its manifest, and the median seconds of a save"
    with tempfile.TemporaryDirectory() as d, RunFolder(Path(d) / "run", {"benchmark": "checkpoint"}) as run:
        seconds = []
        for n in range(repeats):
            start = time.perf_counter()
            folder = run.save(state, step=n, period="2018")
            seconds.append(time.perf_counter() - start)
        back = run.load_latest().tensors
        if back.keys() != state.tensors.keys() or not all(torch.equal(back[k], v) for k, v in state.tensors.items()): raise SystemExit("what was saved reads back differently")
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        shutil.rmtree(run.checkpoints)
    return {"bytes": size, "seconds": sorted(seconds)[repeats // 2]}


def measure(facts: int, repeats: int, big: bool) -> dict:
    "Every method, and the whole model; sizes in bytes, times also as shares of the whole model's"
    out = {"tiny": {"whole model": saved(whole(load_lm()), repeats)} | {name: saved(taught(name, facts).state(), repeats) for name in METHODS}}
    if big: out["1B"] = {"whole model": saved(whole(billion()), 3)} | {name: saved(filled(name).state(), 3) for name in METHODS}
    for rows in out.values():
        base = rows["whole model"]["seconds"]
        for r in rows.values(): r["of_whole"] = r["seconds"] / base
    return out


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="tiny model and 8 facts, to see that it runs")
    p.add_argument("--json", type=Path, help="also write the numbers here")
    a = p.parse_args()
    result = measure(8, 1, False) if a.quick else measure(FACTS, 7, True)
    print(json.dumps(result, indent=2))
    if a.json:
        write_json_atomic(a.json, result)
        print(f"results: {a.json}")
