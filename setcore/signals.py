"""Commands that are told to end: Ctrl-C and SIGTERM give one line and no traceback, from the first second on.

Nothing but small modules of the standard library is imported here, so that a command can begin with it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Stopped(KeyboardInterrupt):
    """The process was told to end.

    Parameters
    ----------
    number : int
        Of the signal.

    Attributes
    ----------
    status : int
        Exit status, as shells have it: 130 after Ctrl-C, 143 after SIGTERM.
    reason : str
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status, self.reason = 128 + number, SIGNALS[signal.Signals(number)]


_received: list[Stopped] = []


def catch_signals(program: str) -> dict[int, Any]:
    """Let Ctrl-C and SIGTERM raise `Stopped`; within an import, where it might be swallowed, they end the process.

    Parameters
    ----------
    program : str
        Begins the line on standard error.

    Returns
    -------
    dict
        For `restore_signals`; empty in another than the main thread, which alone may catch signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    _received.clear()

    def stop(number: int, frame: FrameType | None) -> None:
        quiet()
        stopped = Stopped(number)
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                sys.stderr.write(f"{program}: {stopped.reason}\n")
                sys.stderr.flush()
                os._exit(stopped.status)
            frame = frame.f_back
        _received.append(stopped)
        raise stopped

    return {number: signal.signal(number, stop) for number in SIGNALS}


def received() -> Stopped | None:
    """What the process was told since `catch_signals`, for errors that other code makes of it: a `Stopped` that is
    raised below compiled code, as where safetensors makes tensors, may come out of it as a ValueError.

    Returns
    -------
    Stopped or None
    """
    return _received[-1] if _received else None


def restore_signals(handlers: dict[int, Any]) -> None:
    """Handle signals as before `catch_signals`.

    Parameters
    ----------
    handlers : dict
        What `catch_signals` returned.
    """
    for number, handler in handlers.items():
        signal.signal(number, handler)


def quiet() -> None:
    """Let further signals end the process without a word, as while it is ending anyway."""
    if threading.current_thread() is threading.main_thread():
        restore_signals(dict.fromkeys(SIGNALS, signal.SIG_DFL))


@contextmanager
def signals_wait() -> Iterator[None]:
    """Handle signals that come in the block at its end: for Python code that compiled code calls and that may raise
    nothing, since the process would abort there, as below tensors that are made of Python classes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[int, Any] = {
        number: signal.signal(number, lambda number, _: came.append(number)) for number in SIGNALS
    }
    try:
        yield
    finally:
        restore_signals(before)
        if came:
            signal.raise_signal(came[0])
