#!/usr/bin/env python
"""Train one method into CHECKPOINT_DIR/RUN_ID; a thin door to `casm train`. The same command continues an interrupted run."""
import argparse, sys, tempfile
from pathlib import Path

from casm.benchmark import generate, write_facts
from casm.cli import DEMO_FACTS, Parser
from casm.cli import main as casm


def parse(argv=None):
    p = Parser(prog="main.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--mode", choices=("real", "synthetic"), default="real",
                   help=f"real: the facts of --dataset-name; synthetic: {DEMO_FACTS} generated ones")
    p.add_argument("--method", default="casm", help="full_ft, lora, smf or casm")
    p.add_argument("--dataset-name", metavar="FILE", help="facts file, as for casm run")
    p.add_argument("--model-name", default="tiny", metavar="NAME_OR_PATH", help="a causal language model; tiny is the one in the package")
    p.add_argument("--run-id", metavar="NAME", help="name of the run; None: debug_run, or that of --resume-from")
    p.add_argument("--checkpoint-dir", default="checkpoints", metavar="DIR", help="where run folders are")
    p.add_argument("--resume-from", metavar="RUN", help="run id or folder of a run that must be there already, to be continued")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="seed")
    p.add_argument("--save-every", metavar="STEPS", help="optimiser steps between checkpoints within a period; None: at its end")
    args = p.parse_args(argv)
    if args.mode == "real" and not args.dataset_name: p.error("--mode real needs the facts file: add --dataset-name FILE")
    if args.mode == "synthetic" and args.dataset_name: p.error("--mode synthetic generates its facts: leave out --dataset-name, or use --mode real")
    if args.resume_from is not None: args.checkpoint_dir, args.run_id = resumed(p, args)
    return args


def resumed(p, args):
    "Folder and name of the run to continue, which is always continued in place"
    if not args.resume_from.strip(): p.error("--resume-from is empty: give a run id, or the folder of a run")
    run = Path(args.resume_from if "/" in args.resume_from else Path(args.checkpoint_dir) / args.resume_from)
    if run.parent.name == "checkpoints" and (run.parents[1] / "run_manifest.json").exists():
        p.error(f"--resume-from {args.resume_from}: is a checkpoint; give its run, {run.parents[1]}, which goes on from the newest one")
    if not (run / "run_manifest.json").exists(): p.error(f"--resume-from {args.resume_from}: {run} is no run; leave --resume-from out to begin one")
    run = run.resolve()
    if args.run_id not in (None, run.name): p.error(f"--resume-from {args.resume_from}: continues {run.name}; leave out --run-id {args.run_id}")
    return str(run.parent), run.name


def main(argv=None):
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        facts = args.dataset_name
        if args.mode == "synthetic": write_facts(generate(DEMO_FACTS), facts := Path(folder) / "facts.json")
        return casm(["train", "--method", args.method, "--facts", str(facts), "--model", args.model_name, "--seed", str(args.seed),
                     "--run-id", args.run_id or "debug_run", "--checkpoint-dir", args.checkpoint_dir, *(["--save-every", args.save_every] if args.save_every else [])])


if __name__ == "__main__": sys.exit(main())
