"The ledger against a naive oracle, against interruption at every step, and against files it should not open."
import os, shutil, sqlite3, subprocess, sys
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from casm.facts import CasmError, Fact, TimeOrder, canonical, normalize_answer
from casm.registry import OUTCOMES, Registry, in_force

DATES = ["2010", "2011", "2012", "2013", "2014", "2015"]
KEYS = [("Gale Rock", "light"), ("Gale Rock", "colour"), ("Port Lumina", "light")]

class Oracle:
    "The contracts Time and Timeline, in the most obvious way: lists, and loops over all of them."
    def __init__(self): self.commits = []  # ("assert", [(key, value, start, until, slot)]) | ("retract", [row]) | ("undo", number)
    def counting(self, n):
        counts = {}
        for i in range(n, 0, -1):
            counts[i] = not any(counts[j] and self.commits[j-1] == ("undo", i) for j in range(i + 1, n + 1))
        return counts
    def live(self, n=None):
        n = len(self.commits) if n is None else n
        counts = self.counting(n)
        gone = [id(row) for i in range(1, n + 1) if counts[i] and self.commits[i-1][0] == "retract" for row in self.commits[i-1][1]]
        return [row for i in range(1, n + 1) if counts[i] and self.commits[i-1][0] == "assert" for row in self.commits[i-1][1] if id(row) not in gone]
    def get(self, key, t, n=None):
        best = None
        for row in self.live(n):
            if row[0] == key and row[2] <= t and (best is None or row[2] >= best[2]): best = row
        return None if best is None or (best[3] is not None and best[3] <= t) else best
    def clash(self): return any(a[0] == b[0] and a[2] == b[2] and norm(a) != norm(b) for a in self.live() for b in self.live())
    def attempt(self, commit):
        self.commits.append(commit)
        if not self.clash(): return True
        self.commits.pop()
        return False

def norm(row): return normalize_answer(row[1])

fact = st.tuples(st.sampled_from(KEYS), st.sampled_from(["A", "B", "b.", "C"]), st.sampled_from(DATES), st.sampled_from([None, None, None, *DATES]))
step = st.one_of(st.tuples(st.just("assert"), st.lists(fact, min_size=1, max_size=3)),
                 st.tuples(st.just("retract"), st.tuples(st.sampled_from(KEYS), st.sampled_from(DATES))),
                 st.tuples(st.just("undo"), st.integers(1, 12)))

def attempted(call):
    try: return call(), True
    except CasmError: return None, False

def check(registry, oracle, n=None):
    for key in KEYS:
        timeline = []
        for t in DATES + ["2030"]:
            want, got = oracle.get(key, t, n), registry.get(*key, t, known_at=n)
            assert (want and (want[1], want[2], want[4])) == (got and (got.value, got.valid_from, got.slot)), (key, t, n)
            if got: timeline.append((t, got))
        history = registry.history(*key, known_at=n)
        assert [h.valid_from for h in history] == sorted({row[2] for row in oracle.live(n) if row[0] == key})
        for t, got in timeline: assert [h for h in history if h.valid_from <= t and (h.valid_until is None or t < h.valid_until)] == [got]

@settings(max_examples=150, deadline=None)
@given(st.lists(step, max_size=12))
def test_random_operations_agree_with_the_oracle(steps):
    registry, oracle, slot = Registry(), Oracle(), 0
    for kind, what in steps:
        before = registry.last_commit
        if kind == "assert":
            facts = [f for f in what if f[3] is None or f[2] < f[3]]
            batch = [Fact(*f[0], *f[1:]) for f in facts]
            planned, fine = attempted(lambda: registry.plan(batch))
            rows, slots = [], []
            for f, o in zip(facts, planned or []):
                slots.append(None if o.kind == "same" else (slot := slot + 1))
            if fine: outcomes = registry.assert_facts(batch, slots)
            rows = [(*f, o.slot) for f, o in zip(facts, outcomes)] if fine else [(*f, None) for f in facts]
            if not facts: continue
            assert oracle.attempt(("assert", rows)) == fine
            if not fine: assert attempted(lambda: registry.assert_facts(batch))[1] is False
            else:
                assert [o.kind for o in outcomes] == [o.kind for o in planned] and {o.kind for o in outcomes} <= set(OUTCOMES)
        elif kind == "retract":
            rows = [row for row in oracle.live() if row[0] == what[0] and row[2] == what[1]]
            fine = attempted(lambda: registry.retract(*what[0], what[1]))[1]
            assert fine == bool(rows)
            if rows: oracle.commits.append(("retract", rows))
        else:
            fine = attempted(lambda: registry.undo(what))[1]
            counts = oracle.counting(len(oracle.commits))
            assert fine == (bool(counts.get(what)) and oracle.attempt(("undo", what)))
        assert registry.last_commit == len(oracle.commits) == before + fine
        assert len(registry) == len(oracle.live())
        assert registry.now() == max((row[2] for row in oracle.live()), default=None)
    for n in [*range(registry.last_commit + 1), None]: check(registry, oracle, n)

@settings(max_examples=100, deadline=None)
@given(st.lists(fact, max_size=8))
def test_repeated_evidence_never_changes_a_reading_when_it_has_no_end(facts):
    registry = Registry()
    for f in facts: attempted(lambda: registry.assert_facts([Fact(*f[0], f[1], f[2])]))
    reading = {(k, t): registry.get(*k, t) for k in KEYS for t in DATES}
    for (k, t), record in reading.items():
        if record is None: continue
        assert registry.assert_facts([Fact(*k, record.value, t)])[0].kind == "same"
        for (k2, t2), old in reading.items():
            new = registry.get(*k2, t2)
            assert (new and (new.value, new.slot)) == (old and (old.value, old.slot))

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from(DATES), st.sampled_from([None, *DATES])), max_size=8))
def test_several_values_each_have_their_own_timeline(rows):
    registry, kept = Registry(multi=["Light"]), []
    for v, t, u in rows:
        if u is not None and u <= t: continue
        registry.assert_facts([Fact("Gale Rock", "light", v, t, u)])
        kept.append((v, t, u))
    for t in DATES:
        want = set()
        for v in "ABC":
            mine = [r for r in kept if r[0] == v and r[1] <= t]
            last = max(enumerate(mine), key=lambda x: (x[1][1], x[0]))[1] if mine else None
            if last and (last[2] is None or t < last[2]): want.add(v)
        assert {r.value for r in registry.get_all("Gale Rock", "light", t)} == want
        got = registry.get("gale rock", "LIGHT", t)
        assert (got.value in want) if want else got is None

def test_the_change_period_reads_the_new_value():
    # the seed project's closed intervals answered with the old one
    r = Registry()
    r.assert_facts([Fact("s", "r", "A", "2018"), Fact("s", "r", "B", "2022")])
    assert [r.get("s", "r", t).value for t in ("2018", "2019", "2021-12-31", "2022", "2026")] == ["A", "A", "A", "B", "B"]
    assert r.get("s", "r", "1066") is None

def test_batch_facts_meet_each_other():
    r = Registry()
    out = r.assert_facts([Fact("s", "r", "A", "2010"), Fact("s", "r", "B", "2014"), Fact("S ", "R", "a", "2012"), Fact("s", "r", "A", "2016"),
                          Fact("s", "r", "C", "2011")], slots=[0, 1, None, 2, 3])
    assert [(o.kind, o.slot, o.parent_slot) for o in out] == [("new", 0, None), ("contradiction", 1, 0), ("same", 0, None),
                                                             ("reversion", 2, 1), ("late", 3, 0)]
    assert out[1].previous.value == "A" and out[0].previous is None
    assert [(h.value, h.valid_from, h.slot) for h in r.history("s", "r")] == [("A", "2010", 0), ("C", "2011", 3), ("a", "2012", 0), ("B", "2014", 1), ("A", "2016", 2)]

def test_one_bad_fact_refuses_its_batch():
    r = Registry()
    good = [Fact("s", f"r{i}", "A", "2018") for i in range(1000)]
    with pytest.raises(CasmError, match="fact 501, 'r7' of 's'"): r.assert_facts(good[:500] + [Fact("s", "r7", "B", "2018")] + good[500:])
    assert r.last_commit == len(r) == 0 and r.keys() == []

def seeded(path):
    r = Registry(path)
    r.assert_facts([Fact("s", "r", "A", "2018"), Fact("s", "q", "A", "2018")], slots=[0, None])
    return r

WRITES = {"assert": lambda r: r.assert_facts([Fact("s", "r", "B", "2020"), Fact("new", "r", "C", "2020"), Fact("s", "q", "A", "2021")], [1, 2, None], bank="h"),
          "retract": lambda r: r.retract("s", "r", "2018"), "undo": lambda r: r.undo(1),
          "correct": lambda r: r.correct([Fact("s", "r", "B", "2018"), Fact("s", "q", "B", "2018")], slots=[3, 4], rows=[[1], [2]], passages=["x", "y"]),
          "alias": lambda r: r.add_aliases([("subject", "t", "s"), ("value", "B", "A")]), "count_use": lambda r: r.count_use([1, 2, 2]),
          "load": lambda r: r.load(Fact("s", "r", f"v{i}", str(2020 + i)) for i in range(20)), "import": lambda r: r.import_json(SEED)}

SEED = Path(__file__).parent / "memory_registry.json"

def seen(r):
    return (r.commits()[1:] and [c[:5] for c in r.commits()], r.keys(), len(r), [r.history("s", q) for q in ("r", "q")], r.bank,
            r.aliases("subject"), r.aliases("value"), r._rows("SELECT * FROM slot_rows"), r._rows("SELECT * FROM uses"), r._rows("SELECT * FROM retractions"))

@pytest.mark.parametrize("write", WRITES)
def test_a_write_cut_at_any_point_leaves_all_or_nothing(tmp_path, write):
    whole = seeded(tmp_path / "whole"); before = seen(whole); WRITES[write](whole); after = seen(whole); whole.close()
    for n in range(1, 2000):
        path = tmp_path / "cut"
        r = seeded(path)
        left = [n]
        def tick():
            left[0] -= 1
            return left[0] <= 0
        r._db.set_progress_handler(tick, 20)
        cut = attempted(lambda: WRITES[write](r))[1] is False
        r._db.set_progress_handler(None, 0)
        assert seen(r) == (before if cut else after), n
        r.close()
        with Registry.open_existing(path) as again: assert seen(again) == (before if cut else after)
        path.unlink()
        if not cut: break
    assert n > 3 and not cut

def test_a_killed_writer_leaves_the_last_commit(tmp_path):
    path = tmp_path / "r.sqlite"
    seeded(path).close()
    code = f"""
import os
from casm.facts import Fact
from casm.registry import Registry
r = Registry({str(path)!r})
r._db.execute("PRAGMA cache_size = 5")  # spill, so that the file itself is half written
with r._transaction():
    n = r._commit("assert")
    for i in range(20000):
        k = r._db.execute("INSERT INTO keys (subject, relation, subject_text, relation_text) VALUES (?,?,?,?)", (str(i), "r", str(i), "r")).lastrowid
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).returncode == 9
    assert os.path.exists(f"{path}-journal")
    with Registry.open_existing(path) as r: assert len(r) == 2 and len(r.keys()) == 2 and r.last_commit == 1

def test_journal_is_never_wal_and_foreign_keys_are_on(tmp_path):
    with seeded(tmp_path / "r") as r:
        assert r._db.execute("PRAGMA journal_mode").fetchone() == ("delete",) and r._db.execute("PRAGMA foreign_keys").fetchone() == (1,)
        with pytest.raises(sqlite3.IntegrityError): r._db.execute("INSERT INTO retractions VALUES (99, 99)")
        for sql in ("UPDATE assertions SET value = 'x'", "DELETE FROM commits", "UPDATE keys SET subject = 'x'", "DELETE FROM meta"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"): r._db.execute(sql)

def test_files_it_should_not_open(tmp_path):
    path = tmp_path / "r.sqlite"
    r = seeded(path); r.assert_facts([Fact(f"s{i}", "r", "x" * 50, "2018") for i in range(500)]); r.close()
    size = path.stat().st_size
    def refused(name, why, change):
        bad = tmp_path / name
        shutil.copy(path, bad)
        change(bad)
        held = bad.read_bytes() if bad.is_file() else None
        for opener in (Registry.open_existing, Registry):
            with pytest.raises(CasmError, match=why) as e: opener(bad)
            assert str(bad) in str(e.value)
        assert (bad.read_bytes() if bad.is_file() else None) == held
    def sql(*statements):
        def change(p):
            db = sqlite3.connect(p)
            for s in statements: db.execute(s)
            db.commit(); db.close()
        return change
    refused("version", "schema version 99", sql("PRAGMA user_version = 99"))
    refused("foreign", "of something else", sql("PRAGMA application_id = 1"))
    refused("cut", "corrupt", lambda p: os.truncate(p, size // 2))
    refused("text", "no SQLite file", lambda p: p.write_text("hello " * 500))
    refused("scribbled", "corrupt", lambda p: p.write_bytes(p.read_bytes()[:4096] + os.urandom(size - 4096)))
    with pytest.raises(CasmError, match="does not exist"): Registry.open_existing(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").touch()
    with pytest.raises(CasmError, match="of something else"): Registry.open_existing(tmp_path / "empty")

def test_a_locked_file_says_so_and_changes_nothing(tmp_path):
    with seeded(tmp_path / "r") as a, Registry(tmp_path / "r") as b:
        b._db.execute("PRAGMA busy_timeout = 50")
        with a._transaction():
            a._commit("assert")
            with pytest.raises(CasmError, match="in use by another process"): b.assert_facts([Fact("s", "r", "B", "2020")])
            for write in WRITES.values():
                with pytest.raises(CasmError, match="in use by another process"): write(b)
        assert b.last_commit == 2  # and sees the other's commit when it is done
        b.assert_facts([Fact("s", "r", "B", "2020")])
        assert a.get("s", "r").value == "B"

@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_file_can_be_read_but_not_written(tmp_path):
    seeded(tmp_path / "r").close()
    os.chmod(tmp_path / "r", 0o444)
    with Registry.open_existing(tmp_path / "r") as r:
        assert len(r) == 2
        for write in WRITES.values():
            with pytest.raises(CasmError, match="read-only"): write(r)

@pytest.mark.parametrize("write", WRITES)
def test_a_write_where_nothing_may_be_written_says_so_and_changes_nothing(tmp_path, write):
    with seeded(tmp_path / "r") as r:
        before = seen(r)
        r._db.execute("PRAGMA query_only = ON")  # what a read-only file answers, to root as well
        with pytest.raises(CasmError, match="is read-only; copy it elsewhere"): WRITES[write](r)
        assert seen(r) == before

def test_a_backup_is_whole_and_apart(tmp_path):
    with seeded(tmp_path / "r") as r:
        r.backup(tmp_path / "b")
        WRITES["assert"](r)
    with Registry.open_existing(tmp_path / "b") as b: assert b.last_commit == 1 and b.get("s", "r").value == "A"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "r"]

def test_order_and_multi_are_kept(tmp_path):
    order = TimeOrder(("aug_sep", "sep_oct"))
    Registry(tmp_path / "r", order=order, multi=["Place_of birth"]).close()
    with Registry(tmp_path / "r") as r: assert r.order.names == order.names and r.multi == {"place of birth"}
    with Registry(tmp_path / "r", order=order) as r: assert r.multi == {"place of birth"}
    with pytest.raises(CasmError, match="was made with names"): Registry(tmp_path / "r", order=TimeOrder(("sep_oct", "aug_sep")))

def test_a_hundred_thousand_facts():
    r = Registry()
    r.assert_facts([Fact(f"Port {i // 4}", f"depth {i % 4}", f"{i} fathoms", "2018") for i in range(100_000)])
    for i in range(1000): assert r.get(f"port {i * 24}", "depth 3", "2024").value == f"{i * 96 + 3} fathoms"
