"""What a generator is asked for, from names and words to numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from setcore.checkpoint import load_state, read_foreign_tensors
from setcore.errors import InputError
from setcore.name_bank import load_name_bank
from vat3d.data.catalogue import bank_name, nearest_names
from vat3d.generation.network import TEXT_WIDTH

CLIP_MODEL = "ViT-B-32-quickgelu"
"""As open_clip calls the network whose text vectors the bank holds."""
PROMPT = "a {}"
"""Around words that go through CLIP's text encoder, as around the bank's names."""


@dataclass(frozen=True)
class Asked:
    """One thing that is asked for.

    Parameters
    ----------
    name : str
        Of the generator's names; empty where it is asked for by words alone.
    vector : array of shape (512,)
        Its text vector; zero where it has none.
    said : str
        How it was understood, for people.
    """

    name: str
    vector: NDArray[np.float32]
    said: str


def name_vectors(names: Sequence[str]) -> NDArray[np.float32]:
    """The text vectors of catalogue names: those of the bank's names that are near in sense.

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    float32 array of shape (n, 512)
        Unit length, or zero where the bank has none.
    """
    bank = load_name_bank()
    found = np.zeros((len(names), bank.vectors.shape[1]), np.float32)
    for row, name in enumerate(names):
        if near := bank_name(name):
            found[row] = bank.vectors[bank.find(near)]
    return found


def ask_name(name: str, names: Sequence[str]) -> Asked:
    """A name that a generator was trained with.

    Parameters
    ----------
    name : str
    names : sequence of str
        The generator's.

    Returns
    -------
    Asked

    Raises
    ------
    InputError
        It was not; the nearest ones are offered.
    """
    plain = _plain(name)
    if plain not in names:
        near = [offered for offered in nearest_names(plain) if offered in names]
        offered = f"names like it: {', '.join(near)}" if near else f"some of its names: {', '.join(names[:8])}"
        raise InputError(
            f"the generator knows no {name!r}; {offered}; `vat3d info generator` lists all, and --text takes other "
            "words"
        )
    return Asked(plain, name_vectors([plain])[0], f"the name {plain!r}")


def ask_vector(vector: Any) -> Asked:
    """A text vector itself, such as a mean of two.

    Parameters
    ----------
    vector : array of shape (512,)
        Of any length but 0.

    Returns
    -------
    Asked

    Raises
    ------
    InputError
        It is no such array.
    """
    found = np.asarray(vector, np.float32)
    length = float(np.linalg.norm(found)) if found.shape == (TEXT_WIDTH,) else 0.0
    if not 0 < length < np.inf:
        raise InputError(f"a text vector holds {TEXT_WIDTH} finite numbers, not all 0; this is of shape {found.shape}")
    return Asked("", found / length, "a text vector")


def ask_words(text: str, names: Sequence[str], weights: str | Path | None = None) -> Asked:
    """Words in plain English.

    Parameters
    ----------
    text : str
    names : sequence of str
        The generator's.
    weights : path, optional
        A checkpoint of CLIP ViT-B/32 for open_clip. Without one the longest run of the words that is one of the names,
        or of the bank's 1,391 names and their synonyms, stands for them; of equally long ones the last.

    Returns
    -------
    Asked

    Raises
    ------
    InputError
        There are no words, or, without a checkpoint, none that is known.
    CheckpointError
        The checkpoint is no such network's.
    """
    words = re.findall(r"[\w'-]+", _plain(text))
    if not words:
        raise InputError("the text is empty; say what to draw, as in 'a round table'")
    if weights is not None:
        return Asked("", _clip_vector(" ".join(words), weights), f"the text vector of {PROMPT.format(text)!r} by CLIP")
    bank = load_name_bank()
    for count in range(len(words), 0, -1):
        for first in range(len(words) - count, -1, -1):
            run = " ".join(words[first : first + count])
            if run in names:
                return ask_name(run, names)
            try:
                row = bank.find(run)
            except InputError:
                continue
            return Asked("", bank.vectors[row], f"{bank.names[row]!r} of the name bank")
    near = ", ".join(nearest_names(words[-1])) or "chair, table, tree"
    raise InputError(
        f"none of the words {text!r} is a known name; try one like {near}, or give CLIP weights for other words"
    )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _clip_vector(text: str, weights: str | Path) -> NDArray[np.float32]:
    """The text vector of words, by CLIP."""
    import open_clip

    state = read_foreign_tensors(weights)
    with torch.random.fork_rng(devices=[]):
        model = open_clip.create_model(CLIP_MODEL)
    load_state(model, state, f"{weights} for {CLIP_MODEL}")
    with torch.no_grad():
        found = model.eval().encode_text(open_clip.get_tokenizer(CLIP_MODEL)([PROMPT.format(text)]), normalize=True)
    return np.asarray(found[0].float().numpy(), np.float32)
