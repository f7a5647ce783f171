"The baselines keep the protocol's promises: same records, same routes, exact states, nothing retrieved out of time, and a run that continues where it was killed."
import json
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from casm import experiments
from casm.baselines import BASELINES, PassageIndex, exercises, linear_layers, load_index, lora_rank, through
from casm.benchmark import fact_passages, generate
from casm.experiments import KNOWN, load_method, run, start_checkpoint
from casm.facts import CasmError, Fact, PROBE_FORM, canonical, question
from casm.methods import Item, make_method, split_answer
from casm.registry import Registry

BENCHMARK = generate(6, seed=5)
FIRST, *LATER = BENCHMARK.periods
RIVALS = [n for n in BASELINES if n != "rag_untimed"]  # which is `rag` but for what it finds
NAMES = ["casm", *RIVALS]
pytestmark = pytest.mark.usefixtures("quick_module")


def items_of(period, stream="delta"): return [Item(p.text, p.fact, p.date) for p in BENCHMARK.passages(BENCHMARK.facts(period, stream))]

def made(name, stub):
    method = make_method(name, KNOWN, **experiments.RECIPES[name][0])
    torch.manual_seed(0)
    method.prepare(start_checkpoint(BENCHMARK, 0, stub))
    return method


def learn(method, period): finish(method, method.begin_period(period, items_of(period)))

def finish(method, items):
    if items:
        opt = method.optimizer(1e-2, .1)
        for i in range(2):
            loss = method.loss(items[:16]); opt.zero_grad(); loss.backward(); opt.step(); method.after_step()
    method.end_period()


QUESTIONS = [question(PROBE_FORM, r.entity, r.relation) for r in BENCHMARK.records] + ["The depth of Nowhere is", "What?", f"In 2018, who knows {BENCHMARK.records[0].entity}?"]
def ask(method, dates=(None, *BENCHMARK.periods)): return [method.answer(QUESTIONS, [t] * len(QUESTIONS)) for t in dates]


def moved(method, again, folder):
    "`again` with the state of `method`, by way of files"
    state = method.state()
    json.dumps(state.meta)
    for name, write in state.files.items(): write(folder / name)
    again.load_state({k: v.clone() for k, v in state.tensors.items()}, json.loads(json.dumps(state.meta)), folder)
    return again


@pytest.mark.parametrize("name", RIVALS)
def test_state_moves_to_another_process_between_any_two_periods(name, stub, tmp_path):
    "Before the first period, after it and later: the same answers, and the same learning from there on"
    method = made(name, stub)
    for i, period in enumerate(LATER):
        folder = tmp_path / period
        folder.mkdir()
        torch.manual_seed(i)                                        # whatever happened to the random state
        again = moved(method, made(name, stub), folder)
        assert ask(again) == ask(method) and again.periods == method.periods and again.cost() == method.cost()
        learn(method, period); learn(again, period)
        assert ask(again) == ask(method)
        assert {k: v.shape for k, v in again.tensors().items()} == {k: v.shape for k, v in method.tensors().items()}
        assert all(torch.equal(v, method.tensors()[k]) for k, v in again.tensors().items())


@pytest.mark.parametrize("name", RIVALS)
def test_another_methods_state_is_refused(name, stub, tmp_path):
    method = made(name, stub)
    state = method.state()
    for file, write in state.files.items(): write(tmp_path / file)
    before = ask(method)
    with pytest.raises(CasmError, match="checkpoint of method 'ewc'"): method.load_state(state.tensors, state.meta | {"method": "ewc"}, tmp_path)
    assert ask(method) == before


@pytest.mark.parametrize("name", [n for n in RIVALS if n not in ("frozen", "replay")])
def test_a_refused_period_changes_nothing(name, stub):
    method = made(name, stub)
    before, commits = ask(method), method.registry.last_commit
    clash = replace(BENCHMARK.facts(FIRST)[0], value="another value at the same date")
    for items in ([*items_of("2020"), Item("It rains.", None, "2020")], [Item(p.text, p.fact, p.date) for p in fact_passages([clash])]):
        with pytest.raises(CasmError): method.begin_period("2020", items)
        assert method.periods == [FIRST] and method.registry.last_commit == commits and not method.pending and not method.slot_of
    assert ask(method) == before
    learn(method, "2020")                                                               # and the right one still goes in
    assert method.registry.last_commit == commits + 1


@pytest.mark.parametrize("name", [n for n in RIVALS if n not in ("frozen", "replay")])
def test_what_is_restated_costs_nothing(name, stub):
    told, restated = made(name, stub), made(name, stub)
    for p in LATER:
        learn(told, p)
        trained = restated.begin_period(p, items_of(p, "restate"))
        if not name.startswith("rag"): assert {i.fact for i in trained} <= set(BENCHMARK.facts(p))
        finish(restated, trained)
    assert ask(restated) == ask(told) if name in ("copy", "rag_perfect", "rag") else restated.slots == told.slots
    if name in ("rag_perfect", "rag"): assert len(restated.index) == len(told.index)


@pytest.mark.parametrize("name", ["copy", "lora_slots"])
def test_routes_are_casms(name, stub):
    "The same slots, scores and gold slots for every probe after every period"
    casm, method = made("casm", stub), made(name, stub)
    for p in LATER:
        learn(casm, p); learn(method, p)
        probes = [x for j in BENCHMARK.periods[:BENCHMARK.periods.index(p) + 1] for x in BENCHMARK.probes(j, p)]
        assert [casm.gold_slot(x) for x in probes] == [method.gold_slot(x) for x in probes]
        assert [[(a.slot, a.score) for a in at] for at in ask(casm)] == [[(a.slot, a.score) for a in at] for at in ask(method)]


def test_copy_answers_with_the_registrys_value_or_as_the_start_checkpoint(stub):
    method, frozen = made("copy", stub), made("frozen", stub)
    for p in LATER: learn(method, p)
    for t in BENCHMARK.periods:
        for p in BENCHMARK.probes(t, LATER[-1]):
            assert method.answer([p.question], [t])[0].text == method.registry.get(p.subject, p.relation, t).value == p.answer
    assert [a.text for a in method.answer(QUESTIONS[-3:], ["2020"] * 3)] == [a.text for a in frozen.answer(QUESTIONS[-3:], ["2020"] * 3)]
    early = method.answer(QUESTIONS[:1], ["1999"])[0]                                    # before anything was in force
    assert early.text == frozen.answer(QUESTIONS[:1], ["1999"])[0].text and early.slot is None
    assert method.answer([], []) == []


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(2000, 2009), st.sampled_from("ABC"), st.one_of(st.none(), st.integers(1, 4))), max_size=14), st.integers(0, 10 ** 6))
@settings(max_examples=60, deadline=None)
def test_rag_finds_what_the_registry_holds_and_nothing_else(told, seed):
    "Late, repeated, reverted and bounded facts in any order: at every date, all passages written by then that state the value in force, and no other"
    registry, index, kept = Registry(), PassageIndex(), []
    for who, year, letter, span in told:
        fact = Fact(f"Subject{who}", "colour", f"Value{letter}", str(year), span and str(year + span))
        try: outcome, = registry.plan([fact])
        except CasmError: continue
        registry.assert_facts([fact])
        fresh = [] if outcome.kind == "same" else [Item(f"In {year}, the colour of Subject{who} is Value{letter}.", fact, str(year))]
        index.add(fresh, [fact], registry)
        kept += fresh
    for who in range(3):
        for t in range(1999, 2015):
            held = registry.get(f"Subject{who}", "colour", str(t))
            want = sorted(i.text for i in kept if held and i.fact.subject == f"Subject{who}" and canonical(i.fact.value) == canonical(held.value) and int(i.date) <= t)
            assert sorted(index.find(f"Subject{who}", registry.order.key(str(t)), 99)) == want


def test_rag_prompts_hold_only_passages_in_force(stub, monkeypatch):
    method, seen = made("rag", stub), []
    for p in LATER: learn(method, p)
    monkeypatch.setattr("casm.baselines.generate", lambda model, tokenizer, prompts, **k: seen.extend(prompts) or [""] * len(prompts))
    for t in BENCHMARK.periods:
        seen.clear()
        ask(method, [t])
        for r, prompt in zip(BENCHMARK.records, seen):
            *passages, asked = prompt.split("\n")
            assert 1 <= len(passages) <= method.passages and asked.startswith(f"[{t}] ")
            facts = [(i.text, i.fact) for p in BENCHMARK.periods for i in items_of(p)]
            for text in passages:
                fact = next(f for x, f in facts if x == text)
                held = method.registry.get(fact.subject, fact.relation, t)
                assert held.value == fact.value and int(fact.valid_from) <= int(t)
    assert len(seen) == len(QUESTIONS)


def test_rag_learns_to_read_once_and_answers_as_the_start_checkpoint_till_then(stub):
    method, frozen = made("rag", stub), made("frozen", stub)
    assert ask(method) == ask(frozen)
    items = method.begin_period("2020", items_of("2020"))
    assert len(items) == method.exercises and not {i.fact.key for i in items} & {f.key for f in BENCHMARK.facts(FIRST)}
    finish(method, items)
    assert method.begin_period("2022", items_of("2022")) == []
    method.end_period()
    assert method.answer(["What?", "Nothing"], ["2020", "1999"]) == frozen.answer(["What?", "Nothing"], ["2020", "1999"])


def test_exercises_are_about_nothing_the_benchmark_or_pretraining_says():
    told = exercises(24, 2, seed=1, known=0.)
    assert not {r.entity for r in generate(605).records} & {e.fact.subject for e in told}
    for e in told: assert split_answer(e)[0].count("\n") == 2 and e.fact.value in split_answer(e)[0]


def test_index_survives_hostile_text(tmp_path):
    "Quotes, operators, half the punctuation and nothing at all are questions like any other"
    registry, index = Registry(), PassageIndex()
    fact = Fact('The "OR" Guild', "NEAR", "a'b\"c;--", "2018")
    registry.assert_facts([fact])
    index.add([Item(f'In 2018, the NEAR of The "OR" Guild is {fact.value}', fact, "2018")], [fact], registry)
    rng, signs = random.Random(0), "\"'()*:^-+{}[]\\ ANDORNOTNEAR éß\0中"
    t = registry.order.key("2020")
    for _ in range(300): index.find("".join(rng.choice(signs) for _ in range(rng.randrange(12))), t, 3)
    assert len(index.find('What is the NEAR of The "OR" Guild?', t, 3)) == 1 and index.find("", t, 3) == []
    index.backup(tmp_path / "p.sqlite")
    index.backup(tmp_path / "p.sqlite")                                                  # over an old one
    assert load_index(tmp_path / "p.sqlite").find("Guild", t, 3) == index.find("Guild", t, 3)


def test_lora_slots_write_each_slot_once(stub):
    "Committed LoRAs stay to the bit, old answers with them; the model under them never moves"
    method, old, bare = made("lora_slots", stub), {}, start_checkpoint(BENCHMARK, 0, stub).model
    for p in LATER:
        for k, v in old.items(): assert torch.equal(method.tensors()[k][:len(v)], v)
        learn(method, p)
        past = ask(method, [p])
        old = {k: v.clone() for k, v in method.tensors().items()}
        assert {len(v) for v in old.values()} == {method.slots}
        for q in LATER[:LATER.index(p)]: assert ask(method, [q]) == answers[q]
        answers = {q: ask(method, [q]) for q in LATER[:LATER.index(p) + 1]}
        assert past == answers[p]
    now = {k.replace(".base.", "."): v for k, v in method.lm.model.state_dict().items()}
    assert now.keys() == bare.state_dict().keys() and all(torch.equal(v, now[k]) for k, v in bare.state_dict().items())


def test_lora_slots_without_a_route_read_the_start_checkpoint_exactly(stub):
    method, bare = made("lora_slots", stub), start_checkpoint(BENCHMARK, 0, stub).model
    for p in LATER: learn(method, p)
    x = method.batch(items_of("2020")[:4])
    layers = list(method.layers.values())
    with torch.no_grad():
        want = bare(**x).logits
        assert torch.equal(method.lm.model(**x).logits, want)
        with through(layers, [(-1,)] * 4): assert torch.equal(method.lm.model(**x).logits, want)
        with through(layers, [(0,), (-1,), (1,), (-1,)]): mixed = method.lm.model(**x).logits
    assert torch.equal(mixed[1], want[1]) and torch.equal(mixed[3], want[3]) and not torch.equal(mixed[0], want[0])
    assert all(layer.now is None for layer in layers)
    with pytest.raises(RuntimeError, match="stop"):
        with through(layers, [(0,)]): raise RuntimeError("stop")
    assert all(layer.now is None for layer in layers)


def test_lora_slots_train_each_on_its_own_passages(stub):
    "The gradient of a batch reaches the slots it names and no others"
    method = made("lora_slots", stub)
    items = method.begin_period("2020", items_of("2020"))
    first = items[0].fact
    for layer in method.layers.values(): layer.open_b.data.normal_()
    method.loss([i for i in items if i.fact == first]).backward()
    for p in method.parameters():
        assert p.grad[method.slot_of[first]].abs().sum() > 0
        assert p.grad.abs().flatten(1).sum(1).count_nonzero() == 1


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"], ["down_proj"]])
def test_a_lora_slot_takes_at_least_the_bytes_of_casms(stub, targets):
    "And one rank less would take fewer"
    model = start_checkpoint(BENCHMARK, 0, stub).model
    layers = linear_layers(model, targets).values()
    for rows in (1, 8, 48, 96, 1000):
        nbytes, per_rank = rows * (2 * 128 + 8), sum(2 * (x.in_features + x.out_features) for x in layers)
        rank = lora_rank(layers, nbytes)
        assert (rank - 1) * per_rank < nbytes <= rank * per_rank


def test_damage_is_refused(stub, tmp_path):
    method = made("lora_slots", stub)
    learn(method, "2020")
    state = method.state()
    for name, write in state.files.items(): write(tmp_path / name)
    again = made("lora_slots", stub)
    with pytest.raises(CasmError, match="names other slots"): again.load_state({k: v + 1 for k, v in state.tensors.items()}, state.meta, tmp_path)
    with pytest.raises(CasmError, match="differ from the LoRAs'"): again.load_state(dict(list(state.tensors.items())[1:]), state.meta, tmp_path)
    assert again.slots == 0 and again.periods == [FIRST]


# the whole experiment

@pytest.fixture(scope="module")
def out(stub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "out"
    run(BENCHMARK, folder, NAMES, model=stub)
    return folder


def lines(path): return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]
def rows(out): return [{k: v for k, v in r.items() if k not in ("seconds", "bytes_stored")} for r in json.loads((out / "results.json").read_text())["rows"]]


def test_rows(out):
    by = {r["method"]: r for r in json.loads((out / "results.json").read_text())["rows"]}
    assert list(by) == NAMES
    assert [by["copy"][k] for k in ("plasticity", "stability", "history", "stale_rate", "leak_rate", "route_hit_rate", "route_abstention")] == [1, 1, 1, 0, 0, 1, 1]
    for name in ("frozen", "copy"): assert [by[name][k] for k in ("params_per_step", "params_changed_total", "tokens_trained")] == [0, 0, 0]
    assert by["frozen"]["bytes_stored"] == 0 and by["copy"]["bytes_stored"] > 0
    assert by["rag"]["tokens_trained"] > 0 and by["rag"]["bytes_stored"] > by["copy"]["bytes_stored"] + 2 * by["rag"]["params_changed_total"]
    # whole passes over the same passages: three, and two for casm, whose facts each have their steps
    assert 2 * by["lora_slots"]["tokens_trained"] == 3 * by["casm"]["tokens_trained"] > 0
    assert (by["lora_slots"]["route_hit_rate"], by["rag"]["route_hit_rate"]) == (1, None)


def test_superseded_answers_stay(out):
    found = {(p["method"], p["after"], p["as_of"], p["form"], p["subject"], p["relation"]): p for p in lines(out / "predictions.jsonl")}
    old = [(k, p) for k, p in found.items() if p["kind"] == "superseded" and p["as_of"] and p["method"] in ("frozen", "copy", "lora_slots")]
    for (name, after, *rest), p in old: assert found[name, BENCHMARK.periods[BENCHMARK.periods.index(after) - 1], *rest]["answer"] == p["answer"]
    assert len(old) > 30


def test_interrupted_anywhere_it_continues_to_the_same_end(out, stub, tmp_path, interrupting):
    interrupting(5)
    stops = 0
    while True:
        try: run(BENCHMARK, tmp_path / "out", NAMES, model=stub); break
        except KeyboardInterrupt: stops += 1
    assert stops > 4 and rows(tmp_path / "out") == rows(out)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == (out / "predictions.jsonl").read_bytes()


@pytest.mark.parametrize("name", RIVALS)
def test_loaded_method_answers_as_recorded(out, name):
    last = [p for p in lines(out / f"{name}-s0" / "predictions.jsonl") if p["after"] == LATER[-1]]
    answers = load_method(out, name).answer([p["question"] for p in last], [p["as_of"] for p in last])
    assert [(a.text, a.slot) for a in answers] == [(p["answer"], p["slot"]) for p in last]
