"""The command `braincl`."""

from __future__ import annotations

from collections.abc import Sequence

from braincl.cli.data import add_data, add_embed, add_join, add_simulate
from braincl.cli.encoding import (
    add_convert,
    add_evaluate,
    add_predict,
    add_query,
    add_select,
)
from braincl.cli.training import add_info, add_train
from setcore.cli import Parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(build_parser(), argv)


def build_parser() -> Parser:
    """All commands and their options."""
    parser = Parser(prog="braincl", description="Linear encoders for the voxels of a new subject, learned in context.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_embed,
        add_join,
        add_train,
        add_info,
        add_predict,
        add_evaluate,
        add_convert,
        add_query,
        add_select,
        add_simulate,
        add_data,
    ):
        add(commands)
    return parser
