"""Progress: bars on a terminal or in a notebook; in logs nothing, or a line a minute where that is asked for."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

with warnings.catch_warnings():  # a notebook without widgets has a bar of text, which is no reason to warn
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

SECONDS = 60
"""Between the lines of a log."""
_lines_wanted: ContextVar[bool] = ContextVar("progress_lines", default=False)


@contextlib.contextmanager
def progress_lines(wanted: bool = True) -> Iterator[None]:
    """Write a line a minute within the block, where standard error is no terminal: ``--progress`` of commands.

    Parameters
    ----------
    wanted : bool
        False: change nothing.
    """
    token = _lines_wanted.set(wanted or _lines_wanted.get())
    try:
        yield
    finally:
        _lines_wanted.reset(token)


def progress_bar(iterable: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> tqdm[Any]:
    """A bar of `tqdm` on standard error.

    Parameters
    ----------
    iterable : iterable, optional
        Whose elements are counted; without one, call ``update``.
    shown : bool
        False: never show it.
    **options
        Of `tqdm`.

    Returns
    -------
    tqdm
    """
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm(iterable, disable=not shown, **options)
    if not (shown and _lines_wanted.get()):
        return tqdm(iterable, disable=True, **options)
    return tqdm(iterable, file=_Lines(), mininterval=SECONDS, maxinterval=SECONDS, position=0, **options)


class _Lines:
    """A file that turns what a bar draws over itself into lines of standard error."""

    def write(self, text: str) -> None:
        if drawn := text.strip("\r\n "):
            sys.stderr.write(drawn + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
