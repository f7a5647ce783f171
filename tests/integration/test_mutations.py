"Scorers, metrics and builders broken on purpose: each break is noticed, by the test that docs/mutations.md names."
import re, sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutations import BREAKS, ROOT, noticed


def test_each_break_has_a_line():
    "The table is of these breaks, and all of them can still be made"
    told = re.findall(r"^\| \d+ \| (.*?) \| `casm\.(\w+)` \| `(\S+?)` \|$", (ROOT / "docs" / "mutations.md").read_text(encoding="utf-8"), re.M)
    assert [(what, module) for what, module, _ in told] == [(b.what, b.module) for b in BREAKS] and "nobody" not in {t for *_, t in told}
    for b in BREAKS: assert (ROOT / "casm" / f"{b.module}.py").read_text(encoding="utf-8").count(b.old) == 1, b.what
    for *_, test in told:
        file, name = test.split("::")
        assert f"def {name}(" in (ROOT / "tests" / "unit" / file).read_text(encoding="utf-8"), test


@pytest.mark.full
@pytest.mark.parametrize("b", BREAKS, ids=lambda b: b.what)
def test_it_is_noticed(b): assert f"| {b.what} | `casm.{b.module}` | `{noticed(b)}` |" in (ROOT / "docs" / "mutations.md").read_text(encoding="utf-8")
