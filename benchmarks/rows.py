"""Which rows five wordings of one fact read in SmolLM2, by the grain of the keys, and five questions about other things; `casm get smollm2` first.

    python benchmarks/rows.py --json nbs/data/rows.json
"""
import argparse
import json
from itertools import combinations
from pathlib import Path

import torch

from casm.adapter import encode
from casm.benchmark import generate
from casm.memory import record_access
from casm.pretraining import fit_memory, load_lm
from casm.wordings import wordings


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(1)
    bench, found = generate(8, seed=500), {}
    mine, *others = bench.facts(bench.periods[0])
    asked = [w.prompt for w in wordings(mine)[:5]]
    asked += [wordings(f)[k].prompt for k, f in enumerate([f for f in others if f.relation != mine.relation][:5])]
    for n_keys in (128, 16, 8, 4):
        lm = load_lm("smollm2")
        memory, rows = fit_memory(lm, n_keys), []
        for ids in encode(lm.tokenizer, lm.asked(asked)):
            with torch.no_grad(), record_access(memory) as got: lm.model(input_ids=torch.tensor([ids]))
            rows.append(sorted(got[0].rows[-1].unique().tolist()))                 # where the answer begins
        def shared(pairs): return round(sum(len({*x} & {*y}) / len({*x} | {*y}) for x, y in pairs) / len(pairs), 3)
        own, rest = rows[:5], rows[5:]
        found[n_keys ** 2] = {"wordings": own, "others": rest, "shared among wordings": shared([*combinations(own, 2)]), "shared with others": shared([(x, y) for x in own for y in rest])}
        print(n_keys ** 2, found[n_keys ** 2], flush=True)
    a.json.write_text(json.dumps({"asked": asked, "rows": found}, indent=1) + "\n")
    print(f"results: {a.json}")


if __name__ == "__main__": main()
