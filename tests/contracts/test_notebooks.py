"""The notebooks, the package and the README agree; every notebook is clean and opens on Colab."""
import filecmp, json, re, shutil, subprocess, sys
from pathlib import Path

import pytest
from nbdev.clean import clean_nb
from nbdev.config import get_config

root = Path(__file__).parents[2]
cfg = get_config(path=root)
notebooks = sorted((root / "nbs").glob("[!_.]*.ipynb"))
each = pytest.mark.parametrize("path", notebooks, ids=lambda p: p.stem)
library = pytest.mark.parametrize("path", [p for p in notebooks if p.name not in (cfg.readme_nb, "32_sceptic.ipynb")], ids=lambda p: p.stem)  # the two that export nothing


def cells(path, kind):
    return ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def test_export_in_sync(tmp_path):
    "Exporting from the notebooks alone gives the package that is checked in; __init__.py is written by hand"
    for name in ("settings.ini", "pyproject.toml", "setup.py"): shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "nbs", tmp_path / "nbs")
    subprocess.run([sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], cwd=tmp_path, check=True)
    got, want = ({str(p.relative_to(d / "casm")) for p in (d / "casm").rglob("*.py")} for d in (tmp_path, root))
    assert got == want
    _, differ, errors = filecmp.cmpfiles(tmp_path / "casm", root / "casm", want - {"__init__.py"}, shallow=False)
    assert not differ and not errors, f"run nbdev_export: {differ + errors}"
    assert (tmp_path / "pyproject.toml").read_text() == (root / "pyproject.toml").read_text()


def test_readme_in_sync():
    subprocess.run([sys.executable, "docs/readme.py", "--check"], cwd=root, check=True)


@each
def test_clean(path):
    "No execution counts, editor metadata or object addresses: nbdev_clean would change nothing"
    nb = json.loads(path.read_text(encoding="utf-8"))
    cleaned = json.loads(json.dumps(nb))
    clean_nb(cleaned, False, cfg.allowed_metadata_keys.split(), cfg.allowed_cell_metadata_keys.split(), cfg.clean_ids)
    assert nb == cleaned, "run nbdev_clean"


@each
def test_size(path):
    assert path.stat().st_size < 1_000_000, "keep stored output small"


@each
def test_opening(path):
    "A title with one line of purpose, then the badge that opens this very notebook"
    title, badge = cells(path, "markdown")[:2]
    assert re.fullmatch(r"# \S.*\n+> \S.*\n?", title)
    link = f"https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/{path.name}"
    assert re.fullmatch(rf"\[!\[Open in Colab\]\(https://\S+\.svg\)\]\({re.escape(link)}\)\n?", badge)


@each
def test_install_cell(path):
    "One cell installs, on Colab only, and leaves Colab's own torch alone"
    install, = [c for c in cells(path, "code") if "%pip" in c]
    assert install.startswith("#| eval: false\n#| hide\n")
    guard, pip = [ln for ln in install.splitlines() if ln.startswith("if ") or "%pip" in ln]
    assert guard == "if 'google.colab' in sys.modules:" and pip.startswith("    %pip install")
    assert "constraints" not in pip and f"{cfg.git_url}@{cfg.branch}" in pip


@library
def test_default_exp(path):
    "The module is named after the notebook, less its number"
    assert f"#| default_exp {re.sub(r'^[0-9]+_', '', path.stem)}" in cells(path, "code")


@library
def test_exported_cells_are_short(path):
    assert max(len(c.splitlines()) for c in cells(path, "code") if re.match(r"#\| *exports?\b", c)) <= 60


@library
def test_exported_cells_only_define(path):
    "Assertions belong in the next cell: in an exported one they would run at every import"
    for c in cells(path, "code"):
        if re.match(r"#\| *exports?\b", c): assert not re.search(r"^(assert|test_\w+\(|print\()", c, re.M), c
