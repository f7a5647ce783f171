"Routing on the public facts and on invented ones: right slot, honest abstention, one decision per question whatever stands beside it."
import inspect, json, os, random
from datetime import date, timedelta
from pathlib import Path
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from casm.facts import document, BACKGROUND_FORMS, PROBE_FORM, UNSEEN_FORM, CasmError, Fact, canonical, question
from casm.registry import Registry
from casm.benchmark import add_twins, fit_questions, generate, hard_questions, invent_aliases, read_facts, thesaurus
from casm.router import Bm25Router, CascadeRouter, FingerprintRouter, HiddenRouter, LearnedRouter, LexicalRouter, Postings, Router, TfidfRouter
from casm.router import default_router, judge, one_slip, opened, read_scope, read_words, resolve, route_report, time_scope

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


# --- time in words

class Named(Registry):
    "A registry with aliases, as `Registry.aliases` is to give them."
    given = ()
    def aliases(self, kind, after=0): return [(i, alias, name) for i, (k, alias, name) in enumerate(self.given, 1) if k == kind and i > after]

DAYS = st.dates(date(1990, 1, 1), date(2029, 12, 31)).map(str)

@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(DAYS, st.sampled_from("abc")), min_size=1, max_size=6, unique_by=lambda x: x[0]), DAYS, DAYS, st.sampled_from(["before", "until", "since", "between", "formerly", "in"]))
def test_a_scope_means_what_the_essay_says(versions, x, y, word):
    "Against a naive reading of the same facts, day by day where it matters."
    registry = Registry()
    registry.assert_facts([Fact("S", "r", v, t) for t, v in sorted(versions)])
    now = max(t for t, _ in versions)
    def at(t): return next((v for u, v in sorted(versions, reverse=True) if u <= t), None)
    days = sorted({t for t, _ in versions})
    x, y = min(x, y), max(x, y)
    said = {"between": f"between {x} and {y}", "formerly": "formerly"}.get(word, f"{word} {x}")
    record, _, _ = resolve(registry, ("s", "r"), read_scope(f"What was the r of S {said}?", None, now))
    if word == "in" or (word == "between" and x == y): want = at(x)
    elif word in ("before", "until"): want = at(str(date.fromisoformat(x) - timedelta(1)))
    elif word == "since": want = at(max(x, now))
    elif word == "between":
        held = {at(t) for t in [x, *(t for t in days if x < t < y)]} - {None}
        want = held.pop() if len(held) == 1 else None
    else: want = next((at(t) for t in reversed(days) if at(t) != at(now)), None)
    assert (record and record.value) == want

def test_route_says_the_moment_a_stretch_was_read_at():
    registry = Registry()
    registry.assert_facts([Fact("Gale Rock", "light", v, t) for v, t in (("red", "2018"), ("green", "2020"), ("white", "2024"))], slots=[0, 1, 2])
    router = default_router(registry)
    asked = {"What was the light of Gale Rock before 2020?": (0, "2018-12-31"), "What was formerly the light of Gale Rock?": (1, "2020"), "light of Gale Rock between 2021 and 2023": (1, "2021"),
             "What has been the light of Gale Rock since 2019?": (2, "2024"), "light of Gale Rock between 2018 and 2021": (None, "2020-12-31"), "light of Gale Rock before 2018": (None, "2017-12-31")}
    for q, (slot, t) in asked.items():
        route = router.route([q])[0]
        assert route.slot == slot and (slot == 0 or route.as_of == t), route
    assert "several values" in router.route(["light of Gale Rock between 2018 and 2021"])[0].reason
    assert router.route(["What was formerly the light of Gale Rock?"], ["2018"])[0].slot == 0       # an explicit date wins

def test_time_words_of_a_relation_are_no_time():
    registry = Registry()
    registry.assert_facts([Fact("Dun", "former name", v, t) for v, t in (("Lee", "2018"), ("Loch", "2020"))], slots=[0, 1])
    assert default_router(registry).route(["What is the former name of Dun?"])[0].slot == 1

# --- aliases

def test_aliases_are_followed_and_forgotten():
    registry = Named()
    registry.assert_facts([Fact("Misty Fjord Logistics", "dock capacity", "20", "2018"), Fact("Old Gale", "dock capacity", "9", "2018")], slots=[0, 1])
    routers = [default_router(registry), TfidfRouter(registry, .5)]
    q = ["The dock capacity of Grey Heron is", "The room for ships of Misty Fjord Logistics is", "The room for ships of Grey Heron is"]
    def slots(r): return [x.slot for x in r.route(q)]
    assert [slots(r) for r in routers] == [[None] * 3] * 2
    registry.given = [("subject", "Grey Heron", "misty fjord logistics"), ("relation", "room for ships", "dock_capacity"), ("value", "twenty", "20")]
    registry.assert_facts([Fact("Zork", "dock capacity", "1", "2018")], slots=[2])                   # a commit, as adding aliases is
    assert slots(routers[0]) == [0, 0, 0] and slots(routers[1])[:2] == [0, 0]
    assert routers[0].route(["The room for ships of Zork is"])[0].slot == 2                          # aliases reach later keys too
    assert routers[0].route(["The dock capacity of Grey Heorn is"])[0].slot == 0                     # and are known words
    assert slots(default_router(registry)) == slots(routers[0])
    registry.given = registry.given[1:]
    registry.assert_facts([Fact("Zork", "dock capacity", "3", "2019")], slots=[3])                   # undone: another commit
    assert slots(routers[0]) == [None, 0, None] and slots(routers[1])[0] is None

# --- the harder questions

def versions(benchmark, seed):
    registry, n = Named(), 0
    for p in benchmark.periods:
        facts = benchmark.facts(p)
        registry.assert_facts(facts, list(range(n, n + len(facts))))
        n += len(facts)
    registry.given = invent_aliases(benchmark, seed)
    return registry

def asked_and_wanted(benchmark, registry, seed, n):
    questions = hard_questions(benchmark, seed, n)
    return questions, [tuple(registry.get(s, r, t).slot for s, r, t in q.gold if t is not None) for q in questions]

@pytest.mark.parametrize("public", [True, False])
def test_the_default_router_opens_no_wrong_slot(public):
    public_facts()
    benchmark = add_twins(read_facts(PUBLIC) if public else generate(300, seed=31), 31, 30)
    registry = versions(benchmark, 31)
    questions, wanted = asked_and_wanted(benchmark, registry, 31, 60)
    routes = default_router(registry).route([q.question for q in questions], [q.as_of for q in questions])
    report = route_report(routes, wanted, [q.kind for q in questions], [bool(q.gold) for q in questions])
    for kind, r in report["kinds"].items():
        assert r["wrong"] <= .01 and r["abstention"] in (None, 1.), (kind, r)
        assert r["hit"] is None or r["hit"] >= {"paraphrase": 0., "typo": .6}.get(kind, .98), (kind, r)
    assert report["all"]["auroc"] > .9 and report["all"]["load"]["most"] < 30

def test_public_probes_keep_their_routes():
    public_facts()
    benchmark, registry, slots = read_facts(PUBLIC), Registry(), 0
    for p in benchmark.periods:
        facts = benchmark.facts(p)
        opens = 0 if p == benchmark.periods[0] else len(facts)
        registry.assert_facts(facts, list(range(slots, slots + opens)) or None)
        slots += opens
    router = default_router(registry)
    probes = [p for as_of in benchmark.periods for p in benchmark.probes(as_of, benchmark.periods[-1])]
    gold = [registry.get(p.subject, p.relation, p.as_of).slot for p in probes]
    report = judge(router.route([p.question for p in probes], [p.as_of for p in probes]), [() if s is None else (s,) for s in gold])
    assert (report["hit"], report["abstention"], report["wrong"]) == (1., 1., 0.) and report["n"] > 5000
    dated = judge(router.route([f"[{p.as_of}] {p.question}" for p in probes]), [() if s is None else (s,) for s in gold])
    assert dated == report

def test_no_gold_key_reaches_a_router():
    "Routers see texts and dates: the same questions with other gold give the same routes, and nothing of the test's half is in what is fitted on."
    benchmark = add_twins(generate(200, seed=1), 1, 20)
    hard, fit = hard_questions(benchmark, 1, 40), fit_questions(benchmark, 1, 100)
    assert not {q.question for q in hard} & {q.question for q in fit}
    test_only, fit_only = set(thesaurus("test").values()), set(thesaurus("fit").values())
    assert not test_only & fit_only and not any(w in q.question for q in fit for w in test_only if len(w) > 8)
    assert list(inspect.signature(Router.route).parameters) == ["self", "questions", "as_of"]

# --- one decision per question

@pytest.fixture(scope="module")
def tiny():
    from casm.adapter import memory_of
    from casm.memory import record_access
    from casm.pretraining import accesses, closed_batch, load_lm
    lm = load_lm()
    def reads(texts): return accesses(lm.model, closed_batch(lm.tokenizer, texts))                   # padded together
    def embed(texts):
        x = closed_batch(lm.tokenizer, texts)
        with torch.no_grad(): h = lm.model(**x, output_hidden_states=True).hidden_states[-1]
        m = x["attention_mask"].unsqueeze(2)
        return (h * m).sum(1) / m.sum(1)
    return lm, reads, embed

def built(registry, tiny):
    lm, reads, embed = tiny
    likes = [TfidfRouter(registry, .6), Bm25Router(registry, .6), FingerprintRouter(registry, reads, lm.stats, .3), HiddenRouter(registry, embed, .3)]
    key = lambda q: (canonical(q.gold[0][0]), canonical(q.gold[0][1])) if q.gold else None
    fit = fit_questions(add_twins(generate(30, seed=5), 5, 5), 5, 6)
    learned = LearnedRouter(registry, likes, .5).fit([q.question for q in fit], [key(q) for q in fit], steps=50)
    return [*likes, learned, default_router(registry), CascadeRouter([LexicalRouter(registry), learned])]

def test_neither_padding_nor_the_batch_changes_a_decision(tiny):
    benchmark = add_twins(generate(30, seed=5), 5, 5)
    registry = versions(benchmark, 5)
    questions = [q.question for q in hard_questions(benchmark, 5, 3)]
    long = questions[:4] + ["Tell me, if you can and would, at some length and in so many words, what it is that you know: " + questions[0]]
    for router in built(registry, tiny):
        alone = [router.route([q])[0] for q in questions]
        for batch in (questions, questions[::-1], [*questions, *long]):
            together = dict(zip(batch, router.route(batch)))
            for q, a in zip(questions, alone):
                b = together[q]
                assert (a.slot, a.key, a.as_of) == (b.slot, b.key, b.as_of) and abs(a.score - b.score) < 1e-5
                if router.name in ("matching", "tfidf", "bm25"): assert a == b

def test_growth_changes_no_answer(tiny):
    "New keys need no new parameters; old questions keep their slots, whichever the router."
    benchmark = add_twins(generate(30, seed=5), 5, 5)
    registry = versions(benchmark, 5)
    questions = [q.question for q in hard_questions(benchmark, 5, 4) if q.kind in ("plain", "typo", "near_subject")]
    routers = built(registry, tiny)
    before = [[r.slot for r in x.route(questions)] for x in routers]
    size = sum(p.numel() for p in routers[4].net.parameters())
    more = generate(200, seed=6)
    registry.assert_facts(more.facts("2018"), list(range(1000, 1200)))
    registry.assert_facts(more.facts("2020"), list(range(2000, 2000 + len(more.facts("2020")))))
    for router, was in zip(routers, before):
        now = [r.slot for r in router.route(questions, ["2024"] * len(questions))]
        same = sum(a == b for a, b in zip(was, now)) / len(was)
        assert same >= (1. if router.name in ("matching", "learned", "cascade") else .5), (router.name, same)
        fresh = [r.slot for r in router.route([f"The {f.relation} of {f.subject} is" for f in more.facts("2018")[:10]], ["2018"] * 10)]
        assert sum(a == b for a, b in zip(fresh, range(1000, 1010))) >= (10 if router.name in ("matching", "tfidf", "bm25", "learned", "cascade") else 0)
    assert size == sum(p.numel() for p in routers[4].net.parameters())

# --- two facts

@settings(max_examples=40, deadline=None)
@given(st.permutations(range(4)), st.sampled_from(["What are the {} and the {}?", "Give the {}, and the {}.", "the {} and {}", "Tell me the {} as well as the {}."]))
def test_two_facts_in_the_order_asked(order, form):
    registry = Registry()
    keys = [("Port Lumina", "chief pilot"), ("Gale Rock", "light"), ("Gale Rock", "keeper"), ("Misty Fjord", "chief pilot")]
    registry.assert_facts([Fact(s, r, "x", "2018") for s, r in keys], [10, 11, 12, 13])
    a, b = order[:2]
    route = default_router(registry).route([form.format(*(f"{keys[i][1]} of {keys[i][0]}" for i in (a, b)))])[0]
    assert opened(route) == (10 + a, 10 + b) and route.also.also is None

def test_a_third_fact_or_a_known_bystander_opens_nothing_extra():
    registry = Registry()
    registry.assert_facts([Fact(s, r, "x", "2018") for s in ("Port Lumina", "Gale Rock", "Misty Fjord") for r in ("light", "depth")], list(range(6)))
    router = default_router(registry)
    for q, slots in (("The light of Port Lumina, the depth of Gale Rock and the depth of Misty Fjord?", 2), ("Is the light of Port Lumina brighter than Gale Rock?", 0),
                     ("The flag of Gale Rock and the flag of Misty Fjord?", 0), ("The light of Gale Rock, which belongs to Misty Fjord, is", 1)):
        assert len(opened(router.route([q])[0])) == slots, q

@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abcd", min_size=0, max_size=7), st.text(alphabet="abcd", min_size=0, max_size=7))
def test_one_slip_is_one_edit(a, b):
    edits = {a[:i] + c + a[j:] for i in range(len(a) + 1) for c in ("", *"abcd") for j in (i, i + 1) if j <= len(a)} | {a[:i] + a[i+1] + a[i] + a[i+2:] for i in range(len(a) - 1)}
    assert one_slip(a, b) == one_slip(b, a) == (a != b and b in edits)

@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 20), st.floats(-2, 2)), min_size=1, max_size=6, unique_by=lambda x: x[0]), min_size=1, max_size=8),
       st.lists(st.tuples(st.integers(0, 25), st.floats(-2, 2)), max_size=6, unique_by=lambda x: x[0]))
def test_postings_are_an_inner_product(entries, query):
    dense, postings = np.zeros((len(entries), 26)), Postings()
    for i, e in enumerate(entries):
        f, w = np.array([x for x, _ in e]), np.array([y for _, y in e])
        postings.add(f, w)
        dense[i, f] = w
        if i % 3 == 0: postings.dot(f, w)                                                            # growing between questions
    q = np.zeros(26)
    for f, w in query: q[f] = w
    got = postings.dot(np.array([f for f, _ in query], dtype=np.int64), np.array([w for _, w in query]))
    assert np.allclose(got, dense @ q)

def test_hostile_questions():
    registry = versions(generate(20, seed=3), 3)
    for router in (default_router(registry), TfidfRouter(registry), Bm25Router(registry)):
        for q in ("", " ", '"', "' OR 1=1 --", 'NEAR("a" "b")', "*" * 1000, "the of " * 2000, "\u0000", "½ Ǆ", "between 2020 and", "before before before 2020", "x" * 20_000):
            assert router.route([q])[0].slot is None


ABOUT = ("Who is the wife of the chef of Inn?", "How old is the chef of Inn?", "Where was the chef of Inn born?", "Who fired the chef of Inn?", "Who preceded Ann as chef of Inn?",
         "Who isn't the chef of Inn?", "Who is the mayor of Paris, Texas?")
FOR_IT = ("Who is the chef of Inn?", "Please tell me who the chef of Inn is.", "Do you remember who served as chef of Inn?", "Who currently holds the post of chef of Inn?", "Inn, chef: who?", "Who is the mayor of Paris?")

@pytest.mark.parametrize("q", ABOUT)
def test_what_is_asked_about_a_value_opens_no_slot(q):
    registry = Registry()
    registry.assert_facts([Fact("Inn", "chef", "Ann", "2018"), Fact("Paris", "mayor", "Bob", "2018")], slots=[0, 1])
    assert opened(default_router(registry).route([q])[0]) == ()

@pytest.mark.parametrize("q", FOR_IT)
def test_however_a_value_is_asked_for(q):
    registry = Registry()
    registry.assert_facts([Fact("Inn", "chef", "Ann", "2018"), Fact("Paris", "mayor", "Bob", "2018")], slots=[0, 1])
    assert opened(default_router(registry).route([q])[0]) == (int("Paris" in q),)

@pytest.mark.parametrize("said, slot", [("in May 2012", 1), ("on 12 May 2012", 1), ("on 01.05.2012", 1), ("in February 2012", 0), ("in 2013", 1), ("on March 1st, 2012", 1)])
def test_months_and_days_in_words(said, slot):
    registry = Registry()
    registry.assert_facts([Fact("Inn", "chef", v, t) for v, t in (("Ann", "2010"), ("Bob", "2012-03"))], slots=[0, 1])
    assert default_router(registry).route([f"Who was the chef of Inn {said}?"])[0].slot == slot

def test_a_later_fact_leaves_the_questions_of_passages_alone():
    registry = Registry()
    registry.assert_facts([document("The mill at Brenna burned down in heavy smoke.", "2018")], slots=[0])
    q, router = ["When did the mill at Brenna burn down?"], default_router(registry)
    before = router.route(q)
    registry.assert_facts([Fact("Brenna", "mayor", "Ann", "2018"), Fact("Smoke", "colour", "grey", "2018")], slots=[1, 2])
    assert router.route(q)[0][:3] == before[0][:3] and before[0].slot == 0
    assert router.route(["Who is the mayor of Brenna?"])[0].slot == 1

def test_former_in_a_subjects_name_is_no_time():
    registry = Registry()
    registry.assert_facts([Fact("Previous Owners Club", "chair", v, t) for v, t in (("Ann", "2010"), ("Bob", "2018"))], slots=[0, 1])
    assert default_router(registry).route(["What is the chair of Previous Owners Club?"])[0].slot == 1
