"""What is imported before a command does its work: nothing heavy, so that help and errors of usage come at once."""

import pytest
from startup import check_defaults, started

HEAVY = {"torch", "numpy", "scipy", "trimesh", "xarray", "igl", "skimage", "safetensors", "matplotlib", "shtab", "tqdm"}
MAIN = "vat3d.cli.main"
COMMANDS = [
    "encode", "decode", "info", "eval", "bench", "generate", "prepare", "corpus", "train", "tune", "train-generator",
]  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)], ids=" ".join
)
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    status, modules, out, _ = started(MAIN, *arguments)
    assert status == 0
    assert out
    assert not modules & HEAVY


@pytest.mark.parametrize("arguments", [[], ["dance"], ["decode"], ["bench", "x", "--json", "y", "--budgets", "0"]])
def test_errors_of_usage_import_nothing_heavy(arguments: list[str]) -> None:
    status, modules, out, err = started(MAIN, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("vat3d")
    assert not modules & HEAVY


def test_help_shows_each_default_once() -> None:
    _, _, text, _ = started(MAIN, "encode", "--help")
    assert "(default: the better F-score)" in " ".join(text.split())
    for command in COMMANDS:
        check_defaults(MAIN, command)
