"""Break a scorer, a metric or a builder on purpose, one at a time, and see which test notices.

    python tests/mutations.py --markdown docs/mutations.md

Each break is a piece of text replaced in a copy of the package; the tests of the benchmark and the evaluation then run against that copy until the first of them fails. A break that no test notices is a hole in the tests, and the exit code is 1.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = ["tests/unit/test_evaluation.py", "tests/unit/test_builders.py", "tests/unit/test_facts.py", "tests/unit/test_benchmark.py"]


class Break(NamedTuple):
    "What is broken: in `module`, `old` (which stands there once) becomes `new`."
    what: str
    module: str
    old: str
    new: str


BREAKS = [
    Break("the strict scorer looks for the answer anywhere in the text", "evaluation", "value_key(answer) in {value_key(g) for g in (gold, *aliases)}", "any(g.lower() in answer.lower() for g in (gold, *aliases))"),
    Break("an empty answer is right", "evaluation", "return bool(canonical(answer)) and value_key(answer) in", "return not canonical(answer) or value_key(answer) in"),
    Break("aliases are forgotten", "evaluation", "(p.answer, *aliases.get(p.answer, ()))", "(p.answer,)"),
    Break("only the first of several right answers counts", "evaluation", "any(is_right(answer.text, gold) for gold in right)", "is_right(answer.text, right[0])"),
    Break("units are not converted", "facts", "    if known: return f\"{_times(number, known[1])} {known[0]}\"", "    if known: return f\"{number} {known[0]}\""),
    Break("token F1 counts a word said twice as shared twice", "facts", "sum(min(said.count(w), want.count(w)) for w in set(want))", "sum(said.count(w) for w in set(want))"),
    Break("the original's scorer minds case", "evaluation", "return gold.lower() in answer.lower()", "return gold in answer"),
    Break("the original's F1 counts repeated words", "evaluation", "shared = len(set(a) & set(g))", "shared = sum(w in g for w in a)"),
    Break("plasticity is read off the unchanged probes", "evaluation", '{"plasticity": mean([at(t, t, "changed") for t in updates])', '{"plasticity": mean([at(t, t, "unchanged") for t in updates])'),
    Break("the first period counts as an update", "evaluation", 'R, updates = matrix(predictions, form), benchmark.periods[1:]', 'R, updates = matrix(predictions, form), benchmark.periods'),
    Break("history also asks about the present", "evaluation", 'mean([at(t, j, "superseded") for j in benchmark.periods[:benchmark.periods.index(t)]])', 'mean([at(t, j, "superseded" if j < t else "changed") for j in benchmark.periods[:benchmark.periods.index(t) + 1]])'),
    Break("stale means a later value", "evaluation", "others = earlier_values(record, now) if current", "others = later_values(record, now) if current"),
    Break("a value still to come counts as a leak", "evaluation", 'if v in told(record, p["as_of"], now)]', "]"),
    Break("contradiction accuracy counts what never changed", "evaluation", 'and earlier_values(of[p["subject"], p["relation"]], p["after"])])', "])"),
    Break("hits and abstentions are pooled", "evaluation", 'none = [float(p["slot"] is None) for p in rows if p["gold_slot"] is None]', 'none = [float(p["slot"] == p["gold_slot"]) for p in rows]'),
    Break("locality compares with the gold answer", "evaluation", 'return mean([float(p["answer"] == first[p["question"], p["as_of"]]) for p in mine', 'return mean([float(p["answer"] == p["gold"]) for p in mine'),
    Break("backward transfer has its sign turned", "evaluation", '"backward_transfer": mean([less(at(last, j), at(j, j)) for j in earlier])', '"backward_transfer": mean([less(at(j, j), at(last, j)) for j in earlier])'),
    Break("the bootstrap draws probes, not facts", "evaluation", "at, of = np.array([number[g] for g in groups])", "number = dict(enumerate(groups)); at, of = np.arange(len(groups))"),
    Break("differences pair questions of different seeds", "evaluation", '{(p["seed"], p["after"], p["as_of"], p["question"]): (float', '{(p["after"], p["as_of"], p["question"]): (float'),
    Break("perfect routing keeps the wrong answers", "evaluation", '"answer": p["oracle"], "slot": p["gold_slot"], "correct": p["correct"] if p["oracle"] == p["answer"]', '"answer": p["oracle"], "slot": p["gold_slot"], "correct": p["correct"] if p["oracle"]'),
    Break("a prediction cut short is taken as whole", "evaluation", '.split("\\n")[:-1]', '.split("\\n")'),
    Break("predictions of another method are continued", "evaluation", '    return {"method": method.name, "seed": seed, "after": after, "as_of": probe.as_of, "kind"', '    return {"seed": seed, "after": after, "as_of": probe.as_of, "kind"'),
    Break("passages state the value of the last period", "benchmark", 'of {r.entity} is {r.values[p]}."', 'of {r.entity} is {r.values[benchmark.periods[-1]]}."'),
    Break("probes trust the file's flag", "benchmark", "new = before is None or r.values[before] != r.values[period]", "new = before is None or bool(r.changed)"),
    Break("redistribute forgets its seed", "benchmark", "random.Random(seed).shuffle(at)", "random.Random(0).shuffle(at)"),
    Break("redistribute piles changes on the first boundary", "benchmark", "at = [1 + k % cuts for k in range(len(turns))]", "at = [1 for k in range(len(turns))]"),
    Break("a passage that states its value twice passes", "benchmark", "            if n != 1:\n", "            if n < 1:\n"),
    Break("undated probes expect the first value", "benchmark", "return [Probe(question(text, r.entity, r.relation), r.values[after], r.entity, r.relation, None, \"undated\", form)", "return [Probe(question(text, r.entity, r.relation), r.values[benchmark.periods[0]], r.entity, r.relation, None, \"undated\", form)"),
]


def noticed(b: Break) -> str | None:
    "The first test that fails when the package is broken so; None when all pass. Raises `ValueError` when the text to replace is not there once."
    source = (ROOT / "casm" / f"{b.module}.py").read_text(encoding="utf-8")
    if source.count(b.old) != 1: raise ValueError(f"{b.what}: {b.old!r} stands {source.count(b.old)} times in casm/{b.module}.py; write the break anew")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "casm", Path(folder) / "casm", ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / "casm" / f"{b.module}.py").write_text(source.replace(b.old, b.new), encoding="utf-8")
        got = subprocess.run([sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", *TESTS], cwd=ROOT, capture_output=True, text=True,
                             env=os.environ | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"})
    if got.returncode == 0: return None
    test = re.search(r"^(?:FAILED|ERROR) (?:tests/unit/)?(\S+?)(?:\[.*)?(?: - .*)?$", got.stdout, re.M)
    if not test: raise ValueError(f"{b.what}: pytest said\n{got.stdout[-2000:]}{got.stderr[-2000:]}")
    return test[1]


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--markdown", type=Path, help="also write the table here")
    p.add_argument("--only", type=int, nargs="*", help="numbers of breaks, from 1 (default: all)")
    a = p.parse_args()
    rows = []
    for n, b in enumerate(BREAKS, 1):
        if a.only and n not in a.only: continue
        rows.append((n, b.what, b.module, noticed(b)))
        print(f"{n}. {b.what}: {rows[-1][3] or 'NOBODY NOTICES'}", flush=True)
    if a.markdown:
        head = ("# What the tests notice\n\nA scorer, metric or builder broken on purpose, one at a time (`python tests/mutations.py --markdown docs/mutations.md`), and the first test that fails.\n\n"
                "| # | broken so | in | noticed by |\n|--:|---|---|---|\n")
        a.markdown.write_text(head + "".join(f"| {n} | {what} | `casm.{module}` | `{test or 'nobody'}` |\n" for n, what, module, test in rows), encoding="utf-8")
        print(f"results: {a.markdown}")
    sys.exit(any(test is None for *_, test in rows))
