"""How fast is the registry? A million facts loaded, read at random dates, and the same without indexes.

    python benchmarks/registry.py --facts 1000000 --json registry.json
    python benchmarks/registry.py --quick

A quarter as many keys as facts: every key gets four values, date by date, in one commit. Without indexes a reading or a fact to judge walks
the whole table, so fewer are timed there: readings of the same ledger, copied; and facts loaded into an empty one, beside the same with indexes.
"""
import argparse
import json
import random
import resource
import sqlite3
import tempfile
import time
from pathlib import Path

from casm.facts import Fact
from casm.registry import Registry

DATES = ("2018", "2020", "2022", "2024")


def facts(n: int):
    "`n` facts as they might come in: date by date, every fourth value that of the date before"
    keys = max(1, n // len(DATES))
    for i in range(n):
        key, t = i % keys, min(i // keys, len(DATES) - 1)
        if i // keys < len(DATES): yield Fact(f"Port {key // 5}", f"depth {key % 5}", f"{key % 97 + t - (key % 4 == 0 and t > 0)} fathoms", DATES[t])


def strip(path: Path):
    "An empty registry file without indexes; the numbers of rows stay keys of their tables, as SQLite has it"
    Registry(path).close()
    with sqlite3.connect(path) as db:
        made = [sql for sql, in db.execute("SELECT sql FROM sqlite_master WHERE name IN ('keys', 'keys_UPDATE', 'keys_DELETE') ORDER BY type")]
        db.executescript("PRAGMA foreign_keys = OFF; DROP INDEX timeline; DROP INDEX starts; DROP INDEX ends; DROP TABLE keys;"
                         + ";".join(made).replace(", UNIQUE (subject, relation)", ""))
    db.close()


def copy(source: Path, path: Path):
    "Every row of a registry file in one without indexes"
    strip(path)
    db = sqlite3.connect(path)
    db.executescript("DROP TRIGGER meta_DELETE; DELETE FROM meta;")
    db.execute("ATTACH ? AS source", (str(source),))
    for table, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall(): db.execute(f"INSERT INTO {table} SELECT * FROM source.{table}")
    db.commit()
    db.close()


def load(path: Path, n: int) -> tuple:
    "(seconds, seconds of processor time) to load `n` facts, making them included"
    with Registry(path) as r:
        start, cpu = time.perf_counter(), time.process_time()
        r.load(facts(n))
        return time.perf_counter() - start, time.process_time() - cpu


def gets(path: Path, n: int, asked: int) -> list:
    "Microseconds of each of `asked` readings of keys and dates drawn at random, rising"
    draw, times = random.Random(0), []
    with Registry.open_existing(path) as r:
        for _ in range(asked):
            key, as_of = draw.randrange(max(1, n // len(DATES))), str(draw.randrange(2018, 2026))
            start = time.perf_counter()
            found = r.get(f"Port {key // 5}", f"depth {key % 5}", as_of)
            times.append((time.perf_counter() - start)*1e6)
            assert found.value.endswith(" fathoms")
    return sorted(times)


def measure(n: int, few: int, asked: int, folder: Path) -> dict:
    "All numbers of one run"
    whole, bare = folder / "whole.sqlite", folder / "bare.sqlite"
    seconds, cpu = load(whole, n)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    copy(whole, bare)
    out = {"facts": n, "load_facts_per_s": n/seconds, "load_facts_per_cpu_s": n/cpu, "peak_memory_mb": peak}
    for name, path, count in (("", whole, asked), ("_no_index", bare, max(20, asked // 500))):
        times = gets(path, n, count)
        out |= {f"get_p50_us{name}": times[len(times) // 2], f"get_p99_us{name}": times[int(len(times)*.99)], f"bytes{name}": path.stat().st_size}
    strip(folder / "few_bare.sqlite")
    quick, slow = (few/load(folder / name, few)[1] for name in ("few.sqlite", "few_bare.sqlite"))
    out |= {"few_facts": few, "few_facts_per_cpu_s": quick, "few_facts_per_cpu_s_no_index": slow}
    return out | {"get_p50_ratio": out["get_p50_us_no_index"]/out["get_p50_us"], "bytes_ratio": out["bytes"]/out["bytes_no_index"],
                  "few_load_ratio": quick/slow}


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--facts", type=int, default=1_000_000, help="facts to load (default 1,000,000)")
    p.add_argument("--gets", type=int, default=10_000, help="readings to time (default 10,000)")
    p.add_argument("--quick", action="store_true", help="400 facts and 50 readings, to see that it runs")
    p.add_argument("--json", type=Path, help="also write the numbers here")
    a = p.parse_args()
    n, asked = (400, 50) if a.quick else (a.facts, a.gets)
    if n < len(DATES) or asked < 1: p.error(f"--facts {n}, --gets {asked}: at least {len(DATES)} facts and one reading are needed")
    with tempfile.TemporaryDirectory() as folder: got = measure(n, min(n, 20_000), asked, Path(folder))
    print("{facts:,} facts: {load_facts_per_s:,.0f} facts/s ({load_facts_per_cpu_s:,.0f} per second of processor time), peak memory {peak_memory_mb} MB".format(**got))
    print("with indexes     get p50 {get_p50_us:,.0f} µs, p99 {get_p99_us:,.0f} µs, {bytes:,} bytes".format(**got))
    print("without indexes  get p50 {get_p50_us_no_index:,.0f} µs, p99 {get_p99_us_no_index:,.0f} µs, {bytes_no_index:,} bytes".format(**got))
    print("so indexes make a reading {get_p50_ratio:,.0f} times as fast in a file {bytes_ratio:.2f} times as large".format(**got))
    print("{few_facts:,} facts into an empty file: {few_facts_per_cpu_s:,.0f} per second of processor time, without indexes {few_facts_per_cpu_s_no_index:,.0f} "
          "({few_load_ratio:,.0f} times)".format(**got))
    if a.json: a.json.write_text(json.dumps(got, indent=1))
