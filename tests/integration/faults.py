"""A training run that is made to fail at every place where it changes a file; started by test_faults.py with faults.c preloaded.

    faults.py METHOD STUB FOLDER [BROKEN]

Trains METHOD on a stub in FOLDER. At three of its saves (the first, one between two steps, one after a period) the process forks for each n: the child saves into a copy of the
run folder, and its n-th call that changes a file kills it, or fails because the disk is full, or with EIO. What is then in the copy must open as the checkpoint before or as the
new one; and what a power cut could take is looked for in the order of the calls. Every different state of the folder that is found is continued, when the undisturbed run is over, and must end as that did. BROKEN names a change of the commit order,
which this must notice. Prints JSON: the number of points by save and fault, and what was wrong.
"""
import ctypes, json, os, shutil, sys
from functools import partial
from pathlib import Path

from casm import checkpoint, methods
from casm.benchmark import generate
from casm.checkpoint import RunFolder, fsync_dir, hash_tensors, sha256_file, write_json_atomic
from casm.facts import CasmError
from casm.methods import Item, make_method
from casm.pretraining import load_lm
from casm.trainer import GROWS, TrainConfig, plan_of, train

BENCHMARK = generate(6, seed=5, periods=("2018", "2020", "2022"))
STREAM = [(p, [Item(x.text, x.fact, x.date) for x in BENCHMARK.passages(BENCHMARK.facts(p))]) for p in ("2020", "2022")]
CONFIG = TrainConfig(lr=.01, epochs=1, min_steps=3, batch_size=8, weight_decay=.1, save_every=1)
SMALL = {"full_ft": {}, "lora": {"rank": 2}, "smf": {"rows": 8}, "casm": {"rows": 4}}
MODES = {"killed": 1, "disk full": 2, "EIO": 3}
SAVES = (1, 3, 4)  # the first; between two steps; after a period


def start(stub):
    lm = load_lm(stub)
    lm.facts = tuple(BENCHMARK.facts("2018"))
    return lm


def teach(name, stub, folder):
    "Train, or go on; what the outcome is known by"
    method, run = make_method(name, **SMALL[name]), RunFolder(folder, plan_of(STREAM, CONFIG) | {"method": name}, GROWS)
    def evaluate(method, period):
        asked = [p for p in BENCHMARK.probes(period, period)][:4]
        run.append("eval", {"unit": period, "answers": [a.text for a in method.answer([p.question for p in asked], [p.as_of for p in asked])]})
    train(method, start(stub), STREAM, CONFIG, run, evaluate)
    return outcome(method, run)


def outcome(method, run):
    said = [json.loads(x) for x in (run.metrics / "eval.jsonl").read_text().splitlines()]
    ends = [json.loads(x) for x in (run.metrics / "events.jsonl").read_text().splitlines()]
    registry = getattr(method, "registry", None)
    return {"tensors": hash_tensors(method.tensors()), "eval": [(x["unit"], x["answers"]) for x in said], "ends": [x["unit"] for x in ends if x["event"] == "period_end"],
            "registry": registry and [[[*h] for h in registry.history(subject, relation)] for subject, relation in sorted({k[1:3] for k in registry.keys()})], "latest": run.load_latest().step}


def state_of(folder):
    "The content of every file of a run folder, but for the lock"
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


def forked(act):
    "Exit code of a child that does `act()` and dies without cleaning up: 0, 1 if that returned True, 2 for a one-line error, 3 for any other, 9 for a kill"
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            try: code = int(bool(act()))
            except CasmError as e: code = 2 if "\n" not in str(e) else 3
            except BaseException as e: print(repr(e)[:300], file=sys.stderr)
        finally: os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def not_durable(calls, run):
    "What a power cut could take although it has been named: `calls` are (name, path, other path or number of the file) of a save"
    wrong, unsynced, moved = [], {}, False                             # unsynced: number of a file -> its path when it was written
    for name, path, other in calls:
        if name in ("write", "pwrite", "pwrite64"): unsynced[other] = path
        elif name in ("fsync", "fdatasync"): unsynced = {n: p for n, p in unsynced.items() if n != other and p != path}
        elif name == "unlink": unsynced = {n: p for n, p in unsynced.items() if p != path}
        elif name == "rename" and Path(path).parent == run / "checkpoints" and "/ckpt-" in other:
            wrong += [f"{p} is not durable when its checkpoint is named" for p in unsynced.values()]
            unsynced, moved = {"": str(run / "checkpoints")}, True         # the new name, until its folder is synced
        elif name == "rename" and other == str(run / "latest.json"):
            wrong += [f"{p} is not durable when latest.json names the checkpoint" for p in unsynced.values()]
            unsynced = {"": str(run)}
    return wrong + [f"{p} is not durable in the end" for p in unsynced.values()] + ["no checkpoint was named"] * (not moved)


class Campaign:
    "Stands in for `RunFolder.save` during the undisturbed run"
    def __init__(self, place, save, saves):
        self.place, self.save, self.saves, self.count, self.points, self.wrong, self.found = Path(place), save, saves, 0, {}, [], {}
        self.shim = ctypes.CDLL(None)

    def __call__(self, run, state, *, step, period):
        self.count += 1
        if self.count in self.saves:
            before = (c := run.load_latest()) and c.step
            self.wrong += self.traced(run, lambda: self.save(run, state, step=step, period=period))
            for mode in MODES: self.points[f"save {self.count}, {mode}"] = self.every(run, mode, before, step, lambda: self.save(run, state, step=step, period=period))
        return self.save(run, state, step=step, period=period)

    def traced(self, run, act):
        "What a power cut could take"
        self.fresh(run)
        log = self.place / "trace"
        def listed():
            fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            self.move(run)
            self.shim.trace_to(fd)
            self.shim.arm(0, 4)
            act()
            self.shim.disarm()
        if code := forked(listed): return [f"traced: exit code {code}"]
        return not_durable([line.split("\t") for line in log.read_text().splitlines()], self.place / "copy")

    def fresh(self, run):
        shutil.rmtree(self.place / "copy", ignore_errors=True)
        shutil.copytree(run.path, self.place / "copy")

    def move(self, run):
        "In a child: go on in the copy"
        run.path = self.place / "copy"
        run.checkpoints, run.metrics = run.path / "checkpoints", run.path / "metrics"

    def every(self, run, mode, before, after, act):
        "Save with each fault in turn, until a save is through before its turn; how many there were"
        n = 0
        def faulty():
            self.move(run)
            self.shim.arm(n, MODES[mode])
            act()
            return self.shim.disarm() < n                              # the fault was not reached
        while True:
            n += 1
            self.fresh(run)
            code = forked(faulty)
            self.check(self.place / "copy", f"{mode} at call {n} of save {self.count}", code, mode, before, after)
            if code == 1: break
        return n - 1

    def check(self, copy, where, code, mode, before, after):
        "What is on disk opens as one of the two checkpoints, and is kept to be continued if it is new"
        if code not in ((1, 9) if mode == "killed" else (0, 1, 2)): self.wrong.append(f"{where}: exit code {code}")
        try:
            found = RunFolder(copy).load_latest()
            with RunFolder(copy) as run: again = run.load_latest()
            if (found and found.step) not in (before, after) or (again and again.step) != (found and found.step): self.wrong.append(f"{where}: opened at step {found and found.step}")
            if code in (0, 1) and (found is None or found.step != after): self.wrong.append(f"{where}: a save that succeeded is not there")
            left = [p.name for p in run.checkpoints.iterdir() if not p.name.startswith("ckpt-")] + [p.name for p in run.path.iterdir() if p.name.endswith(".tmp")]
            if left: self.wrong.append(f"{where}: {left} left")
        except CasmError as e: return self.wrong.append(f"{where}: {e}")
        key = json.dumps(state_of(copy))
        if key not in self.found:
            self.found[key] = self.place / f"found-{len(self.found)}"
            shutil.copytree(copy, self.found[key])


def latest_first(run, state, *, step, period):
    "latest.json names the checkpoint before it is there"
    number = max([0, *checkpoint._numbers(run)]) + 1
    beside, final = run.checkpoints / f".tmp-ckpt-{number:06d}", run.checkpoints / f"ckpt-{number:06d}"
    sha = checkpoint.write_checkpoint(beside, state, step, period, run.sizes())
    write_json_atomic(run.path / "latest.json", {"schema_version": 1, "checkpoint_id": final.name, "last_period": period, "checkpoint_relpath": f"checkpoints/{final.name}", "manifest_sha256": sha})
    os.rename(beside, final)
    fsync_dir(run.checkpoints)


def prune_first(run, state, *, step, period):
    "What is no longer needed goes before the new checkpoint is there"
    for old in checkpoint._numbers(run): checkpoint._remove(run.checkpoints / f"ckpt-{old:06d}")
    return RUN_SAVE(run, state, step=step, period=period)


def in_place(run, state, *, step, period):
    "The checkpoint is written under its final name"
    real, os.rename = os.rename, lambda a, b: None
    try:
        number = max([0, *checkpoint._numbers(run)]) + 1
        final = run.checkpoints / f"ckpt-{number:06d}"
        manifest = run.path / "latest.json"
        write_json_atomic(manifest, {"schema_version": 1, "checkpoint_id": final.name, "last_period": period, "checkpoint_relpath": f"checkpoints/{final.name}", "manifest_sha256": ""})
        sha = checkpoint.write_checkpoint(final, state, step, period, run.sizes())
        write_json_atomic(manifest, {"schema_version": 1, "checkpoint_id": final.name, "last_period": period, "checkpoint_relpath": f"checkpoints/{final.name}", "manifest_sha256": sha})
    finally: os.rename = real


def no_sync(run, state, *, step, period):
    "Files are not made durable"
    sync, checkpoint.sync = checkpoint.sync, lambda path: os.stat(path).st_size
    try: return RUN_SAVE(run, state, step=step, period=period)
    finally: checkpoint.sync = sync


RUN_SAVE = RunFolder.save
BROKEN = {f.__name__: f for f in (latest_first, prune_first, in_place, no_sync)}


def main(name, stub, place, broken=None):
    methods.generate = partial(methods.generate, max_new_tokens=4)
    campaign = Campaign(place, BROKEN[broken] if broken else RUN_SAVE, SAVES[1:2] if broken else SAVES)
    RunFolder.save = lambda run, state, *, step, period: campaign(run, state, step=step, period=period)
    want = teach(name, stub, Path(place) / "run")
    RunFolder.save = RUN_SAVE
    for folder in campaign.found.values() if not broken else ():
        got = teach(name, stub, folder)
        if got != want: campaign.wrong.append(f"{folder.name} ends otherwise: {[k for k in want if got[k] != want[k]]}")
    print(json.dumps({"points": campaign.points, "states": len(campaign.found), "wrong": campaign.wrong}))


if __name__ == "__main__": main(*sys.argv[1:])
