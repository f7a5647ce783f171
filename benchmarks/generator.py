"""How fast is the generator of facts, and does its memory stay flat? A hundred thousand facts streamed into files.

    python benchmarks/generator.py --facts 100000 --json generator.json
    python benchmarks/generator.py --quick

Each number of facts is written in a process of its own, whose highest resident memory is compared with that of a process that writes a hundred;
beside it stands what the same facts take when they are held in memory as a benchmark.
"""
import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def one(what: str, n: int, out: Path) -> dict:
    "Seconds, bytes written and highest resident memory of this process, in bytes"
    from casm.benchmark import Benchmark, stream, write_facts, write_records
    start, cpu = time.perf_counter(), time.process_time()
    if what == "streamed": write_records(stream(n), out)
    else: write_facts(Benchmark(("2018", "2020", "2022", "2024"), tuple(stream(n))), out)
    scale = 1 if sys.platform == "darwin" else 1024
    return {"facts": n, "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "bytes": out.stat().st_size,
            "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale}


def apart(what: str, n: int, folder: str) -> dict:
    "The same in a process of its own"
    line = [sys.executable, __file__, "--one", what, "--facts", str(n), "--json", f"{folder}/{what}-{n}.json"]
    subprocess.run(line, check=True)
    return json.loads(Path(f"{folder}/{what}-{n}.json").read_text())


def measure(n: int) -> dict:
    "All numbers of one run"
    with tempfile.TemporaryDirectory() as folder: few, many, held = apart("streamed", 100, folder), apart("streamed", n, folder), apart("held", n, folder)
    return {"facts": n, "facts_per_s": n / many["seconds"], "facts_per_cpu_s": n / many["cpu_seconds"], "bytes": many["bytes"], "peak_memory": many["peak_memory"],
            "peak_memory_100": few["peak_memory"], "growth": many["peak_memory"] - few["peak_memory"], "growth_held": held["peak_memory"] - few["peak_memory"]}


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=100_000, help="facts to write (default 100,000)")
    p.add_argument("--quick", action="store_true", help="2000 facts, to see that it runs")
    p.add_argument("--json", type=Path, help="also write the numbers here")
    p.add_argument("--one", choices=("streamed", "held"), help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.facts < 1: p.error(f"--facts {a.facts}: give at least 1")
    if a.one:
        with tempfile.TemporaryDirectory() as folder: a.json.write_text(json.dumps(one(a.one, a.facts, Path(folder, "facts.json"))))
        sys.exit()
    got = measure(2000 if a.quick else a.facts)
    print("{facts:,} facts: {facts_per_s:,.0f} per second ({facts_per_cpu_s:,.0f} per second of processor time), {bytes:,} bytes".format(**got))
    print(f"highest memory {got['peak_memory'] / 1e6:.1f} MB, {got['growth'] / 1e6:.2f} MB above that for 100 facts; held in memory instead: {got['growth_held'] / 1e6:.1f} MB above")
    if a.json: a.json.write_text(json.dumps(got, indent=1))
