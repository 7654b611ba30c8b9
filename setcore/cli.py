"""What the commands `braincl` and `vat3d` have in common.

Errors are one line and exit status 2, help shows defaults, `--json` prints for pipelines, `--version` and
`--print-completion` are there without importing anything for them. What an argument writes is said where it is added
(`writes_file`, `writes_folder`) and checked before any work is done. Nothing heavy is imported here, nor may it be
where a parser is built: handlers import what they need.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from setcore.errors import InputError
from setcore.files import check_folder, check_output
from setcore.package import installed_version
from setcore.signals import Stopped, catch_signals, quiet, received, restore_signals

if TYPE_CHECKING:
    from setcore.parallel.jobs import Parallel

LONGEST = 2000
"""Of a message on standard error."""
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

    def parse_known_args(self, *args: Any, **options: Any) -> Any:
        """Parse, and refuse outputs that would replace what they must not."""
        namespace, rest = super().parse_known_args(*args, **options)
        for action in self._actions:
            check = getattr(action, "check_output", None)
            value = getattr(namespace, action.dest, None)
            if check is not None and value is not None:
                others = (getattr(namespace, other.dest, None) for other in self._actions if other is not action)
                texts = (text for other in others for text in (other if isinstance(other, list) else [other]))
                check(value, [text for text in texts if isinstance(text, str) and text])
        unknown = [text for text in rest if text.startswith("--")]
        if unknown and not isinstance(self, Parser):
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0], known, 1, 0.75)
            self.error(f"there is no option {unknown[0]}" + (f"; did you mean {near[0]}?" if near else ""))
        return namespace, rest


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


def writes_file(action: argparse.Action, *suffixes: str, beside: Sequence[str] = (), or_folder: bool = False) -> None:
    """Say that an argument names a file to write, which must not be one of the command's other arguments.

    Nor may it be a folder, a device, or a file of another kind that is there, such as a picture or a mesh.

    Parameters
    ----------
    action : argparse.Action
        As `add_argument` returns it.
    *suffixes : str
        Of files that the command writes, such as ``.nii.gz``.
    beside : sequence of str
        Suffixes of further files that it writes, such as a plot.
    or_folder : bool
        Whether it may name a folder, too.
    """

    def check(value: str, others: Sequence[str]) -> None:
        if or_folder and (os.path.isdir(value) or Path(value).suffix not in suffixes):
            return  # what becomes of it is for the handler to say
        if beside and Path(value).suffix not in suffixes:
            raise InputError(f"{value}: name the report {suffixes[0]}; files beside it take {' and '.join(beside)}")
        for path in (Path(value), *(Path(value).with_suffix(suffix) for suffix in beside)):
            check_output(path, *others)
            if any(os.path.realpath(path) == os.path.realpath(other) for other in others):
                raise InputError(f"{path} is named twice; choose another name for the output")
            if ".html" in suffixes and not path.name.lower().endswith(suffixes):
                raise InputError(f"{path} is to be a page; name it {' or '.join(suffixes)}")
            if path.exists() and not path.name.lower().endswith((*suffixes, *beside)):
                raise InputError(f"{path} is there and is not a {' or '.join(suffixes)} file; name another output")

    action.check_output = check  # type: ignore[attr-defined]


def writes_folder(action: argparse.Action) -> None:
    """Say that an argument names a folder to write into, which must not be one of the command's other arguments.

    Parameters
    ----------
    action : argparse.Action
        As `add_argument` returns it.
    """

    def check(value: str, others: Sequence[str]) -> None:
        if os.path.exists(value) and not os.path.isdir(value):
            raise InputError(f"{value} is a file; name a folder")
        if any(os.path.realpath(value) == os.path.realpath(other) for other in others):
            raise InputError(f"{value} is an input; name another folder for the output")
        check_folder(value)

    action.check_output = check  # type: ignore[attr-defined]


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


def add_device_option(command: argparse.ArgumentParser) -> None:
    """Add `--device`.

    Parameters
    ----------
    command : ArgumentParser
    """
    command.add_argument(
        "--device", default="auto", help="cpu, cuda (cuda:1 for the second), mps, or auto: the best that is there"
    )


def add_parallel_options(command: argparse.ArgumentParser) -> None:
    """Add `--jobs`, `--shard` and `--dask`; `parallel` makes of them who runs the tasks.

    Parameters
    ----------
    command : ArgumentParser
    """
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of one thread each")
    command.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="do share I of N, for job arrays: 1/8 to 8/8"
    )
    command.add_argument(
        "--dask", metavar="ADDRESS", help="hand the work to this Dask scheduler, whose workers see the same files"
    )


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 1/8")
    return int(part), int(parts)


def parallel(args: argparse.Namespace) -> Parallel:
    """Who runs the tasks of a command with `add_parallel_options`.

    Parameters
    ----------
    args : Namespace

    Returns
    -------
    Parallel
    """
    from setcore.parallel.jobs import Parallel

    return Parallel(args.jobs, args.shard, args.dask)


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


def number_within(low: float, high: float) -> Callable[[str], float]:
    """A `type` for `add_argument`: a number above `low` and not above `high`.

    Parameters
    ----------
    low, high : float

    Returns
    -------
    callable
    """

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low < value <= high and math.isfinite(value)):
            upper = "" if math.isinf(high) else f" and up to {high:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above {low:g}{upper}")
        return value

    return number


def report_failures(failures: Mapping[str, str]) -> int:
    """List on standard error what could not be done while the rest was.

    Parameters
    ----------
    failures : mapping of str to str
        File to reason.

    Returns
    -------
    int
        Exit status: 1 if there are any, else 0.
    """
    for name, reason in failures.items():
        line = _one_line(reason)
        print(line if name in line else f"{name}: {line}", file=sys.stderr)
    return int(bool(failures))


def _one_line(message: object) -> str:
    """A message as one line; what a damaged file makes very long is cut."""
    line = " ".join(str(message).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


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


def add_progress_flag(command: argparse.ArgumentParser) -> None:
    """Add ``--progress``.

    Parameters
    ----------
    command : ArgumentParser
    """
    command.add_argument(
        "--progress", action="store_true", help="a line a minute where standard error is no terminal, as in logs"
    )


def _with_progress(handler: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int | None:
    from setcore.progress import progress_lines  # late: the bars take a while to import

    with progress_lines():
        return handler(args)


def _status(program: str, error: BaseException) -> int:
    """The exit status after an error that is no fault of the program, of which one line is said; others are raised."""
    stopped = error if isinstance(error, Stopped) else received()
    if stopped is None and isinstance(error, KeyboardInterrupt):
        stopped = Stopped(signal.SIGINT)
    if stopped is not None:
        quiet()
        print(f"{program}: {stopped.reason}", file=sys.stderr)
        return stopped.status
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, InputError | OSError | MemoryError):  # a full disk is no fault of it, nor is a small memory
        print(f"{program}: {_one_line(error) or 'out of memory'}", file=sys.stderr)
        return 2
    raise error


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
        Exit status: 0 or what the handler returns, 2 after such an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    before = catch_signals(parser.prog)
    try:
        args = parser.parse_args(argv)
        handler: Callable[[argparse.Namespace], int | None] = args.handler
        status = _with_progress(handler, args) if getattr(args, "progress", False) else handler(args)
        sys.stdout.flush()  # here, where a reader that has gone is no error, and not at interpreter exit
    except (Exception, KeyboardInterrupt) as error:
        return _status(parser.prog, error)
    finally:
        if argv is None:
            quiet()  # the process ends
        else:
            restore_signals(before)
    return status or 0
