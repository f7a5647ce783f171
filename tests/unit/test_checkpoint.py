"Kills and full disks at every system call of a save, damage of every kind to every file, and the lock between processes."
import errno, hashlib, json, os, shutil, sqlite3, subprocess, sys

import pytest, torch

from casm.checkpoint import Lock, RunFolder, State, hash_tensors, sha256_file, write_json_atomic
from casm.facts import CasmError

MANIFEST = {"method": "casm", "seed": 0, "train": {"lr": 0.1, "periods": ["2018", "2020"]}}
CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")  # every os function a save goes through

def state(step):
    def registry(path):
        with sqlite3.connect(path) as db: db.execute("create table t as select ? as step", (step,))
        db.close()
    tensors = {"w": torch.full((3, 2), float(step)), "n": torch.tensor(step)}
    return State(tensors, {"step_seen": step}, {"registry.sqlite": registry})

def check(checkpoint):
    "The three parts of a checkpoint belong to one moment."
    step = checkpoint.step
    assert checkpoint.tensors["w"].tolist() == [[step]*2]*3 and checkpoint.tensors["n"] == step
    assert checkpoint.meta == {"step_seen": step} and checkpoint.period == f"p{step}"
    with sqlite3.connect(checkpoint.folder/"registry.sqlite") as db: assert db.execute("select step from t").fetchone() == (step,)
    db.close()
    return step

def save(path, step):
    with RunFolder(path, MANIFEST) as run: return run.save(state(step), step=step, period=f"p{step}")

def at_call(n, act):
    "Count the calls of `CALLS`; `act` instead of the n-th. Returns the counter."
    count = [0]
    def wrap(real):
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == n: act()
            return real(*args, **kwargs)
        return call
    return count, {name: wrap(getattr(os, name)) for name in CALLS}

def killed_at(path, step, n):
    "Save in a forked child that dies without any clean-up at its n-th call; whether it died."
    pid = os.fork()
    if pid == 0:
        for name, call in at_call(n, lambda: os._exit(9))[1].items(): setattr(os, name, call)
        try: save(path, step)
        except BaseException: os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9

@pytest.mark.parametrize("saved", [0, 1, 2, 3])  # from the third on, a save prunes
def test_kill_at_every_call(saved, tmp_path):
    base, run = tmp_path/"base", tmp_path/"run"
    for step in range(1, saved + 1): save(base, step)
    n, outcomes = 0, []
    while True:
        n += 1
        shutil.rmtree(run, ignore_errors=True)
        if saved: shutil.copytree(base, run)
        if not killed_at(run, saved + 1, n): break
        found = RunFolder(run, MANIFEST).load_latest()  # reading needs no repair first
        outcomes.append(check(found) if found else 0)
        assert outcomes[-1] in (saved, saved + 1)
        with RunFolder(run, MANIFEST) as folder:  # opening clears away what nobody named
            there = sorted(os.listdir(folder.checkpoints))
            assert there[-1:] == ([folder.load_latest().folder.name] if there else []) and not [x for x in there if x.startswith(".")]
        save(run, saved + 5)  # and the run goes on
        assert check(RunFolder(run).load_latest()) == saved + 5
        left = sorted(os.listdir(run/"checkpoints"))
        assert not [x for x in left if x.startswith(".")] and len(left) <= 2, left
        assert not [x for x in os.listdir(run) if x.endswith(".tmp")]
    assert n > 10 and outcomes == sorted(outcomes) and outcomes[-1] == saved + 1  # one moment of commit, and it is passed
    assert check(RunFolder(run).load_latest()) == saved + 1

@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("saved", [1, 3])
def test_every_call_fails_once(error, saved, tmp_path, monkeypatch):
    base, run = tmp_path/"base", tmp_path/"run"
    for step in range(1, saved + 1): save(base, step)
    def fail(): raise OSError(error, os.strerror(error))
    for n in range(1, 1000):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
        with RunFolder(run, MANIFEST) as folder:
            with monkeypatch.context() as m:
                count, calls = at_call(n, fail)
                for name, call in calls.items(): m.setattr(os, name, call)
                try: folder.save(state(9), step=9, period="p9")
                except CasmError as e: assert os.strerror(error) in str(e) and "\n" not in str(e)
            assert check(folder.load_latest()) in (saved, 9)
            folder.save(state(10), step=10, period="p10")  # the same process goes on
            assert check(folder.load_latest()) == 10
        save(run, 11)
        assert len(os.listdir(run/"checkpoints")) == 2
        if count[0] < n: break
    assert n > 10

def test_failing_file_writer_changes_nothing(tmp_path):
    save(tmp_path/"run", 1)
    def broken(path): path.write_text("half"); raise RuntimeError("boom")
    with RunFolder(tmp_path/"run") as run:
        with pytest.raises(RuntimeError, match="boom"): run.save(State({}, {}, {"x": broken}), step=2, period=None)
        assert check(run.load_latest()) == 1 and os.listdir(run.checkpoints) == ["ckpt-000001"]
        with pytest.raises(TypeError): run.save(State({}, {"x": {1}}), step=2, period=None)
        assert os.listdir(run.checkpoints) == ["ckpt-000001"]

# --- damage

FILES = ("state.safetensors", "meta.json", "registry.sqlite", "manifest.json")

def flip(path, i):
    data = bytearray(path.read_bytes())
    data[i % len(data)] ^= 1 << (i % 8)
    path.write_bytes(data)

DAMAGE = {"flip first": lambda p: flip(p, 0), "flip last": lambda p: flip(p, -1),
          "flip middle": lambda p: flip(p, p.stat().st_size//2), "truncated": lambda p: os.truncate(p, p.stat().st_size - 1),
          "emptied": lambda p: os.truncate(p, 0), "removed": os.unlink,
          "longer": lambda p: p.write_bytes(p.read_bytes() + b"\0")}

@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [*DAMAGE, "from another run"])
def test_damage_is_refused_and_named(name, damage, tmp_path):
    ckpt = save(tmp_path/"run", 1)
    if damage == "from another run": shutil.copy(save(tmp_path/"other", 2)/name, ckpt/name)
    else: DAMAGE[damage](ckpt/name)
    with pytest.raises(CasmError) as e: RunFolder(tmp_path/"run").load_latest()
    assert name in str(e.value) and "\n" not in str(e.value)

def test_extra_file_and_foreign_checkpoint(tmp_path):
    ckpt = save(tmp_path/"run", 1)
    (ckpt/"extra.bin").write_bytes(b"")
    with pytest.raises(CasmError, match="extra.bin"): RunFolder(tmp_path/"run").load_latest()
    other = save(tmp_path/"other", 2)
    shutil.rmtree(ckpt)
    with pytest.raises(CasmError, match="ckpt-000001.*is missing"): RunFolder(tmp_path/"run").load_latest()
    shutil.copytree(other, ckpt)
    with pytest.raises(CasmError, match="not the one in latest.json"): RunFolder(tmp_path/"run").load_latest()

def test_every_bit_flip_of_latest_is_refused_or_harmless(tmp_path):
    save(tmp_path/"run", 1), save(tmp_path/"run", 2)
    path = tmp_path/"run"/"latest.json"
    whole = path.read_bytes()
    for i in range(8*len(whole)):
        data = bytearray(whole)
        data[i//8] ^= 1 << (i % 8)
        path.write_bytes(data)
        try: assert check(RunFolder(tmp_path/"run").load_latest()) == 2
        except CasmError as e: assert "latest.json" in str(e)

def test_damaged_newest_can_be_given_up_for_the_one_before(tmp_path):
    save(tmp_path/"run", 1)
    newest = save(tmp_path/"run", 2)
    shutil.rmtree(newest)
    (tmp_path/"run"/"latest.json").unlink()
    assert check(RunFolder(tmp_path/"run").load_latest()) == 1

# --- the folder

@pytest.mark.parametrize("change, says", [
    ({"seed": 1}, "seed is 0 there and 1 here"), ({"method": "smf"}, 'method is "casm" there and "smf" here'),
    ({"train": {"lr": 0.1, "periods": ["2018"]}}, "train.periods"), ({"extra": 1}, "extra is absent there and 1 here")])
def test_another_run_is_refused_untouched(change, says, tmp_path):
    save(tmp_path, 1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(CasmError) as e: RunFolder(tmp_path, {**MANIFEST, **change})
    assert says in str(e.value) and "use another --out or the same settings" in str(e.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before

def test_foreign_files_are_refused_untouched(tmp_path):
    (tmp_path/"thesis.tex").write_text("mine")
    with pytest.raises(CasmError, match="thesis.tex"): RunFolder(tmp_path, MANIFEST)
    assert os.listdir(tmp_path) == ["thesis.tex"]

def test_empty_folder_tuples_and_reopening(tmp_path):
    RunFolder(tmp_path, {"periods": ("a", "b")})
    assert RunFolder(tmp_path, {"periods": ["a", "b"]}).manifest == {"periods": ["a", "b"]}

def test_folder_below_a_file(tmp_path):
    (tmp_path/"f").write_text("")
    with pytest.raises(CasmError): RunFolder(tmp_path/"f"/"run", MANIFEST)

def test_second_process_is_kept_out_until_the_first_dies(tmp_path):
    RunFolder(tmp_path, MANIFEST)
    code = ("import sys, time\nfrom casm.checkpoint import RunFolder\n"
            f"with RunFolder({str(tmp_path)!r}):\n    print('in', flush=True); time.sleep(60)")
    p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert p.stdout.readline() == b"in\n"
        with pytest.raises(CasmError, match=f"in use by process {p.pid}"): RunFolder(tmp_path).__enter__()
    finally: p.kill(); p.wait(); p.stdout.close()
    with RunFolder(tmp_path): pass

def test_lock_is_freed_when_opening_fails(tmp_path):
    save(tmp_path, 1)
    (tmp_path/"latest.json").write_text("{")
    with pytest.raises(CasmError, match="latest.json"): RunFolder(tmp_path).__enter__()
    with Lock(tmp_path): pass

# --- content

def test_tensors_of_every_kind_come_back_bit_identical(tmp_path):
    base = torch.randn(4, 6)
    tensors = {"a": base, "tied": base, "view": base[1:3], "t": base.t(), "bf": base.bfloat16(), "h": base.half(),
               "i": torch.arange(3),
               "bool": base > 0, "empty": torch.empty(0, 5), "scalar": torch.tensor(float("nan")), "p": torch.nn.Parameter(base)}
    with RunFolder(tmp_path, {}) as run: run.save(State(tensors), step=0, period=None)
    back = run.load_latest()
    assert hash_tensors(back.tensors) == hash_tensors(tensors) and back.period is None
    assert all(back.tensors[k].dtype == t.dtype and back.tensors[k].shape == t.shape for k, t in tensors.items())

def test_atomic_json_and_hash(tmp_path):
    write_json_atomic(tmp_path/"x.json", {"b": 1, "a": "é"})
    assert json.loads((tmp_path/"x.json").read_text("utf-8")) == {"b": 1, "a": "é"} and os.listdir(tmp_path) == ["x.json"]
    assert sha256_file(tmp_path/"x.json") == hashlib.sha256((tmp_path/"x.json").read_bytes()).hexdigest()
