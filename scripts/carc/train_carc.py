#!/usr/bin/env python
"""Train one method on a cluster; a thin door to `casm train`, whose flags it takes too (--lr, --epochs, --max-passages, --save-every, --capture-activations …)."""
import argparse, random, sys, tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, installed or not
from casm.benchmark import Benchmark, write_facts  # noqa: E402
from casm.cli import Parser, facts_of  # noqa: E402
from casm.cli import main as casm  # noqa: E402


def parser(prog, about):
    "A parser with the flags that say which facts are learnt by which model, and where"
    p = Parser(prog=prog, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--model", default="tiny", metavar="NAME_OR_PATH", help="a causal language model; tiny is the one in the package")
    p.add_argument("--facts", metavar="FILE", help="facts file, as for casm run; None: the generated ones")
    p.add_argument("--periods", nargs="+", metavar="PERIOD", help="the facts' periods to keep; None: all")
    p.add_argument("--dataset-fraction", type=float, default=1., metavar="X", help="share of the facts to keep, drawn by the seed")
    p.add_argument("--seed", type=int, default=42, metavar="N", help="seed")
    p.add_argument("--checkpoint-dir", default="checkpoints", metavar="DIR", help="where run folders are")
    return p


def facts_chosen(args) -> Benchmark:
    "The benchmark, or those of its periods and that share of its facts"
    if not 0 < args.dataset_fraction <= 1: raise ValueError(f"--dataset-fraction {args.dataset_fraction}: give a share above 0, at most 1")
    benchmark = facts_of(args.facts)
    periods, n = args.periods or benchmark.periods, len(benchmark.records)
    if unknown := set(periods) - set(benchmark.periods): raise ValueError(f"--periods {min(unknown)}: the facts have {', '.join(benchmark.periods)}")
    kept = sorted(random.Random(args.seed).sample(range(n), max(1, round(n * args.dataset_fraction))))
    return Benchmark(tuple(periods), tuple(replace(r, values={t: r.values[t] for t in periods}, changed=None) for r in (benchmark.records[i] for i in kept)))


def run_name(method, args): return f"{method}_{Path(args.model).name}_s{args.seed}"


def main(argv=None):
    p = parser("train_carc.py", __doc__)
    p.add_argument("--method", required=True, help="full_ft, lora, smf or casm")
    p.add_argument("--run-id", metavar="NAME", help="name of the run; None: METHOD_MODEL_sSEED")
    p.add_argument("--batch-size", type=int, metavar="N", help="passages at a time; None: the method's recipe")
    p.add_argument("--grad-accum", type=int, metavar="N", help="so many times --batch-size passages make an optimiser step; None: once")
    wordings = p.add_mutually_exclusive_group()
    wordings.add_argument("--augmented", action="store_true", help="learn each fact in all its wordings, as --wordings 0 and, unless a setting says otherwise, no flag at all")
    wordings.add_argument("--no-augmented", action="store_true", help="learn each fact of the later periods in its first wording only, as --wordings 1")
    args, more = p.parse_known_args(argv)
    if args.augmented or args.no_augmented:
        if any(m.partition("=")[0] == "--wordings" for m in more): p.error("--wordings: is what --augmented and --no-augmented set; leave one out")
        more += ["--wordings", "0" if args.augmented else "1"]
    if args.grad_accum is not None and args.batch_size is None: p.error("--grad-accum: needs --batch-size, which it multiplies")
    if args.batch_size is not None: more += ["--batch-size", str(args.batch_size * (args.grad_accum or 1))]
    if args.grad_accum is not None: more += ["--accumulate", str(args.grad_accum)]
    with tempfile.TemporaryDirectory() as folder:
        facts = args.facts
        if args.periods or args.dataset_fraction != 1:
            try: write_facts(facts_chosen(args), facts := str(Path(folder) / "facts.json"))
            except ValueError as e: p.error(str(e))
        return casm(["train", "--method", args.method, "--model", args.model, *(["--facts", facts] if facts else []),
                     "--run-id", run_name(args.method, args) if args.run_id is None else args.run_id, "--checkpoint-dir", args.checkpoint_dir, "--seed", str(args.seed), *more])


if __name__ == "__main__": sys.exit(main())
