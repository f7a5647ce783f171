#!/usr/bin/env python
"""Step 2 of the sequence: teach the later periods, one method after the other: `run_step2.py [METHOD…] [flags of train_carc.py]`."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "carc"))
import train_carc

METHODS = ("full_ft", "lora", "smf", "casm")


def main(argv=None):
    argv = list(sys.argv[1:] if argv is None else argv)
    n = next((i for i, x in enumerate(argv) if x.startswith("-")), len(argv))
    for method in argv[:n] or METHODS:
        if code := train_carc.main(["--method", method, *argv[n:]]): return code


if __name__ == "__main__": sys.exit(main())
