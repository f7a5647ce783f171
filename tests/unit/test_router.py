"Routing on the public facts and on invented ones: right slot, honest abstention, one decision per question whatever stands beside it."
import json, os, random
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from casm.facts import BACKGROUND_FORMS, PROBE_FORM, UNSEEN_FORM, CasmError, Fact, canonical, question
from casm.registry import Registry
from casm.router import LexicalRouter, read_words, time_scope

PERIODS = ("2018", "2020", "2022", "2024")
FORMS = BACKGROUND_FORMS + (UNSEEN_FORM,)
PUBLIC = Path(__file__).parents[2].parent / "shared" / "data" / "synthetic_facts_raw.json"

def public_facts():
    if PUBLIC.is_file(): return json.loads(PUBLIC.read_text())
    if os.environ.get("CI") == "true": pytest.fail(f"{PUBLIC} is missing; CI must have the public facts")
    pytest.skip(f"needs the public facts at {PUBLIC}")

def invented(records, seed):
    "The same facts with every word replaced by another invented one, lower case, so that capitals give nothing away."
    rng, words = random.Random(seed), {}
    def word(w): return words.setdefault(w.casefold(), "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4))))
    return [dict(r, entity=" ".join(map(word, read_words(r["entity"]).words)), relation=" ".join(map(word, read_words(r["relation"]).words))) for r in records]

def ledger(records):
    "Period 1 in the base model, then a slot per change."
    registry, slots = Registry(), 0
    for p in PERIODS:
        facts = [Fact(r["entity"], r["relation"], r[f"value_{p}"], p) for r in records]
        given_slots = []
        for o in registry.plan(facts):
            opens = p != PERIODS[0] and o.kind != "same"
            given_slots.append(slots if opens else None)
            slots += opens
        registry.assert_facts(facts, given_slots)
    return registry

def rates(registry, probes):
    "(hit rate, abstention) over (question, as_of, gold slot)."
    routes = LexicalRouter(registry).route([p[0] for p in probes], [p[1] for p in probes])
    hit = [r.slot == s for r, (_, _, s) in zip(routes, probes) if s is not None]
    none = [r.slot is None for r, (_, _, s) in zip(routes, probes) if s is None]
    return sum(hit)/len(hit), sum(none)/len(none), len(hit), len(none)

@pytest.mark.parametrize("words", ["public", "invented"])
@pytest.mark.parametrize("form", [PROBE_FORM, UNSEEN_FORM])
def test_public_facts_reach_their_slot(form, words):
    records = public_facts() if words == "public" else invented(public_facts(), 1)
    registry = ledger(records)
    probes = [(question(form, r["entity"], r["relation"]), p, registry.get(r["entity"], r["relation"], p).slot) for r in records for p in PERIODS]
    hit, none, n, m = rates(registry, probes)
    assert n > 600 and m > 600 and hit >= .99 and none >= .99, (hit, none)

@pytest.mark.parametrize("words", ["public", "invented"])
def test_facts_the_registry_does_not_hold_are_abstained_from(words):
    records = public_facts() if words == "public" else invented(public_facts(), 2)
    held = {(canonical(r["entity"]), canonical(r["relation"])) for r in records[::2]}
    router = LexicalRouter(ledger(records[::2]))
    rng = random.Random(0)
    def absent(): return [(a["entity"], b["relation"]) for a, b in zip(records, rng.sample(records, len(records)))]
    pairs = [(r["entity"], r["relation"]) for r in records[1::2]] + absent() + absent()
    pairs = [(s, r) for s, r in pairs if (canonical(s), canonical(r)) not in held]
    wrong = [q for f in (PROBE_FORM, UNSEEN_FORM) for q in (question(f, *p) for p in pairs) if router.route([q], ["2024"])[0].key is not None]
    assert len(pairs) > 1000 and len(wrong) <= .01 * 2 * len(pairs), wrong[:5]

def test_the_date_in_the_words_routes_like_the_date_beside_them():
    records = public_facts()[::5]
    registry = ledger(records)
    router = LexicalRouter(registry)
    for form in FORMS:
        for r in records:
            for p in ("2018", "2019", "2022", "2023-07-01", "2030"):
                route = router.route([question(form, r["entity"], r["relation"], p)])[0]
                assert (route.key, route.as_of) == ((canonical(r["entity"]), canonical(r["relation"])), p), (form, route)
                assert route.slot == registry.get(*route.key, p).slot

def small():
    registry = Registry()
    registry.assert_facts([Fact(s, r, "x", "2018") for s, r in (("Misty Fjord Logistics", "dock capacity"), ("Misty Fjord Logistic", "dock capacity"),
        ("Misty Fjord", "harbour depth"), ("Misty Fjord Logistics", "berth depth"), ("Misty Fjord Logistics", "primary berth depth"),
        ("The Gale", "chief engineer"), ("Expo 2010", "theme"), ("O'Brien & Sons", "head_office"), ("Ångström Kai", "tide"), ("C++ Board", "chair"), ("C Board", "chair"))],
        slots=list(range(11)))
    return registry

@pytest.mark.parametrize("asked,slot", [
    ("The dock capacity of Misty Fjord Logistics is", 0), ("The dock capacity of Misty Fjord Logistic is", 1), ("the dock capacity of misty fjord logistics", 0),
    ("The dock capacity of Misty Fjord is", None), ("The harbour depth of Misty Fjord is", 2), ("The harbour depth of Misty Fjord Logistics is", None),
    ("The berth depth of Misty Fjord Logistics is", 3), ("The primary berth depth of Misty Fjord Logistics is", 4), ("The depth of Misty Fjord Logistics is", None),
    ("The capacity of Misty Fjord Logistics is", None), ("Dock capacity: Misty Fjord Logistics!", 0), ("MISTY FJORD LOGISTICS' DOCK CAPACITY?", 0),
    ("The dock capacity of Misty Fjord Logistics Ltd is", None), ("The dock capacity of New Misty Fjord Logistics is", None),
    ("The dock capacity of Misty Fjord Logistics 2 is", None), ("The chief engineer of Gale is", 5), ("The chief engineer of the Gale is", 5),
    ("The deputy chief engineer of the Gale is", None), ("The chief engineer officer of the Gale is", None), ("The engineer of the Gale is", None),
    ("The chief engineer of the Gale Force is", None), ("The chief engineer of Gale and Partners is", None), ("Who was chief engineer of the Gale in 2019?", 5),
    ("The theme of Expo 2010 is", None), ("The head office of O’Brien & Sons is", 7), ("The head-office of O'Brien & Sons is", 7), ("The head office of O'Brien is", None),
    ("The TIDE of A\u030angstro\u0308m kai is", 8), ("The chair of C Board is", 10), ("The chair of C++ Board is", 9), ("The chair of D Board is", None),
    ("What is it?", None), ("", None), ("Misty Fjord Logistics", None), ("dock capacity", None)])
def test_names_and_neighbours(asked, slot):
    route = LexicalRouter(small()).route([asked])[0]
    assert route.slot == slot, route

def test_a_year_in_a_name_yields_to_an_explicit_date():
    route = LexicalRouter(small()).route(["The theme of Expo 2010 is"], ["2020"])[0]
    assert (route.slot, route.as_of) == (6, "2020")

def test_every_reason_is_a_sentence():
    registry = small()
    registry.assert_facts([Fact("Gale Rock", "light", "red", "2018", "2019")])
    router = LexicalRouter(registry)
    for q, t, part in (("The light of Gale Rock is", "2018", "the base model itself holds the light of Gale Rock from 2018 until 2019"),
                       ("The light of Gale Rock is", "2019", "nothing in force"), ("The head office of O'Brien & Sons is", None, "Slot 7 holds the head office of O'Brien & Sons from 2018 on"),
                       ("The light of Dunmore is", None, "names no subject of the registry"), ("The depth of Misty Fjord Logistics is", None, "the nearest is")):
        reason = router.route([q], [t])[0].reason
        assert part in reason and reason.endswith(".")

@settings(max_examples=50, deadline=None)
@given(st.permutations(["The dock capacity of Misty Fjord Logistics is", "The chief engineer of Gale is", "Nothing?", "The theme of Expo 2010 is", "The tide of Ångström Kai"]),
       st.lists(st.sampled_from([None, "2017", "2018", "2020-06"]), min_size=5, max_size=5))
def test_one_decision_whatever_the_batch(questions, dates):
    router, again = LexicalRouter(small()), LexicalRouter(small())
    assert router.route(questions, dates) == [again.route([q], [t])[0] for q, t in zip(questions, dates)]

def test_old_routes_survive_ten_thousand_later_versions():
    registry = small()
    router = LexicalRouter(registry)
    asked = [question(f, s, r, "2019") for f in FORMS for _, s, r in registry.keys()]
    before = router.route(asked, ["2019"] * len(asked))
    rng = random.Random(0)
    words = ["Misty", "Fjord", "Gale", "Harbour", "Kai", "Board", "Sons", "Azure", "Silver"]
    new = {(" ".join(rng.choices(words, k=3)) + f" {i}", rng.choice(["dock capacity", "berth depth", "chief engineer", f"depth {i % 50}"])) for i in range(10_000)}
    registry.assert_facts([Fact(s, r, "v", "2020") for s, r in sorted(new)], slots=list(range(100, 100 + len(new))))
    registry.assert_facts([Fact(s, r, "w", "2021") for _, s, r in registry.keys()[:11]], slots=list(range(20_000, 20_011)))
    after = router.route(asked, ["2019"] * len(asked))
    same = sum((a.slot, a.key) == (b.slot, b.key) for a, b in zip(before, after))
    assert same >= .999 * len(asked)
    assert after == LexicalRouter(registry).route(asked, ["2019"] * len(asked))  # grown index = fresh index

def test_bad_dates_and_lengths_are_refused():
    router = LexicalRouter(small())
    for t in ("soon", "2018-13", ""):
        with pytest.raises(CasmError): router.route(["x", "y"], [None, t])
    with pytest.raises(CasmError, match="1 entries for 2"): router.route(["x", "y"], ["2018"])
    assert time_scope("in 2018-13", None, "2024") == "2024"
