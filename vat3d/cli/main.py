"""The command `vat3d`."""

from __future__ import annotations

from collections.abc import Sequence

from setcore.cli import Parser, run
from vat3d.cli.codec import (
    add_bench,
    add_decode,
    add_encode,
    add_eval,
    add_generate,
    add_info,
)
from vat3d.cli.training import add_prepare, add_train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(build_parser(), argv)


def build_parser() -> Parser:
    """All commands and their options."""
    parser = Parser(prog="vat3d", description="A mesh into a few hundred bytes, and back.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_encode, add_decode, add_info, add_eval, add_bench, add_prepare, add_train, add_generate):
        add(commands)
    return parser
