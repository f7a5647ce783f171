"The command as a user types it, in its own process: help, bad input, a run that is stopped and continued, and questions to it."
import json, os, shlex, shutil, signal, subprocess, sys, time
from pathlib import Path

import pytest

from casm.benchmark import generate, write_facts
from commands import hear_ctrl_c, run

CASM = str(Path(sys.executable).with_name("casm"))
COMMANDS = ("demo", "learn", "ask", "history", "diff", "undo", "export", "run", "train", "eval", "export-lm-eval", "lm-eval", "get", "warmup", "pretrain-tiny")
FACTS = generate(6, seed=5, periods=("2018", "2021", "2024"))
GOOD = {"entity": "Inn", "relation": "door colour", "value_2018": "red", "value_2020": "blue", "changed": True}


def casm(*args, cwd=None): return run("casm", *args, cwd=cwd)
def files(folder): return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
def lines(path): return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command):
    got = casm(command, "--help")
    assert (got.returncode, got.stderr) == (0, "") and f"example:\n  casm {command}" in got.stdout
    assert max(map(len, got.stdout.splitlines())) <= 100


def test_help_lists_every_command_and_waits_for_nothing_heavy():
    code = "import sys\nfrom casm.cli import main\nassert main(['--help']) == 0\nassert not {'torch', 'transformers', 'peft', 'lm_eval'} & sys.modules.keys()"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert got.returncode == 0 and all(f"\n    {c}" in got.stdout for c in COMMANDS), got.stderr


def test_nothing_typed_is_help():
    got = subprocess.run([CASM], capture_output=True, text=True)
    assert (got.returncode, got.stdout) == (2, "") and "commands:" in got.stderr


def refused(got, *says):
    "Exit code 2 and one line that says so"
    assert (got.returncode, got.stdout) == (2, ""), got
    assert got.stderr.startswith("casm: ") and got.stderr.count("\n") == 1 and "Traceback" not in got.stderr, got.stderr
    for s in says: assert s in got.stderr


BAD_FACTS = {
    "not JSON": ("entity,relation", "not JSON"),
    "wrong keys": (json.dumps([GOOD, {"subject": "Bar", "relation": "r", "value_2018": "a", "value_2020": "b"}]), "record 2"),
    "columns differ": (json.dumps([GOOD, {"entity": "Bar", "relation": "r", "value_2018": "a", "value_2022": "b"}]), "record 2"),
    "duplicate": (json.dumps([GOOD, {**GOOD, "entity": "INN"}]), "record 2"),
    "empty value": (json.dumps([{**GOOD, "value_2020": " "}]), "record 1"),
    "value is a number": (json.dumps([{**GOOD, "value_2020": 12}]), "record 1"),
    "no facts": ("[]", "no facts"),
}

@pytest.mark.parametrize("name", BAD_FACTS)
def test_bad_facts_are_one_line_with_file_and_record(name, tmp_path):
    text, says = BAD_FACTS[name]
    (tmp_path / "facts.json").write_text(text)
    before = files(tmp_path)
    refused(casm("run", "--facts", "facts.json", cwd=tmp_path), "facts.json: ", says)
    assert files(tmp_path) == before


BAD_LINES = {
    "run --facts none.json": "none.json: no such file",
    "run --stream sometimes": "'sometimes'",
    "run --seeds x": "whole numbers",
    "run --background texts.txt": "leave --background out",
    "run --metods casm": "--metods",
    "train --method casm": "--run-id",
    "train --method casm --run-id ../x": "leave out slashes",
    "ask '' --run .": "question is empty",
    "ask Who? --run . --as-of soon": "'soon'",
    "get": "NAME",
    "get gpt5": "'gpt5' is none that can be got: choose smollm2 (SmolLM2-135M-Instruct, 135 million parameters)",
    **{f"{door} --model smollm2": "`casm get smollm2` brings it" for door in (
        "run", "demo", "train --method casm --run-id x", "warmup --background note.txt --out new",
        "learn note.txt --period 2018 --memory new")},
    "lm-eval run --tasks casm --model hf --model_args pretrained=smollm2": "`casm get smollm2` brings it",
    "ask Who? --run . --memory .": "not allowed with",
    "ask Who?": "--run --memory",
    "learn none.csv --memory m": "none.csv: cannot be read",
    "learn note.txt": "--memory",
    "history Inn --memory m": "relation",
    "undo last --memory m": "'last'",
    "export --memory m": "--out",
    "sweep": "'sweep'",
    "warmup --model x --background note.txt": "--out",
    "warmup --background note.txt --out new": "--model",
    "warmup --model tiny --background note.txt --out new": "has a memory already",
    "warmup --model x --background none.txt --out new": "none.txt: cannot be read",
    "warmup --model x --background note.txt --out .": "note.txt",
    "warmup --model x --background note.txt --out note.txt": "is a file",
    "warmup --model x --background note.txt --out new --layers middle": "whole numbers",
    "warmup --model x --background note.txt --out new --placement under": "'under'",
    # these import torch, for seconds
    "run --methods casm,sfm": "'sfm' is unknown: choose from full_ft, lora, smf, casm",
    "run --model .": "no config.json",
    "run --out .": "foreign files (note.txt)",
    "run --out other": "other holds another run: methods",
    "ask Who? --run other": "not the folder of `casm run`",
    "ask Who? --memory other": "not the folder of a TemporalLM",
    "learn note.txt --memory new": "note.txt: line 1: passage 'mine' has no date",
    "learn note.txt --memory new --model ./other --period 2018": "no config.json",
    "pretrain-tiny --out .": "note.txt",
    "warmup --model . --background note.txt --out new": "no config.json",
}

@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_line_is_one_line_and_writes_nothing(line, tmp_path, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("none")                                   # a test before this one may have put the model into the tests' own
    monkeypatch.setenv("CASM_CACHE", str(cache))
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run_manifest.json").write_text('{"methods": ["lora"], "seeds": [0]}')
    before, cached = files(tmp_path), files(cache)
    refused(casm(*shlex.split(line), cwd=tmp_path), BAD_LINES[line])
    assert files(tmp_path) == before and files(cache) == cached


def test_gated_model_says_how_to_get_access(tmp_path, monkeypatch, capsys, cache):
    from transformers import AutoModelForCausalLM
    from casm.cli import main
    def gated(name, **_): raise OSError(f"You are trying to access a gated repo.\n401 Client Error for {name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", gated)
    assert main(["run", "--model", "meta-llama/Llama-3.2-1B"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "accept its licence" in err and "hf auth login" in err
    assert not files(tmp_path)


@pytest.fixture(scope="module")
def place(started, tmp_path_factory):
    "A folder with a facts file, whose start checkpoint is in the cache already"
    folder = tmp_path_factory.mktemp("place")
    write_facts(FACTS, folder / "facts.json")
    started(FACTS)
    return folder


@pytest.fixture(scope="module")
def ran(place, stub):
    "What `casm run` said, and its folder"
    got = casm("run", "--facts", "facts.json", "--methods", "lora,casm", "--model", stub, "--questions", "3", cwd=place)
    assert got.returncode == 0, got.stderr
    return got.stdout, place / "runs" / "facts-delta"


def test_run_prints_its_table_and_then_its_folder(ran):
    said, out = ran
    *tables, last = said.splitlines()
    assert last == "results: runs/facts-delta" and [x.split("  ")[0] for x in tables] == ["method", "lora", "casm", "majority", "copy_old", "frozen", "casm, perfect routing", "", "95 % intervals", "lora", "casm", "casm - lora"]
    results = json.loads((out / "results.json").read_text())
    assert [r["method"] for r in results["rows"]] == ["lora", "casm"] and (out / "results.png").exists()
    old, frozen = ({k: r[k] for k in ("plasticity", "stability", "history", "stale_rate")} for r in results["bounds"][1:3])
    assert old["stability"] >= frozen["stability"] and results["bounds"][3]["plasticity"] == results["rows"][1]["plasticity"]     # nothing went astray here
    low, high = results["rows"][1]["intervals"]["history"][1:]
    assert low <= results["rows"][1]["history"] <= high
    assert results["rows"][1]["perplexity_drift"] == 0 != results["rows"][0]["perplexity_drift"]
    assert set(results["rows"][0]["original"]) == set(FACTS.periods) and results["rows"][0]["margin_past"] is not None
    assert not [e for e in ("Traceback", "Warning") if e in said]


@pytest.mark.parametrize("as_of", ["2018", "2024", None])
def test_ask_answers_as_the_predictions_say(ran, as_of, place, stub):
    last = [p for p in lines(ran[1] / "casm-s0" / "predictions.jsonl") if p["after"] == "2024" and p["as_of"] == (as_of or "2024")]
    probe = next(p for p in last if (p["kind"] == "superseded") == (as_of == "2018"))
    got = casm("ask", probe["question"], "--run", "runs/facts-delta", *(["--as-of", as_of] if as_of else []), cwd=place)
    assert (got.returncode, got.stdout, got.stderr) == (0, probe["answer"] + "\n", "")


def test_eval_asks_again(ran, place):
    "The same answers as in the run, a table of kinds, and after a kill only what is missing is asked"
    got = casm("eval", "--run", "runs/facts-delta", "--out", "again", cwd=place)
    assert got.returncode == 0 and got.stdout.splitlines()[-1] == "results: again", got.stderr
    mine, last = lines(place / "again" / "predictions.jsonl"), [p for p in lines(ran[1] / "casm-s0" / "predictions.jsonl") if p["after"] == "2024"]
    assert [{k: v for k, v in p.items() if k != "oracle"} for p in last] == mine
    kinds = {(k["kind"], k["form"]): k for k in json.loads((place / "again" / "results.json").read_text())["kinds"]}
    assert kinds["superseded", "probe"]["right"] == sum(p["correct"] for p in mine if (p["kind"], p["form"]) == ("superseded", "probe")) / kinds["superseded", "probe"]["n"]
    assert kinds["unknown", "probe"]["right"] is None and kinds["changed", "probe"]["start"] is not None
    whole = (place / "again" / "predictions.jsonl").read_bytes()
    (place / "again" / "predictions.jsonl").write_bytes(whole[:-100])
    assert casm("eval", "--run", "runs/facts-delta", "--out", "again", cwd=place).stdout == got.stdout
    assert (place / "again" / "predictions.jsonl").read_bytes() == whole
    before = files(place / "again")
    refused(casm("eval", "--run", "runs/facts-delta", "--method", "lora", "--out", "again", cwd=place), 'method is "casm" there')
    refused(casm("eval", "--run", "runs/facts-delta", "--method", "smf", cwd=place), "smf")
    refused(casm("eval", "--run", "runs/facts-delta", "--probes", "nothing.json", cwd=place), "nothing.json")
    assert files(place / "again") == before and not list((place / "runs").glob("eval*"))


def test_stopped_run_continues_to_the_same_end(ran, place, stub):
    "Ctrl-C while the first method trains; then the same command"
    line = [CASM, "run", "--facts", "facts.json", "--methods", "lora,casm", "--model", stub, "--questions", "3", "--out", "stopped"]
    child = subprocess.Popen(line, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    while not (place / "stopped" / "lora-s0" / "latest.json").exists() and child.poll() is None: time.sleep(.02)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate()
    assert (child.returncode, out, err.splitlines()[-1]) == (130, "", "casm: interrupted; the same command continues"), err
    assert "Traceback" not in err and not (place / "stopped" / "results.json").exists()
    again = casm(*line[1:], cwd=place)
    assert again.returncode == 0, again.stderr
    assert (place / "stopped" / "predictions.jsonl").read_bytes() == (ran[1] / "predictions.jsonl").read_bytes()


@pytest.fixture(scope="module")
def bare(stub, tmp_path_factory):
    "The stub without its memory, and a background"
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(stub, folder / "model", ignore=shutil.ignore_patterns("memory"))
    from casm.pretraining import background_world, world_texts
    (folder / "texts.txt").write_text("\n".join(world_texts(background_world(60), 200)))
    (folder / "few.txt").write_text("One line.\nAnother.\n")
    return folder


WARMUP = "warmup --model model --background texts.txt --out new --steps 2 --n-keys 8 --batch 8"

def test_warmup_writes_a_model(bare):
    before = files(bare / "model")
    got = casm(*shlex.split(WARMUP), "--layers", "1,3", cwd=bare)
    assert got.returncode == 0 and "Traceback" not in got.stderr, got.stderr
    *said, last = got.stdout.splitlines()
    assert last == "results: new" and [x.split(":")[0] for x in said] == ["memory", "perplexity of held-out texts", "accesses of the most-read rows", "background statistics"]
    assert "64 rows of 128 numbers, beside the MLPs of layers 1, 3; 2 steps" in said[0] and said[3].endswith(" 26 batches")
    new = files(bare / "new")
    assert files(bare / "model") == before and new["model.safetensors"] == before["model.safetensors"] and {k.split("/")[0] for k in new} == {*before, "memory"}
    again = casm(*shlex.split(WARMUP), "--layers", "1,3", cwd=bare)                 # in its own place, the same to the byte
    assert (again.returncode, again.stdout) == (0, got.stdout) and files(bare / "new") == new
    refused(casm("warmup", "--model", "new", "--background", "texts.txt", "--out", "other", cwd=bare), "has a memory already")
    assert sorted(p.name for p in bare.iterdir()) == ["few.txt", "model", "new", "texts.txt"]


@pytest.mark.parametrize("shape", ["--layers 2", "--layers 1,3", "--layers 0,3 --separate-values --placement replace"])
def test_warmed_up_model_runs(bare, shape, quick, tmp_path, monkeypatch, capsys):
    from casm.cli import main
    monkeypatch.chdir(tmp_path)
    write_facts(FACTS, "facts.json")
    line = WARMUP.replace("model --", f"{bare}/model --").replace("texts.txt", f"{bare}/texts.txt")
    for cmd in (f"{line} {shape}", "run --facts facts.json --methods smf,casm --model new --out ran"): assert main(shlex.split(cmd)) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.splitlines()[-1] == "results: ran" and len(lines(tmp_path / "ran" / "predictions.jsonl"))


BAD_WARMUPS = {
    "--layers 1,9": "layers 0 to 3", "--layers 2,1": "rising order", "--steps 0": "steps=0", "--background few.txt": "texts holds 2", "--out model": "would be lost", "--seq-len 600": "at most 512",
    "--top-k 65": "top_k=65", "--lr nan": "lr=nan",
}

@pytest.mark.parametrize("flags", BAD_WARMUPS)
def test_bad_warmup_writes_nothing(bare, flags, monkeypatch, capsys):
    from casm.cli import main
    monkeypatch.chdir(bare)
    before = files(bare)
    assert main(shlex.split(f"{WARMUP} {flags}")) == 2
    out, err = capsys.readouterr()
    assert not out and err.splitlines()[-1].startswith("casm: ") and BAD_WARMUPS[flags] in err and files(bare) == before


@pytest.mark.parametrize("place", ["save_memory", "save_lm", "background_stats"])
def test_stopped_warmup_writes_nothing(bare, place, monkeypatch, capsys):
    from casm import pretraining
    from casm.cli import main
    def stop(*_, **__): raise KeyboardInterrupt
    monkeypatch.chdir(bare)
    monkeypatch.setattr(pretraining, place, stop)
    before = files(bare)
    assert main(shlex.split(f"{WARMUP} --out stopped")) == 130
    out, err = capsys.readouterr()
    assert not out and err.splitlines()[-1] == "casm: interrupted; nothing was written" and files(bare) == before


def test_full_disk_is_one_line(place, stub, monkeypatch, capsys):
    from casm import checkpoint
    from casm.cli import main
    def full(*_): raise OSError(28, "No space left on device")
    monkeypatch.chdir(place)
    monkeypatch.setattr(checkpoint, "save_file", full)
    assert main(["train", "--facts", "facts.json", "--method", "casm", "--model", stub, "--run-id", "full"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("casm: checkpoints/full") and "No space left" in err and "make room" in err


@pytest.mark.full
def test_demo(tmp_path, monkeypatch):
    "The demo as a newcomer sees it, and its two questions are answered as it says"
    monkeypatch.setenv("CASM_CACHE", str(tmp_path / "cache"))
    got = casm("demo", cwd=tmp_path)
    assert got.returncode == 0 and got.stdout.endswith("results: runs/demo\n"), got
    again = casm("demo", cwd=tmp_path)
    assert again.stdout == got.stdout
    asks = [shlex.split(x)[1:] for x in got.stdout.splitlines() if x.startswith("  casm ask")]
    answers = [casm(*a, cwd=tmp_path).stdout.strip() for a in asks]
    assert len(set(answers)) == 2 and all(repr(a) in got.stdout for a in answers)
