"""What is imported before a command does its work: nothing heavy, so that help and errors of usage come at once."""

import subprocess
import sys

import pytest
from startup import check_defaults, started

HEAVY = {"torch", "numpy", "scipy", "xarray", "sklearn", "h5py", "nibabel", "matplotlib", "pandas", "shtab", "tqdm"}
MAIN = "braincl.cli.main"
COMMANDS = [
    "data", "embed", "join", "simulate", "train", "info", "convert", "predict", "evaluate", "query", "select",
    "identify", "partition",
]  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS), ["data", "read", "--help"]],
    ids=" ".join,
)
def test_help_and_version_import_nothing_heavy(arguments):
    status, modules, out, _ = started(MAIN, *arguments)
    assert status == 0
    assert out
    assert not modules & HEAVY


@pytest.mark.parametrize("arguments", [[], ["dance"], ["predict"], ["evaluate", "x.nc", "--contexts", "a"]])
def test_errors_of_usage_import_nothing_heavy(arguments):
    status, modules, out, err = started(MAIN, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("braincl")
    assert not modules & HEAVY


def test_help_shows_each_default_once():
    _, _, text, _ = started(MAIN, "evaluate", "--help")
    text = " ".join(text.split())
    assert "context sizes, in pictures (default: 20,50,100,200,400)" in text
    assert "(default: a quarter of all, 300 at most)" in text
    for command in COMMANDS:
        check_defaults(MAIN, command)


def test_every_argument_is_explained():
    from braincl.cli.main import build_parser
    from setcore.cli import _actions

    assert [action.dest for action in _actions(build_parser()) if not action.help] == []


def test_python_m_braincl_is_the_command():
    child = subprocess.run([sys.executable, "-m", "braincl", "--version"], capture_output=True, text=True, check=True)
    assert child.stdout.startswith("braincl ")
