"The front door broken in every way: killed or failing at each write, interrupted in training, bad records, damaged folders, two at a time."
import errno, json, os, shutil, sqlite3
from dataclasses import replace

import pytest, torch

from casm import temporal_lm
from casm.checkpoint import Lock
from casm.experiments import PRETRAINED, RECIPES
from casm.facts import CasmError, Fact, Passage, document
from casm.slots import to_flat
from casm.store import parts_of
from casm.temporal_lm import StoredCASM, TemporalLM
from casm.trainer import TrainConfig
from casm.wordings import Added

OLD, NEW = Fact("Torvik Harbour", "pilot boat", "Marigold", "2018"), Fact("Torvik Harbour", "pilot boat", "Grey Heron", "2022")
ASKED, TIMES = "What is the pilot boat of Torvik Harbour?", ["2017", "2018", "2021", "2022", None]
CALLS = ("fsync", "rename", "replace", "unlink")  # every os function a commit goes through
RECIPE, TINY_RECIPE = temporal_lm.RECIPE, temporal_lm.TINY_RECIPE

def test_the_recipes_are_those_of_the_experiments(): assert (TINY_RECIPE, RECIPE) == (RECIPES["casm"], PRETRAINED["casm"])

@pytest.fixture(autouse=True)
def short(monkeypatch):
    "Token training: what is learnt is nonsense, how it is stored and asked is real"
    for name in ("RECIPE", "TINY_RECIPE"): monkeypatch.setattr(temporal_lm, name, ({"rows": 4, "quiet_below": 0.}, TrainConfig(lr=.1, epochs=1, min_steps=3, wordings=3)))

@pytest.fixture
def lm(stub, tmp_path):
    with TemporalLM.create(tmp_path / "memory", stub) as lm:
        lm.learn(OLD)
        yield lm

def files(folder): return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}
def explained(lm): return [(e.answer, e.slot, e.fact and e.fact.value, e.window) for e in lm.ask([ASKED] * len(TIMES), TIMES, explain=True)]
def ledger(lm): return [lm.registry.commits(), lm.registry.keys(), lm.history(*OLD.key)]

def bits(lm):
    "All that answers depend on: the bank in memory, and the ledger's records"
    flat = to_flat(lm.method.bank)
    return [lm.method.bank.num_slots, lm.method.bank.param, *(v.tolist() for v in flat.values()), lm.registry.commits(), [r._replace(uses=0) for r in lm.history(*OLD.key)]]


def test_what_was_learnt_is_in_the_folder(lm):
    assert [lm.learn(r)[0].kind for r in (NEW, replace(OLD, value="Swift", valid_from="2020"), OLD, NEW)] == ["contradiction", "late", "same", "same"]
    there = TemporalLM.load(lm.folder)
    assert explained(there) == explained(lm) and bits(there) == bits(lm)
    assert [e[2] for e in explained(lm)] == [None, "Marigold", "Swift", "Grey Heron", "Grey Heron"]
    assert [o.kind for o in lm.learn([NEW, replace(NEW, value="Grey  heron.")])] == ["same", "same"]       # nothing new: no commit that undo would take back
    assert there.registry.last_commit == 3 and there.method.bank.num_slots == 3

def test_records_of_every_kind_are_one_commit(lm, tmp_path):
    passage = Passage("They took the Swift as pilot boat.", replace(OLD, value="Swift", valid_from="2019"), "2019")
    records = [NEW, passage, {"subject": "Karn Point", "relation": "depth", "value": "9 fathoms"}, "In 2020, the depth of Karn Point is 8 fathoms.", "The mill burned down.",
               {"text": "The mill was built again.", "date": "2021", "source": "diary"}, NEW, "The mill burned down."]
    done = lm.learn(records, period="2018", source="a letter")
    assert [o.kind for o in done] == ["contradiction", "late", "new", "contradiction", "new", "new", "same", "same"] and lm.registry.last_commit == 2
    assert sorted({o.slot for o in done}) == [1, 2, 3, 4, 5, 6] and done[6].slot == done[0].slot
    assert [lm.registry.get(*document(r, "2018").key).valid_from for r in ("The mill burned down.", "The mill was built again.")] == ["2018", "2021"]
    assert lm.ask(ASKED, explain=True).source == "a letter"
    assert lm.registry.provenance(lm.registry.get(*document("The mill was built again.", "2021").key).fact_id)[1:3] == ("diary", passage_hash("The mill was built again."))
    assert lm.registry.provenance(lm.registry.get(*OLD.key, "2019").fact_id).passage == passage_hash(passage.text)
    assert lm.learn([]) == [] and lm.registry.last_commit == 2

def passage_hash(text):
    import hashlib
    return hashlib.sha256(text.encode()).hexdigest()

def test_asking_counts_uses(lm):
    for t in ("2018", "2019", "2017"): lm.ask(ASKED, t)
    lm.ask([ASKED, "The depth of Nowhere is"])
    assert lm.history(*OLD.key)[0].uses == 3 and lm.registry.last_commit == 1

def test_values_side_by_side_and_named_times(stub, tmp_path):
    lm = TemporalLM.create(tmp_path / "m", stub, multi=["member"], periods=["spring", "summer"])
    kinds = [o.kind for o in lm.learn([{"subject": "Guild", "relation": "member", "value": v} for v in ("Ann", "Bo")], period="spring")]
    assert kinds == ["new", "coexists"] and lm.ask("The member of Guild is", "summer", explain=True).slot == 1
    for bad in ({"period": "winter"}, {"period": "2018"}): refused(lm, [{"subject": "Guild", "relation": "seat", "value": "Ost"}], "no place in this order", **bad)
    refused(lm, [Fact("Guild", "seat", "Ost", "autumn")], "record 1: .*no place in this order")


def refused(lm, records, says, **how):
    "Nothing on disk or in memory changes"
    before, there = bits(lm), files(lm.folder)
    with pytest.raises(CasmError, match=says) as e: lm.learn(records, **how)
    assert "\n" not in str(e.value) and bits(lm) == before and files(lm.folder) == there

BAD = {
    "inverted": (dict(valid_until="2017"), "valid_until '2017' is not after"), "empty": (dict(valid_until="2019"), "valid_until '2019' is not after"), "no date": (dict(valid_from="soon-ish 2"), "no place in this order"),
    "half a date": (dict(valid_from="2018-13"), "no time point"), "a number": (dict(valid_from=2018), "no time point"), "no subject": (dict(subject=" "), "subject is ' '"), "no value": (dict(value=""), "value is ''"),
    "value is a number": (dict(value=9), "value is 9"), "unknown field": (dict(valid="2018"), "unknown fields"), "two values": (dict(subject="Torvik harbour", relation="Pilot_boat", valid_from="2018"), "'Marigold' is recorded")}

@pytest.mark.parametrize("name", BAD)
def test_one_bad_record_among_a_thousand(name, lm):
    wrong, says = BAD[name]
    good = [{"subject": f"Rock {i}", "relation": "height", "value": str(i), "valid_from": "2019"} for i in range(3)]
    records = good[:2] + [good[0] | {"subject": "Reef"} | wrong] + good[2:]
    if name == "two values": records *= 200                                       # many, for the price of planning
    refused(lm, records, f"record 3: .*{says}.*nothing was learnt")
    refused(lm, records, f"log line 3: .*{says}", source=[f"log line {i}" for i in range(1, len(records) + 1)])
    done = lm.learn(records[:4], skip_bad=True)
    assert [o.kind for o in done] == ["new", "new", "refused", "new"] and done[2].fact == records[2] and says.replace("\\", "") in done[2].why
    assert len(lm.registry) == 4 and lm.method.bank.num_slots == 4

def test_other_bad_input(lm, stub, tmp_path):
    refused(lm, ["It rains."], "record 1: passage 'It rains.' has no date"); refused(lm, ["It rains."], "no place in this order", period="soon")
    refused(lm, [OLD, 3], "record 2: 3 is no fact"); refused(lm, [NEW, replace(NEW, value="Swift")], "record 2"); refused(lm, [NEW], "nothing to correct", correct=True)
    refused(lm, [NEW], "2 entries for 1", source=["a", "b"]); refused(lm, ["word " * 600], "tokens long", period="2019"); refused(lm, [replace(OLD, value="word " * 600, valid_from="2019")], "tokens long")
    refused(lm, [Passage("A new boat came.", NEW)], "word for word")
    lost = {("inn", "door"): [Added("Who sails?", None, "w.jsonl:1")]}
    refused(lm, [NEW], "w.jsonl:1: wording 'Who sails.' is of none of the facts", wordings=lost)
    refused(lm, [NEW], "w.jsonl:2: the prompt does not name", wordings={NEW.key: [Added("Who sails?", None, "w.jsonl:2")]})
    assert [o.kind for o in lm.learn(["word " * 600, 3], period="2019", skip_bad=True)] == ["refused"] * 2 and lm.registry.last_commit == 1
    for bad in ("", " ", None):
        with pytest.raises(CasmError): lm.ask([bad])
    with pytest.raises(CasmError, match="'soon'"): lm.ask(ASKED, "soon")
    with pytest.raises(CasmError, match="does not exist"): TemporalLM.create(tmp_path / "new", str(tmp_path / "gpt2"))
    with pytest.raises(CasmError, match="repeats a period"): TemporalLM.create(tmp_path / "new", stub, periods=["a", "a"])
    with pytest.raises(CasmError, match="not empty"): TemporalLM.create(lm.folder, stub)
    with pytest.raises(CasmError, match="not empty"): lm.save(lm.folder)
    with pytest.raises(CasmError, match="commit 7"): lm.undo(7)
    with pytest.raises(CasmError, match="nothing to redo"): lm.redo()
    lm.undo()
    with pytest.raises(CasmError, match="nothing to undo"): lm.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["memory"]


def test_a_value_that_the_vocabulary_cannot_spell_is_refused(lm):
    tok = lm.method.lm.tokenizer
    tok.unk_token = tok.convert_ids_to_tokens(tok(f" {NEW.value}", add_special_tokens=False)["input_ids"][-1])
    refused(lm, [NEW], "record 1: .*vocabulary can't spell")


def broken(folder, damage):
    registry = folder / "registry.sqlite"
    if damage == "other schema": sqlite3.connect(registry).execute("PRAGMA user_version = 99").connection.close()
    if damage == "corrupt": registry.write_bytes(registry.read_bytes()[:100] + b"x" * 5000)
    if damage == "no registry": registry.unlink()
    if damage == "no SQLite": registry.write_text("hello")
    if damage == "no slots": next((folder / "slots").glob("*.safetensors")).unlink()
    if damage == "cut slots": os.truncate(next((folder / "slots").glob("*.safetensors")), 50)
    if damage == "other format": (folder / "temporal_lm.json").write_text('{"format": 3}')
    if damage == "older casm": (folder / "temporal_lm.json").write_text('{"format": 1}')
    if damage == "half settings": (folder / "temporal_lm.json").write_text('{"format": 1')
    if damage == "lacking settings": (folder / "temporal_lm.json").write_text('{"format": 2}')
    if damage == "no settings": (folder / "temporal_lm.json").unlink()

@pytest.mark.parametrize("damage, says", [("other schema", "schema version 99"), ("corrupt", "corrupt|no SQLite file"), ("no registry", "does not exist"), ("no SQLite", "no SQLite file"), ("no slots", "is missing"),
    ("cut slots", "no file of a slot bank"), ("other format", "not of format 2"), ("older casm", "casm before 0.2"), ("half settings", "cannot be read"), ("lacking settings", "lacks"), ("no settings", "no temporal_lm.json")])
def test_a_damaged_folder_is_refused(damage, says, lm):
    lm.close()
    broken(lm.folder, damage)
    before = files(lm.folder)
    with pytest.raises(CasmError, match=says) as e: TemporalLM.load(lm.folder)
    assert "\n" not in str(e.value) and files(lm.folder) == before

def test_a_changed_slot_or_model_is_noticed_before_it_answers(lm, stub, tmp_path):
    from casm.adapter import memory_of
    from casm.pretraining import load_lm, save_lm
    other = load_lm(stub)
    memory_of(other.model).table.data += 1
    save_lm(other, tmp_path / "other")
    with pytest.raises(CasmError, match="taught over other weights"): TemporalLM.load(lm.folder, tmp_path / "other").ask(ASKED)
    shutil.copytree(stub, tmp_path / "moved")
    assert explained(TemporalLM.load(lm.folder, tmp_path / "moved")) == explained(lm)
    path = next((lm.folder / "slots").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CasmError, match="SHA-256"): TemporalLM.load(lm.folder).ask(ASKED)

def test_locked_or_read_only(lm, monkeypatch):
    with Lock(lm.folder):
        refused(lm, NEW, "is in use by process")
        with pytest.raises(CasmError, match="in use"): lm.undo()
        assert explained(TemporalLM.load(lm.folder)) == explained(lm)             # readers need no lock
    lm.registry._db.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(lm.folder / "registry.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused(lm, NEW, "is in use by another process")
    assert lm.ask(ASKED, "2018", explain=True).slot == 0
    other.execute("ROLLBACK")
    with monkeypatch.context() as m:
        def denied(self): raise PermissionError(errno.EROFS, "Read-only file system")
        m.setattr(Lock, "__enter__", denied)
        refused(lm, NEW, "cannot be written .Read-only file system.; save.. it")
    uses = lm.history(*OLD.key)[0].uses
    lm.registry._db.execute("PRAGMA query_only = ON")                             # what a read-only file answers, to root as well
    refused(lm, NEW, "is read-only")
    assert lm.ask(ASKED, "2018", explain=True).slot == 0 and lm.history(*OLD.key)[0].uses == uses
    lm.registry._db.execute("PRAGMA query_only = OFF")
    assert lm.learn(NEW)[0].slot == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["plan", "begin_period", "loss", "after_step", "end_period", "record"])
def test_stopped_in_training(where, stop, lm, stub, tmp_path, monkeypatch):
    "Nothing on disk or in memory changes, and the next attempt learns what it would have learnt"
    twin = TemporalLM.load(lm.save(tmp_path / "twin"))
    before, there, said = bits(lm), files(lm.folder), explained(lm)
    there = files(lm.folder)                                                      # asking counted uses
    real, calls = getattr(StoredCASM, where), [0]
    def stopped(self, *args):
        calls[0] += 1
        done = real(self, *args) if where in ("begin_period", "loss", "after_step") else None
        if where != "after_step" or calls[0] == 2: raise stop
        return done
    with monkeypatch.context() as m:
        m.setattr(StoredCASM, where, stopped)
        with pytest.raises(stop): lm.learn([NEW, Fact("Karn", "depth", "9", "2022")])
    assert bits(lm) == before and files(lm.folder) == there and explained(lm) == said
    for x in (lm, twin): x.learn([NEW, Fact("Karn", "depth", "9", "2022")])
    assert [v for v in bits(lm) if not isinstance(v, list) or not v or not isinstance(v[0], tuple)] == [v for v in bits(twin) if not isinstance(v, list) or not v or not isinstance(v[0], tuple)]
    assert explained(lm) == explained(twin) == explained(TemporalLM.load(lm.folder))

def test_interrupted_right_after_the_commit(lm, monkeypatch):
    "The commit stands, and the object finds it"
    def late(*_): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr("casm.store.clean_bank", late)
        with pytest.raises(KeyboardInterrupt): lm.learn(NEW)
    assert [e[1] for e in explained(lm)] == [None, 0, 0, 1, 1] and explained(TemporalLM.load(lm.folder)) == explained(lm)
    assert lm.learn(Fact("Karn", "depth", "9", "2022"))[0].slot == 2

def without_training(method, period, items, config, accelerator):
    "`train_period` that a forked child can run: the slots are filled, no step is taken"
    method.begin_period(period, items)
    if method.bank.param is not None:
        with torch.no_grad(): method.bank.param[1:] = .5
    method.end_period()

class Counted:
    "A connection that counts its writing statements with the system calls"
    def __init__(self, db, tick): self.db, self.tick = db, tick
    def __getattr__(self, name): return getattr(self.db, name)
    def execute(self, sql, *a): return (self.db.execute if sql.startswith(("SELECT", "PRAGMA")) else self.tick(self.db.execute, sqlite3.OperationalError))(sql, *a)
    def executemany(self, *a): return self.tick(self.db.executemany, sqlite3.OperationalError)(*a)

def at(n, act):
    "`act(error)` instead of the n-th operation. Returns the counter and what wraps an operation."
    count = [0]
    def tick(real, error):
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == n: act(error)
            return real(*args, **kwargs)
        return call
    return count, tick

def test_killed_at_every_write(lm, stub, tmp_path, monkeypatch):
    "`load` shows the commit or nothing of it, and learning goes on"
    monkeypatch.setattr(temporal_lm, "train_period", without_training)
    torch.set_num_threads(1)
    run, outcomes = tmp_path / "run", []
    for n in range(1, 1000):
        shutil.rmtree(run, ignore_errors=True)
        lm.save(run)
        pid = os.fork()
        if pid == 0:
            try:
                mine = TemporalLM.load(run)
                mine.method
                tick = at(n, lambda error: os._exit(9))[1]
                for name in CALLS: setattr(os, name, tick(getattr(os, name), OSError))
                mine.registry._db = Counted(mine.registry._db, tick)
                mine.learn([NEW, "The mill burned down."], period="2022")
                os._exit(0)
            except BaseException: os._exit(2)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, 9)
        there = TemporalLM.load(run)
        outcomes.append(there.registry.last_commit)
        held = there.registry.get(*NEW.key)
        assert (held.value, there.method.bank.num_slots) == (("Grey Heron", 3) if outcomes[-1] == 2 else ("Marigold", 1))
        assert parts_of(run / "slots", there.registry.bank, whole=True) and there.learn(Fact("Karn", "depth", "9", "2022"))[0].slot == there.method.bank.num_slots - 1
        if code == 0: break
    assert n > 10 and set(outcomes) == {1, 2} and outcomes == sorted(outcomes)

@pytest.mark.parametrize("kind", ["fails", "interrupted"])
def test_every_write_fails_once(kind, lm, tmp_path, monkeypatch):
    "The same object answers as before, and learns at the next attempt; where the commit was made all the same, it shows that"
    monkeypatch.setattr(temporal_lm, "train_period", without_training)
    def fail(error):
        if kind == "interrupted": raise KeyboardInterrupt
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if error is OSError else error("disk I/O error")
    lm.method
    for n in range(1, 1000):
        mine = TemporalLM.load(lm.save(tmp_path / f"run{n}"))
        lm.method.folder, mine.__dict__["method"] = mine.folder, mine.opened(lm.method)      # the model is loaded once
        before, failed = bits(mine), False
        with monkeypatch.context() as m:
            count, tick = at(n, fail)
            for name in CALLS: m.setattr(os, name, tick(getattr(os, name), OSError))
            whole, mine.registry._db = mine.registry._db, Counted(mine.registry._db, tick)
            try: mine.learn([NEW, "The mill burned down."], period="2022")
            except (CasmError, sqlite3.OperationalError, KeyboardInterrupt): failed = True
            mine.registry._db = whole
        if count[0] < n: break
        made = mine.registry.last_commit == 2
        if not made: assert failed and bits(mine) == before
        assert [e[2] for e in explained(mine)] == [None, "Marigold", "Marigold", *["Grey Heron" if made else "Marigold"] * 2]
        if not made: mine.learn([NEW, "The mill burned down."], period="2022")
        assert mine.method.bank.num_slots == 3 and bits(TemporalLM.load(mine.folder)) == bits(mine)
    assert n > 10

@pytest.mark.parametrize("door", ["create", "save"])
def test_new_folders_appear_whole_or_not_at_all(door, lm, stub, tmp_path, monkeypatch):
    for n in range(1, 1000):
        with monkeypatch.context() as m:
            def full(error): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            count, tick = at(n, full)
            for name in CALLS: m.setattr(os, name, tick(getattr(os, name), OSError))
            failed = False
            try: TemporalLM.create(tmp_path / "new", stub) if door == "create" else lm.save(tmp_path / "new")
            except CasmError as e: failed = "No space left" in str(e)
        if count[0] < n: break
        assert failed
        if (tmp_path / "new").exists(): TemporalLM.load(tmp_path / "new").close(); shutil.rmtree(tmp_path / "new")        # only its name was not yet durable
        assert sorted(p.name for p in tmp_path.iterdir()) == ["memory"]
    assert n > 3 and TemporalLM.load(tmp_path / "new").registry.last_commit == (door == "save")


def test_two_objects_on_one_folder_take_turns(lm):
    other = TemporalLM.load(lm.folder)
    other.ask(ASKED)
    assert lm.learn(NEW)[0].slot == 1
    assert explained(other) == explained(lm)
    assert other.learn(Fact("Karn", "depth", "9", "2022"))[0].slot == 2 and lm.learn(Fact("Karn", "depth", "8", "2023"))[0].parent_slot == 2
    other.undo()
    assert [x.ask("The depth of Karn is", explain=True).slot for x in (lm, other)] == [2, 2] and bits(lm) == bits(other)

def test_undo_gives_every_answer_back(lm):
    lm.learn(["The mill at Brenna burned down.", NEW], period="2020")
    asked = [ASKED, "When did the mill at Brenna burn down?", "The depth of Karn is"]
    before = [lm.ask(asked, t, explain=True) for t in ("2019", "2021", None)]
    still = lambda: [[e[:2] + e[3:] for e in x] for x in (lm.ask(asked, t, explain=True) for t in ("2019", "2021", None))]  # noqa: E731, uses are counted
    flat = {k: v.clone() for k, v in to_flat(lm.method.bank, 0, 3).items()}
    for records, how in (([replace(NEW, value="Swift", valid_from="2020")], {}), ([replace(NEW, value="Swift")], {"correct": True}), (["The mill at Brenna burned down twice.", Fact("Karn", "depth", "9", "2018")], {"period": "2019"})):
        lm.learn(records, **how)
        changed = still()
        n = lm.undo()
        assert still() == [[e[:2] + e[3:] for e in x] for x in before] != changed
        assert lm.redo() == n + 1 and still() == changed
        lm.undo()
    assert all(torch.equal(v, to_flat(lm.method.bank, 0, 3)[k]) for k, v in flat.items())
    last = lm.registry.last_commit
    lm.undo(1), lm.undo()
    assert [e[1] for e in explained(lm)] == [None] * 5 and lm.registry.last_commit == last + 2

def test_training_leaves_the_callers_random_numbers_alone(lm):
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    lm.learn(NEW)
    assert torch.equal(torch.rand(2), want)

def test_export_is_the_seeds_file(lm, tmp_path):
    lm.learn(NEW)
    assert lm.export(tmp_path / "ledger.json") == 2
    assert [s["value"] for s in json.loads((tmp_path / "ledger.json").read_text())["slots"]] == ["Grey Heron", "Marigold"]
    with pytest.raises(CasmError, match="cannot be written"): lm.export(tmp_path / "none" / "ledger.json")
    assert [(c.before.value, c.after.value) for c in lm.diff("2018", "2022")] == [("Marigold", "Grey Heron")]


def test_two_facts_are_read_through_a_slot_each_and_both_explained(lm):
    lm.learn(Fact("Torvik Harbour", "keeper", "Juri Vance", "2019"))
    asked = "What are the pilot boat and the keeper of Torvik Harbour?"
    both = lm.ask(asked, as_of="2020", explain=True)
    alone = [a.text for a in lm.method.answer_through([asked] * 2, ["2020"] * 2, [0, 1])]
    assert (both.fact.value, both.also.value, both.recorded, both.answer) == ("Marigold", "Juri Vance", "Marigold and Juri Vance", " and ".join(alone))
    early = lm.ask("What are the keeper and the pilot boat of Torvik Harbour?", as_of="2018", explain=True)                # one of the two is not known yet
    assert (early.slot, early.fact.value, early.also) == (0, "Marigold", None)


def test_its_own_files_are_no_place_for_an_export(lm):
    before = (lm.folder / "registry.sqlite").read_bytes()
    with pytest.raises(CasmError, match="give another place"): lm.export(lm.folder / "registry.sqlite")
    assert (lm.folder / "registry.sqlite").read_bytes() == before


def test_a_question_longer_than_the_model_reads_is_refused(lm):
    with pytest.raises(CasmError, match="shorten it"): lm.ask("word " * 3000)


@pytest.mark.parametrize("name, value", [("train", {"foo": 1}), ("train", 5), ("model", 5), ("memory", 5), ("method", {"rows": -3}), ("method", "q"), ("backbone", None)])
def test_settings_that_no_casm_wrote(lm, name, value):
    path = lm.folder / "temporal_lm.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(CasmError, match="restore it"): TemporalLM.load(lm.folder)
