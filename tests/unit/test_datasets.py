"""The loaders on small files of the public layouts that we wrote ourselves, whole and broken in every way we could think of."""
import itertools, json, random, sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest
from pyarrow import parquet

from casm import datasets
from casm.datasets import background, cut, paraphrase_prompt, read_texts, simpleqa, simpleqa_chunks, triviaqa
from casm.facts import CasmError

golden = Path(__file__).parents[1] / "golden" / "datasets"
STATEMENTS = golden / "statements.jsonl"


@pytest.mark.parametrize("layout", ["triviaqa.json", "triviaqa.jsonl"])
def test_triviaqa_in_both_layouts(layout):
    "One fact, one batch: 64 different statements, whatever the order of the companion"
    one, two = triviaqa(golden / layout, companion=STATEMENTS)
    assert (one.id, one.question, one.answers) == ("wk_1", "Which river flows through Wreisk?", ("The Ambel", "Ambel", "River Ambel"))
    assert (two.id, two.answer, two.aliases) == ("wk_2", "Ida Möck", ("Ida Möck", "I. Möck"))
    for q, word in ((one, "Ambel"), (two, "Möck")): assert len(set(q.paraphrases)) == 64 and all(word in p for p in q.paraphrases)
    assert [q.paraphrases for q in triviaqa(golden / layout, paraphrases=0)] == [(), ()]
    assert "Ida Möck" in paraphrase_prompt(two, 8) and "Write 8 different" in paraphrase_prompt(two, 8)


@pytest.mark.parametrize("layout", ["triviaqa.json", "triviaqa.jsonl"])
def test_short_facts_are_named_never_filled(layout, tmp_path):
    rows = [json.loads(x) for x in STATEMENTS.read_text(encoding="utf-8").splitlines()]
    for change, says in ((lambda r: r["paraphrases"].pop(), "63 different"), (lambda r: r["paraphrases"].__setitem__(5, r["paraphrases"][6] + " "), "63 different"), (lambda r: r["paraphrases"].clear(), "0 different"),
                         (lambda r: r["paraphrases"].__setitem__(5, "\n"), "text 6 holds no text"), (lambda r: r["paraphrases"].__setitem__(5, None), "text 6 is None")):
        broken = json.loads(json.dumps(rows))
        change(broken[0])
        (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, broken)))
        facts = triviaqa(golden / layout, companion=tmp_path / "s.jsonl")
        assert next(facts).id == "wk_1"
        with pytest.raises(CasmError, match=f"s.jsonl: line 1: paraphrases of question 'wk_2'.*{says}"): next(facts)
    with pytest.raises(CasmError, match=rf"{layout}: line \d+: paraphrases of question 'wk_1': 0 different texts where 64"): next(triviaqa(golden / layout))
    (tmp_path / "s.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(CasmError, match="s.jsonl: paraphrases of question 'wk_1': 0 different"): next(triviaqa(golden / layout, companion=tmp_path / "s.jsonl"))


def test_official_file_through_any_window(monkeypatch):
    want = list(triviaqa(golden / "triviaqa.json", 0))
    for piece in (16, 33, 100, 1000):
        monkeypatch.setattr(datasets, "_PIECE", piece)
        assert list(triviaqa(golden / "triviaqa.json", 0)) == want


def test_official_file_cut_short_anywhere(tmp_path):
    "A truncated download never passes for a shorter data set"
    whole = (golden / "triviaqa.json").read_text(encoding="utf-8")
    end = whole.rindex("]", 0, whole.index('"Domain"'))
    for cut_at in random.Random(0).sample(range(end + 1), 80) + [0, end]:
        (tmp_path / "t.json").write_text(whole[:cut_at], encoding="utf-8")
        with pytest.raises(CasmError, match="t.json: "): list(triviaqa(tmp_path / "t.json", 0))


@pytest.mark.parametrize("answer", [None, "The Ambel", {}, {"value": "<unk>", "aliases": []}, {"aliases": ["Ambel"]}])
def test_test_split_has_no_answers(answer, tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question_id": "a", "question": "Who?", "answer": answer}))
    with pytest.raises(CasmError, match="test.jsonl: line 1: question 'a' has no answer.*train or validation"): next(triviaqa(tmp_path / "test.jsonl", 0))


def test_simpleqa_golden():
    "Quotes, commas and a line break inside cells; Windows line ends"
    river, organ = simpleqa(golden / "simpleqa.csv")
    assert (river.id, river.question, river.answer) == ("1", "Which river, if any, flows through Wreisk?", "The Ambel")
    assert river.urls == ("https://wreisk.example/river", "https://wreisk.example/town")
    assert organ.question.replace("\r\n", "\n") == 'How many "pipes" has the organ of Wreisk,\nbuilt in 1911?' and organ.answer == "1,204" and organ.urls == ("https://wreisk.example/l'organ",)


def test_metadata_can_not_run_code(tmp_path):
    (tmp_path / "s.csv").write_text("metadata,problem,answer\n" + f"\"__import__('pathlib').Path('{tmp_path}/ran').touch()\",Who?,Ann\n")
    with pytest.raises(CasmError, match="line 2: metadata is no Python dictionary"): next(simpleqa(tmp_path / "s.csv"))
    assert not (tmp_path / "ran").exists()


def test_chunks_and_their_augmentations(tmp_path):
    "In page order; each chunk's own rewritings, and none of those made for other cuts"
    chunks = list(simpleqa_chunks(golden / "pages.jsonl", size=8))
    assert [(c.title, c.text) for c in chunks] == [("Ambel", "The Ambel is a river.\n\nIt rises near"), ("Ambel", "Zürn, flows through Wreisk, and is lost in"), ("Ambel", "the sands."), ("Organ of Wreisk", "The organ has 1,204 pipes.")]
    assert chunks[2].id == "https://wreisk.example/river#2-9e9a4f9fe715" and len({c.id for c in chunks}) == 4
    rows = [{"chunk_id": c.id, "augmentations": [f"{c.text} ({i})" for i in range(64)]} for c in reversed(chunks)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for c in simpleqa_chunks(golden / "pages.jsonl", 8, companion=tmp_path / "a.jsonl"): assert len(c.augmentations) == 64 and all(a.startswith(c.text) for a in c.augmentations)
    with pytest.raises(CasmError, match="0 different texts where 64"): list(simpleqa_chunks(golden / "pages.jsonl", 9, companion=tmp_path / "a.jsonl"))
    rows[0]["augmentations"].pop()
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(CasmError, match="a.jsonl: line 1: augmentations of chunk .*#0-.*63 different"): list(simpleqa_chunks(golden / "pages.jsonl", 8, companion=tmp_path / "a.jsonl"))


@pytest.mark.parametrize("length", [None, len, lambda s: 2 * len(s.split()) + s.count("e")])
def test_cut_loses_nothing_and_is_greedy(length):
    rng, measure = random.Random(1), length or (lambda s: len(s.split()))
    for _ in range(100):
        text = "".join(rng.choice(["a", "be", " ", "\n", "ß ", "seven "]) for _ in range(rng.randrange(80)))
        size = rng.randrange(1, 60)
        try: pieces = list(cut(text, size, length))
        except CasmError:
            assert max(map(measure, text.split())) > size
            continue
        assert " ".join(pieces).split() == text.split() and all(measure(p) <= size for p in pieces)
        at = 0
        for i, p in enumerate(pieces):
            at = text.index(p, at)                                 # in order, as they stand in the text
            if i + 1 < len(pieces):
                word = pieces[i + 1].split()[0]
                assert measure(text[at:text.index(word, at + len(p)) + len(word)]) > size
            at += len(p)


def test_background_folder_in_order(tmp_path):
    texts = ["It snows.", "It\nthaws.", "It rains in Zürn.", "It pours.", "The sun shines."]
    assert list(read_texts(golden / "background")) == texts
    assert list(background(golden / "background", batch=2)) == [texts[:2], texts[2:4], texts[4:]]
    parquet.write_table(pyarrow.table({"n": range(5), "text": texts}), tmp_path / "p.parquet", row_group_size=2)
    assert list(read_texts(tmp_path)) == texts


def test_background_is_read_as_it_is_wanted(tmp_path):
    "The first batches of a corpus come although a later line is broken: nothing is read ahead"
    (tmp_path / "long.jsonl").write_text('{"text": "It rains."}\n' * 1000 + "broken\n")
    batches = background(tmp_path / "long.jsonl", 10)
    assert len(list(itertools.islice(batches, 100))) == 100
    with pytest.raises(CasmError, match="long.jsonl: line 1001 is not JSON"): next(batches)


@pytest.mark.parametrize("name, data, says", [
    ("a.txt", b"", "a.txt: holds no text"), ("a.txt", b"one\n\ntwo", "a.txt: line 2 holds no text"), ("a.txt", b"one\n  \n", "a.txt: line 2 holds no text"), ("a.txt", "grün".encode("latin-1"), "a.txt: line 1 is not UTF-8"),
    ("a.txt", "one\ntwo".encode("utf-16"), "a.txt: line 1 is not UTF-8"), ("a.jsonl", b'{"text": "one"}\n{"text": "two}', "a.jsonl: line 2 is not JSON"), ("a.jsonl", b'{"txt": "one"}', "a.jsonl: line 1: no field 'text'; it has 'txt'"),
    ("a.jsonl", b'{"text": ""}', "a.jsonl: line 1: text holds no text"), ("a.jsonl", b'{"text": ["one"]}', "a.jsonl: line 1: text is"), ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl: line 1: text holds half a character"),
    ("a.jsonl", b'["one"]', "a.jsonl: line 1 is no JSON object"), ("a.parquet", b"PAR1 and no more", "a.parquet: is no whole parquet file"), ("a.jsonl.gz", b"", "a.jsonl.gz: its suffix"), ("a", b"one", "its suffix")])
def test_bad_backgrounds(name, data, says, tmp_path):
    (tmp_path / name).write_bytes(data)
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(CasmError) as e: list(background(source))
        assert says in str(e.value)


def test_a_folder_with_a_foreign_file_is_refused_before_the_first_text(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.csv").write_text("two")
    with pytest.raises(CasmError, match="b.csv: its suffix"): next(read_texts(tmp_path))


def test_hub_is_streamed_and_needs_its_package(monkeypatch):
    "A stand-in for the package: no network in tests"
    calls = []
    def load_dataset(path, **how):
        calls.append((path, how))
        return ({"text": f"text {i}"} for i in itertools.count())
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    for name in datasets.HUB: assert len(next(background(name, 64))) == 64
    assert all(how["streaming"] and how["split"] == "train" for _, how in calls) and [p for p, _ in calls] == list(datasets.HUB)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CasmError, match="pip install 'datasets>=4'"): next(background("mlfoundations/dclm-baseline-1.0"))
    with pytest.raises(CasmError, match="no such file.*fineweb-edu"): background("HuggingFaceFW/fineweb")


def test_without_pyarrow_the_rest_still_reads(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert len(list(read_texts(golden / "background"))) == 5
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(CasmError, match="a.parquet: .*pip install pyarrow"): next(read_texts(tmp_path / "a.parquet"))
