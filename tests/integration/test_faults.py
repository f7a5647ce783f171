"A training run killed, out of disk and with failing disks at every call by which a save changes a file; nothing is lost, and a changed order of the commit is noticed."
import json, os, shutil, subprocess, sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    "The library that counts a process's calls; with CI=true a test without a compiler fails"
    cc = shutil.which("cc") or shutil.which("gcc")
    if cc is None and os.environ.get("CI") != "true": pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("shim") / "faults.so"
    subprocess.run([cc, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", path, HERE / "faults.c", "-ldl"], check=True)
    return path


@pytest.fixture
def place(tmp_path):
    "A folder in memory if there is one: thousands of fsyncs take minutes on a disk"
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    folder = Path("/dev/shm") / f"casm-faults-{os.getpid()}"
    folder.mkdir()
    try: yield folder
    finally: shutil.rmtree(folder)


def campaign(shim, method, stub, place, *broken):
    done = subprocess.run([sys.executable, HERE / "faults.py", method, stub, place, *broken], env=os.environ | {"LD_PRELOAD": str(shim)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def nothing_is_lost(found, least=15):
    assert found["wrong"] == []
    assert len(found["points"]) == 9 and all(n > least for n in found["points"].values()) and found["states"] >= 6
    print(f"{sum(found['points'].values())} points, {found['states']} different states of the folder: {found['points']}")


def test_nothing_is_lost_casm(shim, stub, place): nothing_is_lost(campaign(shim, "casm", stub, place), 30)      # slots and ledger have files of their own


@pytest.mark.full
@pytest.mark.parametrize("method", ["full_ft", "lora", "smf"])
def test_nothing_is_lost(shim, method, stub, place): nothing_is_lost(campaign(shim, method, stub, place))


@pytest.mark.parametrize("broken, says", [("latest_first", "though latest.json names it"), ("no_sync", "is not durable")])
def test_broken_commit_is_noticed(shim, broken, says, stub, place):
    wrong = campaign(shim, "casm", stub, place, broken)["wrong"]
    assert any(says in w for w in wrong), wrong


@pytest.mark.full
@pytest.mark.parametrize("broken", ["prune_first", "in_place"])
def test_broken_commit_is_noticed_too(shim, broken, stub, place):
    assert campaign(shim, "casm", stub, place, broken)["wrong"]
