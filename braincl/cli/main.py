"""The command `braincl`: options and handlers of its subcommands are in `data`, `encoding` and `training` beside it."""

from __future__ import annotations

from collections.abc import Sequence

from braincl.cli import data, encoding, training
from setcore.cli import Parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; None: those of the process.

    Returns
    -------
    int
        Exit status: 0, or 2 after an error of input.
    """
    return run(build_parser(), argv)


def build_parser() -> Parser:
    """All subcommands and their options.

    Returns
    -------
    Parser
    """
    parser = Parser(prog="braincl", description="Linear encoders for the voxels of a new subject, learned in context.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (*data.COMMANDS, *training.COMMANDS, *encoding.COMMANDS):
        add(commands)
    return parser
