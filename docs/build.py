"""Build the documentation site in _build/html, without Quarto: `python docs/build.py`.

nbdev prepares the pages: `proc_nbs` hides cells, runs `show_doc` for every exported name and links
names in backticks. This script turns Quarto's notation into MyST's and calls Sphinx, warnings as errors.
"""
import importlib, inspect, json, re, shutil, sys

import fastcore.docments
import yaml
from nbdev.config import get_config
from nbdev.serve import proc_nbs
from sphinx.cmd.build import main as sphinx

OPTION = re.compile(r"#\|\s*([\w-]+)\s*:?\s*(.*)")
SOURCE = re.compile(r"^\[source\]\((.*?)\)\{.*?\}\s*", re.M)
ITALICS = re.compile(r"(\n```\n\n)\*(.*?)\*(?=\n\n|\s*\Z)", re.S)       # nbdev sets docstrings so; their own asterisks break it
BADGE = re.compile(r"\[!\[Open in Colab\]\(.*?\)\]\((.*?)\)")  # the badge is an image on another host
CALLOUT = re.compile(r"^:::+\s*\{\.callout-(\w+)[^}]*\}", re.M)


def signature(obj, **kw):
    "`inspect.signature` for `show_doc`; annotations stay text where their names are unknown here (inherited from PEFT's classes)"
    try: return inspect.signature(obj, **kw)
    except NameError: return inspect.signature(obj)


fastcore.docments.signature = signature


def markdown(text): return {"cell_type": "markdown", "metadata": {}, "source": text}


def title(cell):
    "The front matter nbdev made of a notebook's first cell: its page name, and that cell as MyST"
    fm = yaml.safe_load("".join(cell["source"]).strip().strip("-"))
    text = f"# {fm['title']}" + (f"\n\n*{fm['description']}*" if "description" in fm else "")
    return fm["output-file"].removesuffix(".html"), markdown(text)


def api_entry(text, page):
    "What `show_doc` printed, under a heading with the label PAGE.NAME for links to point at"
    text = ITALICS.sub(r"\1\2", text.removeprefix("---").lstrip(), count=1)
    source = SOURCE.search(text)
    link = f"\n\n[source]({source[1]}){{.api-source}}" if source else ""
    def heading(m): return f"({page}.{m[2].lower()})=\n{m[1]} `{m[2]}`{link}"
    return re.sub(r"^(#+) (.+?)\s*$", heading, SOURCE.sub("", text, count=1), count=1, flags=re.M)


def code_cell(cell, page):
    "A code cell with its Quarto options as MyST-NB's; `show_doc` cells become text, hidden ones nothing"
    lines = "".join(cell["source"]).splitlines()
    opts = {}
    while lines and (m := OPTION.match(lines[0])):
        opts[m[1]] = m[2].strip().strip('"')
        lines.pop(0)
    if opts.get("include") == "false": return []
    if opts.get("output") == "asis":
        texts = ["".join(o["data"]["text/markdown"]) for o in cell["outputs"] if "text/markdown" in o.get("data", {})]
        return [markdown(api_entry(t, page)) for t in texts]
    tags = [tag for opt, value, tag in (("echo", "false", "remove-input"), ("output", "false", "remove-output"),
                                        ("code-fold", "true", "hide-input")) if opts.get(opt) == value]
    figure = {k: opts[o] for k, o in (("caption", "fig-cap"), ("name", "label")) if o in opts}
    return [{**cell, "source": "\n".join(lines).strip("\n"),
             "metadata": {"tags": tags, **({"mystnb": {"figure": figure}} if "caption" in figure else {})}}]


def translate(nb):
    "A notebook processed by nbdev as its page name and MyST-NB cells"
    page, first = title(nb["cells"][0])
    cells = [first]
    for c in nb["cells"][1:]:
        text = "".join(c["source"])
        if c["cell_type"] == "code": cells += code_cell(c, page)
        elif not text.startswith("<!-- WARNING"):
            cells.append(markdown(CALLOUT.sub(r":::{\1}", BADGE.sub(r"[Open in Colab](\1)", text))))
    return page, cells


def local_links(text, site, labels):
    "Links into the site as references that Sphinx checks; a method without an entry leads to its class, or page"
    def target(m):
        page, name = m[1], m[2] or ""
        while name and f"{page}.{name}" not in labels: name = name.rpartition(".")[0]
        return f"](#{page}.{name})" if name else f"]({page}.ipynb)"
    return re.sub(rf"\]\((?:{re.escape(site)}/)?([\w-]+)\.html(?:#([\w.]+))?\)", target, text)


def sidebar(cfg, pages):
    "nbs/sidebar.yml as hidden tables of contents; every notebook must be in it, and nothing else"
    contents = yaml.safe_load((cfg.nbs_path / "sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    sections = {item["section"]: item["contents"] for item in contents if isinstance(item, dict)}
    listed = {f for files in sections.values() for f in files} | {item for item in contents if isinstance(item, str)}
    if wrong := listed ^ pages.keys():
        sys.exit(f"nbs/sidebar.yml and nbs/ differ in {', '.join(sorted(wrong))}: list each notebook once")
    toc = "```{{toctree}}\n:hidden:\n:caption: {}\n\n{}\n```".format
    tocs = [toc(name, "\n".join(pages[f] for f in files)) for name, files in sections.items()]
    return "\n\n".join(tocs + [toc("Reference", "api")])


def api_index(cfg):
    "Every exported name, by module, with the first line of its own documentation; methods without any stay out"
    out = ["# API index", "Every exported name, by module."]
    modules = importlib.import_module(f"{cfg.lib_path.name}._modidx").d["syms"]
    for module, names in sorted(modules.items()):
        rows = [f"## `{module}`\n", "| Name | Summary |", "|---|---|"]
        for full, (href, _) in sorted(names.items()):
            name = full.removeprefix(f"{module}.")
            if any(part.startswith("_") for part in name.split(".")): continue
            obj = importlib.import_module(module)
            for part in name.split("."): obj = getattr(obj, part, None)
            summary = inspect.cleandoc(getattr(obj, "__doc__", None) or "").partition("\n")[0].replace("|", "\\|")
            if "." in name and not summary: continue
            rows.append(f"| [`{name}`]({href}) | {summary} |")
        if len(rows) > 3: out.append("\n".join(rows))
    return "\n\n".join(out) + "\n"


def main():
    cfg = get_config()
    sys.path.insert(0, str(cfg.config_path))
    build = cfg.config_path / "_build"
    src = build / "src"
    shutil.rmtree(build, ignore_errors=True)
    src.mkdir(parents=True)
    pages, cells = {}, {}  # file name -> page name -> cells
    for f in sorted(proc_nbs(n_workers=0, force=True).rglob("*.ipynb")):
        pages[f.name], cells[pages[f.name]] = translate(json.loads(f.read_text(encoding="utf-8")))
    cells["index"].append(markdown(sidebar(cfg, pages)))
    labels = {m for cs in cells.values() for c in cs for m in re.findall(r"^\(([\w.]+)\)=$", c["source"], re.M)}
    site = f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/")
    for page, cs in cells.items():
        for i, c in enumerate(cs):
            c["id"] = f"c{i}"
            if c["cell_type"] == "markdown": c["source"] = local_links(c["source"], site, labels)
        nb = {"cells": cs, "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
              "nbformat": 4, "nbformat_minor": 5}
        (src / f"{page}.ipynb").write_text(json.dumps(nb), encoding="utf-8")
    shutil.copytree(cfg.nbs_path / "images", src / "images")
    (src / "api.md").write_text(local_links(api_index(cfg), site, labels), encoding="utf-8")
    return sphinx(["-q", "-W", "--keep-going", "-b", "html", "-c", str(cfg.config_path / "docs"), str(src), str(build / "html")])


if __name__ == "__main__": sys.exit(main())
