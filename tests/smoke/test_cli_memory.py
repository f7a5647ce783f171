"`casm learn` and the commands about a memory, each in its own process: what they print, what they refuse, and a learn that is stopped."
import json, os, re, shlex, signal, sqlite3, subprocess, sys, time
from pathlib import Path

import pytest

from commands import hear_ctrl_c, run

CASM = str(Path(sys.executable).with_name("casm"))
HEADER = "subject,relation,value,valid_from\n"
BOATS = HEADER + "Torvik Harbour,pilot boat,Marigold,2018\nKarn Point,pilot boat,Swift,2018\n"


def casm(line, cwd): return run("casm", *shlex.split(line), cwd=cwd)
def files(folder): return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*")) if p.name != ".lock"}

def refused(got, *says):
    assert (got.returncode, got.stdout) == (2, "") and "Traceback" not in got.stderr, got
    last = got.stderr.splitlines()[-1]
    assert last.startswith("casm: "), got.stderr
    for s in says: assert s in last, last


@pytest.fixture
def place(tmp_path, stub):
    (tmp_path / "boats.csv").write_text(BOATS)
    (tmp_path / "news.jsonl").write_text('{"text": "In 2022, the pilot boat of Torvik Harbour is Grey Heron.", "source": "port gazette"}\n{"text": "The mill burned down.", "date": "2021"}\n')
    (tmp_path / "first.json").write_text(json.dumps([{"entity": "Karn Point", "relation": "depth", "value_2018": "9", "value_2020": "9", "value_2022": "8", "changed": True}]))
    return tmp_path


def test_the_life_of_a_memory(place, stub):
    got = casm(f"learn boats.csv --memory m --model {stub}", place)
    assert (got.returncode, got.stdout) == (0, "2 new\ncommit 1; casm undo 1 --memory m takes it back\nresults: m\n"), got
    assert {"registry.sqlite", "memory/memory.safetensors"} <= files(place / "m").keys() and (place / "m" / "temporal_lm.json").exists()
    got = casm("learn news.jsonl --memory m", place)
    assert got.stdout.splitlines()[:2] == ["1 contradiction, 1 new", "pilot boat of Torvik Harbour: Marigold (from 2018) -> Grey Heron (from 2022)"], got
    assert casm("learn first.json --memory m", place).stdout.splitlines()[:2] == ["1 new, 1 contradiction", "depth of Karn Point: 9 (from 2018) -> 8 (from 2022)"]
    got = casm("ask 'What is the pilot boat of Torvik Harbour?' --memory m --as-of 2020 --explain", place)
    assert got.returncode == 0 and got.stdout.splitlines()[1:] == ["Slot 0 holds the pilot boat of Torvik Harbour from 2018 until 2022, asked as of 2020.", "Read in: boats.csv: line 2"], got
    plain = casm("ask 'What is the pilot boat of Torvik Harbour?' --memory m --as-of 2020", place)
    assert plain.stdout.splitlines() == got.stdout.splitlines()[:1] and "no slot" not in plain.stderr
    assert "no slot applies" in casm("ask 'What is the pilot boat of Nowhere?' --memory m", place).stderr
    assert casm("history 'torvik  harbour' Pilot_boat --memory m", place).stdout.splitlines() == [
        "2018 to 2022: Marigold (slot 0, commit 1, new, boats.csv: line 2)", "2022 to –: Grey Heron (slot 2, commit 2, contradiction, port gazette)"]
    assert casm("diff 2018 2022 --memory m", place).stdout.splitlines()[0] == "pilot boat of Torvik Harbour: Marigold -> Grey Heron"
    assert casm("undo 2 --memory m", place).stdout == "commit 2 undone; casm undo 4 --memory m brings it back\nresults: m\n"
    assert casm("history 'Torvik Harbour' 'pilot boat' --memory m", place).stdout.splitlines() == ["2018 to –: Marigold (slot 0, commit 1, new, boats.csv: line 2)"]
    assert casm("export --memory m --out ledger.json", place).stdout == "4 records\nresults: ledger.json\n"
    assert {s["value"] for s in json.loads((place / "ledger.json").read_text())["slots"]} == {"Marigold", "Swift", "9", "8"}


def test_eval_of_a_memory_counts_no_use(place, stub):
    casm(f"learn boats.csv --memory m --model {stub}", place)
    before = (place / "m" / "registry.sqlite").read_bytes()
    got = casm("eval --memory m --probes boats.csv --out e", place)
    assert got.returncode == 0 and got.stdout.splitlines()[0].split()[0] == "kind" and got.stdout.splitlines()[-1] == "results: e", got.stderr
    row, = json.loads((place / "e" / "results.json").read_text())["kinds"]
    assert (row["n"], row["gold_slot"], row["no_slot"], row["right"]) == (2, 1., 0., row["perfect routing"]) and (place / "m" / "registry.sqlite").read_bytes() == before
    (place / "more.csv").write_text(HEADER + "Nisk Bay,pilot boat,Kestrel,2018\n")
    assert casm("learn more.csv --memory m", place).returncode == 0                    # another state of the memory: its answers are not those in the folder
    refused(casm("eval --memory m --probes boats.csv --out e", place), "state is")
    (place / "thesis").mkdir()
    (place / "thesis" / "results.json").write_text("mine")
    refused(casm("eval --memory m --probes boats.csv --out thesis", place), "thesis")
    assert (place / "thesis" / "results.json").read_text() == "mine"
    refused(casm("eval --memory m --out f", place), "--probes")
    refused(casm("eval --memory nowhere --probes boats.csv", place), "nowhere")
    assert not (place / "f").exists() and not (place / "runs").exists()


def test_one_bad_record_among_a_thousand(place, stub):
    rows = [f"Rock {i},height,{i},2018" for i in range(1000)]
    rows[570] = "Rock 3,height,77,2018"
    (place / "many.csv").write_text(HEADER + "\n".join(rows))
    before = files(place)
    refused(casm(f"learn many.csv --memory new --model {stub}", place), "many.csv: line 572: 'height' of 'Rock 3': value '77' at '2018', where '3' is recorded", "nothing was learnt")
    assert files(place) == before
    (place / "few.csv").write_text(HEADER + "\n".join([*rows[:3], "Rock 3,height,,2018", "Rock 4,height", "Rock 5,height,5,2018,2019", rows[6]]))
    got = casm(f"learn few.csv --memory m --model {stub} --skip-bad", place)
    assert got.returncode == 0 and got.stdout.splitlines()[0] == "4 new" and re.findall("left out: few.csv: line ([0-9])", got.stdout) == ["7", "5", "6"], got


BAD = {
    "two.csv": (HEADER + "Inn,door,red,2018\nInn,door,blue,2018\n", "two.csv: line 3: 'door' of 'Inn': value 'blue' at '2018'"), "inverted.jsonl": ('{"subject": "Inn", "relation": "door", "value": "red", "valid_from": "2018", "valid_until": "2017"}', "line 1: valid_until '2017' is not after"),
    "date.csv": (HEADER + "Inn,door,red,yesterday 3\n", "date.csv: line 2: "), "empty.csv": (HEADER + "Inn,door, ,2018\n", "empty.csv: line 2: value is ' '"), "undated.txt": ("The mill burned down.\n", "undated.txt: line 1: passage 'The mill burned down.' has no date"),
    "broken.jsonl": ('{"subject": \n', "broken.jsonl: line 1 is not JSON"), "column.csv": ("subject,relation,worth\n", "column.csv: line 1: the columns are"), "list.json": ("{}", "list.json: holds no list of records"), "x.xml": ("", "x.xml: its suffix is none of"),
    "bad.json": ('[{"entity": "Inn", "relation": "door", "value_2018": "red", "value_2020": ""}]', "bad.json: record 1")}

@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line_and_leave_nothing(name, place, stub):
    text, says = BAD[name]
    (place / name).write_text(text)
    before = files(place)
    refused(casm(f"learn {name} --memory new --model {stub}", place), says)
    assert files(place) == before


def test_bad_folders_are_one_line_and_stay(place, stub):
    assert casm(f"learn boats.csv --memory m --model {stub}", place).returncode == 0
    (place / "mine").mkdir()
    (place / "mine" / "thesis.tex").write_text("x")
    before = files(place)
    refused(casm(f"learn boats.csv --memory mine --model {stub}", place), "is there already, and not empty")
    refused(casm("learn boats.csv --memory new --model gpt2", place), "gpt2' can't be loaded")
    refused(casm("learn news.jsonl --memory m --model gpt2", place), "leave --model out")
    refused(casm("learn news.jsonl --memory m --period soon", place), "'soon' has no place")
    for line in ("ask Who? --memory mine", "history a b --memory mine", "diff 2018 2019 --memory mine", "undo --memory mine", "export --memory mine --out x"): refused(casm(line, place), "mine is not the folder of a TemporalLM")
    refused(casm("history Inn door --memory m", place), "holds no 'door' of 'Inn'")
    refused(casm("export --memory m --out none/x.json", place), "cannot be written")
    assert files(place) == before
    db = sqlite3.connect(place / "m" / "registry.sqlite", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    refused(casm("undo --memory m", place), "in use by another process")
    db.execute("ROLLBACK")
    db.execute("PRAGMA user_version = 7")
    db.close()
    refused(casm("learn news.jsonl --memory m", place), "schema version 7")
    (place / "m" / "registry.sqlite").write_bytes(b"x" * 9000)
    before = files(place)
    for line in ("learn news.jsonl --memory m", "ask Who? --memory m", "undo --memory m"): refused(casm(line, place), "no SQLite file")
    assert files(place) == before


@pytest.mark.full
@pytest.mark.parametrize("new", [True, False])
def test_stopped_learning_leaves_nothing(new, place, stub):
    if not new: assert casm(f"learn boats.csv --memory m --model {stub}", place).returncode == 0
    (place / "many.csv").write_text(HEADER + "\n".join(f"Rock {i},height,{i},2018" for i in range(200)))
    before = files(place)
    p = subprocess.Popen([CASM, "learn", "many.csv", "--memory", "m", *(["--model", stub] if new else [])], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c)
    seen = b""
    while b"step/s" not in seen and p.poll() is None: seen += os.read(p.stderr.fileno(), 4096)      # it trains
    time.sleep(.3)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate()
    assert p.returncode == 130 and out == b"" and err.decode().splitlines()[-1] == "casm: interrupted; nothing was learnt", (out, err)
    assert files(place) == before
