"""The public names of braincl."""

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import braincl
from braincl import plot


@pytest.mark.parametrize("package", [braincl, plot], ids=lambda package: package.__name__)
def test_every_public_name_is_there(package):
    modules = ["datasets", "plot"] if package is braincl else []
    assert dir(package) == sorted([*package.__all__, *modules])
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'absent'"):
        package.absent  # noqa: B018


def test_type_checkers_see_the_names_that_are_loaded():
    tree = ast.parse(Path(braincl.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert sorted(seen) == dir(braincl)
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(braincl, name)


def test_parts_of_the_package_need_no_import_of_their_own():
    code = "import braincl; print(braincl.plot.draw_scores.__name__, braincl.datasets.read_nsd.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["draw_scores", "read_nsd"]


def test_version_is_that_of_the_distribution():
    assert braincl.__version__ == importlib.metadata.version("braincl-vat3d")


def test_importing_imports_no_package_that_is_not_needed_yet():
    code = "import sys, braincl; print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "xarray", "vat3d"} & set(found)
