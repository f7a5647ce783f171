"What is built from facts, against golden files: our own always, the public ones where they are. Presets, streaming, validation."
import hashlib, json, os, tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from casm import benchmark
from casm.benchmark import CODES, PRESETS, Benchmark, SeedRecord, augmentation_prompts, check_quotas, check_stated, generate, generate_chains, generate_preset, golden_passages
from casm.benchmark import golden_probes, mix, nth_word, prompt_files, read_facts, redistribute, several_values, stream, times_stated, validate, write_facts, write_records, written
from casm.facts import CasmError, Fact, answers_match
from casm.registry import Registry

GOLDEN = Path(__file__).parents[1] / "golden" / "data"


@pytest.fixture(scope="module")
def ours(): return read_facts(GOLDEN / "facts.json")

@pytest.fixture(scope="module")
def public(shared): return read_facts(shared / "synthetic_facts_raw.json")


# --- golden files

def test_our_golden_files(ours, tmp_path):
    "Umlauts, quotes, a value inside the subject's name, a date as value, underscores, a missing flag"
    assert json.dumps(golden_passages(ours), indent=2) == (GOLDEN / "passages.json").read_text()
    assert json.dumps(golden_probes(ours), indent=2) == (GOLDEN / "probes.json").read_text()
    assert next(x for n, x in prompt_files(augmentation_prompts(ours)) if n.startswith("2020")) == (GOLDEN / "prompts_2020.txt").read_text().splitlines()
    for name, b in (("facts", ours), ("redistributed", redistribute(ours))):
        write_facts(b, tmp_path / "f.json")
        assert (tmp_path / "f.json").read_bytes() == (GOLDEN / f"{name}.json").read_bytes()
    assert [r.entity for r in ours.flag_mismatches] == ['The "Old" Mill']
    check_stated(ours, golden_passages(ours))

def test_the_public_file_is_what_seed_42_makes_of_it(public):
    assert redistribute(public) == public != redistribute(public, 41)
    check_stated(public, golden_passages(public))
    assert [(f.place, f.code) for f in validate(public.records)] == [(211, "FALSE_CONTRADICTION"), (451, "FALSE_CONTRADICTION")]
    assert mix(public.records) == {"records": 605, "unchanged": 156, "changes": {"2018→2020": 150, "2020→2022": 149, "2022→2024": 150}} and not check_quotas(mix(public.records))

def test_the_original_word_for_letters_would_lose_them(public):
    "Real names are whole words: the public file has no 'un' anywhere because the original looked for letters"
    r = public.records[0]
    assert not list(validate([replace(r, entity="Town Council Tunnel", relation="municipal fund")]))
    assert [f.code for f in validate([replace(r, relation="un delegate")])] == ["REAL_NAME"]

def test_presets_never_drift():
    "A silent change of a preset would make old numbers incomparable: change these hashes on purpose only"
    def print_of(m): return hashlib.sha256(json.dumps([[(r.entity, r.relation, r.values) for r in m.benchmark.records], m.aliases,
                                                       [(f.subject, f.relation, f.value, f.valid_from) for f in m.several]]).encode()).hexdigest()[:16]
    assert {name: print_of(generate_preset(name, 40)) for name in PRESETS} == {
        "plain": "27ee37e14160986b", "chains": "fcc2d94be3377e9d", "reversions": "74686647d0d5cbda", "late": "5ec444a9fa22c2d3",
        "several": "2cd279139deadac8", "aliases": "3b883e87a8e36ee5", "twins": "02a646ab4ff0d085", "large": "862d89088ddb88d3"}
    assert generate_preset("plain", 605).benchmark == generate() and generate_preset("late", 60).benchmark == generate_chains(60)


# --- presets

def versions(r): return 1 + sum(not answers_match(a, b) for a, b in zip(list(r.values.values()), list(r.values.values())[1:]))

@pytest.mark.parametrize("seed", range(3))
def test_each_preset_is_hard_in_its_own_way(seed):
    of = {name: generate_preset(name, 120, seed) for name in PRESETS}
    back = lambda m: sum(versions(r) > len(set(r.values.values())) for r in m.benchmark.records)  # noqa: E731
    assert max(map(versions, of["chains"].benchmark.records)) == 6 and back(of["chains"]) == 0 and back(of["reversions"]) > 15
    assert of["late"].stream == "late" and any(f.valid_from != p for p in of["late"].benchmark.periods for f in of["late"].facts(p))
    assert {s for _, _, s in of["aliases"].aliases} == {r.entity for r in of["aliases"].benchmark.records}
    assert max(map(versions, of["plain"].benchmark.records)) == max(map(versions, of["large"].benchmark.records)) == 2
    kinds = {name: {} for name in ("reversions", "late")}
    for name, seen in kinds.items():
        with Registry(":memory:") as r: seen |= r.load(f for p in of[name].benchmark.periods for f in of[name].facts(p)).counts
    assert kinds["reversions"]["reversion"] > 15 and kinds["late"]["late"] > 0

@pytest.mark.parametrize("seed", range(3))
def test_several_values_coexist_for_a_registry_that_is_told(seed):
    m = generate_preset("several", 120, seed)
    assert m.several and not {f.key for f in m.several} & {r.key for r in m.benchmark.records}
    assert not {f.relation for f in m.several} & {r.relation for r in m.benchmark.records}
    with Registry(":memory:", multi=m.multi) as registry:
        kinds = [o.kind for p in m.benchmark.periods for f, o in zip(m.facts(p), registry.assert_facts(m.facts(p))) if f in m.several]
        assert set(kinds) == {"new", "coexists"}
        for f in m.several[-20:]:
            for t in m.benchmark.periods:
                assert m.right_answers(f.subject, f.relation, t) == tuple(r.value for r in registry.get_all(f.subject, f.relation, t))
        last = m.benchmark.periods[-1]
        assert all(len(m.right_answers(f.subject, f.relation, last)) > 1 for f in m.several if f.valid_from != m.benchmark.periods[0])

def test_sizes_of_several(): assert [len(several_values(n)) for n in (0, 1, 3, 200)] == [0, 1, 3, 200]


# --- streaming

def test_a_stream_is_flat_in_memory(tmp_path):
    "Writing twenty times as many records takes no more memory"
    def peak(n):
        tracemalloc.start()
        write_records(stream(n), tmp_path / "f.json")
        now = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return now
    peak(100)
    assert peak(40_000) < peak(2000) + 1_000_000                          # 38,000 records themselves are 25 MB

def test_a_stream_is_a_benchmark(tmp_path):
    records = tuple(stream(20_000, seed=3))
    b = Benchmark(("2018", "2020", "2022", "2024"), records)                # every pair once
    assert not check_quotas(mix(records), slack=.001) and not list(validate(records))
    write_facts(b, tmp_path / "f.json")
    assert read_facts(tmp_path / "f.json") == b
    assert tuple(stream(500, seed=3)) == records[:500]

@given(st.lists(st.integers(0, benchmark.N_WORDS - 1), unique=True, max_size=40))
def test_different_numbers_are_different_words(ns): assert len({nth_word(n) for n in ns}) == len(ns)

def test_a_write_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield from stream(50)
        raise CasmError("no more")
    (tmp_path / "f.json").write_text("before")
    with pytest.raises(CasmError, match="no more"): write_records(broken(), tmp_path / "f.json")
    with pytest.raises(KeyboardInterrupt), written(tmp_path / "g.json") as f:
        f.write("half")
        raise KeyboardInterrupt
    assert (tmp_path / "f.json").read_text() == "before" and os.listdir(tmp_path) == ["f.json"]


# --- builders

@given(st.integers(1, 80), st.integers(0, 10**6), st.integers(2, 5), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_redistribute_moves_changes_and_nothing_else(n, seed, n_periods, again):
    b = generate(n, seed, tuple(str(2000 + i) for i in range(n_periods)))
    moved = redistribute(b, again)
    counts = [len(moved.facts(p)) for p in moved.periods[1:]]
    assert max(counts) - min(counts) <= 1 and sum(counts) == sum(len(b.facts(p)) for p in b.periods[1:])
    assert [(r.key, {*r.values.values()}, list(r.values.values())[0], r.changed) for r in b.records] == [(r.key, {*r.values.values()}, list(r.values.values())[0], r.changed) for r in moved.records]
    assert redistribute(moved, again) == moved and not moved.flag_mismatches

def test_a_value_that_comes_back_holds_from_its_return():
    b = Benchmark(("2018", "2020", "2022", "2024"), (SeedRecord("Inn", "door", {"2018": "red", "2020": "blue", "2022": "red", "2024": "red"}),))
    assert [p["valid_from"] for split in golden_probes(b).values() for ps in split.values() for p in ps] == ["2018", "2020", "2022", "2022"]

def test_a_chain_is_not_cut_short():
    chains = generate_chains(30)
    with pytest.raises(CasmError, match="changes more than once"): redistribute(chains)

FACT = Fact("Wreisk Quay", "berth depth", "8 m", "2018")
@pytest.mark.parametrize("text, n", [
    ("In 2018, the berth depth of Wreisk Quay is 8 m.", 1), ("in 2018 WREISK  QUAY had a berth of 8 M", 1), ("The berth depth of Wreisk Quay is 18 m.", 0), ("The berth depth of Wreisk Quay is 8 miles.", 0),
    ("Wreisk Quay: 8 m. Yes, 8 m.", 2), ("The berth depth of Blauen Quay is 8 m.", 0), ("The berth depth of Wreisk Quays is 8 m.", 0), ("", 0), ("8 m", 0)])
def test_times_stated(text, n): assert times_stated(text, FACT) == n

@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_every_built_passage_states_its_fact(seed):
    for b in (generate(30, seed), generate_chains(20, seed)): check_stated(b, golden_passages(b))

def test_a_changed_passage_is_noticed(ours):
    for change in (lambda t: t.replace(".", f" {t}"), lambda t: "It rains.", lambda t: t.replace("Wreisk", "Blauen")):
        passages = golden_passages(ours)
        passages["2022"][0] = change(passages["2022"][0])
        with pytest.raises(CasmError, match=r"record 1 \('Wreisk Quay', 'berth depth'\): its passage of 2022"): check_stated(ours, passages)


# --- validation

GOOD = SeedRecord("Inn", "door", {"2018": "red", "2020": "blue"}, True)
@pytest.mark.parametrize("code, records", [
    ("FALSE_STABLE", [replace(GOOD, changed=False)]), ("FALSE_CONTRADICTION", [replace(GOOD, values={"2018": "red", "2020": "Red."})]), ("VAGUE_VALUE", [replace(GOOD, values={"2018": "a b c d e", "2020": "b"})]),
    ("DUPLICATE_PAIR", [GOOD, replace(GOOD, entity=" INN", relation="Door")]), ("REAL_NAME", [replace(GOOD, entity="Hotel Rome")]), ("REAL_NAME", [replace(GOOD, values={"2018": "red", "2020": "NATO-blue"})])])
def test_each_code(code, records):
    assert code in CODES and [(f.place, f.code) for f in validate(records)] == [(len(records), code)]
    assert not list(validate([GOOD, replace(GOOD, entity="Romeo Inn", relation="unit of applesauce", changed=None)]))

def test_findings_come_as_records_come():
    found = validate(r for r in iter([replace(GOOD, changed=False), None]))
    assert next(found).code == "FALSE_STABLE"                              # before the second is looked at

def test_quotas():
    assert not check_quotas(mix(generate(200, unchanged=.25).records))
    assert [f.code for f in check_quotas(mix(generate(200, unchanged=.6).records))] == ["QUOTA"]
    assert not check_quotas(mix(generate(200, unchanged=.6).records), unchanged=.6, slack=0)
    assert len(check_quotas(mix([replace(GOOD, entity=f"Inn {i}") for i in range(100)]))) == 1       # one boundary: nothing to spread
