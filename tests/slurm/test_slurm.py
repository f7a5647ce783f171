"The job scripts under a real Slurm: a job that is taken away goes on where it was, and ends as if nothing had happened."
import json, re, sys, time
from pathlib import Path

import pytest

from casm.benchmark import generate, write_facts

FACTS = generate(6, seed=5, periods=("2018", "2024"))
CARC_JOB, ARRAY, NODES = ("scripts/carc/" + x for x in ("train_carc_job.sh", "train_carc_array.sh", "train_carc_multinode.sh"))
STUB = """#!/usr/bin/env python
import os, signal, sys, time
heard = []
for s in (signal.SIGTERM, signal.SIGUSR1): signal.signal(s, lambda n, _: heard.append(signal.Signals(n).name[3:]))
print("line", *sys.argv[1:], flush=True)
print("rank", *(os.environ.get(k) for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")), flush=True)
again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
end = time.monotonic() + (0 if again or "STAYS" not in os.environ else 60)
while time.monotonic() < end and not heard: time.sleep(.05)
time.sleep(1.5 if heard else 0)                                       # a second signal would come now
print("heard", *heard, flush=True)
sys.exit(75 if heard else 0)
"""


@pytest.fixture(scope="module")
def facts(started, tmp_path_factory):
    started(FACTS)
    write_facts(FACTS, path := tmp_path_factory.mktemp("facts") / "facts.json")
    return path


@pytest.fixture
def python(tmp_path):
    "An interpreter that says what it was given, and with STAYS stays until it is signalled"
    (path := tmp_path / "python").write_text(STUB.replace("/usr/bin/env python", sys.executable))
    path.chmod(0o755)
    return path


def outcome(run):
    "What a finished run answered, and the hash of what it learnt"
    newest = run / json.loads((run / "latest.json").read_text())["checkpoint_relpath"]
    return (run / "predictions.jsonl").read_bytes(), json.loads((newest / "manifest.json").read_text())["files"]["state.safetensors"]["sha256"]


def there(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition(): assert time.monotonic() < end; time.sleep(.05)


def preempted(cluster, facts, stub, folder, method):
    "A job taken away in the middle of a period, and the same run left alone: how both ended"
    def job(name): return cluster.submit(CARC_JOB, method, stub, "--seed", 0, DATASET=facts, CHECKPOINT_DIR=folder, RUN_ID=name)
    taken, alone = job("taken"), job("alone")
    there(lambda: re.search(rf"{method} 2024:.* [1-4]\d/\d\d ", cluster.tail(taken)))
    cluster("scontrol", "requeue", taken)
    assert cluster.finish(taken)["Restarts"] == "1" and cluster.finish(alone)["Restarts"] == "0"
    assert "DUE TO JOB REQUEUE" in cluster.log(taken)
    assert any(json.loads(x).get("resumed_from_step") for x in (folder / "taken" / "metrics" / "events.jsonl").read_text().splitlines())
    return outcome(folder / "taken"), outcome(folder / "alone")


def test_taken_away_once_casm_ends_the_same(cluster, facts, stub, tmp_path):
    taken, alone = preempted(cluster, facts, stub, tmp_path, "casm")
    assert taken == alone and taken[0]


@pytest.mark.full
@pytest.mark.parametrize("method", ["full_ft", "lora", "smf"])
def test_taken_away_once_every_method_ends_the_same(cluster, facts, stub, tmp_path, method):
    taken, alone = preempted(cluster, facts, stub, tmp_path, method)
    assert taken == alone and taken[0]


@pytest.mark.full
def test_longer_than_its_time_limit_it_ends_the_same(cluster, started, stub, tmp_path):
    "Two minutes are allowed, and the signal comes a minute before they are over, until there is nothing left to do; 1,800 steps take longer than that minute"
    long = generate(6, seed=5)
    started(long)
    write_facts(long, tmp_path / "facts.json")
    def job(name, *options): return cluster.submit(CARC_JOB, "casm", stub, "--seed", 0, "--min-steps", 600, options=options, DATASET=tmp_path / "facts.json", CHECKPOINT_DIR=tmp_path, RUN_ID=name)
    limited, alone = job("limited", "--time=2", "--signal=B:USR1@60"), job("alone")
    assert int(cluster.finish(limited, 900)["Restarts"]) >= 1 and cluster.finish(alone)["Restarts"] == "0"
    assert outcome(tmp_path / "limited") == outcome(tmp_path / "alone")


@pytest.mark.full
def test_two_processes_taken_away_once_end_the_same(cluster, facts, stub, tmp_path):
    def job(name): return cluster.submit(NODES, "casm", stub, "--seed", 0, options=("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0"), DATASET=facts, CHECKPOINT_DIR=tmp_path, RUN_ID=name, SAVE_EVERY=8)
    taken, alone = job("taken"), job("alone")
    there(lambda: re.search(r"casm 2024:.* [1-4]\d/\d\d ", cluster.tail(taken)))
    cluster("scontrol", "requeue", taken)
    assert cluster.finish(taken)["Restarts"] == "1" and cluster.finish(alone)["Restarts"] == "0"
    assert outcome(tmp_path / "taken") == outcome(tmp_path / "alone")


STAYS = ("--export=ALL,STAYS=1",)
def said(cluster, job, word): return [x for x in cluster.tail(job).splitlines() if x.split()[0] == word]


@pytest.mark.full
def test_nearly_out_of_time_it_goes_back_into_the_queue(cluster, python):
    job = cluster.submit("run_job.sh", options=STAYS, PYTHON=python)
    there(lambda: said(cluster, job, "rank"))
    cluster("scancel", "--batch", "--signal=USR1", job)               # what --signal=B:USR1@120 sends
    assert cluster.finish(job)["Restarts"] == "1"
    assert said(cluster, job, "heard") == ["heard USR1", "heard"]
    first, second = said(cluster, job, "line")
    assert first == second and f"--run-id slurm_{job} " in first


@pytest.mark.full
def test_preempted_it_hears_one_signal(cluster, python):
    job = cluster.submit("run_job.sh", options=STAYS, PYTHON=python)
    there(lambda: said(cluster, job, "rank"))
    cluster("scontrol", "requeue", job)
    assert cluster.finish(job)["Restarts"] == "1" and said(cluster, job, "heard") == ["heard TERM", "heard"]


@pytest.mark.full
def test_cancelled_stays_cancelled(cluster, python):
    job = cluster.submit("run_job.sh", options=STAYS, PYTHON=python)
    there(lambda: said(cluster, job, "rank"))
    cluster("scancel", job)
    there(lambda: said(cluster, job, "heard"))
    time.sleep(1)
    now = cluster.show(job)
    assert said(cluster, job, "heard") == ["heard TERM"] and (now["JobState"], now["Restarts"]) == ("CANCELLED", "0")


@pytest.mark.full
def test_array_trains_each_method_with_each_seed(cluster, python):
    job = cluster.submit(ARRAY, "tiny", options=("--array=0-3", f"--output={cluster.logs}/%A-%a.out"), PYTHON=python, METHODS="lora casm", SEEDS="1 2")
    logs = [cluster.logs / f"{job}-{i}.out" for i in range(4)]
    there(lambda: all(x.exists() and "heard" in x.read_text() for x in logs))
    assert [x.read_text().splitlines()[0] for x in logs] == [f"line scripts/carc/train_carc.py --method {m} --model tiny --seed {s}" for m in ("lora", "casm") for s in "12"]


@pytest.mark.full
@pytest.mark.parametrize("how", ["out of time", "preempted"])
def test_every_process_of_several_hears_it(cluster, python, how):
    job = cluster.submit(NODES, "casm", options=("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", *STAYS), PYTHON=python)
    there(lambda: len(said(cluster, job, "rank")) == 2)
    if how == "out of time": cluster("scancel", "--batch", "--signal=USR1", job)
    else: cluster("scontrol", "requeue", job)
    assert cluster.finish(job)["Restarts"] == "1"
    first, second, *_ = ranks = [x.split()[1:] for x in said(cluster, job, "rank")]
    assert sorted(x[:3] for x in ranks) == sorted(2 * [["0", "0", "2"], ["1", "1", "2"]]) and first[3:] == second[3:]
    heard = "USR1" if how == "out of time" else "TERM"
    assert sorted(said(cluster, job, "heard")) == ["heard", "heard", f"heard {heard}", f"heard {heard}"]
