"The world that the tiny model is pretrained on shares no entity and no value with any benchmark; the relation words they share are listed here."
import os
from pathlib import Path

import pytest

from casm.benchmark import DOMAINS, PRESETS, QUALIFIERS, generate, generate_preset, is_background, read_facts, relations, stream
from casm.facts import canonical, normalize_answer
from casm.pretraining import NOUNS, background_world
from casm.pretraining import QUALIFIERS as WORLD_QUALIFIERS

PUBLIC = Path(__file__).parents[2].parent / "shared" / "data" / "synthetic_facts_raw.json"
WORLD_SEEDS = (0, 1, 2)

# ordinary English that both worlds may use: knowing these words is not knowing any fact
SHARED_WITH_GENERATOR = """acting capacity chief code colour daily depth filter grade keeper length northern public quota rank rating route signal source
    southern speed status supplier""".split()
SHARED_WITH_PUBLIC = """annual average bearing capacity chief coating code crop current density depth design designated director engineer external filter
    frequency fuel height keeper lead length level location material maximum method minimum name official pattern period permit position pressure
    primary principal product protocol public range rating region schedule seasonal senior sensor signal source speed standard status system
    temperature title type vessel""".split()


@pytest.fixture(scope="module")
def world(): return [f for seed in WORLD_SEEDS for f in background_world(seed=seed)]

def entities(benchmark): return {canonical(r.entity) for r in benchmark.records} | {normalize_answer(r.entity) for r in benchmark.records}
def values(benchmark): return {normalize_answer(v) for r in benchmark.records for v in r.values.values()}

def check_disjoint(world, benchmark):
    assert not {n(f.subject) for f in world for n in (canonical, normalize_answer)} & entities(benchmark)
    assert not {normalize_answer(f.value) for f in world} & values(benchmark)


@pytest.mark.parametrize("seed", range(5))
def test_generated_facts_are_news_to_the_tiny_model(world, seed): check_disjoint(world, generate(seed=seed))

@pytest.mark.parametrize("name", [n for n in PRESETS if n != "large"])
def test_presets_are_news_to_the_tiny_model(world, name):
    "Their records, the facts beside them, and the other names of their subjects"
    for seed in range(3):
        made = generate_preset(name, 400, seed)
        check_disjoint(world, made.benchmark)
        texts = {canonical(x) for f in world for x in (f.subject, f.value)} | {normalize_answer(x) for f in world for x in (f.subject, f.value)}
        assert not texts & {x for f in made.several for x in (canonical(f.subject), normalize_answer(f.value))}
        assert not texts & {canonical(alias) for _, alias, _ in made.aliases}

def test_a_hundred_thousand_facts_are_news_to_the_tiny_model(world):
    "One after the other: no name and no value holds a word that the world's names are made of"
    subjects = {n(f.subject) for f in world for n in (canonical, normalize_answer)}
    known = {normalize_answer(f.value) for f in world}
    for r in stream():
        assert canonical(r.entity) not in subjects and not known & {normalize_answer(v) for v in set(r.values.values())}

def test_public_facts_are_news_to_the_tiny_model(world):
    if not PUBLIC.exists() and not os.environ.get("CI"): pytest.skip("the public facts are not on this machine")
    check_disjoint(world, read_facts(PUBLIC))

def test_it_would_be_noticed(world):
    "The check has teeth: a benchmark that takes over one entity or one value of the world, in other spelling, fails"
    benchmark, fact = generate(3), world[0]
    record = benchmark.records[0]
    for old, new in ((record.entity, fact.subject), (record.values["2018"], fact.value)):
        stolen = type(record)(record.entity.replace(old, new.upper()), record.relation, {p: v.replace(old, f"The {new}") for p, v in record.values.items()})
        with pytest.raises(AssertionError): check_disjoint(world, type(benchmark)(benchmark.periods, (stolen,)))

def test_names_of_the_world_say_so(world):
    "Every entity and every value of the world holds a word that the generator never makes"
    for f in world:
        for text in (f.subject, f.value): assert any(is_background(w) for w in text.replace("-", " ").split()), text

def test_shared_relation_words_are_listed():
    ours = set(WORLD_QUALIFIERS) | set(NOUNS)
    generated = {w for d in DOMAINS for r in relations(d) for w in r.name.split()} | {w for q in QUALIFIERS for w in q.split()}
    assert sorted(ours & generated) == SHARED_WITH_GENERATOR
    if PUBLIC.exists():
        public = {w for r in read_facts(PUBLIC).records for w in canonical(r.relation).split()}
        assert sorted(ours & public) == SHARED_WITH_PUBLIC
