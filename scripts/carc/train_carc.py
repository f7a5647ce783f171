#!/usr/bin/env python
"""Train one method on a cluster; a thin door to `casm train`, whose run id names method, model and seed unless given."""
import argparse, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, installed or not
from casm.cli import Parser  # noqa: E402
from casm.cli import main as casm  # noqa: E402


def main(argv=None):
    p = Parser(prog="train_carc.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--method", required=True, help="full_ft, lora, smf or casm")
    p.add_argument("--model", default="tiny", metavar="NAME_OR_PATH", help="a causal language model; tiny is the one in the package")
    p.add_argument("--facts", metavar="FILE", help="facts file, as for casm run; None: the generated ones")
    p.add_argument("--stream", choices=("delta", "restate"), default="delta", help="teach what changed, or every fact every period")
    p.add_argument("--run-id", metavar="NAME", help="name of the run; None: METHOD_MODEL_sSEED")
    p.add_argument("--checkpoint-dir", default="checkpoints", metavar="DIR", help="where run folders are")
    p.add_argument("--seed", type=int, default=42, metavar="N", help="seed")
    args = p.parse_args(argv)
    run_id = args.run_id or f"{args.method}_{Path(args.model).name}_s{args.seed}"
    return casm(["train", "--method", args.method, "--model", args.model, *(["--facts", args.facts] if args.facts else []), "--stream", args.stream,
                 "--run-id", run_id, "--checkpoint-dir", args.checkpoint_dir, "--seed", str(args.seed)])


if __name__ == "__main__": sys.exit(main())
