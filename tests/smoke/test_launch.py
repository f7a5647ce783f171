"The launch paths with an interpreter that only writes down how it was called: what arrives, what is refused, and which signals and exit codes pass."
import importlib.util, os, re, signal, subprocess, time
from pathlib import Path

import pytest

from casm import cli
from casm.benchmark import generate, read_facts, write_facts

ROOT = Path(__file__).parents[2]
RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$PWD" "$@" > "$RECORD"
trap 'echo TERM >> "$RECORD"; exit 75' TERM
trap 'echo USR1 >> "$RECORD"; exit 75' USR1
touch "$RECORD.ready"
for ((i = 0; i < ${LASTS:-0}; i++)); do sleep .1; done
exit "${ENDS:-0}"
"""


@pytest.fixture
def place(tmp_path):
    "A folder with the recording interpreter as `python` and a `scontrol` that does the same; its environment"
    (tmp_path / "bin").mkdir()
    for name, text in (("python", RECORDER), ("scontrol", '#!/usr/bin/env bash\necho "$@" >> "$RECORD.scontrol"\n')):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CONTINUAL_LEARNING_", "SLURM_", "BASH_FUNC_module", "BASH_FUNC_ml"))}
    return tmp_path, clean | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "RECORD": str(tmp_path / "record")}


def variables(**v): return {f"CONTINUAL_LEARNING_{k}": str(x) for k, x in v.items()}
def bash(place, script, *args, cwd="/", **v): return subprocess.run(["bash", str(ROOT / script), *args], cwd=cwd, env=place[1] | v, capture_output=True, text=True, timeout=60)


def called(place):
    "How the interpreter was called: folder, script, flags as a dictionary"
    folder, script, *rest = (place[0] / "record").read_text().splitlines()
    return folder, script, dict(zip(rest[::2], rest[1::2], strict=True))


def refused(got, says):
    assert got.returncode == 2 and says in got.stderr and got.stderr.count("\n") == 1 and got.stdout == "", got


def test_readme_line_of_the_original_as_printed(place):
    line = "CONTINUAL_LEARNING_MODE=synthetic \\\nCONTINUAL_LEARNING_SKIP_MODULES=1 \\\nCONTINUAL_LEARNING_SKIP_VENV=1 \\\nCONTINUAL_LEARNING_CHECKPOINT_DIR=/tmp/casm-smoke \\\nbash run_job.sh"
    got = subprocess.run(["bash", "-c", line], cwd=ROOT, env=place[1], capture_output=True, text=True, timeout=60)
    assert (got.returncode, got.stdout, got.stderr) == (0, "", "")
    assert called(place) == (str(ROOT), "main.py", {"--mode": "synthetic", "--method": "casm", "--run-id": "slurm_manual", "--checkpoint-dir": "/tmp/casm-smoke", "--seed": "0"})


def test_every_variable_arrives(place):
    got = bash(place, "run_job.sh", SLURM_JOB_ID="7", **variables(
        PYTHON=place[0] / "bin" / "python", MODE="real", MODEL_ID="a model", DATASET="my facts.json", CHECKPOINT_DIR="c d", RUN_ID="r", METHOD="smf", SEED=3,
        RESUME="r", SAVE_EVERY=50, SKIP_MODULES=1, SKIP_VENV=1))
    assert got.returncode == 0, got.stderr
    assert called(place)[2] == {"--mode": "real", "--method": "smf", "--dataset-name": "my facts.json", "--model-name": "a model", "--run-id": "r", "--resume-from": "r",
                                "--checkpoint-dir": "c d", "--seed": "3", "--save-every": "50"}


def test_run_id_is_the_jobs_unless_a_run_is_resumed(place):
    assert bash(place, "run_job.sh", SLURM_JOB_ID="7").returncode == 0 and called(place)[2]["--run-id"] == "slurm_7"
    assert bash(place, "run_job.sh", SLURM_JOB_ID="7", **variables(RESUME="x")).returncode == 0 and "--run-id" not in called(place)[2]


def test_every_variable_is_in_the_head_of_run_job():
    head = (ROOT / "run_job.sh").read_text().split("#SBATCH")[0]
    used = {name for f in ("run_job.sh", "scripts/carc/job.sh") for name in re.findall(r"CONTINUAL_LEARNING_[A-Z_]+", (ROOT / f).read_text())}
    assert all(f"#   {name}" in head for name in used)


def test_another_checkout_and_none(place):
    other = place[0] / "other"
    (other / "scripts/carc").mkdir(parents=True)
    (other / "scripts/carc/job.sh").write_bytes((ROOT / "scripts/carc/job.sh").read_bytes())
    assert bash(place, "run_job.sh", **variables(REPO=other)).returncode == 0 and called(place)[0] == str(other)
    for script in ("run_job.sh", "scripts/carc/train_carc_job.sh", "scripts/carc/train_carc_array.sh", "scripts/carc/train_carc_multinode.sh"):
        refused(bash(place, script, "casm", **variables(REPO="/nowhere")), "no checkout in /nowhere")


def test_modules_and_environment(place):
    got = bash(place, "run_job.sh")
    assert got.returncode == 0 and "no module command here" in got.stderr and "no venv in" in got.stderr
    module = {"BASH_FUNC_module%%": '() { echo "module $*"; [[ $* != *bad* ]]; }'}
    assert bash(place, "run_job.sh", **module).stdout == "module load gcc/12.3.0 cuda/12.4.1\n"
    assert bash(place, "run_job.sh", **module, **variables(MODULES="a b")).stdout == "module load a b\n"
    for none in ({"MODULES": ""}, {"SKIP_MODULES": 1}): assert bash(place, "run_job.sh", **module, **variables(**none)).stdout == ""
    got = bash(place, "run_job.sh", **module, **variables(MODULES="bad"))
    assert got.returncode == 2 and "module load bad: failed" in got.stderr
    got = bash(place, "run_job.sh", **variables(PYTHON="/no/python", SKIP_MODULES=1, SKIP_VENV=1))
    refused(got, "CONTINUAL_LEARNING_PYTHON=/no/python: no such command")


def test_carc_job_passes_method_model_and_flags(place):
    all_of_them = variables(DATASET="f.json", CHECKPOINT_DIR="c", RUN_ID="r", SEED=1, SAVE_EVERY=5)
    assert bash(place, "scripts/carc/train_carc_job.sh", "lora", "a/model", "--lr", "1e-4", **all_of_them).returncode == 0
    assert called(place) == (str(ROOT), "scripts/carc/train_carc.py", {
        "--method": "lora", "--model": "a/model", "--facts": "f.json", "--run-id": "r", "--checkpoint-dir": "c", "--seed": "1", "--save-every": "5", "--lr": "1e-4"})
    assert bash(place, "scripts/carc/train_carc_job.sh", "casm", "--epochs", "2").returncode == 0
    assert called(place)[2] == {"--method": "casm", "--epochs": "2"}


def test_array_covers_methods_times_seeds(place):
    v = variables(METHODS="lora casm", SEEDS="4 5 6", RUN_ID="ignored")
    seen = []
    for i in range(6):
        assert bash(place, "scripts/carc/train_carc_array.sh", "m", SLURM_ARRAY_TASK_ID=str(i), SLURM_JOB_ID="9", **v).returncode == 0
        flags = called(place)[2]
        seen.append((flags["--method"], flags["--seed"]))
        assert flags["--model"] == "m" and "--run-id" not in flags
    assert seen == [(m, s) for m in ("lora", "casm") for s in "456"]
    for task in ({}, {"SLURM_ARRAY_TASK_ID": "6"}): refused(bash(place, "scripts/carc/train_carc_array.sh", **task, **v), "sbatch --array=0-5")


def test_multinode_outside_slurm_says_what_to_run(place):
    got = bash(place, "scripts/carc/train_carc_multinode.sh", "casm", **variables(SKIP_MODULES=1, SKIP_VENV=1))
    refused(got, "torchrun --nproc-per-node N scripts/carc/train_carc.py --method casm")


def signalled(place, name, ready=True, **v):
    "run_job.sh, signalled by `name` while the interpreter runs: how it ended and what the interpreter heard"
    (place[0] / "record.ready").unlink(missing_ok=True)
    job = subprocess.Popen(["bash", str(ROOT / "run_job.sh")], env=place[1] | {"LASTS": "100"} | v, stderr=subprocess.PIPE, text=True, cwd="/")
    try:
        for _ in range(200):
            if (place[0] / "record.ready").exists(): break
            time.sleep(.05)
        job.send_signal(getattr(signal, f"SIG{name}"))
        said = job.communicate(timeout=30)[1]
    finally: job.kill()
    again = (place[0] / "record.scontrol")
    asked = again.read_text() if again.exists() else ""
    again.unlink(missing_ok=True)
    return job.returncode, [x for x in (place[0] / "record").read_text().splitlines() if x in ("TERM", "USR1")], asked, said


def test_signals_outside_slurm_reach_the_run_and_75_comes_back(place):
    for sent, heard in (("TERM", "TERM"), ("USR1", "USR1"), ("INT", "TERM")): assert signalled(place, sent)[:3] == (75, [heard], ""), sent


def test_nearly_out_of_time_goes_back_into_the_queue(place):
    assert signalled(place, "USR1", SLURM_JOB_ID="7")[:3] == (75, ["USR1"], "requeue 7\n")
    code, heard, asked, said = signalled(place, "USR1", SLURM_JOB_ID="7", SLURM_RESTART_COUNT="3", **variables(MAX_RESTARTS=3))
    assert (code, heard, asked) == (75, ["USR1"], "") and "restarted 3 times" in said


def test_what_slurm_takes_away_is_left_to_slurm(place):
    "Slurm sends TERM to the run as well: it is not passed on, and a cancelled job is not put back"
    assert signalled(place, "TERM", SLURM_JOB_ID="7", LASTS="10", ENDS="75")[:3] == (75, [], "")


def test_killed_by_the_signal_before_it_listens_goes_back_too(place):
    (place[0] / "bin" / "python").write_text(RECORDER.replace("trap", ": trap"))
    assert signalled(place, "USR1", SLURM_JOB_ID="7")[:3] == (75, [], "requeue 7\n")


@pytest.mark.parametrize("code", [0, 1, 2, 75, 130])
def test_exit_codes_pass(place, code):
    assert bash(place, "run_job.sh", ENDS=str(code)).returncode == code
    got = bash(place, "run_job.sh", ENDS=str(code), SLURM_JOB_ID="7")
    assert got.returncode == code and (place[0] / "record.scontrol").exists() == (code == 75)


def script(path):
    "A script of the checkout as a module"
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def doors(monkeypatch):
    "main.py and train_carc.py, whose `casm` writes down its arguments"
    out = {}
    for name, path in (("main", "main.py"), ("carc", "scripts/carc/train_carc.py")):
        out[name] = script(path)
        monkeypatch.setattr(out[name], "casm", lambda argv: out["argv"].append((argv, Path(argv[argv.index("--facts") + 1]).read_text() if "--facts" in argv else None)) or 0)
    out["argv"] = []
    return out


def flags(argv): return dict(zip(argv[1::2], argv[2::2], strict=True))


def stops(main, argv, says, capsys):
    with pytest.raises(SystemExit) as e: main(argv)
    err = capsys.readouterr().err
    assert e.value.code == 2 and says in err and err.count("\n") == 1, err


def test_main_passes_what_it_is_given(doors, tmp_path):
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "run_manifest.json").write_text("{}")
    base = ["--mode", "synthetic", "--checkpoint-dir", str(run.parent)]
    for more in (["--run-id", "new", "--save-every", "50", "--seed", "3", "--method", "smf", "--model-name", "x"], ["--resume-from", "first"],
                 ["--resume-from", str(run)], ["--resume-from", str(run), "--run-id", "first"], []):
        assert doors["main"].main(base + more) == 0
    given, *resumed, default = (flags(a) for a, _ in doors["argv"])
    assert (given["--run-id"], given["--save-every"], given["--seed"], given["--method"], given["--model"]) == ("new", "50", "3", "smf", "x")
    assert all((r["--checkpoint-dir"], r["--run-id"]) == (str(run.parent), "first") and "--save-every" not in r for r in resumed)
    assert default["--run-id"] == "debug_run"


def test_nothing_to_resume_is_one_line(doors, tmp_path, capsys):
    run = tmp_path / "first"
    (run / "checkpoints" / "ckpt-000001").mkdir(parents=True)
    (run / "run_manifest.json").write_text("{}")
    base = ["--mode", "synthetic", "--checkpoint-dir", str(tmp_path), "--resume-from"]
    for more, says in ((["none"], "is no run"), (["/none/of/it"], "is no run"), ([""], "is empty"), ([str(run / "checkpoints" / "ckpt-000001")], f"give its run, {run}"),
                       ([str(run), "--run-id", "other"], "leave out --run-id other")):
        stops(doors["main"].main, base + more, says, capsys)
    assert not doors["argv"]


def test_carc_takes_the_flags_of_the_original(doors, capsys):
    carc = doors["carc"].main
    assert carc(["--method", "lora", "--model", "org/Llama-1B", "--augmented", "--epochs", "5", "--lr", "2e-4", "--batch-size", "4", "--grad-accum", "8"]) == 0
    got = flags(doors["argv"].pop()[0])
    assert (got["--run-id"], got["--seed"], got["--epochs"], got["--lr"], got["--checkpoint-dir"]) == ("lora_Llama-1B_s42", "42", "5", "2e-4", "checkpoints")
    assert (got["--batch-size"], got["--accumulate"]) == ("32", "8") and got["--wordings"] == "0"
    assert carc(["--method", "lora"]) == 0 and "--wordings" not in flags(doors["argv"].pop()[0])
    assert carc(["--method", "lora", "--no-augmented", "--capture-activations"]) == 0
    assert doors["argv"].pop()[0][-3:] == ["--capture-activations", "--wordings", "1"]
    for line, says in ((["--grad-accum", "4"], "needs --batch-size"), (["--augmented", "--no-augmented"], "not allowed with"), (["--augmented", "--wordings=3"], "leave one out"), (["--no-augmented", "--wordings", "3"], "leave one out"), (["--periods", "2018", "1066"], "--periods 1066"),
                       (["--periods", "2018"], "at least two"), (["--periods", "2024", "2018"], "time order"), (["--dataset-fraction", "0"], "--dataset-fraction 0"),
                       (["--dataset-fraction", "1.5"], "at most 1"), (["--dataset-fraction", "nan"], "nan")):
        stops(carc, ["--method", "casm", *line], says, capsys)
    assert not doors["argv"]


def test_carc_keeps_periods_and_a_share_of_the_facts(doors, tmp_path):
    whole = generate(40, seed=1)
    line = ["--method", "casm", "--seed", "1", "--periods", "2018", "2022", "--dataset-fraction", "0.25"]
    write_facts(whole, tmp_path / "facts.json")
    parts = []
    for seed in ("1", "1", "2"):
        assert doors["carc"].main([*line, "--facts", str(tmp_path / "facts.json"), "--seed", seed]) == 0
        (tmp_path / "part.json").write_text(doors["argv"].pop()[1])
        parts.append(read_facts(tmp_path / "part.json"))
    assert parts[0] == parts[1] != parts[2]
    assert parts[0].periods == ("2018", "2022") and len(parts[0].records) == round(len(whole.records) / 4)
    values = {r.key: r.values for r in whole.records}
    assert all(r.values == {t: values[r.key][t] for t in ("2018", "2022")} for r in parts[0].records)


def test_a_flag_of_nobody_is_one_line(capsys):
    module = script("scripts/carc/train_carc.py")
    assert module.main(["--method", "casm", "--metod", "x"]) == 2
    err = capsys.readouterr().err
    assert "--metod" in err and err.count("\n") == 1
    assert module.casm is cli.main
