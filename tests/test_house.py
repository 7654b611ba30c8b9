"""Rules of the house that no linter knows: what an import brings along, and what library code never does."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("setcore", "braincl", "vat3d")
OTHERS = {"setcore": {"braincl", "vat3d"}, "braincl": {"vat3d"}, "vat3d": {"braincl"}}
NOTEBOOK = {"jupyter", "jupyterlab", "notebook", "IPython", "ipykernel", "nbformat"}
HEAVY = {
    "matplotlib",
    "nilearn",
    "open_clip",
    "timm",
    "torchvision",
    "igl",
    "skimage",
    "DracoPy",
    "manifold3d",
    "fast_simplification",
}
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(package: str, modules: list[str]) -> list[set[str]]:
    """Top-level names that a new interpreter holds after `import package`, and after importing all its modules."""
    held = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    code = f"import json, sys; import {package}; {held}; import {', '.join(modules)}; {held}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return [set(json.loads(line)) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("package", PACKAGES)
def test_what_imports_bring_along(package):
    modules = [module.name for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")]
    by_name, by_all = imported(package, modules)
    assert not by_name & (OTHERS[package] | NOTEBOOK | HEAVY)
    assert not by_all & (OTHERS[package] | NOTEBOOK | {"matplotlib", "open_clip"})


def calls(node: ast.AST, forked: bool = False) -> Iterator[tuple[str, ast.Call, bool]]:
    """Every call below `node` with its dotted name as written, and whether it lies under `torch.random.fork_rng`."""
    for child in ast.iter_child_nodes(node):
        inside = forked or (isinstance(child, ast.With) and any("fork_rng" in ast.unparse(i) for i in child.items))
        if isinstance(child, ast.Call):
            yield ast.unparse(child.func), child, inside
        yield from calls(child, inside)


def forbidden(path: Path) -> Iterator[str]:
    for name, call, forked in calls(ast.parse(path.read_text(encoding="utf-8"))):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        where = f"{path}:{call.lineno}: {name}"
        if name == "torch.manual_seed" and forked:
            continue  # initialisers of torch.nn take no generator; the global state is restored behind them
        if name in ("torch.manual_seed", "torch.seed", "random.seed", "np.random.seed", "numpy.random.seed"):
            yield f"{where}: seeds are arguments, see setcore.seeding"
        elif name.startswith("np.random.") and name[10].islower() and name != "np.random.default_rng":
            yield f"{where}: draws from global state, see setcore.seeding"
        if name.startswith("pickle.") or "allow_pickle" in keywords:
            yield f"{where}: pickles run code"
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield f"{where}: without weights_only=True it runs code"
        speaks = path.name in ("demo.py", "cli.py") or path.parent.name == "cli"
        if name == "print" and "file" not in keywords and not speaks:
            yield f"{where}: library code does not print"


def test_library_code_has_no_global_seed_no_pickle_and_no_print():
    assert [problem for path in SOURCES for problem in forbidden(path)] == []


def test_the_rules_find_what_they_forbid(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "torch.manual_seed(0)\nnp.random.normal(3)\nnp.load(f, allow_pickle=True)\ntorch.load(f)\nprint(1)\n"
        "np.random.default_rng(0)\ntorch.load(f, weights_only=True)\ntorch.Generator().manual_seed(0)\n"
        "with torch.random.fork_rng(devices=[]):\n    torch.manual_seed(0)\nprint(1, file=stream)\n"
    )
    assert len(list(forbidden(path))) == 5


def test_no_committed_text_names_a_place_of_one_machine():
    """Absolute paths of the machine that a file was written on work nowhere else."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so that nothing tells committed files from others")
    places = ["/" + name + "/" for name in ("work", "tmp", "root", "home")]
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, cwd=ROOT, check=True).stdout.decode()
    found = []
    for name in filter(None, listed.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content:
            found += [f"{name}: {place}" for place in places if place.encode() in content]
    assert found == []


LINES = 6


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of code that say something of their own: no imports, docstrings, comments and tables of data."""
    source, left_out = path.read_text(encoding="utf-8"), set()
    for node in ast.walk(ast.parse(source)):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        table = isinstance(node, ast.Dict | ast.Tuple | ast.List) and node.end_lineno - node.lineno >= 3
        if text or table or isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, node.end_lineno + 1))
    lines = [(number, line.split("  # ")[0].strip()) for number, line in enumerate(source.split("\n"), 1)]
    return [(number, line) for number, line in lines if line and number not in left_out and not line.startswith("#")]


def test_nothing_is_written_twice() -> None:
    """No six lines of code stand in two places of the packages."""
    places: dict[tuple[str, ...], list[str]] = {}
    for path in SOURCES:
        lines = code_lines(path)
        for k in range(len(lines) - LINES + 1):
            key = tuple(line for _, line in lines[k : k + LINES])
            places.setdefault(key, []).append(f"{path.relative_to(ROOT)}:{lines[k][0]}")
    assert [found for found in places.values() if len(found) > 1] == []


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in SOURCES}
    assert {
        folder: n for folder in folders if (n := len([p for p in folder.glob("*.py") if p.stem[0] != "_"])) > 13
    } == {}
