"Every way a facts file can be wrong, the public file's golden outputs, and invariants of invented benchmarks."
import hashlib, json, os, re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from casm.benchmark import Benchmark, SeedRecord, current, earlier_values, generate, golden_passages, golden_probes
from casm.benchmark import is_background, later_values, never_changed, read_facts, rename, use_exercise, use_questions, write_facts
from casm.facts import CasmError, PROBE_FORM, UNSEEN_FORM, answers_match, canonical, question

GOOD = {"entity": "Inn", "relation": "door colour", "value_2018": "red", "value_2020": "blue", "changed": True}
def other(**changes): return {**GOOD, "entity": "Bar", **changes}
def without(key): return {k: v for k, v in GOOD.items() if k != key}

BAD = {
    "empty file": ("", "not JSON"),
    "one byte short": (json.dumps([GOOD])[:-1], "not JSON"),
    "not JSON": ("entity,relation", "line 1 column 1"),
    "not a list": (json.dumps(GOOD), "give a list of records"),
    "a number": ("12", "give a list of records"),
    "nested too deeply": ("["*100_000, "nested too deeply"),
    "no facts": ("[]", "no facts"),
    "value of two lines": (json.dumps([{**GOOD, next(k for k in GOOD if k.startswith("value_")): "two\nlines"}]), "on one line"),
    "record is text": ('["Inn"]', "record 1 is 'Inn'"),
    "record is null": ("[null]", "record 1 is None"),
    "no entity": (json.dumps([GOOD, without("entity")]), "record 2: no key 'entity'"),
    "no relation": (json.dumps([without("relation")]), "record 1 ('Inn'): no key 'relation'"),
    "unknown key": (json.dumps([{**GOOD, "source": "x"}]), "record 1 ('Inn'): unknown key 'source'"),
    "no values": (json.dumps([{"entity": "Inn", "relation": "r"}]), "give at least two"),
    "one value": (json.dumps([without("value_2020")]), "give at least two"),
    "column no time": (json.dumps([{**GOOD, "value_soon": "x"}]), "not a time"),
    "column without name": (json.dumps([{**GOOD, "value_": "x"}]), "not a time"),
    "two names of one time": (json.dumps([{**GOOD, "value_2018-01": "x"}]), "time order"),
    "columns differ": (json.dumps([GOOD, other(value_2022="x")]),
                       "record 2 ('Bar', 'door colour'): its periods are 2018, 2020, 2022 and not 2018, 2020"),
    "column missing": (json.dumps([GOOD, {**{k: v for k, v in other().items() if k != "value_2020"}, "value_2022": "x"}]),
                       "record 2 ('Bar', 'door colour')"),
    "duplicate": (json.dumps([GOOD, other(), GOOD]), "record 3 ('Inn', 'door colour'): record 1 has the same"),
    "duplicate in other spelling": (json.dumps([GOOD, {**GOOD, "entity": " INN", "relation": "Door_Colour"}]), "record 2"),
    "duplicate key": ('[{"entity": "Inn", "entity": "Bar"}]', "key 'entity' stands twice"),
    "empty value": (json.dumps([{**GOOD, "value_2020": ""}]), "record 1 ('Inn', 'door colour'): value_2020 is ''"),
    "blank value": (json.dumps([{**GOOD, "value_2020": " \t"}]), "value_2020"),
    "null value": (json.dumps([{**GOOD, "value_2020": None}]), "value_2020 is None"),
    "number value": (json.dumps([{**GOOD, "value_2020": 12}]), "value_2020 is 12"),
    "list value": (json.dumps([{**GOOD, "value_2020": ["x"]*1000}]), "value_2020 is ["),
    "half a character": ('[{"entity": "Inn", "relation": "r", "value_2018": "a", "value_2020": "\\ud800"}]', "value_2020"),
    "empty entity": (json.dumps([{**GOOD, "entity": ""}]), "record 1: entity is ''"),
    "number entity": (json.dumps([{**GOOD, "entity": 3}]), "record 1: entity is 3"),
    "list relation": (json.dumps([{**GOOD, "relation": []}]), "record 1: relation is []"),
    "flag is text": (json.dumps([{**GOOD, "changed": "no"}]), "give true or false"),
}

@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_one_line_naming_file_and_record(name, tmp_path):
    text, says = BAD[name]
    path = tmp_path/"facts.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CasmError) as e: read_facts(path)
    message = str(e.value)
    assert message.startswith(f"{path}: ") and says in message and "\n" not in message and ";" in message and len(message) < 500
    assert os.listdir(tmp_path) == ["facts.json"]

def test_unreadable_paths(tmp_path):
    with pytest.raises(CasmError, match="no such file"): read_facts(tmp_path/"none.json")
    with pytest.raises(CasmError, match="cannot be read"): read_facts(tmp_path)
    (tmp_path/"wide.json").write_bytes(json.dumps([GOOD]).encode("utf-16"))
    with pytest.raises(CasmError, match="UTF-8"): read_facts(tmp_path/"wide.json")

def test_bom_and_crlf_are_read(tmp_path):
    (tmp_path/"f.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([GOOD], indent=1).replace("\n", "\r\n").encode())
    assert read_facts(tmp_path/"f.json").records[0].values == {"2018": "red", "2020": "blue"}

def test_columns_are_ordered_by_time_not_by_place(tmp_path):
    row = {"value_2020-06": "c", "entity": "Inn", "value_2018": "a", "relation": "r", "value_2020": "b"}
    (tmp_path/"f.json").write_text(json.dumps([row]))
    assert read_facts(tmp_path/"f.json").periods == ("2018", "2020", "2020-06")

def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    write_facts(generate(5), tmp_path/"f.json")
    before = (tmp_path/"f.json").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError): write_facts(generate(6), tmp_path/"f.json")
    assert (tmp_path/"f.json").read_bytes() == before and os.listdir(tmp_path) == ["f.json"]

# --- the public file

@pytest.fixture(scope="module")
def public(shared): return read_facts(shared/"synthetic_facts_raw.json")

def test_public_golden_files(public, shared, tmp_path):
    assert json.dumps(golden_passages(public), indent=2) == (shared/"passages.json").read_text()
    assert json.dumps(golden_probes(public), indent=2) == (shared/"probes.json").read_text()
    write_facts(public, tmp_path/"f.json")
    assert (tmp_path/"f.json").read_bytes() == (shared/"synthetic_facts_raw.json").read_bytes()

def test_public_counts_and_flags(public):
    assert [len(public.facts(p)) for p in public.periods] == [605, 150, 149, 150]
    assert {(r.entity, r.relation) for r in public.flag_mismatches} == {
        ("Stoneworth City", "Incorporation Year"), ("Whispering Creek Water Registry", "Primary Irrigant Licensee")}

@pytest.mark.parametrize("seed", [1, 2])
def test_renamed_public_file_keeps_its_structure(public, seed):
    assert_same_structure(public, rename(public, seed))

# --- invented benchmarks

def assert_same_structure(a, b):
    "Equal texts stay equal, different ones different, changes stay where they were, and no word survives but articles."
    assert a.periods == b.periods and len(a.records) == len(b.records)
    texts = [[x for r in c.records for x in (r.entity, r.relation, *r.values.values())] for c in (a, b)]
    pairs = set(zip(*texts))
    assert len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs})
    words = [{w.casefold() for x in t for w in re.findall(r"[^\W\d_]+", x)} - {"a", "an", "the"} for t in texts]
    assert not words[0] & words[1] and not any(map(is_background, words[1]))
    assert all(len(x.split()) == len(y.split()) for x, y in pairs)
    for p in a.periods: assert [f.subject for f in a.facts(p)] and len(a.facts(p)) == len(b.facts(p))
    for r, s in zip(a.records, b.records):
        for p in a.periods: assert never_changed(r, p) == never_changed(s, p)

@given(st.integers(1, 120), st.integers(0, 10**6), st.sampled_from([0., .25, .5, 1.]), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_generated_benchmarks(n, seed, unchanged, n_periods):
    periods = tuple(str(2000 + i) for i in range(n_periods))
    b = generate(n, seed, periods, unchanged)
    assert b == generate(n, seed, periods, unchanged) and len(b.records) == n and not b.flag_mismatches
    counts = [len(b.facts(p)) for p in periods]
    assert counts[0] == n and sum(counts[1:]) == n - round(unchanged*n) and max(counts[1:]) - min(counts[1:]) <= 1
    for r in b.records:
        runs = [v for i, v in enumerate(r.values.values()) if i == 0 or v != list(r.values.values())[i-1]]
        assert len(runs) <= 2 and all(1 <= len(v.split()) <= 4 for v in runs)
        words = re.findall(r"[^\W\d_]+", " ".join([r.entity, *r.values.values()]))
        assert words and not any(map(is_background, words))

def test_the_default_benchmark_never_drifts():
    "A silent change of the generator would make old numbers incomparable: change this hash on purpose only."
    text = json.dumps([(r.entity, r.relation, r.values) for r in generate().records])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "d2cf5512ac1e7046"

@pytest.mark.parametrize("seed", range(3))
def test_renamed_generator_facts(seed): assert_same_structure(generate(200, seed), rename(generate(200, seed), seed))

texts = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1, max_size=8).filter(canonical)
@st.composite
def benchmarks(draw):
    keys = draw(st.lists(st.tuples(texts, texts), min_size=1, max_size=4, unique_by=lambda k: (canonical(k[0]), canonical(k[1]))))
    pool = draw(st.lists(texts, min_size=1, max_size=3))
    values = lambda: {p: draw(st.sampled_from(pool)) for p in ("2018", "2020", "2022")}
    return Benchmark(("2018", "2020", "2022"), tuple(SeedRecord(e, r, values(), True) for e, r in keys))

@given(benchmarks())
@settings(max_examples=60, deadline=None)
def test_any_benchmark_survives_writing(tmp_path_factory, b):
    path = tmp_path_factory.mktemp("w")/"f.json"
    write_facts(b, path)
    assert read_facts(path) == b

@given(benchmarks(), st.sampled_from([("2018", "2018"), ("2018", "2020"), ("2018", "2022"), ("2020", "2022"), ("2022", "2022")]))
@settings(max_examples=80, deadline=None)
def test_probe_invariants(b, when):
    as_of, after = when
    probes = b.probes(as_of, after)
    assert probes[:2*len(b.records)] == b.probes(as_of, as_of)[:2*len(b.records)] == b.probes(as_of, as_of)
    for p in probes:
        r = next(r for r in b.records if (r.entity, r.relation) == (p.subject, p.relation))
        assert p.answer == current(r, as_of) and p.as_of == as_of
        assert p.question == question({"probe": PROBE_FORM, "unseen": UNSEEN_FORM}[p.form], r.entity, r.relation)
        assert not any(answers_match(v, p.answer) for v in earlier_values(r, as_of) + later_values(r, as_of))
        if p.kind == "superseded": assert as_of != after and not answers_match(p.answer, current(r, after)) and later_values(r, as_of)
        if p.kind == "unchanged": assert as_of != "2018"
    assert {p.form for p in probes} == {"probe", "unseen"} and [p.form for p in probes[::2]] == ["probe"]*(len(probes)//2)


def held(benchmark, q): return next(r.values for r in benchmark.records if (r.entity, r.relation) == q.gold)

@settings(max_examples=15, deadline=None)
@given(st.integers(2, 60), st.integers(0, 99))
def test_use_questions_are_true_and_held_out(n, seed):
    b = generate(n, seed=seed)
    asked, (first, last) = use_questions(b, seed, per_kind=12), (b.periods[0], b.periods[-1])
    read = [p.text for t in b.periods for p in b.passages(b.facts(t))]
    assert asked == use_questions(b, seed, per_kind=12) and max(Counter(q.kind for q in asked).values(), default=0) <= 12
    for q in asked:
        values = held(b, q)
        moved = not answers_match(values[first], values[last])
        assert not any(t.startswith(q.question) for t in read)
        if q.kind == "changed": assert q.as_of is None and q.answer == ("yes" if moved else "no") and f"between {first} and {last}" in q.question
        else: assert moved and q.as_of in (first, last) and q.as_of in q.question
        if q.kind == "inverse":
            assert q.answer == q.gold[0] and q.gold[0] not in q.question and values[q.as_of] in q.question
            assert sum(canonical(r.relation) == canonical(q.gold[1]) and answers_match(r.values[q.as_of], values[q.as_of]) for r in b.records) == 1
        if q.kind == "yes_no": assert q.question.endswith(f" {values[q.as_of if q.answer == 'yes' else last if q.as_of == first else first]}?")
        if q.kind == "sentence": assert q.answer.startswith(values[q.as_of] + ",") and values[q.as_of] not in q.question.split(" was")[-1]
    for kind in ("yes_no", "changed"): assert abs(sum(1 if q.answer == "yes" else -1 for q in asked if q.kind == kind)) <= 1


@pytest.mark.parametrize("n", [0, -1, 2.0, "3", None])
def test_use_questions_refuse_a_bad_number(n):
    with pytest.raises(CasmError, match="per_kind"): use_questions(generate(8), per_kind=n)


@pytest.mark.parametrize("other, verdict", [("", "yes"), ("12 fathoms", "yes"), ("the 12 Fathoms.", "yes"), ("9 fathoms", "no")])
def test_an_exercise_says_the_truth(other, verdict):
    assert use_exercise("yes_no", "A Quay", "berth_depth", "12 fathoms", "2020", other) == (f"Is the berth depth of A Quay in 2020 {other or '12 fathoms'}?", f" {verdict}.")
    assert use_exercise("changed", "A Quay", "berth depth", "12 fathoms", "2020", other, "2018")[1] == f" {'no' if verdict == 'yes' else 'yes'}."
