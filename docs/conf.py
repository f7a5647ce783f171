"Sphinx configuration; docs/build.py writes the pages it renders"
import configparser, shutil
from pathlib import Path

root = Path(__file__).parent.parent
ini = configparser.ConfigParser(delimiters=["="])
ini.read(root / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

project, author, copyright = cfg["title"], cfg["author"], cfg["copyright"]
release = version = cfg["version"]
html_title = f"{project} {version}"

extensions = ["myst_nb", "sphinx_copybutton"]
nb_execution_mode = "off"            # the notebooks' stored output is shown
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence", "attrs_inline", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = True
suppress_warnings = ["myst.header"]  # notebooks may start below level two

html_theme = "furo"
html_theme_options = {"source_repository": cfg["git_url"], "source_branch": cfg["branch"], "source_directory": "nbs/",
                      "top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False

mathjax = root / "node_modules/mathjax/es5"
if mathjax.exists(): mathjax_path = "mathjax/tex-mml-chtml.js"  # after `npm ci` the site asks nothing of other hosts


def copy_mathjax(app, error):
    if error or not mathjax.exists(): return
    to = Path(app.outdir) / "_static/mathjax"
    shutil.copytree(mathjax / "output/chtml/fonts", to / "output/chtml/fonts", dirs_exist_ok=True)
    shutil.copy2(mathjax / "tex-mml-chtml.js", to)


def setup(app): app.connect("build-finished", copy_mathjax)
