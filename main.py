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
    p.add_argument("--run-id", default="debug_run", help="name of the run")
    p.add_argument("--checkpoint-dir", default="checkpoints", help="where run folders are")
    p.add_argument("--seed", type=int, default=0, help="seed")
    args = p.parse_args(argv)
    if args.mode == "real" and not args.dataset_name: p.error("--mode real needs the facts file: add --dataset-name FILE")
    if args.mode == "synthetic" and args.dataset_name: p.error("--mode synthetic generates its facts: leave out --dataset-name, or use --mode real")
    return args


def main(argv=None):
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        facts = args.dataset_name
        if args.mode == "synthetic": write_facts(generate(DEMO_FACTS), facts := Path(folder) / "facts.json")
        return casm(["train", "--method", args.method, "--facts", str(facts), "--model", args.model_name, "--seed", str(args.seed),
                     "--run-id", args.run_id, "--checkpoint-dir", args.checkpoint_dir])


if __name__ == "__main__": sys.exit(main())
