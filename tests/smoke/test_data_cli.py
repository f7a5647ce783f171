"casm data as a user types it, in its own process: every command, bad input of every kind, a process that is killed."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

from casm.benchmark import PRESETS, generate, generate_preset, read_facts, write_facts
from commands import hear_ctrl_c, run

CASM = str(Path(sys.executable).with_name("casm"))
ROOT = Path(__file__).parents[2]
GOLDEN, CASES = ROOT / "tests" / "golden" / "data", ROOT / "tests" / "golden" / "datasets" / "cases"
COMMANDS = ("generate", "build", "redistribute", "validate", "inspect", "structure", "gemini", "augment")


def casm(*args, cwd=None): return run("casm", "data", *args, cwd=cwd)
def files(folder): return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}

def done(got):
    assert (got.returncode, got.stderr) == (0, ""), got
    return got.stdout

def refused(got, *says):
    "Exit code 2 and one line that says so"
    assert (got.returncode, got.stdout) == (2, ""), got
    assert got.stderr.startswith("casm: ") and got.stderr.count("\n") == 1 and "Traceback" not in got.stderr, got.stderr
    for s in says: assert s in got.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command):
    said = done(casm(command, "--help"))
    assert f"example:\n  casm data {command}" in said and max(map(len, said.splitlines())) <= 100

def test_help_lists_every_command_and_waits_for_nothing_heavy():
    code = "import sys\nfrom casm.cli import main\nassert main(['data', '--help']) == 0\nassert not {'torch', 'transformers', 'pyarrow', 'google.genai'} & sys.modules.keys()"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert got.returncode == 0 and all(f"\n    {c}" in got.stdout for c in COMMANDS), got.stderr

def test_nothing_typed(): refused(casm(), "casm data --help")


def test_our_golden_files(tmp_path):
    said = done(casm("build", "--facts", GOLDEN / "facts.json", "--out", "new/folder", "--prompts", cwd=tmp_path))
    out = tmp_path / "new" / "folder"
    for name in ("passages.json", "probes.json"): assert (out / name).read_bytes() == (GOLDEN / name).read_bytes()
    assert (out / "2020_chunk1of1.txt").read_bytes() == (GOLDEN / "prompts_2020.txt").read_bytes()
    assert said.endswith("results: new/folder\n") and '1 facts are flagged wrongly' in said and 'The "Old" Mill | Owner | changed is true, values Jon Kress' in said
    said = done(casm("redistribute", "--input", GOLDEN / "facts.json", "--output", "even.json", cwd=tmp_path))
    assert (tmp_path / "even.json").read_bytes() == (GOLDEN / "redistributed.json").read_bytes() and said.endswith("results: even.json\n")

def test_public_golden_files(tmp_path, shared):
    said = done(casm("build", "--facts", shared / "synthetic_facts_raw.json", "--out", "data", cwd=tmp_path))
    for name in ("passages.json", "probes.json"): assert (tmp_path / "data" / name).read_bytes() == (shared / name).read_bytes()
    assert "2 facts are flagged wrongly" in said and "Stoneworth City | Incorporation Year" in said and "Whispering Creek Water Registry | Primary Irrigant Licensee" in said
    done(casm("redistribute", "--input", shared / "synthetic_facts_raw.json", "--output", "even.json", cwd=tmp_path))
    assert (tmp_path / "even.json").read_bytes() == (shared / "synthetic_facts_raw.json").read_bytes()
    got = casm("validate", shared / "synthetic_facts_raw.json")
    assert got.returncode == 2 and got.stdout.count("FALSE_CONTRADICTION") == 2 and "2 findings, the first in record 211" in got.stderr
    assert json.loads(done(casm("inspect", shared / "probes.json", "--json")))["probes"]["2022"] == {"changed": 149, "unchanged": 456}

def test_ci_without_the_public_files_fails():
    "With CI=true their absence is a failure, elsewhere a skip that names the folder"
    tested = lambda **env: subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(ROOT / "tests/unit/test_builders.py"), "-k", "public_file"],  # noqa: E731
                                       cwd="/", env={k: v for k, v in os.environ.items() if k != "CI"} | env, capture_output=True, text=True, timeout=300)
    if (ROOT.parent / "shared" / "data").is_dir(): assert tested(CI="true").returncode == 0
    else: assert tested(CI="true").returncode == 1 and "is not here" in tested().stdout


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset(preset, tmp_path):
    said = done(casm("generate", "--preset", preset, "--facts", 30, "--seed", 2, "--out", "f.jsonl", cwd=tmp_path))
    assert said.endswith("results: f.jsonl\n")
    made = generate_preset(preset, 30, 2)
    told = [f for p in made.benchmark.periods for f in made.facts(p)]
    assert [json.loads(x) for x in (tmp_path / "f.jsonl").read_text().splitlines()] == [{k: v for k, v in vars(f).items() if v is not None} for f in told]
    if made.aliases: assert json.loads((tmp_path / "f.aliases.json").read_text()) == [list(a) for a in made.aliases]
    assert json.loads(done(casm("inspect", "f.jsonl", "--json", cwd=tmp_path)))["facts"] == len(told)
    if made.several: refused(casm("generate", "--preset", preset, "--out", "f.json", cwd=tmp_path), "ends in .jsonl")
    else:
        done(casm("generate", "--preset", preset, "--facts", 30, "--seed", 2, "--out", "f.json", cwd=tmp_path))
        assert [(r.entity, r.relation, r.values) for r in read_facts(tmp_path / "f.json").records] == [(r.entity, r.relation, r.values) for r in made.benchmark.records]

def test_the_default_is_the_benchmark(tmp_path):
    done(casm("generate", cwd=tmp_path))
    assert read_facts(tmp_path / "facts.json") == generate()
    said = done(casm("validate", "facts.json", "--json", cwd=tmp_path))
    assert json.loads(said)["findings"] == [] and json.loads(said)["unchanged"] == 151

def test_prompts_of_public_probes(tmp_path):
    "What export_eval_prompts did: the changed before the unchanged, in chunks"
    import zipfile
    with zipfile.ZipFile(tmp_path / "TWiki_Probes.zip", "w") as z:
        for p in (CASES / "twiki_probes").iterdir(): z.write(p, f"twiki_probes/{p.name}")
    said = done(casm("build", "--probes", "TWiki_Probes.zip", "--out", "prompts", "--chunks", 3, cwd=tmp_path))
    assert said.endswith("results: prompts\n") and sorted(os.listdir(tmp_path / "prompts")) == [f"{p}_chunk{i}of3.txt" for p in ("aug_sep", "sep_oct") for i in (1, 2, 3)]
    assert (tmp_path / "prompts" / "aug_sep_chunk3of3.txt").read_text() == "### PERIOD=aug_sep  CHUNK=3of3  N=1\nThe located in of The \"Old\" Mill is\tWreisk\n"
    assert json.loads(done(casm("structure", "TWiki_Probes.zip", "--json", cwd=tmp_path)))["pairwise_changed_key_overlap"] == {"aug_sep<->sep_oct": 1}
    refused(casm("build", "--probes", GOLDEN / "facts.json", "--out", "none", cwd=tmp_path), "holds no probes in periods")

@pytest.mark.parametrize("case", ["atoke_me.json", "tgqa.json", "tsqa.jsonl", "wikifactdiff.jsonl", "facts.csv", "wikipedia_0910_gpt2.csv", "augmented/2020.csv", "twiki_probes/0801-0901_changed.csv"])
def test_inspect(case):
    plain, as_json = done(casm("inspect", CASES / case)), json.loads(done(casm("inspect", CASES / case, "--json")))
    assert f"({as_json['format']})" in plain and f"{as_json['chains']:,} chains" in plain


HEAD = "subject,relation,object\n"
BAD = {
    "Latin-1": ("0801-0901_changed.csv", (HEAD + "Ida M\u00f6ck,b,c\n").encode("latin-1"), "line 2 column 6 is not UTF-8"),
    "missing column": ("x_changed.csv", "subject,object\na,b\n", "line 1: no column 'relation'"),
    "extra column": ("x_changed.csv", "subject,relation,object,note\na,b,c,d\n", "line 1: unknown column 'note'"),
    "empty row": ("x_changed.csv", HEAD + "a,b,c\n\n", "line 3: the row is empty"),
    "no answer": ("x_changed.csv", HEAD + "a,b,\n", "line 2: column 'object' is empty"),
    "broken zip": ("x.zip", b"PK\x03\x04half", "is no whole zip file"),
    "periods out of order": ("p.json", '{"2020": ["a"],\n"2018": ["b"]}', "line 2: period '2018' follows '2020'"),
    "a byte short": ("f.json", GOLDEN.joinpath("facts.json").read_bytes()[:-1], "not JSON"),
    "not there": ("none.json", None, "o such file"),
}

@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["inspect", "structure"])
def test_bad_files(name, command, tmp_path):
    file, text, says = BAD[name]
    if text is not None: (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    before = files(tmp_path)
    refused(casm(command, file, cwd=tmp_path), file, says)
    refused(casm(command, file, "--json", cwd=tmp_path), file, says)
    assert files(tmp_path) == before

BAD_FACTS = {
    "a byte short": (GOLDEN.joinpath("facts.json").read_bytes()[:-1], "not JSON: ", "at line"),
    "Latin-1": ('[{"entity": "Ida M\u00f6ck"}]'.encode("latin-1"), "line 1 column 19 is not UTF-8"),
    "no value": (b'[\n{"entity": "a", "relation": "b", "value_2018": "c", "value_2020": "d"},\n{"entity": "a2", "relation": "b", "value_2018": "c", "value_2020": ""}]', "line 3: record 2 ('a2', 'b'): value_2020 is ''"),
    "an extra key": (b'[\n{"entity": "a", "relation": "b", "value_2018": "c", "value_2020": "d", "note": "x"}]', "line 2: record 1 ('a'): unknown key 'note'"),
    "nothing": (b"", "not JSON"),
}

@pytest.mark.parametrize("name", BAD_FACTS)
@pytest.mark.parametrize("line", [("build", "--facts", "f.json", "--out", "data"), ("redistribute", "--input", "f.json", "--output", "g.json"), ("validate", "f.json")])
def test_bad_facts_write_nothing(name, line, tmp_path):
    text, *says = BAD_FACTS[name]
    (tmp_path / "f.json").write_bytes(text)
    before = files(tmp_path)
    refused(casm(*line, cwd=tmp_path), "f.json: ", *says)
    assert files(tmp_path) == before

def test_a_file_in_the_way_of_the_folder(tmp_path):
    write_facts(generate(5), tmp_path / "f.json")
    before = files(tmp_path)
    (tmp_path / "data").write_text("in the way")
    refused(casm("build", "--facts", "f.json", "--out", "data", cwd=tmp_path), "data")
    assert files(tmp_path).keys() == before.keys() | {"data"}

@pytest.mark.full
def test_killed_while_writing(tmp_path):
    "The old file stays, and no half of a new one has its name"
    (tmp_path / "f.json").write_text("old")
    p = subprocess.Popen([CASM, "data", "generate", "--preset", "large", "--facts", "400000", "--out", "f.json"], cwd=tmp_path)
    end = time.time() + 60
    while not any(x.startswith(".f.json") and (tmp_path / x).stat().st_size > 10_000 for x in os.listdir(tmp_path)) and time.time() < end: time.sleep(.05)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert (tmp_path / "f.json").read_text() == "old"
    p = subprocess.Popen([CASM, "data", "generate", "--preset", "large", "--facts", "400000", "--out", "g.json"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    while not any(x.startswith(".g.json") for x in os.listdir(tmp_path)) and time.time() < end + 60: time.sleep(.05)
    p.send_signal(signal.SIGINT)
    said = p.communicate()[1]
    assert p.returncode == 130 and said == "casm: interrupted; nothing was written\n" and not [x for x in os.listdir(tmp_path) if "g.json" in x]
