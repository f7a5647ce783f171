"benchmarks/registry.py runs, counts what it says and writes what it prints; how fast is for a quiet machine."
import json, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_quick_run(tmp_path):
    out = tmp_path / "registry.json"
    done = subprocess.run([sys.executable, ROOT / "benchmarks/registry.py", "--quick", "--json", out], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    got = json.loads(out.read_text())
    assert got["facts"] == got["few_facts"] == 400 and "400 facts:" in done.stdout
    assert all(v > 0 for v in got.values()) and got["get_p50_us"] <= got["get_p99_us"] and got["bytes"] > got["bytes_no_index"]


def test_too_few_facts_is_one_line():
    done = subprocess.run([sys.executable, ROOT / "benchmarks/registry.py", "--facts", "1"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "at least 4 facts" in done.stderr and "Traceback" not in done.stderr
