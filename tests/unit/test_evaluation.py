"The scorers and metrics against plain re-readings of their definitions, over benchmarks and answers drawn at random; predictions on disk."
import json, random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from casm.benchmark import Benchmark, SeedRecord, generate_chains
from casm.evaluation import HEADLINES, Said, accuracies, atoke, bootstrap, bounds, contradiction_accuracy, differences, evaluate, intervals, is_inside, is_right, locality, matrix, original_f1
from casm.evaluation import original_scores, over_seeds, paired, right_answers, routing, summarise, transfer, under_oracle, with_oracle, wrong_time
from casm.facts import CasmError, Probe, token_f1

PERIODS = ("2018", "2020", "2022", "2024")


class Guesser:
    "Answers one of the values that occur, or nothing, by lot; routes by lot"
    name = "guesser"
    def __init__(self, benchmark, seed):
        self.rng, self.asked = random.Random(seed), []
        self.values = ["", *dict.fromkeys(v for r in benchmark.records for v in r.values.values())]

    def answer(self, questions, as_of):
        self.asked += questions
        return [Said(self.rng.choice(self.values), self.rng.choice([None, 0, 1])) for _ in questions]

    def gold_slot(self, probe): return {"a": 0, "b": 1}.get(probe.subject[:1])


@st.composite
def worlds(draw):
    "A small benchmark and what a guesser says after each period"
    value = st.sampled_from(["No", "unknown", "8m", "18m", "Low", "Yellow"])
    values = draw(st.lists(st.tuples(*[value] * len(PERIODS)), min_size=1, max_size=4))
    b = Benchmark(PERIODS, tuple(SeedRecord(f"{'abc'[i % 3]}{i} Inn", "gate state", dict(zip(PERIODS, v))) for i, v in enumerate(values)))
    guesser = Guesser(b, draw(st.integers(0, 999)))
    return b, [x for t in PERIODS for x in evaluate(guesser, [p for j in PERIODS if j <= t for p in b.probes(j, t)] + b.side_probes(t), t, 0)]


def average(xs): return sum(xs) / len(xs) if xs else None


def close(a, b): assert a is None and b is None or a == pytest.approx(b), (a, b)


@settings(max_examples=60)
@given(worlds())
def test_headlines_are_what_they_are_called(world):
    b, said = world
    of = {r.entity: r.values for r in b.records}
    def share(after, as_of, keep): return average([p["correct"] for p in said if p["form"] == "probe" and p["kind"] in ("changed", "unchanged") and (p["after"], p["as_of"]) == (after, as_of) and keep(of[p["subject"]])])
    def over(metric): return average([x for x in map(metric, PERIODS[1:]) if x is not None])
    def before(t): return PERIODS[PERIODS.index(t) - 1]
    got = accuracies(said, b)
    close(got["plasticity"], over(lambda t: share(t, t, lambda v: v[before(t)] != v[t])))
    close(got["stability"], over(lambda t: share(t, t, lambda v: v[before(t)] == v[t])))
    close(got["stability_never_changed"], over(lambda t: share(t, t, lambda v: all(v[j] == v[t] for j in PERIODS if j <= t))))
    def old(t, j):
        mine = [p["correct"] for p in said if (p["form"], p["after"], p["as_of"], p["kind"]) == ("probe", t, j, "superseded")]
        assert {p["subject"] for p in said if (p["form"], p["after"], p["as_of"], p["kind"]) == ("probe", t, j, "superseded")} == {s for s, v in of.items() if v[j] != v[t]}
        return average(mine)
    close(got["history"], over(lambda t: average([x for j in PERIODS if j < t and (x := old(t, j)) is not None])))
    close(got["undated"], over(lambda t: average([p["answer"] == of[p["subject"]][t] for p in said if (p["form"], p["after"], p["kind"]) == ("probe", t, "undated")])))


@settings(max_examples=60)
@given(worlds())
def test_wrong_times_are_counted_once_a_question(world):
    b, said = world
    of = {r.entity: r.values for r in b.records}
    asked = {(p["after"], p["as_of"], p["subject"]): p["answer"] for p in said if p["form"] == "probe" and p["gold"] is not None and p["after"] != PERIODS[0]}
    stale = [a in olds for (t, j, s), a in asked.items() if j in (t, None) and (olds := {v for k, v in of[s].items() if k < t} - {of[s][t]})]
    def value(s, j): return of[s][max(k for k in PERIODS if k <= j)]
    leak = [a in news for (t, j, s), a in asked.items() if j not in (t, None) and (news := {v for k, v in of[s].items() if j < k <= t} - {value(s, j)})]
    got = wrong_time(said, b)
    close(got["stale_rate"], average(stale)); close(got["leak_rate"], average(leak))
    changed = [p["correct"] for p in said if p["form"] == "probe" and p["as_of"] == p["after"] != PERIODS[0] and p["kind"] in ("changed", "unchanged") and {v for k, v in of[p["subject"]].items() if k < p["after"]} - {of[p["subject"]][p["after"]]}]
    close(contradiction_accuracy(said, b), average(changed))


@settings(max_examples=30)
@given(worlds())
def test_routes_are_counted_apart(world):
    b, said = world
    asked = {(p["after"], p["as_of"], p["subject"], p["relation"]): p for p in said if p["form"] == "probe" and p["after"] != PERIODS[0]}.values()
    got = routing(said, b)
    close(got["route_hit_rate"], average([p["slot"] == p["gold_slot"] for p in asked if p["gold_slot"] is not None]))
    if got["route_hit_rate"] is not None: close(got["route_abstention"], average([p["slot"] is None for p in asked if p["gold_slot"] is None]))


@settings(max_examples=30)
@given(worlds())
def test_transfer_reads_the_matrix(world):
    b, said = world
    def at(t, j): return average([p["correct"] for p in said if (p["form"], p["after"], p["as_of"], p["kind"]) == ("probe", t, j, "changed")])
    got, last = transfer(said, b), PERIODS[-1]
    pairs = [(at(last, j), at(j, j), [x for t in PERIODS[:-1] if t >= j and (x := at(t, j)) is not None]) for j in PERIODS[:-1]]
    close(got["backward_transfer"], average([a - c for a, c, _ in pairs if None not in (a, c)]))
    close(got["forgetting"], average([max(best) - a for a, _, best in pairs if a is not None and best]))
    rows = [average([x for j in PERIODS if j <= t and (x := at(t, j)) is not None]) for t in PERIODS]
    ahead = lambda t, j: average([p["correct"] for p in said if (p["form"], p["after"], p["as_of"], p["kind"]) == ("ahead", t, j, "changed")])  # noqa: E731
    close(got["forward_transfer"], average([ahead(t, j) - ahead(PERIODS[0], j) for t, j in zip(PERIODS[1:], PERIODS[2:]) if None not in (ahead(t, j), ahead(PERIODS[0], j))]))
    close(got["average_incremental_accuracy"], average([x for x in rows if x is not None]))
    old = {(p["subject"], p["as_of"]): p["correct"] for p in said if (p["after"], p["form"], p["kind"]) == (last, "probe", "superseded")}
    close(atoke(said, b)["HES*"], average(list(old.values())))


@pytest.mark.parametrize("answer, gold", [("unknown", "No"), ("18m", "8m"), ("Yellow", "Low"), ("2015", "5"), ("Zone AE", "Zone A"), ("not Maren Holt but Dex", "Maren Holt"), ("8m or 9m", "8m"), ("Low, High", "Low")])
def test_what_only_the_substring_lets_through(answer, gold): assert is_inside(answer, gold) and not is_right(answer, gold)


@pytest.mark.parametrize("answer", ["", " ", "\n", "."])
def test_an_empty_answer_is_never_right(answer): assert not is_right(answer, "No") and (answer == "." or not is_right(answer, answer))


def test_case_and_form_do_not_matter(): assert is_right("THE maren  holt.", "Maren Holt") and is_inside("it is NO", "no") and is_right("1.5 km", "1500 m") and is_right("Bob", "Robert", ("Bob",))


@pytest.mark.parametrize("answer, gold, f1", [("14 fathoms deep", "14 fathoms", .8), ("no no no", "no", .5), ("Holt", "Maren Holt", 2 / 3), ("x", "y", 0.)])
def test_token_f1_is_squads(answer, gold, f1): assert token_f1(answer, gold) == pytest.approx(f1)


def test_the_originals_f1_is_not(): assert (original_f1("no no no", "no"), original_f1("Holt.", "Holt"), original_f1("Maren Holt", "maren HOLT")) == (.5, 0., 1.)


def test_the_originals_scores():
    b = Benchmark(("2018", "2020"), (SeedRecord("A Inn", "gate", {"2018": "shut", "2020": "No"}), SeedRecord("B Inn", "gate", {"2018": "Low", "2020": "Low"})))
    class Talker:
        logprobs = True
        def continuations(self, questions, as_of, max_new_tokens):
            assert max_new_tokens == 8 and set(as_of) == {"2020"}
            return ["nobody knows" if "A Inn" in q else "High" for q in questions]
    assert original_scores(Talker(), b.probes("2020", "2020")) == {"plasticity": 1., "stability": 0., "token_f1": 0.}


def test_a_question_with_several_answers_takes_any():
    probes = [Probe("A member is", v, "Guild", "member", "2018", "unchanged", "probe") for v in ("Ann", "Bo")]
    class Bo:
        name = "bo"
        def answer(self, questions, as_of): return [Said("Robert")] * len(questions)
        def gold_slot(self, probe): return None
    assert right_answers(probes) == {("A member is", "2018"): ("Ann", "Bo")}
    assert [p["correct"] for p in evaluate(Bo(), probes, "2018", 0)] == [False, False]
    assert [p["correct"] for p in evaluate(Bo(), probes, "2018", 0, {"Bo": ("Robert",)})] == [True, True]


@settings(max_examples=25, deadline=None)
@given(worlds())
def test_intervals_hold_the_headlines(world):
    b, said = world
    of, around = accuracies(said, b), intervals(said, b)
    for m in HEADLINES:
        if of[m] is None: assert around[m] is None
        else:
            assert around[m].mean == pytest.approx(of[m])
            assert -1e-9 <= around[m].low <= around[m].high <= 1 + 1e-9
    assert all(x is None or (x.mean == 0 and x.low == -x.high) for x in differences(said, said, b).values())


def test_differences_between_seeds_are_no_certainty():
    b = generate_chains(40, 0, periods=PERIODS)
    said = [x for t in PERIODS[1:] for x in evaluate(Guesser(b, 0), b.probes(t, t), t, 0)]
    ours = [p | {"seed": s, "correct": s < 2} for s in range(3) for p in said]
    d = differences(ours, [p | {"correct": True} for p in ours], b)["stability"]
    assert d.mean == pytest.approx(-1 / 3) and d.low == -1 and d.high > .9 and over_seeds([d, None]) is None


def test_facts_are_drawn_and_not_probes():
    values, facts = [1.] * 50 + [0.] * 50, [0] * 50 + [1] * 50
    two, many = bootstrap(values, facts), bootstrap(values, list(range(100)))
    assert (two.low, two.high) == (0., 1.) and many.low > .35 and many.high < .65
    assert paired(values, values, list(range(100))) == pytest.approx((0., -.02996, .02996), abs=1e-4)      # the rule of three
    rng = np.random.default_rng(0)
    for p, n in ((.7, 60), (.95, 20), (.98, 30), (.99, 48), (.999, 605), (.01, 48)):        # a 95 % interval holds the truth about 95 times in 100, also near 0 and 1
        inside = [b.low <= p <= b.high for i in range(200) if (b := bootstrap((rng.random(n) < p).astype(float).tolist(), list(range(n)), seed=i, draws=400))]
        assert np.mean(inside) >= .88, (p, n)


def test_differences_are_between_the_same_questions():
    b = generate_chains(12, 0)
    class Fixed(Guesser):
        def __init__(self, know): super().__init__(b, 0); self.know = know
        def answer(self, questions, as_of): return [Said(next(r.values[t] for r in b.records if r.entity in q) if self.know(q) else "?") for q, t in zip(questions, as_of)]
    def run(know, seed): return [x for t in b.periods[1:] for x in evaluate(Fixed(know), b.probes(t, t), t, seed)]
    names = sorted(r.entity for r in b.records)
    half, all_of_them = run(lambda q: any(n in q for n in names[:6]), 0), run(lambda q: True, 0)
    d = differences(all_of_them, half, b)["stability"]
    assert d.mean == pytest.approx(1 - accuracies(half, b)["stability"]) and d.low <= d.mean <= d.high
    assert differences(all_of_them, run(lambda q: False, 1), b)["stability"] is None       # another seed: other questions


def test_locality_compares_a_method_with_itself():
    said = lambda after, answer, q="Who?": {"kind": "neighbour", "form": "probe", "after": after, "question": q, "as_of": "2024", "answer": answer, "gold": None, "correct": None}  # noqa: E731
    b = generate_chains(3, 0, periods=PERIODS)
    assert locality([said("2018", "wrong"), said("2020", "wrong"), said("2022", "right")], b, "neighbour") == .5


def test_bounds_bound():
    b = generate_chains(30, 1, periods=PERIODS, reversions=0.)
    class Oracle(Guesser):
        name = "start"
        def answer(self, questions, as_of): self.asked += questions; return [Said("?") for _ in questions]
    start = Oracle(b, 0)
    rows = {r["method"]: r for r in bounds(b, start)}
    assert list(rows) == ["majority", "copy_old", "start"]
    assert rows["copy_old"]["plasticity"] == 0 and rows["copy_old"]["stability_never_changed"] == 1 and rows["copy_old"]["history"] > rows["majority"]["history"]
    assert len(start.asked) < sum(len([p for j in PERIODS if j <= t for p in b.probes(j, t)]) for t in PERIODS)       # nothing is asked twice


def test_perfect_routing_asks_only_what_went_astray():
    b = generate_chains(8, 2, periods=PERIODS)
    class Lost(Guesser):
        def gold_slot(self, probe): return 0
        def answer(self, questions, as_of): return [Said("?", i % 2) for i in range(len(questions))]
        def answer_through(self, questions, as_of, slots):
            self.asked += slots
            return [Said(next(r.values[t] for r in b.records if r.entity in q), s) for q, t, s in zip(questions, as_of, slots)]
    lost = Lost(b, 0)
    said = with_oracle(lost, evaluate(lost, [p for p in b.probes("2020", "2020") if p.form == "probe"], "2020", 0))
    perfect = under_oracle(said)
    assert lost.asked == [0] * 4 and [p["correct"] for p in perfect] == [False, True] * 4 and {p["slot"] for p in perfect} == {0}
    assert summarise(perfect, b)["route_hit_rate"] == 1 and {p["method"] for p in perfect} == {"guesser, perfect routing"}


def test_every_cut_of_the_file_resumes(tmp_path):
    b, path = generate_chains(3, 0, periods=PERIODS), tmp_path / "p.jsonl"
    probes = b.probes("2018", "2018")
    class Same(Guesser):
        def answer(self, questions, as_of): self.asked += questions; return [Said(f"Zoë {q[-9:]}") for q in questions]
    whole = evaluate(Same(b, 0), probes, "2018", 0, path=path)
    data = path.read_bytes()
    for n in range(len(data) + 1):
        path.write_bytes(data[:n])
        again = Same(b, 0)
        assert evaluate(again, probes, "2018", 0, path=path) == whole and path.read_bytes() == data
        assert len(again.asked) == len(probes) - data[:n].count(b"\n")


@pytest.mark.parametrize("change", [{"seed": 1}, {"after": "2020"}, {"gold": "x"}, {"method": "casm"}, {"question": "Why?"}])
def test_another_evaluations_file_is_refused(tmp_path, change):
    b, path = generate_chains(3, 0, periods=PERIODS), tmp_path / "p.jsonl"
    probes = b.probes("2018", "2018")
    lines = [json.dumps(p | (change if i == 1 else {})) for i, p in enumerate(evaluate(Guesser(b, 0), probes, "2018", 0))]
    path.write_text(text := "\n".join(lines) + "\n")
    with pytest.raises(CasmError, match=f"line 2: {next(iter(change))} is"): evaluate(Guesser(b, 0), probes, "2018", 0, path=path)
    with pytest.raises(CasmError, match="holds 6 predictions for 4"): evaluate(Guesser(b, 0), probes[:4], "2018", 0, path=path)
    assert path.read_text() == text
    for bad in ("[]", "garbage", "7"):
        path.write_text(f"{lines[0]}\n{bad}\n")
        with pytest.raises(CasmError, match="line 2: (is no prediction|method is None)"): evaluate(Guesser(b, 0), probes, "2018", 0, path=path)


def test_the_matrix_leaves_out_what_has_no_answer():
    b = generate_chains(5, 0, periods=PERIODS)
    said = evaluate(Guesser(b, 0), b.side_probes("2018"), "2018", 0)
    assert not {"neighbour", "unknown"} & {k for t in matrix(said).values() for row in t.values() for k in row}
    assert {p["correct"] for p in said if p["kind"] == "unknown"} == {None}
