"""Fits to the responses of a set block by block: as many voxels in memory as a block has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braincl.data.stores.blocks import VoxelBlocks
from braincl.models.network import Summary


def summaries(encoder: Any, blocks: VoxelBlocks, contexts: Sequence[NDArray[np.int64]]) -> list[Summary | None]:
    """What an encoder takes from all voxels of a set, in one pass over its responses.

    Parameters
    ----------
    encoder : encoder
        With `summarise`, or one that takes every voxel on its own.
    blocks : VoxelBlocks
        With embeddings.
    contexts : sequence of int array
        Rows of pictures.

    Returns
    -------
    list of Summary or None
        By context; None for encoders that take every voxel on its own, and where a single block has all voxels.
    """
    found: list[Summary | None] = [None] * len(contexts)
    if not hasattr(encoder, "summarise") or len(blocks.slices()) == 1:
        return found
    X = blocks.head["embedding"].values
    for _, Y in blocks:
        for place, rows in enumerate(contexts):
            part, before = encoder.summarise(X[rows], Y[rows]), found[place]
            found[place] = part if before is None else before if part is None else before + part
    return found


def fit_part(encoder: Any, X: NDArray[Any], Y: NDArray[Any], summary: Summary | None) -> Any:
    """Fit to some voxels of a context.

    Parameters
    ----------
    encoder : encoder
    X : array of shape (n, E)
    Y : array of shape (n, voxels)
    summary : Summary or None
        From `summaries`.

    Returns
    -------
    encoder
        The same.
    """
    return encoder.fit(X, Y) if summary is None else encoder.fit(X, Y, summary)


def fit_blocks(encoder: Any, blocks: VoxelBlocks) -> Iterator[tuple[slice, Any]]:
    """Fit an encoder to all pictures of a set, block by block; the same as a fit to all voxels at once.

    Parameters
    ----------
    encoder : encoder
    blocks : VoxelBlocks
        With embeddings.

    Yields
    ------
    slice
        Voxels.
    encoder
        Fitted to them; the same object every time.
    """
    X = blocks.head["embedding"].values
    (summary,) = summaries(encoder, blocks, [np.arange(blocks.images)])
    for part, Y in blocks:
        yield part, fit_part(encoder, X, Y, summary)
