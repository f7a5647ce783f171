#!/usr/bin/env python
"""Step 1 of the sequence: train the model on the first period, into the cache where every method of step 2 finds it."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "carc"))
from train_carc import facts_chosen, parser


def main(argv=None):
    p = parser("pretrain_period1.py", __doc__)
    args = p.parse_args(argv)
    from casm.cli import model_of, quiet
    quiet()
    from casm.experiments import cache_folder, start_checkpoint
    try: start_checkpoint(facts_chosen(args), args.seed, model_of(args.model))
    except (ValueError, OSError) as e: p.error(" ".join(str(e).split()))
    print(f"results: {cache_folder()}")


if __name__ == "__main__": sys.exit(main())
