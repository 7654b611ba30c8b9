"""The root of every error that a user's input can cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """Input that cannot be used; the message says what is wrong, where, and what to do.

    Command lines print the message as one line and exit with status 2.
    """


class CheckpointError(InputError):
    """A weights file or model folder that is damaged, foreign, or of another architecture."""


@contextmanager
def naming(what: Any) -> Iterator[None]:
    """Let errors of input begin with what they are about, such as a file's name, unless they name it.

    Parameters
    ----------
    what : object
        Its text is put in front.

    Raises
    ------
    InputError
        Of the type that was raised.
    """
    try:
        yield
    except InputError as error:
        if str(what) in str(error):
            raise
        raise type(error)(f"{what}: {error}") from error
