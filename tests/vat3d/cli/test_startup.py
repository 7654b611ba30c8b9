"""What is imported before a command does its work: nothing heavy, so that help and errors of usage come at once."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "scipy", "trimesh", "xarray", "igl", "skimage", "safetensors", "matplotlib", "shtab", "tqdm"}
CHILD = """
import sys
from vat3d.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as error:
    status = error.code
print(status, *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
COMMANDS = [
    "encode", "decode", "info", "eval", "bench", "generate", "prepare", "corpus", "train", "tune", "train-generator",
]  # fmt: skip


def started(*arguments: str) -> tuple[int, set[str], str, str]:
    child = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
    status, *modules = child.stderr.splitlines()[-1].split()
    return int(status), set(modules), child.stdout, child.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)], ids=" ".join
)
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    status, modules, out, _ = started(*arguments)
    assert status == 0
    assert out
    assert not modules & HEAVY


@pytest.mark.parametrize("arguments", [[], ["dance"], ["decode"], ["bench", "x", "--json", "y", "--budgets", "0"]])
def test_errors_of_usage_import_nothing_heavy(arguments: list[str]) -> None:
    status, modules, out, err = started(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("vat3d")
    assert not modules & HEAVY


def test_help_shows_each_default_once() -> None:
    _, _, text, _ = started("encode", "--help")
    assert "(default: the better F-score)" in " ".join(text.split())
    for command in COMMANDS:
        _, _, text, _ = started(command, "--help")
        assert "None)" not in text
        assert "False)" not in text
        assert "default: " not in text.replace("(default: ", "")
