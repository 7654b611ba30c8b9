"""The root of every error that a user's input can cause."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used; the message says what is wrong, where, and what to do.

    Command lines print the message as one line and exit with status 2.
    """


class CheckpointError(InputError):
    """A weights file or model folder that is damaged, foreign, or of another architecture."""
