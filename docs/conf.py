"""The documentation as a site: `make site`. Its first page is the README, its contents are here."""

project = html_title = "Redraft"
author = "the authors of Redraft"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "benchmarks/**.md", "recipes/*.md"]
html_theme = "furo"
html_copy_source = False
myst_heading_anchors = 3

CONTENTS = {
    "Begin": ["tutorial", "reading-the-numbers", "from-other-tools", "report", "serve"],
    "Methods": [f"methods/{name}" for name in ("score", "rise", "tripost", "cap", "oracle-retry")],
    "Parts": [
        "metrics",
        "grading",
        "sandbox",
        "engine",
        "template",
        "learner",
        "scale",
        "lab",
        "runs",
    ],
    "Results": ["results/*", "negative-results", "performance", "/benchmarks/**"],
    "Build on it": ["architecture", "extending", "/recipes/*", "/SECURITY"],
}


def setup(app):
    """Give the README its table of contents, which other readers of the file need not see."""

    def add(_, name, source):
        for title, pages in CONTENTS.items() if name == root_doc else ():
            names = "\n".join(p.removeprefix("/") if p[0] == "/" else f"docs/{p}" for p in pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {title}\n\n{names}\n```\n"

    app.connect("source-read", add)
