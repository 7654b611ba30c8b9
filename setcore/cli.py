"""Command lines alike: one-line errors, exit status 0 or 2, `--json` for pipelines."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from setcore.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that says what to do."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--json` for machine-readable standard output."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on standard output")


def add_training_flags(parser: argparse.ArgumentParser, default_minutes: float | None = None) -> None:
    """Add `--minutes` or `--steps`, one of them required unless there is a default, `--resume` and `--seed`."""
    budget = parser.add_mutually_exclusive_group(required=default_minutes is None)
    default = "" if default_minutes is None else f" (default {default_minutes:g})"
    budget.add_argument("--minutes", type=float, help=f"training time, resumed runs included{default}")
    budget.add_argument("--steps", type=int)
    parser.add_argument("--resume", action="store_true", help="go on where the run in MODEL_DIR stopped")
    parser.add_argument("--seed", type=int, default=0)


def print_result(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print `result` as JSON or the human-readable `text`."""
    print(json.dumps(result, allow_nan=False) if as_json else text)


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse, call ``args.handler(args)``, and turn errors of input and disk into one line on stderr and status 2."""
    args = parser.parse_args(argv)
    handler: Callable[[argparse.Namespace], None] = args.handler
    try:
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


def check_output(path: str | Path, *inputs: str) -> None:
    """Refuse an output that cannot be written, or that would replace an input, before any work is done for it."""
    path = Path(path)
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: name a file in a folder that exists and can be written")
    for given in inputs:
        if path.exists() and Path(given).exists() and path.samefile(given):
            raise InputError(f"{path} would replace the input of that name; choose another name for the output")
