"""The command `braincl`: options and handlers of its subcommands are in the modules beside this one."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from braincl.cli import analysis, data, encoding, training
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names are printed byte by byte, UTF-8 or not
    with warnings.catch_warnings():
        warnings.showwarning = _show
        return run(build_parser(), argv)


def _show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line; what libraries say to those who write code is not for users."""
    if not issubclass(category, DeprecationWarning | PendingDeprecationWarning):
        print(f"braincl: warning: {message}", file=sys.stderr)


def build_parser() -> Parser:
    """All subcommands and their options.

    Returns
    -------
    Parser
    """
    parser = Parser(prog="braincl", description="Linear encoders for the voxels of a new subject, learned in context.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (*data.COMMANDS, *training.COMMANDS, *encoding.COMMANDS, *analysis.COMMANDS):
        add(commands)
    return parser
