"""What a builder of procedural shapes says that it drew: a family of sofas also makes beds, and knows when it does."""

from __future__ import annotations

import numpy as np

from vat3d.procedural.parts import Rng


class NotingRng(np.random.Generator):
    """Draws what a generator draws, and keeps the notes of builders.

    Parameters
    ----------
    rng : numpy.random.Generator
        Its state is shared.

    Attributes
    ----------
    notes : list of str
        Plain words, in the order in which they were noted.
    """

    def __init__(self, rng: Rng) -> None:
        super().__init__(rng.bit_generator)
        self.notes: list[str] = []


def note(rng: Rng, words: str) -> None:
    """Say what is being built, to whoever listens; no number is drawn.

    Parameters
    ----------
    rng : numpy.random.Generator
        A `NotingRng` keeps the words, another generator does not.
    words : str
        Empty: there is no plain name for it.
    """
    if words and isinstance(rng, NotingRng):
        rng.notes.append(words)
