"A Slurm of one node for the tests of this folder."
import os, shutil, subprocess, sys, time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("--gpus=0", "--mem=0", "--time=10")                          # in place of what the scripts ask a real cluster for


class Cluster:
    "Submits the checkout's scripts, and says how the jobs do"
    def __init__(self, conf, logs): self.conf, self.logs = str(conf), logs

    def __call__(self, *command, **variables):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CONTINUAL_LEARNING_", "SLURM_"))} | {"SLURM_CONF": self.conf}
        mine = {"SKIP_MODULES": 1, "SKIP_VENV": 1, "PYTHON": sys.executable} | variables
        return subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
                              env=clean | {f"CONTINUAL_LEARNING_{k}": str(v) for k, v in mine.items()}).stdout.strip()

    def submit(self, *line, options=(), **variables):
        "Number of the job"
        return self("sbatch", "--parsable", f"--output={self.logs}/%j.out", *SMALL, *options, *line, **variables)

    def show(self, job): return dict(x.split("=", 1) for x in self("scontrol", "--oneliner", "show", "job", job).split() if "=" in x)
    def log(self, job): return (self.logs / f"{job}.out").read_text(errors="replace")

    def wait(self, job, until, seconds=200):
        "Until `until(show(job))`; a job put back into the queue doesn't sit out the two minutes that Slurm makes it wait"
        end = time.monotonic() + seconds
        while not until(now := self.show(job)):
            assert time.monotonic() < end and now["JobState"] not in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), f"{now}\n{self.tail(job)}"
            if now["JobState"] == "PENDING" and now["Reason"] == "BeginTime":
                time.sleep(2)                                         # on the same node in the same second, its credentials would still be revoked
                self("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(.2)
        return now

    def tail(self, job): return self.log(job)[-3000:] if (self.logs / f"{job}.out").exists() else ""
    def finish(self, job, seconds=200): return self.wait(job, lambda x: x["JobState"] == "COMPLETED", seconds)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    "A running Slurm; skipped where it is not installed, except with CI=true"
    missing = [x for x in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(x, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing and os.environ.get("CI") != "true": pytest.skip(f"no {missing[0]}: apt-get install slurm-wlm munge")
    assert not missing, f"no {missing[0]}: CI needs apt-get install slurm-wlm munge"
    folder = tmp_path_factory.mktemp("slurm")
    script = Path(__file__).with_name("cluster.sh")
    started = subprocess.run([script, "start", folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(said := folder / "start.log").open("w"), timeout=120)
    assert started.returncode == 0, said.read_text()
    (folder / "logs").mkdir()
    cluster = Cluster(folder / "slurm.conf", folder / "logs")
    try: yield cluster
    finally: subprocess.run([script, "stop", folder], timeout=120, check=True)
