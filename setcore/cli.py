"""What the commands `braincl` and `vat3d` have in common.

Errors are one line and exit status 2, help shows defaults, `--json` prints for pipelines, `--version` and
`--print-completion` are there without importing anything for them. Nothing heavy is imported here, nor may it be where
a parser is built: handlers import what they need.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from setcore.errors import InputError
from setcore.version import installed_version

SHELLS = ("bash", "zsh", "tcsh")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help texts followed by defaults, as they would be typed; flags and options without a default have none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        given, default = action.help or "", action.default
        if default is None or isinstance(default, bool) or default is argparse.SUPPRESS or "(default" in given:
            return given
        typed = ",".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
        return f"{given} (default: {typed.replace('%', '%%')})"


class _CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line that says what to do, and whose help shows defaults."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": _HelpFormatter} | options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class Parser(_CommandParser):
    """The parser of a whole command, with `--version` and `--print-completion`.

    Parameters
    ----------
    *args, **options
        Those of `argparse.ArgumentParser`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and exit")
        self.add_argument(
            "--print-completion", action=_PrintCompletion, choices=SHELLS,
            help="print a script that completes this command in a shell, and exit",
        )  # fmt: skip

    def add_subparsers(self, **options: Any) -> Any:
        """Add subcommands, whose errors and help are alike.

        Parameters
        ----------
        **options
            Those of `argparse.ArgumentParser.add_subparsers`.

        Returns
        -------
        object
            To call `add_parser` of.
        """
        return super().add_subparsers(**{"parser_class": _CommandParser} | options)


class _PrintVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"{parser.prog} {installed_version()}")
        parser.exit()


class _PrintCompletion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, _: Any, shell: Any, *__: Any) -> NoReturn:
        try:
            import shtab
        except ImportError:
            parser.error("shell completion needs shtab; install it with `pip install shtab`")
        for action in _actions(parser):
            if action.type is None and action.choices is None and action.nargs != 0:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # text is a path most of the time
        print(shtab.complete(parser, shell))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--json` for machine-readable standard output.

    Parameters
    ----------
    parser : ArgumentParser
    """
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on standard output")


def add_training_flags(parser: argparse.ArgumentParser, default_minutes: float | None = None) -> None:
    """Add `--minutes` or `--steps`, one of them required unless there is a default, `--resume` and `--seed`.

    Parameters
    ----------
    parser : ArgumentParser
    default_minutes : float, optional
        Named in the help text; the handler applies it where neither is given.
    """
    budget = parser.add_mutually_exclusive_group(required=default_minutes is None)
    default = "" if default_minutes is None else f" (default: {default_minutes:g})"
    budget.add_argument("--minutes", type=float, help=f"training time, resumed runs included{default}")
    budget.add_argument("--steps", type=int, help="optimiser steps: the same weights for the same seed")
    parser.add_argument("--resume", action="store_true", help="continue the run in MODEL_DIR from its last checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is random")


def number_list(text: str) -> tuple[int, ...]:
    """Integers as they are typed, ``20,50,100``; a `type` for `add_argument`.

    Parameters
    ----------
    text : str

    Returns
    -------
    tuple of int

    Raises
    ------
    argparse.ArgumentTypeError
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers such as 20,50,100") from None


def print_result(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print the outcome of a command.

    Parameters
    ----------
    result : dict
        Plain JSON values.
    as_json : bool
        Print `result` as one JSON object, else `text`.
    text : str
        For people to read.
    """
    print(json.dumps(result, allow_nan=False) if as_json else text)


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse and call ``args.handler(args)``; errors of input and disk become one line on standard error.

    Parameters
    ----------
    parser : ArgumentParser
        Whose commands have set a default `handler`.
    argv : sequence of str, optional
        None: those of the process.

    Returns
    -------
    int
        Exit status: 0, 2 after such an error, 130 after an interrupt.
    """
    try:
        args = parser.parse_args(argv)
        handler: Callable[[argparse.Namespace], None] = args.handler
        handler(args)
        sys.stdout.flush()  # here, where a reader that has gone is no error, and not at interpreter exit
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, OSError) as error:  # OSError: a full disk or a forbidden file is no fault of the program
        print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
