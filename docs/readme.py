"""Write README.md from nbs/index.ipynb, without Quarto: `python docs/readme.py`.

`--check` writes nothing, and fails when README.md is out of date.
"""
import argparse, re, sys

import yaml
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults


def indent(text): return "\n".join("    " + line for line in text.rstrip("\n").splitlines())


def outputs(cell):
    "What a code cell printed or showed, as Markdown"
    for out in cell.get("outputs", []):
        data = out.get("data", {})
        if "text/markdown" in data: yield "".join(data["text/markdown"])
        elif text := data.get("text/plain") or out.get("text"): yield indent("".join(text))


def blocks(cell):
    "One processed cell as blocks of Markdown"
    src = cell.source.strip("\n")
    if cell.cell_type == "raw":
        fm = yaml.safe_load(src.strip().strip("-"))
        return [f"# {fm['title']}", fm.get("description", "")]
    if cell.cell_type == "markdown":
        return ["<!-- Written from nbs/index.ipynb by docs/readme.py: edit that -->" if src.startswith("<!-- WARNING") else src]
    code = re.sub(r"^#\|.*\n?", "", src, flags=re.M).strip("\n")
    shown = [f"```python\n{code}\n```"] if code and "#| echo: false" not in src else []
    return shown + list(outputs(cell))


def render(cfg):
    p = NBProcessor(cfg.nbs_path / cfg.readme_nb, procs=FilterDefaults().procs())
    p.process()
    return "\n\n".join(b for c in p.nb.cells for b in blocks(c) if b) + "\n"


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("--check", action="store_true")
    check = a.parse_args().check
    cfg = get_config()
    sys.path.insert(0, str(cfg.config_path))
    readme, text = cfg.config_path / "README.md", render(cfg)
    if not check: readme.write_text(text, encoding="utf-8")
    elif readme.read_text(encoding="utf-8") != text: sys.exit("README.md differs from nbs/index.ipynb: run python docs/readme.py")


if __name__ == "__main__": main()
