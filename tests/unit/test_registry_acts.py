"Correcting, redoing, aliases and reports against a naive oracle; every defect of the seed project's registry by name."
import json, sqlite3
from itertools import count
from pathlib import Path
import pytest
from hypothesis import example, given, settings, strategies as st
from casm.facts import CasmError, Fact, TimeOrder, canonical, value_key
from casm.registry import Registry

DATES = ["2010", "2011", "2012", "2013", "2014"]
SUBJECTS, RELATIONS = ["Gale Rock", "the_rock", "Port Lumina"], ["light", "Lamp", "colour"]
ALIASES = [("subject", "The Rock", "Gale Rock"), ("subject", "the rock", "Port Lumina"), ("subject", "gale rock", "Port Lumina"),
           ("subject", "Port Lumina", "The Rock"), ("relation", "lamp", "light"), ("relation", "Light", "lamp"), ("value", "8 m", "Nine"),
           ("value", "C", "8 metres"), ("value", "nine", "C")]
MULTI = "colour"


class Row:
    "One piece of evidence"
    def __init__(self, key, fact, via):
        self.key, self.via, (self.value, self.start, self.until), self.slot, self.parent = key, via, fact[2:], None, None


class Book:
    "The contracts in the most obvious way: lists of commits, and loops over all of them. A commit is (rows, withdrawn rows, aliases, commit undone)."
    def __init__(self): self.commits = []

    def counts(self, i, n): return not any(self.commits[j-1][3] == i and self.counts(j, n) for j in range(i + 1, n + 1))
    def state(self, n=None):
        n = len(self.commits) if n is None else n
        kept = [self.commits[i-1] for i in range(1, n + 1) if self.counts(i, n)]
        gone = [row for c in kept for row in c[1]]
        return [row for c in kept for row in c[0] if row not in gone], [a for c in kept for a in c[2]]

    def fine(self):
        "Nothing has two values at one date, no alias two names or facts of its own, no fact came by an alias that is gone"
        rows, aliases = self.state()
        return not (any(a.key == b.key and a.start == b.start and a.key[1] != MULTI and norm(a, aliases) != norm(b, aliases) for a in rows for b in rows)
                    or any(a[:2] == b[:2] and a[2] != b[2] or (a[0], a[2]) == b[:2] for a in aliases for b in aliases)
                    or any(("subject", r.key[0]) == a[:2] or ("relation", r.key[1]) == a[:2] for r in rows for a in aliases)
                    or any(a not in aliases for r in rows for a in r.via))
    def attempt(self, commit):
        self.commits.append(commit)
        if self.fine(): return True
        self.commits.pop()
        return False

    def judge(self, facts, correct, slots):
        "The commit that these facts make, or None"
        live, aliases = self.state()
        rows, gone = [], []
        for fact in facts:
            key = tuple(name(kind, canonical(text), aliases) for kind, text in zip(("subject", "relation"), fact))
            via = [a for kind, text in zip(("subject", "relation"), fact) for a in aliases if a[:2] == (kind, canonical(text))]
            row = Row(key, fact, via)
            if row.until and row.until <= row.start: return None
            line = [r for r in live + rows if r.key == key and r not in gone]
            wrong = [r for r in line if r.start == row.start] if correct else []
            if correct and (not wrong or len({norm(r, aliases) for r in wrong}) > 1 or any(r in rows for r in wrong)): return None
            gone, line = gone + wrong, [r for r in line if r not in wrong]
            if key[1] != MULTI and any(r.start == row.start and norm(r, aliases) != norm(row, aliases) for r in line): return None
            own = [r for r in line if key[1] != MULTI or norm(r, aliases) == norm(row, aliases)]
            there = force(own, row.start)
            before = wrong[-1] if wrong and norm(wrong[-1], aliases) == norm(row, aliases) else there
            if before and norm(before, aliases) == norm(row, aliases):
                row.slot, row.parent = before.slot, before.parent
                if value_key(before.value) != value_key(row.value):
                    row.via += [a for a in aliases if a[0] == "value" and a[1] in (value_key(before.value), value_key(row.value))]
            else:
                replaced = wrong[-1] if wrong else there if own else force(line, row.start)
                row.slot, row.parent = next(slots), replaced.slot if replaced else None
            rows.append(row)
        return rows, gone, [], None


def name(kind, key, aliases): return next((a[2] for a in aliases if a[:2] == (kind, key)), key)
def norm(row, aliases): return name("value", value_key(row.value), aliases)
def force(rows, t):
    best = None
    for r in rows:
        if r.start <= t and (best is None or r.start >= best.start): best = r
    return best if best and not (best.until and best.until <= t) else None

def lines(book, n):
    "key -> its timelines: [(row, effective end, own end reached)], where evidence is repeated only the last"
    rows, aliases = book.state(n)
    out = {}
    for key in {r.key for r in rows}:
        mine = [r for r in rows if r.key == key]
        for group in ({norm(r, aliases) for r in mine} if key[1] == MULTI else [None]):
            last = {r.start: r for r in mine if group in (None, norm(r, aliases))}
            starts = sorted(last)
            ends = [min([x for x in (last[a].until, b) if x], default=None) for a, b in zip(starts, [*starts[1:], None])]
            out.setdefault(key, []).append([(last[a], b) for a, b in zip(starts, ends)])
    return out

subject, relation, date = map(st.sampled_from, (SUBJECTS, RELATIONS, DATES))
fact = st.tuples(subject, relation, st.sampled_from(["8 m", "8 metres", "nine", "C"]), date, st.sampled_from([None, None, *DATES]))
step = st.one_of(st.tuples(st.just("assert"), st.lists(fact, min_size=1, max_size=3)),
                 st.tuples(st.just("correct"), st.lists(fact, min_size=1, max_size=2)),
                 st.tuples(st.just("retract"), st.tuples(subject, relation, date)), st.tuples(st.just("alias"), st.sampled_from(ALIASES)),
                 st.tuples(st.sampled_from(["undo", "redo"]), st.integers(1, 10)))

def attempted(call):
    try: return call(), True
    except CasmError: return None, False

@settings(max_examples=400, deadline=None)
@given(st.lists(step, max_size=12))
@example([("assert", [("Gale Rock", "light", "8 m", "2010", None)]), ("alias", ALIASES[0]), ("assert", [("the_rock", "light", "nine", "2012", None)]),
          ("undo", 2), ("undo", 3), ("undo", 2), ("alias", ALIASES[0]), ("redo", 3)])
@example([("alias", ALIASES[6]), ("assert", [("Gale Rock", "light", x, t, None) for x, t in (("8 m", "2010"), ("nine", "2012"))]), ("undo", 1)])
@example([("assert", [("Gale Rock", "light", "8 m", "2010", None)]), ("undo", 1), ("assert", [("Gale Rock", "light", "nine", "2010", None)]),
          ("redo", 1), ("correct", [("Gale Rock", "light", "C", "2010", "2012")]), ("undo", 2), ("undo", 3), ("redo", 1), ("undo", 4), ("redo", 1)])
def test_random_acts_agree_with_the_oracle(steps):
    registry, book, slots = Registry(multi=[MULTI]), Book(), count()
    for kind, what in steps:
        n = len(book.commits)
        if kind in ("assert", "correct"):
            facts = [f for f in what if f[4] is None or f[3] < f[4]]
            batch, correct = [Fact(*f) for f in facts], kind == "correct"
            want = book.judge(facts, correct, slots)
            if want:
                old = {r.slot for r in book.state()[0]}
                given = [None if r.slot in old | {x.slot for x in want[0][:i]} else r.slot for i, r in enumerate(want[0])]
            planned, fine = attempted(lambda: registry.plan(batch, correct=correct))
            assert fine == (want is not None)
            act = registry.correct if correct else registry.assert_facts
            done, fine = attempted(lambda: act(batch, slots=given if want else None))
            assert fine == (want is not None)
            if want and facts:
                assert book.attempt(want)
                assert [o.kind for o in planned] == [o.kind for o in done]
                assert [(o.slot, o.parent_slot) for o in done] == [(r.slot, r.parent) for r in want[0]]
        elif kind == "retract":
            rows, aliases = book.state()
            key = (name("subject", canonical(what[0]), aliases), name("relation", canonical(what[1]), aliases))
            found = [r for r in rows if r.key == key and r.start == what[2]]
            one = len({norm(r, aliases) for r in found}) == 1
            assert attempted(lambda: registry.retract(*what))[1] == one
            if one: book.attempt(([], found, [], None))
        elif kind == "alias":
            aliases, form = book.state()[1], value_key if what[0] == "value" else canonical
            entry = (what[0], form(what[1]), name(what[0], form(what[2]), aliases))
            known = name(what[0], entry[1], aliases)
            new = known == entry[1] != entry[2]
            fine = book.attempt(([], [], [entry], None)) if new else entry[1] != entry[2] == known
            got, done = attempted(lambda: registry.add_aliases([what]))
            assert done == fine and (got is not None) == (new and fine)
        elif kind == "undo":
            fine = what <= n and book.counts(what, n) and book.attempt(([], [], [], what))
            assert attempted(lambda: registry.undo(what))[1] == fine
        else:
            undo = next((i for i in range(1, n + 1) if book.commits[i-1][3] == what and book.counts(i, n)), None)
            fine = undo is not None and book.attempt(([], [], [], undo))
            assert attempted(lambda: registry.redo(what))[1] == fine
        assert registry.last_commit == len(book.commits)
    assert len(registry) == len(book.state()[0])
    for n in [*range(registry.last_commit + 1), None]: compare(registry, book, n)

def compare(registry, book, n):
    aliases, known = book.state(n)[1], lines(book, n)
    for subject in SUBJECTS:
        for relation in RELATIONS:
            key = (name("subject", canonical(subject), aliases), name("relation", canonical(relation), aliases))
            spans = [span for line in known.get(key, []) for span in line]
            got = registry.history(subject, relation, known_at=n)
            want = sorted((r.value, r.start, end or "", r.slot) for r, end in spans)
            assert sorted((h.value, h.valid_from, h.valid_until or "", h.slot) for h in got) == want
            for t in [*DATES, "2030"]:
                want = sorted((r.value, r.slot) for r, end in spans if r.start <= t and (end is None or t < end))
                assert sorted((r.value, r.slot) for r in registry.get_all(subject, relation, t, n)) == want
    def at(t):
        return {(key, norm(r, aliases)) for key, ls in known.items() for line in ls for r, end in line if r.start <= t and (end is None or t < end)}
    for t1, t2 in (("2010", "2012"), ("2014", "2011"), ("2009", "2030")):
        changes = registry.diff(t1, t2, known_at=n)
        for side, want in (("before", at(t1) - at(t2)), ("after", at(t2) - at(t1))):
            got = [((canonical(c.subject), canonical(c.relation)), name("value", value_key(getattr(c, side).value), aliases))
                   for c in changes if getattr(c, side)]
            assert len(got) == len(want) and set(got) == want
    cut = {(key, a.start, b.start) for key, ls in known.items() if key[1] != MULTI for line in ls for (a, _), (b, _) in zip(line, line[1:])
           if norm(a, aliases) != norm(b, aliases) and not (a.until and a.until <= b.start)}
    assert {((canonical(c.subject), canonical(c.relation)), c.held.valid_from, c.said.valid_from) for c in registry.conflicts(known_at=n)} == cut

@settings(max_examples=100, deadline=None)
@given(st.lists(fact, max_size=5), st.lists(fact, min_size=1, max_size=3))
def test_contradictions_are_the_pairs_that_cannot_both_hold(held, said):
    registry, facts = Registry(), [Fact(*f) for f in said if f[4] is None or f[3] < f[4]]
    registry.add_aliases([("value", "C", "nine")])
    kept = []
    for f in held:
        if f[4] is None or f[3] < f[4]:
            if attempted(lambda: registry.assert_facts([Fact(*f)]))[1]: kept.append(f)
    before, want = registry.last_commit, []
    value = lambda f: {"c": "9"}.get(value_key(f[2]), value_key(f[2]))
    for new in ((f.subject, f.relation, f.value, f.valid_from, f.valid_until) for f in facts):
        mine = [f for f in kept if [canonical(x) for x in f[:2]] == [canonical(x) for x in new[:2]]]
        there = max(((f[3], i, f) for i, f in enumerate(mine) if f[3] <= new[3]), default=(0, 0, None))[2]
        rivals = [there] if there and not (there[4] and there[4] <= new[3]) else []
        if new[4]: rivals += [f for f in mine if new[3] < f[3] < new[4]]
        want += [(f[2], f[3], new[2], new[3], max(f[3], new[3])) for f in rivals if value(f) != value(new)]
        kept.append(new)
    assert sorted((c.held.value, c.held.valid_from, c.said.value, c.said.valid_from, c.at) for c in registry.contradictions(facts)) == sorted(want)
    assert registry.last_commit == before

@settings(max_examples=100, deadline=None)
@given(st.lists(fact, max_size=8))
def test_the_seed_file_reads_back_the_same(tmp_path_factory, facts):
    a, b, path = Registry(multi=[MULTI]), Registry(multi=[MULTI]), tmp_path_factory.getbasetemp() / "memory_registry.json"
    for f in facts:
        if f[4] is None or f[3] < f[4]: attempted(lambda: a.assert_facts([Fact(*f)]))
    a.count_use([i for i in range(1, len(a) + 1) for _ in range(i)])
    a.export_json(path)
    assert not b.import_json(path).left
    for subject in SUBJECTS:
        for relation in RELATIONS:
            for t in [*DATES, "2030"]:
                assert {value_key(x.value) for x in a.get_all(subject, relation, t)} == {value_key(x.value) for x in b.get_all(subject, relation, t)}
    seed = Seed(json.loads(path.read_text()))
    for key in a.keys():
        if key[2] == MULTI: continue
        for t in DATES:
            want, got = a.get(*key[1:], t), seed.get_at(*key[1:], t)
            if want: assert value_key(got["value"]) == value_key(want.value)  # closed intervals: one date too long perhaps, never the old value
        assert (a.get(*key[1:], "2030") is None) == (seed.get_active(*key[1:]) is None)

class Seed:
    "How the seed project reads its file, in its own words: next_id and slots; closed intervals; the first that fits; the last that is open"
    def __init__(self, data):
        self.slots = data["slots"]
        assert data["next_id"] == len(self.slots) and {s["slot_id"] for s in self.slots} == set(range(len(self.slots)))
        for s in self.slots: assert set(s) == {"slot_id", "subject", "relation", "value", "valid_from", "valid_until", "contradicts", "usage_count"}
    def of(self, subject, relation): return [s for s in self.slots if (s["subject"], s["relation"]) == (subject, relation)]
    def get_at(self, subject, relation, t):
        return next((s for s in self.of(subject, relation) if s["valid_from"] <= t and (s["valid_until"] is None or t <= s["valid_until"])), None)
    def get_active(self, subject, relation):
        return next((s for s in reversed(self.of(subject, relation)) if s["valid_until"] is None), None)

# ---- defects of the seed project's registry and detector, audit 4.1 and 4.2, by number

def two():
    r = Registry()
    r.assert_facts([Fact("s", "r", "A", "2018"), Fact("s", "r", "B", "2022")], slots=[0, 1])
    return r

def test_defect_1_a_new_version_is_linked_to_its_fact_and_reached_by_it():
    assert [two().get("s", "r", t).slot for t in ("2018", "2022")] == [0, 1] and two().get("s", "r").parent_slot == 0

def test_defect_3_an_unknown_period_is_an_error_not_every_slot():
    r = Registry(order=TimeOrder(("2018", "2020")))
    r.assert_facts([Fact("s", "r", "A", "2018")])
    with pytest.raises(CasmError, match="'2026' has no place"): r.get("s", "r", "2026")

def test_defect_9_one_contradiction_costs_one_row_of_the_ledger():
    r = two()
    size = r._rows("SELECT count(*) FROM assertions")[0][0]
    r.assert_facts([Fact("s", "r", "C", "2024")], slots=[2])
    assert r._rows("SELECT count(*) FROM assertions")[0][0] == size + 1

def test_defect_10_closed_versions_stay_readable_with_their_slot():
    r = two()
    assert [(h.value, h.valid_until, h.slot) for h in r.history("s", "r")] == [("A", "2022", 0), ("B", None, 1)]
    assert r.get("s", "r", "2020").slot == 0

def test_defect_11_periods_may_be_added_for_ever():
    r = two()
    for year in range(2023, 2060): r.assert_facts([Fact("s", "r", f"v{year}", str(year))])
    assert r.get("s", "r", "2059").value == "v2059" and r.get("s", "r", "2021").value == "A"

def test_defect_13_at_the_boundary_the_new_value_holds(tmp_path):
    assert two().get("s", "r", "2022").value == "B"
    two().export_json(tmp_path / "m.json")
    assert Seed(json.loads((tmp_path / "m.json").read_text())).get_at("s", "r", "2022")["value"] == "B"

def test_defect_14_dates_between_before_and_after_are_placed():
    r = Registry()
    r.assert_facts([Fact("s", "r", "A", "2021-08"), Fact("s", "r", "B", "2021-10-15")])
    found = [r.get("s", "r", t) for t in ("1066", "2021-07-31", "2021-08", "2021-10", "2021-10-15", "2030")]
    assert [x and x.value for x in found] == [None, None, "A", "A", "B", "B"]

def test_defect_15_repeated_late_retracted_reverted_and_several_values():
    r = Registry(multi=["tag"])
    kinds = lambda *facts: [o.kind for o in r.assert_facts([Fact(*f) for f in facts])]
    told = [("s", "r", v, t) for v, t in (("A", "2018"), ("A", "2019"), ("B", "2020"), ("A", "2022"))]
    assert kinds(*told) == ["new", "same", "contradiction", "reversion"]
    assert kinds(("s", "r", "C", "2021"), ("s", "tag", "x", "2018"), ("s", "tag", "y", "2018")) == ["late", "new", "coexists"]
    r.retract("s", "r", "2021")
    assert [h.value for h in r.history("s", "r")] == ["A", "A", "B", "A"] and len(r.get_all("s", "tag")) == 2

def test_defect_15_what_was_first_seen_unchanged_can_contradict_later():
    r = Registry()
    r.assert_facts([Fact("s", "r", "A", "2018")])  # held by the base model: no slot
    out, = r.assert_facts([Fact("s", "r", "B", "2020")], slots=[0])
    assert (out.kind, out.parent_slot, out.previous.value) == ("contradiction", None, "A")

def test_defect_16_a_rephrasing_contradicts_nobody():
    r = Registry()
    r.add_aliases([("value", "Chief Engineer Maren Holt", "Maren Holt"), ("value", "Dr. Maren Holt", "Maren Holt")])
    r.assert_facts([Fact("s", "r", "Maren Holt", "2018")])
    for said in ("maren holt", "Maren Holt ", "Chief Engineer Maren Holt", "dr. maren  holt"):
        assert r.contradictions([Fact("s", "r", said, "2020")]) == [] and r.plan([Fact("s", "r", said, "2020")])[0].kind == "same"
    assert [c.said.value for c in r.contradictions([Fact("s", "r", "Dex Arlo", "2020")])] == ["Dex Arlo"]

def test_defect_17_spaces_and_underscores_meet():
    r = Registry(multi=["place of birth"])
    r.assert_facts([Fact("s", "place_of_birth", "A", "2018"), Fact("s", "Place of birth", "B", "2018")])
    assert len(r.get_all("s", "PLACE_OF BIRTH")) == 2 and len(r.keys()) == 1

def test_defect_20_periods_sort_as_declared_not_as_text():
    r = Registry(order=TimeOrder(("aug_sep", "sep_oct", "oct_nov", "nov_dec")))
    r.assert_facts([Fact("s", "r", v, t) for v, t in (("A", "aug_sep"), ("B", "sep_oct"), ("C", "nov_dec"))])
    assert [r.get("s", "r", t).value for t in r.order.names] == ["A", "B", "B", "C"]
    assert [(c.before.value, c.after.value) for c in r.diff("sep_oct", "nov_dec")] == [("B", "C")]

def test_defect_scans_every_reading_uses_an_index(tmp_path):
    r = two()
    for sql in ("SELECT id FROM keys WHERE subject = ? AND relation = ?",
                "SELECT id FROM assertions WHERE key_id = ? AND start <= ? ORDER BY start DESC, id DESC"):
        plan = " ".join(row[-1] for row in r._rows("EXPLAIN QUERY PLAN " + sql, 1, 1))
        assert "SEARCH" in plan and "SCAN" not in plan and "TEMP B-TREE" not in plan, plan

def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.json"
    path.write_text("old")
    def full(*_): raise OSError("disk full")
    monkeypatch.setattr("casm.registry.os.fsync", full)
    with pytest.raises(CasmError, match="cannot be written"): two().export_json(path)
    assert path.read_text() == "old"

# ---- files

def old_file(path):
    db = sqlite3.connect(path)
    db.executescript((Path(__file__).parent / "registry_v1.sql").read_text())
    db.close()
    return path

def holds_what_version_1_held(r):
    depths = [(h.value, h.valid_from, h.valid_until, h.slot) for h in r.history("port lumina", "depth")]
    assert depths == [("8 m", "2010", "2012", 0), ("8 metres", "2012", None, 3)]
    assert {x.value for x in r.get_all("Gale Rock", "light", "2019")} == {"red", "green"} and r.bank == "sha256:ab" and r.multi == {"light"}
    assert [c[:3] for c in r.commits()] == [(1, "assert", None), (2, "assert", None), (3, "retract", None), (4, "undo", 3), (5, "undo", 4)]
    assert r.get("Port Lumina", "depth", "2016", known_at=2).value == "9 m" and len(r) == 4

def test_version_1_is_read_as_it_is_and_upgraded_when_opened_to_write(tmp_path):
    path = old_file(tmp_path / "r")
    held = path.read_bytes()
    with Registry.open_existing(path) as r:
        holds_what_version_1_held(r)
        for write in (lambda: r.undo(1), lambda: r.assert_facts([Fact("s", "r", "A", "2018")]), lambda: r.count_use([1])):
            with pytest.raises(CasmError, match=r"schema version 1 and was opened to be read; Registry\(path\) upgrades it"): write()
        r.backup(tmp_path / "copy")
    with Registry.load_copy(path) as r:
        holds_what_version_1_held(r)
        r.assert_facts([Fact("s", "r", "A", "2018")])
    assert path.read_bytes() == held
    for p in (path, tmp_path / "copy"):
        with Registry(p) as r:
            holds_what_version_1_held(r)
            assert r.plan([Fact("Port Lumina", "depth", "800 cm", "2020")])[0].kind == "same"   # version 1 compared by spelling
            assert [r._rows(f"PRAGMA {what}") for what in ("foreign_key_check", "user_version", "foreign_keys")] == [[], [(2,)], [(1,)]]
            fresh = {row for row in Registry()._rows("SELECT type, name, sql FROM sqlite_master")}
            assert {row for row in r._rows("SELECT type, name, sql FROM sqlite_master")} == fresh
            r.add_aliases([("subject", "The Rock", "Gale Rock")])
        with Registry.open_existing(p) as r: assert r.last_commit == 6

def test_an_upgrade_cut_at_any_point_leaves_version_1(tmp_path, monkeypatch):
    connect, path = sqlite3.connect, tmp_path / "r"
    for n in range(1, 2000):
        old_file(path)
        left = [n]
        def tick():
            left[0] -= 1
            return left[0] <= 0
        def cutting(*args, **kwargs):
            db = connect(*args, **kwargs)
            db.set_progress_handler(tick, 20)
            return db
        monkeypatch.setattr(sqlite3, "connect", cutting)
        cut = not attempted(lambda: Registry(path).close())[1]
        monkeypatch.setattr(sqlite3, "connect", connect)
        db = connect(path)
        assert db.execute("PRAGMA user_version").fetchone() == ((1,) if cut else (2,)), n
        db.close()
        with Registry.open_existing(path) as r: holds_what_version_1_held(r)
        path.unlink()
        if not cut: break
    assert n > 3 and not cut

def test_an_old_file_in_use_or_damaged_is_refused(tmp_path):
    path = old_file(tmp_path / "r")
    held = path.read_bytes()
    busy = sqlite3.connect(path)
    busy.execute("BEGIN EXCLUSIVE")
    connect = sqlite3.connect
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{"timeout": .05} | k))
            for opener in (Registry, Registry.open_existing):
                with pytest.raises(CasmError, match="in use by another process"): opener(path)
    finally: busy.close()
    assert path.read_bytes() == held
    path.write_bytes(held[:len(held) // 2])
    for opener in (Registry, Registry.open_existing):
        with pytest.raises(CasmError, match="corrupt"): opener(path)
    assert path.read_bytes() == held[:len(held) // 2]

def test_use_counts_are_no_knowledge(tmp_path):
    with Registry(tmp_path / "r") as r:
        r.assert_facts([Fact("s", "r", "A", "2018"), Fact("s", "r", "B", "2020")])
        r.count_use([1, 2, 2])
        r.count_use([2])
        assert r.last_commit == 1 and [h.uses for h in r.history("s", "r")] == [1, 3]
        with pytest.raises(CasmError, match="not in this registry"): r.count_use([1, 7])
        r.undo(1); r.redo(1)
    with Registry.open_existing(tmp_path / "r") as r: assert [h.uses for h in r.history("s", "r")] == [1, 3]

def test_load_keeps_no_timeline_but_of_the_piece_in_hand(monkeypatch):
    monkeypatch.setattr("casm.registry._PIECE", 10)
    r, most = Registry(), [0]
    lines = Registry._lines
    def watched(self, at):
        line_of, found = lines(self, at)
        def of(key):
            line = line_of(key)
            most[0] = max(most[0], len(found))
            return line
        return of, found
    monkeypatch.setattr(Registry, "_lines", watched)
    loaded = r.load(Fact(f"s{i % 60}", "r", f"v{i // 120}", str(2000 + i // 60)) for i in range(600))
    assert most[0] == 10 and loaded.counts == {"new": 60, "same": 300, "contradiction": 240} and r.last_commit == 1
    assert [h.value for h in r.history("s7", "r")] == [f"v{i // 2}" for i in range(10)]

def test_what_is_read_while_a_load_runs_is_not_remembered_if_it_fails():
    r = Registry()
    def watching():
        for i in range(3):
            yield Fact("s", "r", f"v{i}", str(2018 + i))
            r.now(), r.get("s", "r")
        raise KeyError("the source broke")
    with pytest.raises(KeyError): r.load(watching())
    r.assert_facts([Fact("s", "r", "A", "2010")])
    assert r.now() == "2010" and r.get("s", "r").value == "A"

def test_a_bad_fact_in_a_late_piece_takes_all_with_it(monkeypatch):
    monkeypatch.setattr("casm.registry._PIECE", 10)
    def stream(end):
        yield from (Fact(f"s{i}", "r", "A", "2018") for i in range(95))
        yield end
    r = Registry()
    for bad in (Fact("s3", "r", "B", "2018"), {"subject": "s"}, None):
        with pytest.raises(CasmError, match="fact 96"): r.load(stream(bad))
        assert (r.last_commit, len(r), r.keys()) == (0, 0, [])
        loaded = Registry().load(stream(bad), skip_bad=True)
        assert loaded.counts == {"new": 95, "refused": 1} and loaded.left[0].why.startswith("fact 96")
    def broken():
        yield Fact("s", "r", "A", "2018")
        raise KeyError("the source broke")
    with pytest.raises(KeyError): r.load(broken())
    assert r.last_commit == 0
