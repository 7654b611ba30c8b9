"""The bank of names: what is in it, and how words and vectors find their row."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from setcore.errors import CheckpointError, InputError

PATH = Path(__file__).parent / "clip_names.safetensors"
BACKBONE = "CLIP ViT-B/32"
"""The encoder of the vectors; images that it has embedded lie in the same space."""

_SENSE = re.compile(r"\s*\([^)]*\)")  # as in "bat (animal)"


@dataclass(frozen=True)
class NameBank:
    """Names of objects and their text vectors, one row each.

    Parameters
    ----------
    names : tuple of str
        Distinct.
    synonyms : tuple of tuple of str
        All words of each row, its name among them unless the source left it out.
    vectors : array of shape (n_names, 512), float32
        Unit length.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    vectors: Float[np.ndarray, "name feature"]

    def __len__(self) -> int:
        return len(self.names)

    def find(self, text: str) -> int:
        """The row of a name or synonym, in any case of letters, with or without its sense in brackets.

        A name comes before another row's synonym, and the whole spelling before one without its brackets.

        Parameters
        ----------
        text : str
            "donkey", "Jackass", "bat" for "bat (animal)", "tv" for "monitor/tv".

        Returns
        -------
        int

        Raises
        ------
        InputError
            No row has it; the message lists words that are spelt alike.
        """
        row = self._rows.get(_plain(text))
        if row is None:
            near = difflib.get_close_matches(_plain(text), self._rows, 3, 0.7)
            hint = f"; spelt alike: {', '.join(near)}" if near else ""
            raise InputError(
                f"{text!r} is none of the {len(self)} names and their synonyms{hint or '; give a plain noun'}"
            )
        return row

    def nearest(
        self, vectors: Float[np.ndarray, "query feature"], k: int = 10
    ) -> tuple[Int[np.ndarray, "query k"], Float[np.ndarray, "query k"]]:
        """The names whose vectors point most nearly the way that others do.

        Parameters
        ----------
        vectors : array of shape (n_queries, 512)
            In the space of `BACKBONE`; their lengths do not matter.
        k : int
            How many, up to all.

        Returns
        -------
        rows : array of shape (n_queries, k)
            Best first.
        cosines : array of shape (n_queries, k)
            0 for a vector of length 0.

        Raises
        ------
        InputError
            The vectors have another width than the bank's, or there are fewer than `k` names.
        """
        if vectors.shape[1] != self.vectors.shape[1]:
            raise InputError(
                f"the names have {self.vectors.shape[1]} features ({BACKBONE}), these vectors {vectors.shape[1]}; "
                f"embed with {BACKBONE}, or map to its space first"
            )
        if not 0 < k <= len(self):
            raise InputError(f"there are {len(self)} names; ask for 1 to {len(self)} of them, not {k}")
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = (vectors / np.where(length > 0, length, 1)) @ self.vectors.T
        rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return rows, np.take_along_axis(cosines, rows, axis=1)

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        """Every spelling to the first row that has it."""
        found: dict[str, int] = {}
        for spelling, row in self._spellings():
            found.setdefault(spelling, row)
        return found

    def _spellings(self) -> Iterator[tuple[str, int]]:
        """Plain spellings and their rows, those that take precedence first."""
        words = [(name, row) for row, name in enumerate(self.names)]
        words += [(word, row) for row, others in enumerate(self.synonyms) for word in others]
        yield from ((_plain(word), row) for word, row in words)
        for word, row in words:
            yield from ((_plain(part), row) for part in _SENSE.sub("", word).split("/"))  # as in "monitor/tv"


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("_", " ").split())


@functools.cache
def load_name_bank() -> NameBank:
    """The 1,391 object names that setcore ships, with CLIP ViT-B/32 text vectors from the Detic repository.

    Returns
    -------
    NameBank
        The same one at every call; its vectors are read-only.

    Raises
    ------
    CheckpointError
        The file is not there or damaged: the installation is not whole.

    References
    ----------
    Zhou et al. (2022), Detecting Twenty-thousand Classes using Image-level Supervision, ECCV (Detic, Apache-2.0).

    Examples
    --------
    >>> from setcore.name_bank import load_name_bank
    >>> bank = load_name_bank()
    >>> rows, _ = bank.nearest(bank.vectors[[bank.find("donkey")]], k=3)
    >>> [bank.names[row] for row in rows[0]]
    ['donkey', 'horse', 'bull']
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(PATH, framework="numpy") as file:
            names, synonyms = (json.loads(file.metadata()[field]) for field in ("names", "synonyms"))
            vectors = file.get_tensor("vectors").astype(np.float32)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{PATH} cannot be read ({error}); install the package again") from error
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors.flags.writeable = False
    return NameBank(tuple(names), tuple(map(tuple, synonyms)), vectors)
