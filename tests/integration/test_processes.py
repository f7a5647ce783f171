"""The trainer in two processes, as under torchrun: every method learns what one process learns from the same batches, and goes on from what the other number of processes has saved.

Run as a program this file is one of the processes: `test_processes.py METHOD STUB FOLDER`.
"""
import json, os, signal, socket, sys, time
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from casm.adapter import attach, detach
from casm.memory import MemoryConfig, SparseMemory
from casm.pretraining import LM, background_stats, background_world, load_lm, save_lm, world_texts
from commands import Command


def teach(name, stub, folder, until=None):
    "Ten steps or a few more; the rows that each step had in training, the last loss, and what was learnt"
    from casm import trainer
    from casm.benchmark import generate
    from casm.checkpoint import RunFolder
    from casm.methods import Item, make_method
    bench = generate(6, seed=5, periods=("2018", "2020"))
    stream = [("2020", [Item(p.text, p.fact, p.date) for p in bench.passages(bench.facts("2020"))][:15])]      # batches of 7, 7 and 1: of that, a second process has no part
    name, _, parts = name.partition("+")
    config = trainer.TrainConfig(lr=1e-3, epochs=1, min_steps=10, batch_size=7, save_every=1, shard=parts == "shard")
    lm = load_lm(stub)
    lm.facts = tuple(bench.facts("2018"))
    method, chosen, held = make_method(name, **{"smf": {"rows": 20}, "casm": {"rows": 16}}.get(name, {})), [], set()
    def step_loss(*a, f=trainer.step_loss):
        loss = f(*a)
        if hasattr(method, "bank"): chosen.append(method.bank.entries[torch.isin(method.bank.lines, method.bank.trained)].tolist())
        return loss
    def take_step(job, *a, f=trainer.take_step):
        if job.step == until: raise KeyboardInterrupt
        f(job, *a)
        if until == "second" and os.environ.get("RANK") == "1" and job.step == 2: os.kill(os.getpid(), signal.SIGTERM)
        held.add(sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in method.parameters()))
    trainer.step_loss, trainer.take_step = step_loss, take_step
    def load_latest(run, f=RunFolder.load_latest):
        if os.environ.get("RANK") == "1": time.sleep(2)                  # a slow process reads what was there, not what the first writes meanwhile
        return f(run)
    RunFolder.load_latest = load_latest
    with trainer.accelerator_here().main_process_first(): run = RunFolder(folder, {})      # two at once would each find the other's half of a folder
    asked, stopped = [], None
    def ask(method, period):
        asked.append(period)
        method.answer(["The depth of X is"], [None])
        if until == "asked" and period == "2020": os.kill(os.getpid(), signal.SIGUSR1)
    try: trainer.train(method, lm, stream, config, run, ask)
    except KeyboardInterrupt as e: stopped = type(e).__name__
    ends = [json.loads(x) for x in (run.metrics / "events.jsonl").read_text().splitlines()] if until is None else []
    return {"held": sum(held), "chosen": chosen, "asked": asked, "stopped": stopped, "losses": [e["loss"] for e in ends if e["event"] == "period_end"], "learnt": {k: v.float().flatten().tolist() for k, v in (run.load_latest().tensors if parts else method.tensors()).items()}}


def processes(n, name, *args):
    "What each of `n` processes gives, run as torchrun runs them; when one fails, its error. One alone keeps the weights whole."
    args = [name if n > 1 else name.partition("+")[0], *args]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    env = [os.environ | {"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"} for r in range(n)]
    end = time.time() + 1200                                            # processes that wait for each other would do so for a day
    children = [Command(__file__, *args, env=e if n > 1 else None) for e in env]
    try:
        while None in [c.process.exitcode for c in children] and not any(c.process.exitcode for c in children) and time.time() < end: time.sleep(.1)      # the others would wait for one that failed
    finally:
        for c in children: c.process.kill()
    got = [c.result() for c in children]
    for c in got: assert c.returncode in (0, -signal.SIGKILL), c.stderr[-3000:]
    return [json.loads(c.stdout) for c in got]


def alike(a, b):
    assert a["chosen"] == b["chosen"] and a["learnt"].keys() == b["learnt"].keys()
    for k, v in a["learnt"].items(): torch.testing.assert_close(torch.tensor(v), torch.tensor(b["learnt"][k]), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["casm", "full_ft+shard", *(pytest.param(m, marks=pytest.mark.full) for m in ("smf", "full_ft", "lora"))])
def test_two_processes_are_one(name, stub, tmp_path):
    one, = processes(1, name, stub, tmp_path / "one")
    first, second = processes(2, name, stub, tmp_path / "two")
    assert first["learnt"] == second["learnt"] and first["chosen"] == second["chosen"] and (len(one["chosen"]) >= 10) == (name in ("smf", "casm"))
    assert (first["asked"], second["asked"]) == (one["asked"], [])                     # the first process alone asks
    alike(one, first)
    assert one["held"] == (first["held"] + second["held"] if name.endswith("+shard") else first["held"])
    assert abs(one["losses"][0] - first["losses"][0]) < 1e-3


@pytest.mark.parametrize("name, before, after", [("smf", 2, 1), *(pytest.param(*p, marks=pytest.mark.full) for p in (("casm", 1, 2), ("full_ft+shard", 2, 1), ("full_ft+shard", 1, 2), ("full_ft+shard", 2, 2)))])
def test_goes_on_in_another_number(name, before, after, stub, tmp_path):
    whole, = processes(1, name, stub, tmp_path / "whole")
    processes(before, name, stub, tmp_path / "run", 4)
    rest = processes(after, name, stub, tmp_path / "run")[0]
    alike({**whole, "chosen": whole["chosen"][4:]}, rest)


@pytest.mark.full
def test_a_memory_of_several_layers_is_in_parts_too(stub, tmp_path):
    lm = load_lm(stub)
    memory = SparseMemory(MemoryConfig(128, n_keys=16, heads=4, top_k=8, key_dim=64, layers=(0, 2)))
    torch.nn.init.normal_(memory.table, std=.1)
    detach(lm.model)
    model = attach(lm.model, memory)
    stats = background_stats(model, lm.tokenizer, world_texts(background_world(20), 32), progress=None)
    two = str(save_lm(LM(model, lm.tokenizer, stats, "two"), tmp_path / "lm"))
    one, = processes(1, "full_ft", two, tmp_path / "one")
    first, second = processes(2, "full_ft+shard", two, tmp_path / "two")
    assert one["held"] == first["held"] + second["held"] and abs(one["losses"][0] - first["losses"][0]) < 1e-3
    off = [abs(a - b) > 2e-4 for k, v in one["learnt"].items() for a, b in zip(v, first["learnt"][k])]
    assert sum(off) < len(off) / 1000                                  # AdamW makes much of the least gradients, whose sums depend on their order


def test_a_signal_while_the_first_process_asks_stops_all(stub, tmp_path):
    stopped = processes(2, "casm", stub, tmp_path / "run", "asked")
    assert [x["stopped"] for x in stopped] == ["Preempted", "Preempted"] and [x["asked"] for x in stopped] == [["2018", "2020"], []]
    again, = processes(1, "casm", stub, tmp_path / "run")
    assert again["asked"] == ["2020"] and not again["chosen"] and again["stopped"] is None       # nothing is trained again
    assert again["learnt"] == stopped[0]["learnt"]


def test_a_signal_to_another_process_is_recorded(stub, tmp_path):
    stopped = processes(2, "casm", stub, tmp_path / "run", "second")
    assert [x["stopped"] for x in stopped] == ["Preempted", "Preempted"]
    said = [e for e in map(json.loads, (tmp_path / "run" / "metrics" / "events.jsonl").read_text().splitlines()) if e["event"] == "preempted"]
    assert [(e["signal"], e["step"]) for e in said] == [("another process was stopped", 2)]


if __name__ == "__main__": print(json.dumps(teach(*sys.argv[1:4], *(int(x) if x.isdecimal() else x for x in sys.argv[4:]))))
