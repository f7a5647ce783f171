#!/usr/bin/env python
"""Step 3 of the sequence: what the finished runs of step 2 learnt and kept, with its flags: `run_step3_eval.py [METHOD…] [flags]`."""
import json, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "carc"))
from run_step2 import METHODS
from train_carc import facts_chosen, parser, run_name


def main(argv=None):
    p = parser("run_step3_eval.py", __doc__)
    p.add_argument("methods", nargs="*", default=METHODS, metavar="METHOD", help="methods to compare")
    args = p.parse_args(argv)
    from casm.evaluation import summarise
    from casm.experiments import comparable, facts_hash, read_lines
    try: benchmark = facts_chosen(args)
    except ValueError as e: p.error(str(e))
    first, last = benchmark.periods[0], benchmark.periods[-1]
    lines = [["method", "plasticity", "stability", "history", f"{first} after {last}"]]
    for method in args.methods:
        run = Path(args.checkpoint_dir) / run_name(method, args)
        if not (run / "predictions.jsonl").exists(): p.error(f"{run}: no finished run; run_step2.py {method} begins it, or goes on with it")
        if json.loads((run / "run_manifest.json").read_text())["facts"] != {t: facts_hash(benchmark, t) for t in benchmark.periods}: p.error(f"{run}: learnt other facts; give the --facts, --periods and --dataset-fraction of step 2")
        row = summarise(comparable(read_lines(run / "predictions.jsonl"), first), benchmark)
        shares = [*(row[k] for k in ("plasticity", "stability", "history")), row["as_of_accuracy"][last][first]]
        lines.append([method, *("–" if x is None else f"{x:.3f}" for x in shares)])
    for line in lines: print(line[0].ljust(max(len(x[0]) for x in lines)), *(x.rjust(max(len(head), 6)) for x, head in zip(line[1:], lines[0][1:])), sep="  ")


if __name__ == "__main__": sys.exit(main())
