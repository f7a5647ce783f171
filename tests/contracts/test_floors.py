"""Imports go down the floors of the house, never up and never in a circle; nothing undeclared is imported."""
import ast, configparser, re, subprocess, sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

root = Path(__file__).parents[2]
modules = sorted(p.stem for p in (root / "casm").glob("[!_]*.py"))
each = pytest.mark.parametrize("module", modules)

FLOORS = [
    {"memory", "facts"},
    {"ranker", "slots", "registry", "wordings", "benchmark", "checkpoint"},
    {"router", "adapter", "finetuner", "store", "gemini", "datasets", "language"},
    {"generation", "prefix", "pretraining"},
    {"methods", "baselines"},
    {"trainer", "evaluation"},
    {"experiments", "report", "temporal_lm", "lm_eval", "edits"},
    {"cli", "data_cli", "eval_cli"},
]


def below(floor):
    "Every module on the floors under `floor`, counted from 1"
    return set().union(*FLOORS[:floor - 1])


MAY_IMPORT = {
    "memory": set(), "facts": set(),
    "ranker": {"memory"}, "slots": {"memory"}, "registry": {"facts"}, "wordings": {"facts"}, "benchmark": {"facts"}, "checkpoint": {"facts"},
    "router": {"memory", "ranker", "slots", "facts", "registry"}, "adapter": {"memory", "slots"},
    "finetuner": {"memory", "ranker", "slots"}, "store": {"facts", "slots", "registry", "checkpoint"}, "gemini": {"facts", "benchmark", "wordings"}, "datasets": {"facts", "benchmark"},
    "language": {"facts", "checkpoint"},
    "generation": {"adapter"}, "prefix": {"adapter", "generation"}, "pretraining": {"facts", "memory", "adapter", "ranker", "language", "generation"},
    "methods": below(5), "baselines": below(5) | {"methods"},
    "trainer": {"facts", "methods", "checkpoint"}, "evaluation": {"facts", "benchmark", "generation"},
    "experiments": below(7), "report": {"facts", "evaluation"}, "temporal_lm": below(7),
    "edits": {"facts", "adapter", "datasets", "checkpoint", "generation", "evaluation"},
    "lm_eval": below(7) | {"experiments", "temporal_lm"},
    "cli": below(8) | {"data_cli", "eval_cli"}, "eval_cli": below(8), "data_cli": {"facts", "benchmark", "gemini", "datasets"},
}
# those that stand on the floor of one they import
BESIDE = {("pretraining", "generation"), ("prefix", "generation"), ("baselines", "methods"), ("lm_eval", "experiments"), ("lm_eval", "temporal_lm"), ("cli", "data_cli"), ("cli", "eval_cli")}
# what the requirements themselves cannot do without
GRANTED = {"numpy", "tokenizers", "huggingface_hub", "pyarrow"}


def imports(module):
    "The names a module imports anywhere, inside functions too: (other casm modules, packages)"
    ours, others = set(), set()
    for node in ast.walk(ast.parse((root / "casm" / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            full = ["casm", node.module] if node.level else [node.module]
            names = [".".join(filter(None, full))]
            if names == ["casm"]: names = [f"casm.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import): names = [a.name for a in node.names]
        else: continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "casm": ours.add(rest.partition(".")[0] or "__init__")
            else: others.add(top)
    return ours, others


def test_table():
    "The table itself: every module stands on one floor, may import lower ones, and no circle is possible"
    assert sorted(MAY_IMPORT) == sorted(m for floor in FLOORS for m in floor)
    floor = {m: n for n, ms in enumerate(FLOORS) for m in ms}
    assert all(floor[o] < floor[m] or (m, o) in BESIDE for m, os in MAY_IMPORT.items() for o in os)
    list(TopologicalSorter(MAY_IMPORT).static_order())


@each
def test_imports_go_down(module):
    assert module in MAY_IMPORT, "a new module needs a floor in ARCHITECTURE.md and here"
    assert imports(module)[0] <= MAY_IMPORT[module]


@each
def test_packages_are_required(module):
    "Only the standard library and what `pip install casm` brings (the optional lm_eval and datasets where they are asked for)"
    ini = configparser.ConfigParser(delimiters=["="])
    ini.read(root / "settings.ini", encoding="utf-8")
    required = {re.match(r"[\w-]+", r)[0] for extra in ("", "eval_", "data_") for r in ini["DEFAULT"][f"{extra}requirements"].split()}
    required = {{"google-genai": "google", "pyyaml": "yaml"}.get(r, r) for r in required}
    assert imports(module)[1] <= required | GRANTED | sys.stdlib_module_names


def test_facts_need_no_torch():
    "Facts, wordings, benchmark, registry and datasets are useful, and quick to import, without a model"
    code = "import sys, casm.facts, casm.wordings, casm.benchmark, casm.registry, casm.datasets; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
