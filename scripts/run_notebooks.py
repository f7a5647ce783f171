"""Run notebooks as nbdev_test does, and keep what they print: `python scripts/run_notebooks.py [NOTEBOOK ...]`.

Cells marked `eval: false`, or with a flag of `tst_flags`, are not run and keep the output they have,
so that figures made on a GPU survive.
"""
import argparse, sys
from pathlib import Path

from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor


def runs(cell, flags):
    "Whether a code cell is run; `flags` are those that keep one from it"
    directives = getattr(cell, "directives_", {})
    off = directives.get("eval:", [""])[0].lower() == "false" or flags & directives.keys()
    return cell.cell_type == "code" and not off


def run(path, flags):
    "Run one notebook and write it back, cleaned; False, and nothing written, when a cell fails"
    nb = read_nb(path)
    marked = NBProcessor(path, procs=FrontmatterProc, process=True).nb  # the same cells with their directives read
    todo = {c.id for c in marked.cells if runs(c, flags)}
    shell = CaptureShell(path, mpl_format="png")                        # the default, retina, doubles the size
    with working_directory(path.parent):
        for c in nb.cells:
            if c.id not in todo: continue
            shell.cell(c)
            if shell.exc:
                print(shell.prettytb(fname=path), file=sys.stderr)
                return False
            c.outputs = [o for o in c.outputs if o.get("name") != "stderr"]  # progress bars and warnings are no result
    write_nb(nb, path)
    nbdev_clean.__wrapped__(str(path))
    return True


if __name__ == "__main__":
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    a.add_argument("--flags", default="", help="marked cells to run after all, e.g. 'gpu slow'")
    args = a.parse_args()
    cfg = get_config()
    sys.path.insert(0, str(cfg.config_path))
    flags = set(cfg.tst_flags.split()) - set(args.flags.split())
    notebooks = args.notebooks or sorted(cfg.nbs_path.glob("[!_.]*.ipynb"))
    sys.exit(0 if all([run(n.resolve(), flags) for n in notebooks]) else 1)
