"The importers on small files of the public layouts that we wrote ourselves, whole and broken in every way we could think of."
import csv, io, json, os, random, tracemalloc, zipfile
from dataclasses import asdict
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings, strategies as st
from pyarrow import parquet

from casm.benchmark import generate, golden_probes, read_facts, stream, write_facts, write_records
from casm.datasets import FORMATS, Case, data_format, inspect_file, read_cases, structure, try_cases
from casm.facts import CasmError

GOLDEN = Path(__file__).parents[1] / "golden" / "datasets" / "cases"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))


def plain(case): return json.loads(json.dumps(asdict(case) | {"where": case.where.split(": ", 1)[1], "several": sorted(case.several)}))

def zipped(path, members=None, folder=GOLDEN / "twiki_probes", compress=zipfile.ZIP_DEFLATED):
    members = members if members is not None else {f"twiki_probes/{p.name}": p.read_bytes() for p in sorted(folder.iterdir(), reverse=True)}
    with zipfile.ZipFile(path, "w", compress) as z:
        for name, text in members.items(): z.writestr(name, text)
    return path

def bad(path, format=None):
    "The one line that a file is refused with"
    with pytest.raises(CasmError) as e: list(read_cases(path, format))
    message = str(e.value)
    assert "\n" not in message and message.startswith(str(path)) and len(message) < 500, message
    return message.removeprefix(str(path))

def refusal(case, folder):
    "(file, what its refusal says, the refusal) of a bad file (name, content, what its refusal says)"
    file, text, says = case
    (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return file, says, bad(folder / file)


# --- golden

@pytest.mark.parametrize("name", EXPECTED)
def test_golden(name): assert [plain(c) for c in read_cases(GOLDEN / name)] == EXPECTED[name]

@pytest.mark.parametrize("name", EXPECTED)
def test_bom_and_crlf_change_nothing(name, tmp_path):
    p = tmp_path / Path(name).name
    text = (GOLDEN / name).read_bytes().replace(b"\r\n", b"\n")
    p.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    got = [plain(c) for c in read_cases(p)]
    assert json.loads(json.dumps(got).replace("\\r\\n", "\\n")) == EXPECTED[name]

@pytest.mark.parametrize("name", ["tsqa.jsonl", "tgqa.json", "wikifactdiff.jsonl", "facts.jsonl"])
def test_parquet_reads_the_same(name, tmp_path):
    text = (GOLDEN / name).read_text(encoding="utf-8")
    rows = json.loads(text) if name.endswith(".json") else [json.loads(x) for x in text.splitlines()]
    p = tmp_path / f"{Path(name).stem}.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=None if name != "facts.jsonl" else pyarrow.schema([(k, pyarrow.string()) for k in ("subject", "relation", "value", "valid_from", "valid_until", "source")])), p)
    got, want = [plain(c) for c in read_cases(p)], EXPECTED[name]
    assert [g["where"] for g in got] == [f"row {i}" for i in range(1, len(got) + 1)]
    assert [c | {"where": ""} for c in got] == [c | {"where": ""} for c in want]

def test_json_list_and_json_lines_read_the_same(tmp_path):
    rows = [json.loads(x) for x in (GOLDEN / "wikifactdiff.jsonl").read_text(encoding="utf-8").splitlines()]
    (tmp_path / "w.json").write_text(json.dumps(rows, indent=1))
    got, want = [plain(c) for c in read_cases(tmp_path / "w.json")], EXPECTED["wikifactdiff.jsonl"]
    assert [{**c, "where": ""} for c in got] == [{**c, "where": ""} for c in want]

def test_a_zip_of_probes_is_its_files_in_the_order_of_time(tmp_path):
    got = list(read_cases(zipped(tmp_path / "TWiki_Probes.zip")))
    assert [plain(c) | {"where": ""} for c in got] == [c | {"where": ""} for n in sorted(EXPECTED) if n.startswith("twiki_probes") for c in EXPECTED[n]]
    assert got[0].where == f"{tmp_path}/TWiki_Probes.zip/twiki_probes/0801-0901_changed.csv: line 2"
    said = inspect_file(tmp_path / "TWiki_Probes.zip")
    assert said["format"] == "twiki_probes" and said["probes"] == {"aug_sep": {"changed": 5, "unchanged": 2}, "sep_oct": {"changed": 2, "unchanged": 1}}
    assert (said["rows"], said["questions"], said["changes"], said["several_values"]) == (10, 10, 1, {"pairs": 1, "relations": ["twinned administrative body"]})
    assert structure(tmp_path / "TWiki_Probes.zip") == {"format": "twiki_probes", "per_period": [
        {"period": "aug_sep", "n_changed": 4, "n_unchanged": 2, "sequential_contradictions": 0, "contradiction_rate": 0., "of_several_values": 0},
        {"period": "sep_oct", "n_changed": 2, "n_unchanged": 1, "sequential_contradictions": 1, "contradiction_rate": .5, "of_several_values": 0}],
        "pairwise_changed_key_overlap": {"aug_sep<->sep_oct": 1}}

def test_a_zip_of_diffsets(tmp_path):
    p = zipped(tmp_path / "TWiki_Diffsets.zip", {"TWiki_Diffsets/wikipedia_1011_gpt2.csv": "sentence\nlater\n", "TWiki_Diffsets/wikipedia_0910_gpt2.csv": (GOLDEN / "wikipedia_0910_gpt2.csv").read_bytes()})
    assert data_format(p) == "twiki_diffsets" and [c.passages[0].date for c in read_cases(p)] == ["2021-10-01", "2021-10-01", "2021-11-01"]

@pytest.mark.parametrize("name, format, changes, chains", [("atoke_se.json", "atoke", 1, 0), ("atoke_me.json", "atoke", 2, 1), ("atoke_ee.json", "atoke", 0, 0), ("facts.csv", "facts", 2, 1), ("tgqa.json", "tgqa", 1, 0),
                                                           ("wikifactdiff.jsonl", "wikifactdiff", 1, 0), ("tsqa.jsonl", "tsqa", 0, 0), ("augmented/2020.csv", "augmented", 0, 0), ("wikipedia_0910_gpt2.csv", "twiki_diffsets", 0, 0)])
def test_inspect(name, format, changes, chains):
    said = inspect_file(GOLDEN / name)
    assert (said["format"], said["changes"], said["chains"], said["rows"]) == (format, changes, chains, len(EXPECTED[name])) and "probes" not in said
    assert said["problem_count"] == len(said["problems"]) == sum(len(c["problems"]) for c in EXPECTED[name])

def test_every_format_is_known_by_its_content():
    assert {data_format(GOLDEN / n) for n in EXPECTED} | {"seed_facts", "seed_probes", "seed_passages"} == FORMATS.keys()

@pytest.fixture
def public(shared): return shared

def test_public_files(public):
    "The counts of the original's own diagnosis"
    said = inspect_file(public / "probes.json")
    assert said["probes"] == {"2018": {"changed": 605, "unchanged": 0}, "2020": {"changed": 150, "unchanged": 455}, "2022": {"changed": 149, "unchanged": 456}, "2024": {"changed": 150, "unchanged": 455}}
    assert (said["pairs"], said["changes"], said["chains"], said["problems"]) == (605, 449, 0, [])
    found = structure(public / "probes.json")
    assert [r["sequential_contradictions"] for r in found["per_period"]] == [0, 150, 149, 150]
    assert found["pairwise_changed_key_overlap"] == {"2018<->2020": 150, "2018<->2022": 149, "2018<->2024": 150, "2020<->2022": 0, "2020<->2024": 0, "2022<->2024": 0}
    assert structure(public / "synthetic_facts_raw.json") | {"format": ""} == found | {"format": ""}
    said = inspect_file(public / "synthetic_facts_raw.json")
    assert (said["rows"], said["changes"], said["problem_count"]) == (605, 449, 2) and "line 1892: FALSE_CONTRADICTION: 'Stoneworth City'" in said["problems"][0]
    assert inspect_file(public / "passages.json")["passages"] == 2420

def test_what_we_build_is_read_back(tmp_path):
    b = generate(30, 7)
    write_facts(b, tmp_path / "f.json")
    (tmp_path / "p.json").write_text(json.dumps(golden_probes(b)))
    assert structure(tmp_path / "f.json")["per_period"] == structure(tmp_path / "p.json")["per_period"]
    assert [c.facts[0].value for c in read_cases(tmp_path / "p.json") if c.group[0] == "2018"] == [r.values["2018"] for r in b.records]


# --- bad input: file, line and column

HEAD = "subject,relation,object\n"
TABLES = {
    "no column": ("0801-0901_changed.csv", "subject,relation\nWreisk,mayor\n", "line 1: the columns are|line 1: no column 'object'"),
    "missing column": ("0801-0901_changed.csv", "subject,object\nWreisk,Ida\n", "line 1: no column 'relation'"),
    "extra column": ("0801-0901_changed.csv", "subject,relation,object,note\na,b,c,d\n", "line 1: unknown column 'note'"),
    "column twice": ("0801-0901_changed.csv", "subject,relation,object,object\na,b,c,d\n", "line 1: column 'object' stands twice"),
    "empty row": ("0801-0901_changed.csv", HEAD + "a,b,c\n\nd,e,f\n", "line 3: the row is empty"),
    "row of commas": ("0801-0901_changed.csv", HEAD + "a,b,c\n,,\n", "line 3: the row is empty"),
    "empty cell": ("0801-0901_changed.csv", HEAD + "a,b,c\na,,c\n", "line 3: column 'relation' is empty"),
    "no answer": ("0801-0901_changed.csv", HEAD + "a,b, \n", "line 2: column 'object' is empty"),
    "cell missing": ("0801-0901_changed.csv", HEAD + "a,b\n", "line 2: column 'object' has no cell"),
    "cell too many": ("0801-0901_changed.csv", HEAD + "a,b,c,d\n", "line 2: 4 cells for 3 columns"),
    "open quotes": ("0801-0901_changed.csv", HEAD + 'a,b,"c\n', "line 2: unexpected end of data"),
    "stray quotes": ("0801-0901_changed.csv", HEAD + 'a,b,"c"d\n', "line 2: "),
    "after a cell of two lines": ("0801-0901_changed.csv", HEAD + 'a,b,"c\nc"\na,,c\n', "line 4: column 'relation' is empty"),
    "Latin-1": ("0801-0901_changed.csv", (HEAD + "a,b,c\nIda M\u00f6ck,b,c\n").encode("latin-1"), "line 3 column 6 is not UTF-8"),
    "UTF-16": ("0801-0901_changed.csv", HEAD.encode("utf-16"), "line 1 column 1 is not UTF-8"),
    "no table": ("0801-0901_changed.csv", "", "line 1: "),
    "a period that is no time": ("2nd_changed.csv", HEAD + "a,b,c\n", "period '2nd' is no time point"),
    "facts without a date": ("facts.csv", "subject,relation,value,valid_from\na,b,c,\n", "line 2: column 'valid_from' is empty"),
    "facts with a wrong date": ("facts.csv", "subject,relation,value,valid_from\na,b,c,2018-13\n", "line 2: valid_from '2018-13'"),
    "facts one byte short": ("facts.csv", "subject,relation,value,valid_from\na,b,c,2018-06-0", "line 2: valid_from '2018-06-0'"),
    "facts with a column more": ("facts.csv", "subject,relation,value,valid_from,when\n", "line 1: unknown column 'when'"),
    "augmented without text": ("2020.csv", '"text"\n"a"\n" "\n', "line 3: the row is empty"),
    "diffset without text": ("wikipedia_0809_gpt2.csv", "id,text\n1,a\n2,\n", "line 3: text holds no text"),
}

@pytest.mark.parametrize("name", TABLES)
def test_bad_tables(name, tmp_path):
    file, says, message = refusal(TABLES[name], tmp_path)
    assert any(s in message for s in says.split("|")), message
    if file.startswith("0801"):                                             # the same within an archive
        assert any(s in bad(zipped(tmp_path / "z.zip", {file: (tmp_path / file).read_bytes()})) for s in says.split("|"))

JSON = {
    "one byte short": ("f.json", '[{"entity": "a", "relation": "b", "value_2018": "c", "value_2020": "d"}', "line 1"),
    "JSON lines one byte short": ("f.jsonl", '{"subject": "a", "relation": "b", "value": "c", "valid_from": "2018"}\n{"subject": "a", "relation": "b", "value": "c", "valid_from": "2018"', "line 2 is not JSON"),
    "no valid_from": ("f.jsonl", '{"subject": "a", "relation": "b", "value": "c"}', "line 1: no field 'valid_from'"),
    "unknown field": ("f.jsonl", '{"subject": "a", "relation": "b", "value": "c", "valid_from": "2018", "when": 1}', "line 1: unknown field 'when'"),
    "value is a number": ("f.jsonl", '{"subject": "a", "relation": "b", "value": 12, "valid_from": "2018"}', "line 1: value is 12"),
    "empty line": ("f.jsonl", '{"subject": "a", "relation": "b", "value": "c", "valid_from": "2018"}\n\n', "line 2 is not JSON"),
    "Latin-1": ("f.jsonl", '{"subject": "M\u00f6ck"}'.encode("latin-1"), "line 1 is not UTF-8"),
    "record of other columns": ("f.json", '[{"entity": "a", "relation": "b", "value_2018": "c", "value_2020": "d"},\n {"entity": "e", "relation": "b", "value_2018": "c", "value_2022": "d"}]', "line 2: record 2 ('e', 'b'): its periods"),
    "record twice": ("f.json", '[{"entity": "a", "relation": "b", "value_2018": "c", "value_2020": "d"},\n {"entity": "A", "relation": "b", "value_2018": "c", "value_2020": "d"}]', "line 2: record 2 ('A', 'b'): record 1"),
    "probe without answer": ("p.json", '{"2018": {"changed": [\n{"prompt": "The b of a is", "subject": "a", "relation": "b", "ground_truth": ""}]}}', "line 2: ground_truth holds no text"),
    "probe without the field": ("p.json", '{"2018": {"changed": [{"prompt": "The b of a is", "subject": "a", "relation": "b"}]}}', "line 1: no field 'ground_truth'"),
    "probe is text": ("p.json", '{"2018": {"changed": ["x"]}}', "line 1 is 'x'; give a probe"),
    "probe periods out of order": ("p.json", '{"2020": {"changed": [{"prompt": "The b of a is", "subject": "a", "relation": "b", "ground_truth": "c"}]},\n"2018": {"changed": [{"prompt": "The b of a is", "subject": "a", "relation": "b", "ground_truth": "c"}]}}', "line 2: period '2018' follows '2020'"),
    "passage periods out of order": ("p.json", '{"2020": ["a"],\n"2018": ["b"]}', "line 2: period '2018' follows '2020'"),
    "empty passage": ("p.json", '{"2020": ["a",\n" "]}', "line 2 holds no text"),
    "edits out of order": ("a.json", json.dumps([{"requested_rewrite": json.loads((GOLDEN / "atoke_me.json").read_text(encoding="utf-8"))[0]["requested_rewrite"][::-1]}]), "line 1, edit 2: time_new begins in 1964"),
    "an edit back in time": ("a.json", json.dumps([{"requested_rewrite": {"subject": "a", "relation": "b", "target_true": "c", "target_new": "d", "time_true": {"since": 1950}, "time_new": {"since": 1940}}}]), "line 1, edit 1: time_new begins in 1940"),
    "question without answers": ("t.jsonl", '{"question": "Who?", "context": "c", "answers": [], "is_hard_negative": false}', "line 1: answers is []"),
    "story without events": ("t.json", '[{"story": "x", "TG": "none"}]', "line 1: TG is 'none'"),
    "unknown decision": ("w.jsonl", '{"subject": {"label": "a"}, "relation": {"label": "b"}, "objects": [{"label": "c", "decision": "?"}]}', "line 1: object 1: decision is '?'"),
    "nothing known": ("x.jsonl", '{"a": 1}', "line 1: has the fields 'a'"),
}

@pytest.mark.parametrize("name", JSON)
def test_bad_json(name, tmp_path):
    _, says, message = refusal(JSON[name], tmp_path)
    assert says in message

@pytest.mark.parametrize("name", ["../0801-0901_changed.csv", "/etc/0801-0901_changed.csv", "a/../../0801-0901_changed.csv", "..\\0801-0901_changed.csv", "C:\\0801-0901_changed.csv"])
def test_zip_with_path_traversal(name, tmp_path):
    "Refused whatever else is in it, and nothing is unpacked"
    p = zipped(tmp_path / "z.zip", {"twiki_probes/0801-0901_unchanged.csv": HEAD + "a,b,c\n", name: HEAD + "a,b,c\n"})
    assert "which leads out of the archive" in bad(p) and os.listdir(tmp_path) == ["z.zip"]

def test_broken_zips(tmp_path):
    whole = zipped(tmp_path / "whole.zip").read_bytes()
    p = tmp_path / "z.zip"
    for n in [len(whole) - 1, *random.Random(0).sample(range(len(whole)), 60), 0]:
        p.write_bytes(whole[:n])
        assert "is no whole zip file" in bad(p)
    draw = random.Random(1)
    for _ in range(200):                                                     # one byte differs: read as it was, or refused in one line
        k = draw.randrange(len(whole))
        p.write_bytes(whole[:k] + bytes([whole[k] ^ draw.randrange(1, 256)]) + whole[k + 1:])
        try: got = [plain(c) | {"where": ""} for c in read_cases(p)]
        except CasmError as e: assert "\n" not in str(e) and str(e).startswith(str(p)), e
        else: assert got == [plain(c) | {"where": ""} for c in read_cases(tmp_path / "whole.zip")] or k

def test_parquet_one_byte_short(tmp_path):
    parquet.write_table(pyarrow.table({"subject": ["a"], "relation": ["b"], "value": ["c"], "valid_from": ["2018"]}), tmp_path / "f.parquet")
    (tmp_path / "g.parquet").write_bytes((tmp_path / "f.parquet").read_bytes()[:-1])
    assert "is no whole parquet file" in bad(tmp_path / "g.parquet")
    parquet.write_table(pyarrow.table({"subject": ["a", "a"], "relation": ["b", None], "value": ["c", "d"], "valid_from": ["2018", "2019"]}), tmp_path / "f.parquet")
    assert "row 2: no field 'relation'" in bad(tmp_path / "f.parquet")

@pytest.mark.parametrize("name", ["none.csv", "none.json", "none.jsonl", "none.zip", "none.parquet"])
def test_no_such_file(name, tmp_path): assert "o such file" in bad(tmp_path / name)

def test_all_bad_rows_are_counted_and_good_ones_kept(tmp_path):
    (tmp_path / "0801-0901_changed.csv").write_text(HEAD + "a,b,c\n,b,c\nd,e,f\n\n")
    got = list(try_cases(tmp_path / "0801-0901_changed.csv"))
    assert [isinstance(c, Case) for c in got] == [True, False, True, False]
    with pytest.raises(CasmError, match=r"line 3: column 'subject' is empty.*the first of 2 rows that cannot be read; 2 can"): inspect_file(tmp_path / "0801-0901_changed.csv")

@pytest.mark.parametrize("name", [n for n in EXPECTED if n.endswith((".json", ".jsonl"))])
def test_cut_short_anywhere(name, tmp_path):
    "A truncated file is an error, or ends in whole rows"
    whole = (GOLDEN / name).read_text(encoding="utf-8")
    p = tmp_path / Path(name).name
    for n in random.Random(0).sample(range(len(whole.rstrip()) - 1), 40):
        p.write_text(whole[:n], encoding="utf-8")
        try: got = [plain(c) for c in read_cases(p)]
        except CasmError: continue
        assert name.endswith(".jsonl") and got == EXPECTED[name][:len(got)] and whole[:n].endswith(("}", "\n"))

@given(st.lists(st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)] * 3), max_size=5))
@settings(max_examples=80, deadline=None)
def test_any_table_is_read_or_refused_row_by_row(tmp_path_factory, rows):
    "Every row comes back as it was written, or as an error: none is lost, none is altered but at its ends"
    p = tmp_path_factory.mktemp("t") / "0801-0901_changed.csv"
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("subject", "relation", "object"), *rows])
    p.write_bytes(out.getvalue().encode())
    got = list(try_cases(p))
    assert len(got) == len(rows)
    for c, row in zip(got, rows):
        if isinstance(c, Case): assert (c.facts[0].subject, c.facts[0].relation, c.facts[0].value) == tuple(x.strip() for x in row)


def test_streaming(tmp_path):
    "Reading is flat in memory too: rows are dropped as they come"
    def peak(n):
        p = tmp_path / "0801-0901_changed.csv"
        p.write_text(HEAD + "".join(f"Quay {i},depth,{i} m\n" for i in range(n)))
        (tmp_path / "f.jsonl").write_text("".join(json.dumps({"subject": f"Quay {i}", "relation": "depth", "value": f"{i} m", "valid_from": "2018"}) + "\n" for i in range(n)))
        tracemalloc.start()
        assert sum(1 for f in (p, tmp_path / "f.jsonl") for _ in read_cases(f)) == 2 * n
        now = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return now
    peak(100)
    assert peak(8000) < peak(500) + 500_000

def test_large_files_of_facts(tmp_path):
    write_records(stream(3000), tmp_path / "f.json")
    said = inspect_file(tmp_path / "f.json")
    assert (said["rows"], said["changes"], said["problem_count"]) == (3000, 2250, 0) and len(read_facts(tmp_path / "f.json").records) == 3000
