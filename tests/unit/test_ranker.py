"The ranker against a naive dictionary implementation, and everything that may be wrong with stored statistics."
import hashlib, heapq, math, subprocess, sys
from itertools import permutations

import pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file

from casm.ranker import SCORES, BackgroundStats, count_rows, score_rows, select_rows, top_t

ROWS = 70                                              # more than one block of 64, and no multiple of it
batch = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=60)
hubs = st.lists(st.integers(0, 5), min_size=1, max_size=60)                      # few rows, many ties
a_batch, world = batch | hubs, st.lists(batch | hubs, min_size=1, max_size=8)
ids = lambda rows: torch.tensor(rows, dtype=torch.int64)


def gathered(world, lookup=None):
    stats = BackgroundStats.empty(ROWS, lookup)
    for i, rows in enumerate(world): stats.add(ids(rows), f"text {i}")
    return stats


def naive(rows, world, score):
    "Scores of the rows that were read, from the formulas, one row at a time"
    c, df, b = {}, {}, {}
    for r in rows: c[r] = c.get(r, 0) + 1
    for other in world:
        for r in set(other): df[r] = df.get(r, 0) + 1
        for r in other: b[r] = b.get(r, 0) + 1
    total, background = len(rows), sum(len(w) for w in world)
    weight = {"tf": lambda r: 1, "tfidf": lambda r: math.log((len(world) + 1) / (df.get(r, 0) + 1)),
              "kl": lambda r: math.log((c[r] / total) / ((b.get(r, 0) + 1) / (background + ROWS)))}[score]
    return {r: n / total * weight(r) for r, n in c.items()}


@given(a_batch, world, st.sampled_from(SCORES))
def test_scores_are_the_formulas(rows, world, score):
    got, want = score_rows(count_rows(ids(rows), ROWS), gathered(world), score), naive(rows, world, score)
    assert got.dtype == torch.float64
    for r, s in enumerate(got.tolist()):
        if score == "kl": assert s == pytest.approx(want.get(r, -math.inf), rel=1e-12, abs=1e-14)
        else: assert s == want.get(r, -math.inf)                                  # to the last bit


@given(a_batch, world, st.sampled_from(SCORES), st.integers(1, ROWS + 5))
def test_selection_is_the_naive_one(rows, world, score, t):
    "Highest scores, ties to the lower id, rising; never a row that was not read"
    stats = gathered(world)
    scores = dict(enumerate(score_rows(count_rows(ids(rows), ROWS), stats, score).tolist()))
    want = sorted(heapq.nsmallest(t, set(rows), key=lambda r: (-scores[r], r)))
    got = select_rows(ids(rows), stats, t, score)
    assert got.dtype == torch.int64 and got.tolist() == want


@given(st.lists(st.sampled_from([0., 1., -2., 3., -math.inf, math.inf, 1e-300]), min_size=1, max_size=300), st.integers(1, 310))
def test_best_t_of_any_scores(scores, t):
    alive = [r for r, s in enumerate(scores) if s > -math.inf]
    assert top_t(torch.tensor(scores, dtype=torch.float64), t).tolist() == sorted(heapq.nsmallest(t, alive, key=lambda r: (-scores[r], r)))


@given(a_batch, world, st.sampled_from(SCORES), st.randoms(use_true_random=False))
def test_order_of_accesses_and_batches_is_irrelevant(rows, world, score, rng):
    again, other = rows[:], world[:]
    rng.shuffle(again); rng.shuffle(other)
    a = score_rows(count_rows(ids(rows), ROWS), gathered(world), score)
    assert torch.equal(a, score_rows(count_rows(ids(again), ROWS), gathered(other), score))


@given(a_batch, world, st.integers(1, ROWS))
def test_a_row_in_every_batch_comes_last(rows, world, t):
    "It scores zero, all others more, unless each row does"
    scores = score_rows(count_rows(ids(rows), ROWS), gathered(world))
    everywhere = set.intersection(*map(set, world))
    for r in set(rows): assert (scores[r] == 0) == (r in everywhere) and scores[r] >= 0


@given(st.integers(1, 400), st.integers(1, 5))
def test_equal_rows_tie_wherever_they_are(t, twice):
    "Bit for bit, at any position of a vector register: else the tie rule would not hold"
    n = 400
    stats = BackgroundStats.empty(n)
    for _ in range(3): stats.add(torch.arange(n // 2))
    for score in SCORES:
        got = select_rows(torch.arange(n).repeat(twice), stats, t, score).tolist()
        first = range(n) if score == "tf" else [*range(n // 2, n), *range(n // 2)]
        assert got == sorted(list(first)[:t])


@settings(max_examples=30)
@given(world, st.data())
def test_resuming_anywhere_is_one_go(tmp_path_factory, world, data):
    path = tmp_path_factory.mktemp("stats") / "s.safetensors"
    cut = data.draw(st.integers(0, len(world)))
    half = gathered(world[:cut], "c" * 64)
    half = BackgroundStats.load(half.save(path))
    for i, rows in enumerate(world[cut:], cut): half.add(ids(rows), f"text {i}")
    one = gathered(world, "c" * 64)
    assert torch.equal(one.df, half.df) and torch.equal(one.counts, half.counts)
    assert (one.batches, one.corpus, one.lookup) == (half.batches, half.corpus, half.lookup)
    assert torch.equal(one.idf, half.idf)


def test_corpus_is_the_documented_hash():
    h = ""
    for i in range(3): h = hashlib.sha256(f"{h}\ntext {i}".encode()).hexdigest()
    assert gathered([[1], [2], [3]]).corpus == h


def test_corpus_tells_texts_orders_and_borders_apart():
    def corpus(*texts):
        stats = BackgroundStats.empty(3)
        for t in texts: stats.add(ids([0]), t)
        return stats.corpus
    seen = [corpus(*p) for p in permutations(["a", "b", "ab"])] + [corpus("ab"), corpus("a", "b"), corpus("", "ab"), corpus("ab", ""), corpus("\ud800")]
    assert len(set(seen)) == len(seen)


def test_idf_follows_every_add():
    stats = gathered([[1, 2]])
    stats.idf
    stats.add(ids([1]))
    assert stats.idf.tolist()[:3] == [math.log(3 / 1), math.log(3 / 3), math.log(3 / 2)]


@pytest.mark.parametrize("rows, says", [([], "empty"), ([ROWS], f"rows 0 to {ROWS - 1}"), ([-1, 3], "from -1 to 3"), ([2 ** 62], "another memory")])
def test_refused_batches_change_nothing(rows, says):
    stats = gathered([[1, 2]])
    before = stats.tensors()
    with pytest.raises(ValueError, match=says): stats.add(ids(rows), "x")
    for k, v in stats.tensors().items(): assert torch.equal(v, before[k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.bfloat16])
def test_row_ids_are_integers(dtype):
    with pytest.raises(ValueError, match="int64"): count_rows(torch.ones(3, dtype=dtype), ROWS)


@pytest.mark.parametrize("score", SCORES)
def test_fails_closed(score):
    with pytest.raises(ValueError, match="no background batch"): select_rows(ids([1]), BackgroundStats.empty(ROWS), 1, score)
    with pytest.raises(ValueError, match="70 rows, the memory 71"): score_rows(torch.ones(71, dtype=torch.int64), gathered([[1]]), score)
    with pytest.raises(ValueError, match="another memory"): select_rows(ids([70]), gathered([[1]]), 1, score)


@pytest.mark.parametrize("scores, t, says", [([math.nan, 1.], 1, "1 NaN"), ([-math.inf, math.nan], 2, "NaN"), ([1.], 0, "t=0"), ([1.], -3, "t=-3"),
                                             ([1.], 2.5, "t=2.5"), ([[1.]], 1, r"\(1, 1\)"), ([], 1, r"\(0,\)")])
def test_bad_scores(scores, t, says):
    with pytest.raises(ValueError, match=says): top_t(torch.tensor(scores), t)


@pytest.fixture
def stored(tmp_path):
    path = gathered([[1, 2, 2], [2, 3]], "d" * 64).save(tmp_path / "background.safetensors")
    return path, load_file(path)


def change(name, at, value):
    def f(t):
        v = t[name].clone()
        v[at] = value
        return t | {name: v}
    return f


DAMAGE = {
    "negative df": (change("df", 1, -1), "df"), "df beyond the batches": (change("df", 1, 3), "df"), "counts below df": (change("counts", 2, 1), "counts"),
    "counts of an unread row": (change("counts", 9, 1), "counts"), "negative counts": (change("counts", 9, -1), "counts"),
    "too few batches": (lambda t: t | {"batches": torch.tensor(1)}, "df"), "negative batches": (lambda t: t | {"batches": torch.tensor(-2)}, "batches"),
    "shorter counts": (lambda t: t | {"counts": t["counts"][:-1]}, "counts"), "square df": (lambda t: t | {"df": t["df"].view(7, 10)}, "df"),
    "float df": (lambda t: t | {"df": t["df"].float()}, "df"), "float batches": (lambda t: t | {"batches": torch.tensor(2.)}, "batches"),
    "short corpus": (lambda t: t | {"corpus": t["corpus"][1:]}, "corpus"), "no corpus": (lambda t: t | {"corpus": t["corpus"][:0]}, "corpus"),
    "corpus without batches": (lambda t: t | {"batches": torch.tensor(0), "df": t["df"] * 0, "counts": t["counts"] * 0}, "corpus"),
    "corpus as numbers": (lambda t: t | {"corpus": t["corpus"].to(torch.int64)}, "corpus"), "binary lookup": (change("lookup", 0, 255), "lookup"),
    "foreign": (lambda t: t | {"table": torch.zeros(3)}, "table"),
} | {f"no {k}": (lambda t, k=k: {n: v for n, v in t.items() if n != k}, k) for k in ("df", "counts", "batches", "corpus", "lookup")}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_is_named(stored, damage):
    path, t = stored
    make, name = DAMAGE[damage]
    save_file({k: v.contiguous() for k, v in make(t).items()}, path)
    with pytest.raises(ValueError, match=f"background.safetensors: tensor '{name}'"): BackgroundStats.load(path)


def test_cut_file_is_named_wherever_it_ends(stored):
    path, _ = stored
    whole = path.read_bytes()
    for n in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match="background.safetensors"): BackgroundStats.load(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="background.safetensors"): BackgroundStats.load(path)


def test_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError): BackgroundStats.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_save_leaves_the_old_file_alone(stored, monkeypatch, step):
    path, t = stored
    def broken(*a): raise OSError("disk is full")
    monkeypatch.setattr(f"casm.ranker.os.{step}", broken)
    with pytest.raises(OSError): gathered([[5]]).save(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    for k, v in load_file(path).items(): assert torch.equal(v, t[k])


def test_killed_save_leaves_the_old_file_alone(stored):
    "The process dies between writing and renaming"
    path, t = stored
    code = ("import os, signal, torch, casm.ranker as r; r.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL); "
            f"s = r.BackgroundStats.empty(4); s.add(torch.tensor([1])); s.save({str(path)!r})")
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    for k, v in load_file(path).items(): assert torch.equal(v, t[k])
    BackgroundStats.load(path)


def test_statistics_of_another_memory():
    stats = gathered([[1]], "a" * 64)
    stats.check(ROWS, "a" * 64)
    with pytest.raises(ValueError, match="aaaa.*bbbb"): stats.check(ROWS, "b" * 64)
    with pytest.raises(ValueError, match="unknown memory"): gathered([[1]]).check(ROWS, "b" * 64)
