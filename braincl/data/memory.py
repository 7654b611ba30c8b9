"""How much memory there is, and errors that say what to set where it is not enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from braincl.errors import OutOfMemory
from setcore.parallel.memory import free_memory


def check_memory(needed: int, what: str) -> None:
    """Refuse to begin what will not fit.

    Parameters
    ----------
    needed : int
        Bytes.
    what : str
        What needs them, and what to do; the end of a message.

    Raises
    ------
    OutOfMemory
    """
    available = free_memory()
    if available is not None and needed > available:
        raise OutOfMemory(f"{needed / 1e9:.3g} GB of memory are needed, {available / 1e9:.3g} are there: {what}")


@contextmanager
def saying_what_fits(advice: str) -> Iterator[None]:
    """Turn a lack of memory, on the CPU or on a device, into an error that says what to set.

    Parameters
    ----------
    advice : str

    Raises
    ------
    OutOfMemory
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        out = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not out or isinstance(error, OutOfMemory):
            raise
        raise OutOfMemory(f"out of memory: {advice}") from error
