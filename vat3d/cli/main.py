"""The command `vat3d`."""

from __future__ import annotations

from collections.abc import Sequence

from setcore.cli import Parser, run
from vat3d.cli.codec import add_bench, add_decode, add_encode, add_eval, add_info, add_view
from vat3d.cli.generation import add_generate
from vat3d.cli.training import add_corpus, add_prepare, add_train, add_train_generator, add_tune

COMMANDS = (
    add_encode, add_decode, add_view, add_info, add_eval, add_bench, add_generate, add_prepare, add_corpus, add_train,
    add_tune, add_train_generator,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        None: those of the process.

    Returns
    -------
    int
        Exit status.
    """
    return run(build_parser(), argv)


def build_parser() -> Parser:
    """The parser of all commands and their options.

    Returns
    -------
    Parser
    """
    parser = Parser(prog="vat3d", description="A mesh into a few hundred bytes, and back.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser
