"A run stopped after any step, by any means, ends to the bit as if it had not been; and what it must not be continued with is refused by name."
import json, os, shlex, shutil, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path

import pytest, torch

from casm import experiments, trainer
from casm.benchmark import generate, write_facts
from casm.checkpoint import RunFolder, hash_tensors
from casm.experiments import RECIPES, is_complete, run_one, start_checkpoint
from casm.facts import CasmError
from casm.trainer import Preempted, TrainConfig
from commands import run

BENCHMARK = generate(6, seed=5, periods=("2018", "2020", "2022"))
CASM = str(Path(sys.executable).with_name("casm"))
pytestmark = pytest.mark.usefixtures("quick_module")


def teach(name, folder, stub, benchmark=BENCHMARK, settings=None, **config):
    "Train one method in its folder, or go on"
    mine, recipe = RECIPES[name]
    start = start_checkpoint(benchmark, 0, stub)
    return run_one(name, 0, benchmark, "delta", start, folder, (mine | (settings or {}), replace(recipe, min_steps=4, **config)))


def lines(path): return [{k: v for k, v in json.loads(x).items() if k != "timestamp_unix"} for x in path.read_text().splitlines()]


def end(folder):
    "All that a run leaves, but for times"
    saved = RunFolder(folder).load_latest()
    db = saved.folder / "registry.sqlite"
    from casm.registry import Registry
    registry = Registry.load_copy(db) if db.exists() else None
    told = registry and [[c[:5] for c in registry.commits()], [registry.history(*k[1:]) for k in registry.keys()]]
    costs = [{k: e[k] for k in ("unit", "steps", "tokens", "loss", "params_per_step", "bytes_stored")} for e in lines(folder / "metrics" / "events.jsonl") if e["event"] == "period_end"]
    return hash_tensors(saved.tensors), saved.step, saved.period, told, costs, lines(folder / "metrics" / "eval.jsonl"), (folder / "predictions.jsonl").read_bytes(), saved.meta["trainer"]


@pytest.fixture
def dying(monkeypatch):
    "`dying(how, every)` has `how()` happen after every so many steps"
    def start(how, every):
        count = [0]
        def step(*a, f=trainer.take_step):
            f(*a)
            count[0] += 1
            if count[0] % every == 0: how()
        monkeypatch.setattr(trainer, "take_step", step)
        return count
    yield start
    for s in trainer.SIGNALS: signal.signal(s, signal.SIG_DFL)


def interrupt(): raise KeyboardInterrupt
def terminate(): os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(stub, tmp_path_factory):
    "How each method ends undisturbed"
    place, found = tmp_path_factory.mktemp("whole"), {}
    def get(name):
        if name not in found:
            teach(name, place / name, stub)
            found[name] = end(place / name)
        return found[name]
    return get


@pytest.mark.parametrize("name", ["casm", *(pytest.param(m, marks=pytest.mark.full) for m in ("full_ft", "lora", "smf"))])
def test_stopped_after_each_step(name, whole, stub, tmp_path, dying):
    "SIGTERM after every single step: each resume does one step"
    count, stops, want = None, 0, whole(name)
    count = dying(terminate, 1)
    while True:
        try: teach(name, tmp_path / "run", stub); break
        except Preempted: stops += 1
    assert count[0] == stops == want[1] and end(tmp_path / "run") == want
    events = lines(tmp_path / "run" / "metrics" / "events.jsonl")
    assert [e["resumed_from_step"] for e in events if e["event"] == "resumed"] == list(range(1, stops + 1))
    assert [e["signal"] for e in events if e["event"] == "preempted"] == ["SIGTERM"] * stops


@pytest.mark.parametrize("name, save_every, every", [("smf", 2, 3), ("casm", 2, 3), ("casm", 0, 7), ("lora_slots", 2, 3), ("rag", 2, 3)])
def test_killed_between_checkpoints(name, save_every, every, whole, stub, tmp_path, dying):
    "The steps since the last checkpoint are done again; nothing stands twice in the records"
    want = whole(name)
    count = dying(interrupt, every)
    while True:
        try: teach(name, tmp_path / "run", stub, save_every=save_every); break
        except KeyboardInterrupt: pass
    assert count[0] > want[1] and end(tmp_path / "run") == want


def test_facts_that_have_left_stay_away(stub, tmp_path, monkeypatch):
    "Two facts learn side by side; stopped where one has left and the other has not, the rest is as it would have been"
    left, step, make, how = [], trainer.take_step, experiments.make_method, dict(epochs=20, batch_size=10)
    def easily_pleased(*a, **settings):
        method = make(*a, **settings)
        method.stop = 5.1                                                  # an untrained model learns little
        return method
    monkeypatch.setattr(experiments, "make_method", easily_pleased)
    def count(job, batch, *rest):
        left.append(0 < len(job.method.still(batch)) < len(batch))
        step(job, batch, *rest)
    monkeypatch.setattr(trainer, "take_step", count)
    teach("casm", tmp_path / "whole", stub, **how)
    want, alone, known = end(tmp_path / "whole"), [i for i, x in enumerate(left, 1) if x], []
    assert len(alone) > 4
    for at in (alone[0], alone[len(alone) // 2], alone[-1]):
        left.clear()
        def stop(job, *rest):
            count(job, *rest)
            if len(left) == at: terminate()
        monkeypatch.setattr(trainer, "take_step", stop)
        with pytest.raises(Preempted): teach("casm", tmp_path / f"{at}", stub, **how)
        known.append(RunFolder(tmp_path / f"{at}").load_latest().meta["known"])
        monkeypatch.setattr(trainer, "take_step", step)
        teach("casm", tmp_path / f"{at}", stub, **how)
        assert end(tmp_path / f"{at}") == want
    assert all(known)


def test_marks_and_the_memory_are_in_a_checkpoint(whole, stub, tmp_path, dying):
    "Within a period and after it"
    whole("casm")
    dying(terminate, 3)
    def saved():
        got = RunFolder(tmp_path / "run").load_latest()
        return got.meta, got.tensors
    with pytest.raises(Preempted): teach("casm", tmp_path / "run", stub)
    (meta, within), memory = saved(), {"memory.table", "memory.fine.query.weight", "memory.fine.keys", "memory.readers.0.query.weight", "memory.readers.0.keys"}
    assert meta["memory"]["scale"] > 0 and meta["memory"]["fingerprint"] == 128 and {k for k in within if k.startswith("memory.")} == memory
    assert len(within["marks"]) == len(within["marked"]) > 0
    while True:
        try: teach("casm", tmp_path / "run", stub); break
        except Preempted: pass
    meta, after = saved()
    assert not meta["known"] and all(torch.equal(within[k], after[k]) for k in memory) and meta["memory"] == RunFolder(tmp_path / "run").load_latest().meta["memory"]
    n = len(within["marks"])
    assert torch.equal(after["marks"][:n], within["marks"]) and len(after["marks"]) > n


def test_activations_are_kept_whoever_stops_the_run(whole, stub, tmp_path, dying):
    "The same of each period, and the run as it is without them"
    kept = lambda run: {p.parent.name: p.read_bytes() for p in (tmp_path / run).glob("periods/*/activations.safetensors")}  # noqa: E731
    teach("casm", tmp_path / "once", stub, capture_activations=True)
    dying(terminate, 3)
    while True:
        try: teach("casm", tmp_path / "run", stub, capture_activations=True); break
        except Preempted: pass
    assert end(tmp_path / "run") == end(tmp_path / "once") == whole("casm")
    assert kept("run") == kept("once") and sorted(kept("run")) == ["2018", "2020", "2022"]
    teach("casm", tmp_path / "run", stub)
    assert kept("run") == kept("once")


def test_signal_after_a_save_is_recorded(whole, stub, tmp_path, monkeypatch):
    "Before the next period begins: the event stays when the run is continued"
    want, signals = whole("casm"), [signal.SIGUSR1]
    def save(run, state, f=RunFolder.save, **where):
        done = f(run, state, **where)
        if signals: os.kill(os.getpid(), signals.pop())
        return done
    monkeypatch.setattr(RunFolder, "save", save)
    with pytest.raises(Preempted, match="SIGUSR1"): teach("casm", tmp_path / "run", stub)
    teach("casm", tmp_path / "run", stub)
    assert end(tmp_path / "run") == want
    assert [e["event"] for e in lines(tmp_path / "run" / "metrics" / "events.jsonl")][:2] == ["preempted", "resumed"]


def test_signal_before_an_open_period_leaves_its_checkpoint(whole, stub, tmp_path, dying, monkeypatch):
    "A run that is stopped again while it starts: the period is still open"
    want = whole("casm")
    dying(terminate, 3)
    with pytest.raises(Preempted): teach("casm", tmp_path / "run", stub)
    latest = (tmp_path / "run" / "latest.json").read_bytes()
    monkeypatch.setattr(trainer.Loop, "take_over", lambda loop, saved, f=trainer.Loop.take_over: (f(loop, saved), terminate()))
    with pytest.raises(Preempted): teach("casm", tmp_path / "run", stub)
    assert (tmp_path / "run" / "latest.json").read_bytes() == latest
    monkeypatch.undo()
    teach("casm", tmp_path / "run", stub)
    assert end(tmp_path / "run") == want


def test_memory_of_the_optimiser_is_needed(whole, stub, tmp_path, dying, monkeypatch):
    "The comparison would notice an optimiser that begins anew"
    from casm.methods import CASM
    want = whole("casm")
    monkeypatch.setattr(CASM, "load_optimizer", lambda *a: None)
    dying(terminate, 3)
    while True:
        try: teach("casm", tmp_path / "run", stub); break
        except Preempted: pass
    assert end(tmp_path / "run")[0] != want[0]


@pytest.mark.parametrize("change, says", [
    ({"lr": .5}, "train.lr is 0.2 there and 0.5 here"), ({"accumulate": 2}, "train.accumulate"), ({"precision": "bf16"}, "train.precision"), ({"settings": {"rows": 9}}, "settings.rows"),
    ({"deduplicate": True}, "train.deduplicate"), ({"wordings": 1}, "train.wordings"), ({"benchmark": generate(6, seed=6, periods=("2018", "2020", "2022"))}, "data.2018"),
    ({"benchmark": replace(BENCHMARK, records=[replace(r, values={**r.values, "2022": "Nobody"}) if i == 0 else r for i, r in enumerate(BENCHMARK.records)])}, "data.2022"),
    ({"benchmark": generate(6, seed=5, periods=("2018", "2020"))}, "periods is")])
def test_another_run_is_refused(change, says, stub, tmp_path, dying):
    dying(terminate, 3)
    with pytest.raises(Preempted): teach("casm", tmp_path / "run", stub)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    with pytest.raises(CasmError, match=says): teach("casm", tmp_path / "run", stub, **change)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_plan_may_grow(whole, stub, tmp_path):
    "Two periods, then a third, end as three do"
    shorter = replace(BENCHMARK, periods=("2018", "2020"), records=[replace(r, values={t: v for t, v in r.values.items() if t != "2022"}) for r in BENCHMARK.records])
    teach("casm", tmp_path / "run", stub, shorter)
    assert is_complete(tmp_path / "run", shorter) and not is_complete(tmp_path / "run", BENCHMARK)
    teach("casm", tmp_path / "run", stub)
    assert is_complete(tmp_path / "run", BENCHMARK) and end(tmp_path / "run")[:4] == whole("casm")[:4]


def test_figures_of_a_period(whole, stub, tmp_path):
    teach("smf", tmp_path / "run", stub, save_every=1)
    for e in lines(tmp_path / "run" / "metrics" / "events.jsonl"):
        assert e["event"] == "period_end" and e["peak_bytes"] > 1e8 and e["tokens_per_second"] > 0 and abs(sum(e["shares"].values()) - 1) < .01
        assert set(e["shares"]) == {"selection", "update", "evaluation", "saving"} and all(v > 0 for v in e["shares"].values())


DAMAGE = {"one bit": lambda p: p.write_bytes((d := bytearray(p.read_bytes()))[:0] + bytes([d[0] ^ 1]) + d[1:]), "truncated": lambda p: os.truncate(p, p.stat().st_size // 2),
          "emptied": lambda p: os.truncate(p, 0), "removed": os.unlink}

@pytest.mark.parametrize("damage", [*DAMAGE, "from another run"])
def test_damaged_checkpoint_is_refused(damage, stub, tmp_path, dying, monkeypatch):
    "Every file of a checkpoint within a period"
    step = trainer.take_step
    dying(terminate, 3)
    for benchmark, name in ((BENCHMARK, "run"), (generate(6, seed=6, periods=BENCHMARK.periods), "other")):      # of the same facts, two registries of one second are the same
        with pytest.raises(Preempted): teach("casm", tmp_path / name, stub, benchmark)
    newest, other = (RunFolder(tmp_path / n).load_latest().folder for n in ("run", "other"))
    names = sorted(p.name for p in newest.iterdir())
    assert names == ["manifest.json", "meta.json", "optimizer.safetensors", "registry.sqlite", "state.safetensors"]
    for name in names:
        whole = (newest / name).read_bytes()
        if damage == "from another run": shutil.copy(other / name, newest / name)
        else: DAMAGE[damage](newest / name)
        with pytest.raises(CasmError, match=name.replace(".", r"\.")): teach("casm", tmp_path / "run", stub)
        (newest / name).write_bytes(whole)
    monkeypatch.setattr(trainer, "take_step", step)
    teach("casm", tmp_path / "run", stub)


# --- the command

@pytest.fixture(scope="module")
def facts(started, tmp_path_factory):
    started(BENCHMARK)
    write_facts(BENCHMARK, path := tmp_path_factory.mktemp("facts") / "facts.json")
    return path


def command(facts, stub, place, *more):
    return [CASM, "train", "--method", "casm", "--facts", facts, "--model", stub, "--run-id", "r", "--checkpoint-dir", place, "--set", "rows=4", "--min-steps", "40", "--epochs", "1", *more]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.full)])
def test_signal_saves_and_the_same_command_continues(number, facts, stub, tmp_path):
    line = [*map(str, command(facts, stub, tmp_path))]
    child = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "r" / "latest.json").exists() and child.poll() is None: time.sleep(.02)
    child.send_signal(number)
    out, err = child.communicate()
    assert (child.returncode, out, err.splitlines()[-1]) == (75, "", f"casm: stopped by {number.name}; the same command continues"), err
    assert "Traceback" not in err and lines(tmp_path / "r" / "metrics" / "events.jsonl")[-1]["event"] == "preempted"
    again = run("casm", *line[1:])
    assert again.returncode == 0 and "is complete" not in again.stderr, again.stderr
    third = run("casm", *line[1:])
    assert third.returncode == 0 and third.stdout == again.stdout and third.stderr.splitlines()[-1] == f"casm: {tmp_path / 'r'} is complete; nothing was left to train"


@pytest.mark.full
def test_second_signal_ends_at_once_without_harm(facts, stub, tmp_path):
    line = [*map(str, command(facts, stub, tmp_path, "--save-every", "1"))]
    child = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "r" / "latest.json").exists() and child.poll() is None: time.sleep(.02)
    child.send_signal(signal.SIGUSR1)
    while child.poll() is None: child.send_signal(signal.SIGTERM)
    assert child.wait() in (75, -signal.SIGTERM)                       # or it was through before the second came
    child.communicate()
    RunFolder(tmp_path / "r").load_latest()
    again = run("casm", *line[1:])
    assert again.returncode == 0, again.stderr


BAD = {
    "--lr -1": "lr=-1.0", "--lr 0": "lr=0.0", "--lr fast": "--lr='fast'", "--epochs 0": "epochs=0", "--save-every -1": "save_every=-1", "--device cuda": "no GPU", "--device tpu": "device='tpu'",
    "--tracker wandb": "wandb", "--config none.yaml": "none.yaml", "--config unknown.yaml": "'learning_rate'", "--config mistyped.yaml": "epochs='many'", "--set rows=0": "rows=0", "--set slots=3": "'slots'",
    "--run-id a/b": "leave out slashes", "--run-id ..": "leave out slashes", "--learning-rate 1": "--learning-rate", "--model config-only": "config-only", "--model no-causal-lm": "no-causal-lm",
}

@pytest.mark.parametrize("flags", BAD)
def test_bad_input_is_one_line_and_changes_nothing(flags, facts, stub, tmp_path, monkeypatch, capsys):
    import torch
    from casm.cli import main
    if "cuda" in flags and torch.cuda.is_available(): pytest.skip("there is a GPU")
    if "wandb" in flags: monkeypatch.setattr(trainer, "is_wandb_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    Path("unknown.yaml").write_text("learning_rate: 1\n")
    Path("mistyped.yaml").write_text("epochs: many\n")
    Path("config-only").mkdir()
    Path("config-only/config.json").write_text("{}")
    Path("no-causal-lm").mkdir()
    Path("no-causal-lm/config.json").write_text(json.dumps({"model_type": "t5", "d_model": 8, "num_layers": 1, "vocab_size": 10}))
    before = sorted(tmp_path.rglob("*"))
    assert main([*map(str, command(facts, stub, tmp_path / "runs")[1:]), *shlex.split(flags)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.splitlines()[-1].startswith("casm: ") and BAD[flags] in err.splitlines()[-1] and "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_environment_and_another_method(facts, stub, tmp_path, monkeypatch, capsys):
    from casm.cli import main
    line = [*map(str, command(facts, stub, tmp_path, "--min-steps", "2"))][1:]
    monkeypatch.setenv("CASM_LERNING_RATE", "1")
    assert main(line) == 2 and "'CASM_LERNING_RATE' in the environment" in capsys.readouterr().err
    monkeypatch.delenv("CASM_LERNING_RATE")
    monkeypatch.setenv("WORLD_SIZE", "2")                                # two processes that have not been introduced would each train alone
    assert main(line) == 2 and "WORLD_SIZE=2: 1 process takes part" in capsys.readouterr().err
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("CASM_BATCH_SIZE", "4")
    assert main(line) == 0
    assert json.loads((tmp_path / "r" / "run_manifest.json").read_text())["train"]["batch_size"] == 4
    capsys.readouterr()
    monkeypatch.delenv("CASM_BATCH_SIZE")
    assert main(line) == 2 and "train.batch_size is 4 there and 8 here" in capsys.readouterr().err
    line[line.index("casm")] = "smf"
    assert main(line) == 2 and 'method is "casm" there and "smf" here' in capsys.readouterr().err


def test_read_only_folder(facts, stub, tmp_path, monkeypatch, capsys):
    "Also for root, whom permissions do not stop: a file system mounted to be read only says EROFS"
    from casm import checkpoint
    from casm.cli import main
    def read_only(*a, **k): raise OSError(30, "Read-only file system")
    monkeypatch.setattr(checkpoint, "write_json_atomic", read_only)
    assert main([*map(str, command(facts, stub, tmp_path / "runs"))][1:]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be written (Read-only file system)" in err and "Traceback" not in err
