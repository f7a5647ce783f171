"Kills and failures at every system call and every SQL statement of a commit, full disks at every size, damage to every file."
import errno, os, random, resource, shutil, signal, sqlite3

import pytest, torch
from hypothesis import given, settings, strategies as st

from casm.facts import CasmError, Fact
from casm.memory import Access
from casm.registry import Registry
from casm.slots import SlotBank, commit, mark, open_slots, read_slots, retire, select, share_read, to_flat
from casm.store import clean_bank, commit_bank, load_bank, parts_of

ROWS, DIM, MEMORY = 50, 4, "m" * 64
CALLS = ("fsync", "rename", "replace", "unlink")  # every os function a commit goes through

def open_store(folder, registry=None):
    (folder/"slots").mkdir(parents=True, exist_ok=True)
    registry = registry or Registry(folder/"registry.sqlite")
    return registry, load_bank(folder/"slots", registry, ROWS, DIM, MEMORY)

def fact(i): return Fact(f"Rock {i // 2}", "height", str(i), f"{2000 + i}")  # every second one replaces the one before

def open_slot(bank, i):
    "A slot of rows and deltas that only the i-th fact has; every third has marks of its own"
    g = torch.Generator().manual_seed(i)
    slots = open_slots(bank, [torch.randperm(ROWS, generator=g)[:5]])
    with torch.no_grad(): bank.param[1:] = torch.randn(5, DIM, generator=g)
    if i % 3 == 0: mark(bank, slots, [torch.randperm(ROWS, generator=g)[:6]])
    commit(bank)
    return slots

def store(folder, registry, bank, i, slots): return commit_bank(folder/"slots", bank, registry, MEMORY, lambda name: registry.assert_facts([fact(i)], slots, bank=name))
def learn(folder, registry, bank, i): return store(folder, registry, bank, i, open_slot(bank, i))

def check(folder):
    "Registry and slots belong to one moment: each fact's slot is there and holds what was learnt, and there is no other; how many facts"
    registry, bank = open_store(folder)
    with registry:
        n = len(registry)
        assert bank.num_slots == n and [p.slots for p in parts_of(folder/"slots", registry.bank)] != [0]
        for i in range(n):
            slot, want = registry.get(fact(i).subject, "height", fact(i).valid_from).slot, SlotBank(ROWS, DIM)
            open_slot(want, i)
            access = Access(torch.arange(ROWS).view(1, ROWS, 1), torch.ones(1, ROWS, 1))
            assert slot == i and torch.equal(read_slots(bank, access, torch.tensor([slot])), read_slots(want, access, torch.tensor([0])))
            assert torch.equal(bank.marks[bank.marked == slot], want.marks) and len(want.marks) == 6 * (i % 3 == 0)
            some = torch.arange(0, ROWS, 2)[None]
            assert torch.equal(share_read(bank, torch.tensor([slot]), some), share_read(want, torch.tensor([0]), some))
        clean_bank(folder/"slots", registry.bank)
        assert {p for p in (folder/"slots").iterdir()} == {p.path for p in parts_of(folder/"slots", registry.bank)}
    return n

def base(folder, n):
    registry, bank = open_store(folder)
    with registry:
        for i in range(n): learn(folder, registry, bank, i)
    return folder

class Counted:
    "A connection that counts its statements with the system calls"
    def __init__(self, db, tick): self.db, self.tick = db, tick
    def __getattr__(self, name): return getattr(self.db, name)
    def execute(self, *a): return self.tick(self.db.execute, sqlite3.OperationalError)(*a)
    def executemany(self, *a): return self.tick(self.db.executemany, sqlite3.OperationalError)(*a)

def at(n, act, after=False):
    "`act(error)` instead of the n-th operation, or right after it. Returns the counter and what wraps an operation."
    count = [0]
    def tick(real, error):
        def call(*args, **kwargs):
            count[0] += 1
            mine = count[0] == n
            if mine and not after: act(error)
            try: return real(*args, **kwargs)
            finally:
                if mine and after: act(error)
        return call
    return count, tick

def in_child(work):
    "Run `work` in a forked child that leaves without any clean-up; its exit code: 0, 1 after an exception, 9 when it was killed"
    pid = os.fork()
    if pid == 0:
        try: work()
        except CasmError: os._exit(1)
        except BaseException: os._exit(2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("learnt", [0, 1, 2, 3])  # the third goes into a file of its own, the second and the fourth take up what is there
def test_kill_at_every_operation(learnt, after, tmp_path):
    start, run, outcomes = base(tmp_path/"base", learnt), tmp_path/"run", []
    for n in range(1, 1000):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(start, run)
        def work():
            registry, bank = open_store(run)
            slots = open_slot(bank, learnt)
            tick = at(n, lambda error: os._exit(9), after)[1]
            for name in CALLS: setattr(os, name, tick(getattr(os, name), OSError))
            registry._db = Counted(registry._db, tick)
            store(run, registry, bank, learnt, slots)
        code = in_child(work)
        assert code in (0, 9)
        outcomes.append(check(run))
        registry, bank = open_store(run)
        with registry: learn(run, registry, bank, outcomes[-1])  # and it goes on
        assert check(run) == outcomes[-1] + 1
        if code == 0: break
    assert n > 10 and outcomes == sorted(outcomes) and outcomes[0] == learnt and outcomes[-1] == learnt + 1 and set(outcomes) == {learnt, learnt + 1}

@pytest.mark.parametrize("learnt", [0, 3])
def test_every_operation_fails_once(learnt, tmp_path, monkeypatch):
    start, run = base(tmp_path/"base", learnt), tmp_path/"run"
    def fail(error): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if error is OSError else error("disk I/O error")
    for n in range(1, 1000):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(start, run)
        registry, bank = open_store(run)
        slots = open_slot(bank, learnt)
        with monkeypatch.context() as m:
            count, tick = at(n, fail)
            for name in CALLS: m.setattr(os, name, tick(getattr(os, name), OSError))
            whole, registry._db = registry._db, Counted(registry._db, tick)
            try: store(run, registry, bank, learnt, slots)
            except (CasmError, sqlite3.OperationalError) as e: assert "\n" not in str(e)
            registry._db = whole
        if count[0] < n: break
        if len(registry) == learnt: store(run, registry, bank, learnt, slots)  # the same process tries again
        registry.close()
        assert check(run) == learnt + 1
    assert n > 10

def test_disk_full_at_every_size(tmp_path):
    "No file may grow beyond a limit: slot file, journal and database each stop half-way at some limit"
    start, run, outcomes = base(tmp_path/"base", 3), tmp_path/"run", []
    for limit in range(0, (start/"registry.sqlite").stat().st_size + 16384, 2048):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(start, run)
        def work():
            registry, bank = open_store(run)
            slots = open_slot(bank, 3)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            store(run, registry, bank, 3, slots)
        code = in_child(work)
        assert code in (0, 1)
        outcomes.append(check(run))
        assert outcomes[-1] == (4 if code == 0 else 3)
    assert outcomes == sorted(outcomes) and set(outcomes) == {3, 4}

def test_slots_are_durable_before_the_registry_names_them(tmp_path, monkeypatch):
    registry, bank = open_store(base(tmp_path, 1))
    slots, seen = open_slot(bank, 1), []
    def note(name, real):
        def call(*a, **kw):
            seen.append(name)
            return real(*a, **kw)
        return call
    for name in CALLS: monkeypatch.setattr(os, name, note(name, getattr(os, name)))
    class Named(Counted):
        def execute(self, sql, *a): return (note("COMMIT", self.db.execute) if sql == "COMMIT" else self.db.execute)(sql, *a)
        def executemany(self, *a): return self.db.executemany(*a)
    registry._db = Named(registry._db, None)
    store(tmp_path, registry, bank, 1, slots)
    assert [s for s in seen if s != "unlink"] == ["fsync", "replace", "fsync", "COMMIT"] and "unlink" in seen[seen.index("COMMIT"):]  # file, name, folder; commit; orphans

def test_two_registries_take_turns_only(tmp_path):
    "Who did not see the last commit must not write over it, and is told so before anything is written"
    registry, bank = open_store(base(tmp_path, 2))
    other, other_bank = open_store(tmp_path)
    learn(tmp_path, registry, bank, 2)
    files = set((tmp_path/"slots").iterdir())
    with pytest.raises(CasmError, match="load_bank"): learn(tmp_path, other, other_bank, 3)
    assert set((tmp_path/"slots").iterdir()) == files and check(tmp_path) == 3

def test_a_reader_survives_a_commit(tmp_path):
    "The bank it was told of is gone when it gets there: it reads the newer one"
    registry, bank = open_store(base(tmp_path, 1))
    old = registry.bank
    learn(tmp_path, registry, bank, 1)
    class Late:
        names = [old, registry.bank, registry.bank]
        bank = property(lambda self: self.names.pop(0))
    assert load_bank(tmp_path/"slots", Late(), ROWS, DIM, MEMORY).num_slots == 2
    class Lost: bank = old
    with pytest.raises(CasmError, match="is missing"): load_bank(tmp_path/"slots", Lost(), ROWS, DIM, MEMORY)

@pytest.mark.parametrize("damage", ["flip", "truncated", "emptied", "removed", "longer", "swapped"])
def test_damage_is_refused(damage, tmp_path):
    registry = open_store(base(tmp_path, 7))[0]
    parts = [p.path for p in parts_of(tmp_path/"slots", registry.bank)]
    assert len(parts) == 3
    for path, other in zip(parts, parts[1:] + parts[:1]):
        whole = path.read_bytes()
        for i in range(0, len(whole), 37) if damage == "flip" else [0]:
            if damage == "flip": path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1:])
            if damage == "truncated": path.write_bytes(whole[:-1])
            if damage == "emptied": path.write_bytes(b"")
            if damage == "removed": path.unlink()
            if damage == "longer": path.write_bytes(whole + b"\0")
            if damage == "swapped": shutil.copy(other, path)
            with pytest.raises(CasmError, match=path.stem): open_store(tmp_path)
            path.write_bytes(whole)
    assert check(tmp_path) == 7

@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["learn", "learn", "learn three", "retire", "change", "refuse", "reopen"]), max_size=25), st.integers(0, 99))
def test_what_is_read_back_is_what_was_there(tmp_path_factory, todo, seed):
    "Whatever happens to a bank between commits: it comes back to the bit, in few files"
    folder, rng, i = tmp_path_factory.mktemp("store"), random.Random(seed), 0
    registry, bank = open_store(folder)
    committed = to_flat(bank)
    for what in [*todo, "learn"]:
        if what in ("learn", "learn three"):
            slots, n = [], 1 if what == "learn" else 3
            for _ in range(n): slots += open_slot(bank, i + len(slots))
            facts = [fact(i + k) for k in range(n)]
            commit_bank(folder/"slots", bank, registry, MEMORY, lambda name: registry.assert_facts(facts, slots, bank=name))
            committed, i = to_flat(bank), i + n
        elif what == "reopen":
            registry.close()
            registry, bank = open_store(folder)
        elif what == "refuse":
            with pytest.raises(CasmError): commit_bank(folder/"slots", bank, registry, MEMORY, lambda name: registry.assert_facts([Fact("", "", "", "x")], bank=name))
        elif bank.num_slots:
            slot = rng.randrange(bank.num_slots)
            if what == "retire": retire(bank, [slot])
            else:
                select(bank, slot, torch.tensor([rng.randrange(ROWS)]), 1)
                with torch.no_grad(): bank.param[1] = .5
                commit(bank)
        back = load_bank(folder/"slots", registry, ROWS, DIM, MEMORY)
        assert all(torch.equal(v, committed[k]) for k, v in to_flat(back).items())
    clean_bank(folder/"slots", registry.bank)
    assert len(os.listdir(folder/"slots")) <= 6

def test_many_versions_few_files(tmp_path):
    registry, bank = open_store(tmp_path, Registry())
    written, seen = 0, set()
    for i in range(130):
        slots = open_slot(bank, i)
        commit_bank(tmp_path/"slots", bank, registry, MEMORY, lambda name: registry.assert_facts([Fact(f"Rock {i}", "height", "1", "2000")], slots, bank=name))
        parts = parts_of(tmp_path/"slots", registry.bank)
        assert len(parts) <= 8 and sum(p.slots for p in parts) == i + 1
        written += sum(p.rows for p in parts if p.path not in seen)
        seen |= {p.path for p in parts}
    assert written <= 130 * 5 * 8  # each row at most log2 n times
