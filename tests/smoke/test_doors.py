"main.py, run_job.sh and scripts/carc: the same run through every door, found finished by all but the first."
import json, os, subprocess, sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from safetensors import safe_open

from casm.benchmark import generate, write_facts
from commands import run

ROOT = Path(__file__).parents[2]
FACTS = generate(6, seed=5, periods=("2018", "2024"))


def door(*line, **variables):
    "A command in the checkout, as a batch system starts it"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CONTINUAL_LEARNING_", "SLURM_"))}
    environment |= {f"CONTINUAL_LEARNING_{k}": str(v) for k, v in ({"SKIP_MODULES": 1, "SKIP_VENV": 1, "PYTHON": sys.executable} | variables).items()}
    if line[0] == sys.executable: return run(*line[1:], cwd="/", env=environment)
    return subprocess.run([*map(str, line)], cwd="/", env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def facts(started, tmp_path_factory):
    started(FACTS)
    write_facts(FACTS, path := tmp_path_factory.mktemp("facts") / "facts.json")
    return path


def test_every_door_leads_to_the_same_run(facts, stub, tmp_path):
    names = {"DATASET": facts, "MODEL_ID": stub, "CHECKPOINT_DIR": tmp_path, "RUN_ID": "r", "SEED": 0}
    doors = {
        "main": door(sys.executable, ROOT / "main.py", "--method", "casm", "--dataset-name", facts, "--model-name", stub, "--run-id", "r",
                     "--checkpoint-dir", tmp_path, "--seed", 0),
        "job": door("bash", ROOT / "run_job.sh", **names),
        "carc": door(sys.executable, ROOT / "scripts/carc/train_carc.py", "--method", "casm", "--facts", facts, "--model", stub, "--run-id", "r",
                     "--checkpoint-dir", tmp_path, "--seed", 0),
        "carc job": door("bash", ROOT / "scripts/carc/train_carc_job.sh", "casm", stub, **names),
        "casm": door(Path(sys.executable).with_name("casm"), "train", "--method", "casm", "--facts", facts, "--model", stub, "--run-id", "r",
                     "--checkpoint-dir", tmp_path),
    }
    for name, got in doors.items():
        assert got.returncode == 0, (name, got.stderr)
        assert got.stdout == doors["main"].stdout and got.stdout.splitlines()[-1] == f"results: {tmp_path / 'r'}", name
    assert [json.loads(x)["unit"] for x in (tmp_path / "r" / "metrics" / "events.jsonl").read_text().splitlines()] == ["2024"]


def test_one_wording_and_the_norms_of_hidden_states(facts, stub, tmp_path):
    "Fewer tokens, and the norms as they are described"
    line = [sys.executable, ROOT / "scripts/carc/train_carc.py", "--method", "casm", "--facts", facts, "--model", stub, "--checkpoint-dir", tmp_path, "--seed", 0, "--epochs", 1, "--min-steps", 2]
    tokens = {}
    for name, more in (("all", ["--augmented"]), ("one", ["--no-augmented", "--capture-activations"])):
        got = door(*line, "--run-id", name, *more)
        assert got.returncode == 0, got.stderr
        tokens[name] = json.loads((tmp_path / name / "metrics" / "events.jsonl").read_text())["tokens"]
    assert 3 < tokens["all"] / tokens["one"] < 7 and not [*tmp_path.glob("all/**/activations*")]
    for period in FACTS.periods:
        with safe_open(tmp_path / "one" / "periods" / period / "activations.safetensors", "pt") as f: said, x = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
        probes = json.loads(said["probes"])
        kinds = Counter(p["kind"] for p in probes)
        assert set(x) == {"norms", "lengths", "token_ids"} and all(set(p) == {"question", "as_of", "kind"} for p in probes)
        assert max(kinds.values()) <= 10 and kinds["changed"] > 0 and (kinds["superseded"] > 0) == (period == "2024")
        assert x["norms"].shape == (len(probes), 5, x["lengths"].max()) and x["token_ids"].shape == (len(probes), x["lengths"].max()) and str(x["norms"].dtype) == "torch.float32"
        inside = torch.arange(x["lengths"].max()) < x["lengths"][:, None]
        assert ((x["norms"] > 0) == inside[:, None]).all() and not x["token_ids"][~inside].any()


@pytest.mark.parametrize("line, says", [
    (["main.py"], "--dataset-name FILE"), (["main.py", "--mode", "synthetic", "--dataset-name", "x"], "leave out --dataset-name"),
    (["main.py", "--mode", "synthetic", "--method", "sfm"], "'sfm' is unknown"), (["main.py", "--dataset-name", "none.json"], "none.json: no such file"),
    (["scripts/carc/train_carc.py"], "--method"), (["scripts/carc/train_carc.py", "--method", "casm", "--facts", "none.json"], "none.json: no such file"),
    (["scripts/carc/train_carc.py", "--method", "copy", "--capture-activations"], "capture_activations=True: copy answers otherwise"),
    (["scripts/carc/train_carc.py", "--method", "casm", "--run-id", "a/b"], "leave out slashes"), (["main.py", "--mode", "synthetic", "--run-id", "a/b"], "leave out slashes"),
    (["main.py", "--mode", "synthetic", "--resume-from", "none"], "checkpoints/none is no run"),
    (["scripts/experiments/pretrain_period1.py", "--facts", "none.json"], "none.json: no such file"), (["scripts/experiments/run_step2.py", "sfm"], "'sfm' is unknown"),
    (["scripts/experiments/run_step3_eval.py", "casm", "--checkpoint-dir", "/nowhere"], "/nowhere/casm_tiny_s42: no finished run")])
def test_bad_line_is_one_line(line, says):
    got = door(sys.executable, ROOT / line[0], *line[1:])
    assert got.returncode == 2 and says in got.stderr and "Traceback" not in got.stderr and got.stderr.count("\n") == 1, got.stderr


def test_bad_job_is_one_line():
    for got, says in ((door("bash", ROOT / "scripts/carc/train_carc_job.sh"), "usage: train_carc_job.sh METHOD [MODEL]"),
                      (door("bash", ROOT / "run_job.sh", MODE="reel"), "'reel'")):
        assert got.returncode == 2 and says in got.stderr and got.stderr.count("\n") == 1, got.stderr


def test_batch_system_runs_a_copy_of_the_script(facts, stub, tmp_path):
    "Slurm starts its own copy, from its spool: the checkout is then the folder that sbatch was called in"
    copy = tmp_path / "slurm_script"
    copy.write_bytes((ROOT / "run_job.sh").read_bytes())
    got = subprocess.run(["bash", copy], capture_output=True, text=True, timeout=60, cwd="/", env=os.environ | {
        "SLURM_SUBMIT_DIR": str(ROOT), "CONTINUAL_LEARNING_SKIP_MODULES": "1", "CONTINUAL_LEARNING_SKIP_VENV": "1",
        "CONTINUAL_LEARNING_PYTHON": sys.executable, "CONTINUAL_LEARNING_DATASET": str(tmp_path / "none.json")})
    assert got.returncode == 2 and "none.json: no such file" in got.stderr


@pytest.mark.full
def test_the_sequence_of_the_original(facts, stub, tmp_path):
    line = ["--facts", facts, "--model", stub, "--seed", 0, "--checkpoint-dir", tmp_path]
    def step(name, *more): return door(sys.executable, ROOT / "scripts/experiments" / name, *more)
    early = step("run_step3_eval.py", "frozen", *line)
    assert early.returncode == 2 and "run_step2.py frozen begins it" in early.stderr and early.stderr.count("\n") == 1
    first = step("pretrain_period1.py", *line)
    assert first.returncode == 0 and first.stdout == f"results: {os.environ['CASM_CACHE']}\n", first.stderr
    second = step("run_step2.py", "frozen", *line)
    assert second.returncode == 0 and (tmp_path / f"frozen_{Path(stub).name}_s0" / "predictions.jsonl").exists(), second.stderr
    third = step("run_step3_eval.py", "frozen", *line)
    assert third.returncode == 0 and [x.split()[0] for x in third.stdout.splitlines()] == ["method", "frozen"], third.stderr
    other = step("run_step3_eval.py", "frozen", *line, "--dataset-fraction", "0.5")
    assert other.returncode == 2 and "learnt other facts" in other.stderr


@pytest.mark.full
def test_the_lines_of_the_original_readme(tmp_path):
    first = door(sys.executable, ROOT / "main.py", "--mode", "synthetic", "--run-id", "local-smoke", "--checkpoint-dir", tmp_path)
    assert first.returncode == 0 and first.stdout.endswith(f"results: {tmp_path / 'local-smoke'}\n"), first.stderr
    job = door("bash", ROOT / "run_job.sh", MODE="synthetic", CHECKPOINT_DIR=tmp_path)
    assert job.returncode == 0 and job.stdout.endswith(f"results: {tmp_path / 'slurm_manual'}\n"), job.stderr
