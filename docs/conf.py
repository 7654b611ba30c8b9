"""Sphinx: the documentation site, built by ``make docs`` without network."""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml
from sphinx.application import Sphinx

project = "braincl and vat3d"
author = "the braincl and vat3d developers"
copyright = author
release = version = importlib.metadata.version("braincl-vat3d")

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx_copybutton"]
exclude_patterns = ["_build", "gallery/README.md", "**/.ipynb_checkpoints"]
nb_execution_mode = "off"  # notebooks are executed by `make notebooks`
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc sections say them
numpydoc_show_class_members = True
numpydoc_class_members_toctree = False
numpydoc_show_inherited_class_members = False
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure"]  # the second: bytes in hex

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_title = project
html_theme_options = {
    "show_toc_level": 2,
    "navbar_center": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
}
html_sidebars = {"**": ["globaltoc.html"]}  # all pages under their captions; the theme's own shows a section alone
html_copy_source = False

PROGRAMS = ("braincl", "vat3d")
LICENCES = """# Licences of what is embedded

The code is under the Apache License 2.0. This page is generated at every build from `data_manifests/` and
`braincl/embedded/demo/CREDITS.tsv`: each package that embedded weights, demos and stored figures were made from, its
licence, what of it is here, and whom to credit. Weights of vat3d were trained on points sampled from meshes, weights of
braincl on simulated subjects.
"""


def write_commands(app: Sphinx) -> None:
    """Write the page of commands: what their `--help` says."""
    parts = [
        "# Commands",
        "",
        "What `--help` prints. `--print-completion bash` (or zsh, tcsh) prints shell completion.",
    ]
    for program in PROGRAMS:
        parser = importlib.import_module(f"{program}.cli.main").build_parser()
        parts += ["", f"## {program}", "", "```text", parser.format_help().rstrip(), "```"]
        parts += [part for name, command in commands_of(parser) for part in help_of(f"{program} {name}", command)]
    Path(app.srcdir, "commands.md").write_text("\n".join(parts) + "\n")


def copy_notebooks(app: Sphinx) -> None:
    """Bring the notebooks, with the outputs they were committed with, to where Sphinx reads."""
    shutil.copytree(Path(app.srcdir).parent / "notebooks", Path(app.srcdir, "notebooks"), dirs_exist_ok=True)


def write_licences(app: Sphinx) -> None:
    """Write the page of what is embedded, from `data_manifests` and the credits of the demo's pictures."""
    root = Path(app.srcdir).parent
    parts = [LICENCES]
    for path in sorted((root / "data_manifests").glob("*.yaml")):
        data = yaml.safe_load(path.read_text())
        if "registry" not in data or data["used_for"].startswith("nothing"):
            continue
        credit = data.get("credit", "")
        named = credit.items() if isinstance(credit, dict) else [("Credit", credit)]
        parts += [
            f"## {data['package']} {data['version']}\n",
            f"{data['what'].strip()}\n",
            f"- **Licence**: {data['licence'].strip()}",
            f"- **Here**: {data['used_for'].strip()}",
            *(f"- **{who}**: {names.strip()}" for who, names in named if names),
            "",
        ]
    with open(root / "braincl/embedded/demo/CREDITS.tsv", encoding="utf-8") as file:
        pictures = list(csv.DictReader(file, delimiter="\t"))
    parts += ["## Pictures of the demo\n", "| picture | creator | licence |", "|---|---|---|"]
    parts += sorted({f"| {row['name']} | {row['creator']} | {row['licence']} |" for row in pictures})
    Path(app.srcdir, "licences.md").write_text("\n".join(parts) + "\n")


def commands_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Names and parsers of a parser's commands, and of theirs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield name, command
                yield from ((f"{name} {inner}", parser) for inner, parser in commands_of(command))


def help_of(name: str, command: argparse.ArgumentParser) -> list[str]:
    """A section with a command's help."""
    return ["", f"### {name}", "", "```text", command.format_help().rstrip(), "```"]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    os.environ["COLUMNS"] = "100"
    app.connect("builder-inited", write_commands)
    app.connect("builder-inited", copy_notebooks)
    app.connect("builder-inited", write_licences)
