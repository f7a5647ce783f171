"""The rows of several experiment folders in one small file, from which the notebooks make their tables.

    python benchmarks/collect.py runs/public --json nbs/data/public.json

A row keeps its headline numbers; of the accuracy matrix, only what was asked after the last period.
"""
import argparse
import json
from pathlib import Path

from casm.checkpoint import write_json_atomic
from casm.facts import CasmError


def rows_of(folder: Path) -> list[dict]:
    "The rows of a folder's results.json, each matrix cut down to its last period"
    path = folder / "results.json"
    if not path.exists(): raise CasmError(f"{folder}: holds no results.json; give the folder of a finished `casm run`")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [{k: v for k, v in r.items() if k not in ("matrix", "as_of_accuracy")} | {"at_the_end": list(r["matrix"].values())[-1]} for r in rows]


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", type=Path, nargs="+", help="of `casm run`")
    p.add_argument("--json", type=Path, required=True, help="where the rows go")
    a = p.parse_args()
    try: rows = [r for f in a.folders for r in rows_of(f)]
    except CasmError as e: p.error(str(e))
    order = list(dict.fromkeys(r["method"] for r in rows))
    if len({(r["method"], r["seed"], r["stream"]) for r in rows}) < len(rows): p.error("two of the folders hold the same method, seed and stream")
    write_json_atomic(a.json, sorted(rows, key=lambda r: (order.index(r["method"]), r["seed"])))
    print(f"results: {a.json}, {len(rows)} rows")
