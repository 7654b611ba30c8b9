"""Which pictures are test and which are context; pictures are counted, not rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from braincl.data.responses import average_duplicates
from braincl.errors import ResponseError
from braincl.estimators.base import constant_voxels
from setcore.seeding import numpy_generator


@dataclass(frozen=True)
class Splits:
    """Which rows are for testing and which for contexts.

    Parameters
    ----------
    test : int array of shape (n_test,)
    contexts : dict of int to list of int array
        By context size, the rows of each draw.
    """

    test: NDArray[np.int64]
    contexts: dict[int, list[NDArray[np.int64]]]


class SplitSubject(NamedTuple):
    """A subject that is split into test pictures and a pool of context pictures.

    Parameters
    ----------
    dataset : response set
        Each picture once.
    X : array of shape (n_images, n_features)
    Y : array of shape (n_images, n_voxels)
    splits : Splits
    kept : bool array of shape (n_voxels,)
        Voxels that vary over the test images.
    """

    dataset: xr.Dataset  # each picture once
    X: NDArray[np.float32]
    Y: NDArray[np.float32]
    splits: Splits
    kept: NDArray[np.bool_]  # voxels that vary over the test images


def default_test_images(pictures: int) -> int:
    """How many pictures are for testing: a quarter, 300 at most.

    Parameters
    ----------
    pictures : int
        How many there are.

    Returns
    -------
    int
    """
    return min(300, pictures // 4)


def context_draws(image_ids: ArrayLike, sizes: Sequence[int], draws: int, test_images: int, seed: int) -> Splits:
    """Draw test pictures once, and contexts of every size from the others.

    The draws of one size cut one random order of the pool into pieces, so that they are disjoint; when the order is
    used up a new one begins, so that as many as the pool allows stay disjoint. What is drawn for one size does not
    depend on the other sizes.

    Parameters
    ----------
    image_ids : array of str, shape (n_images,)
        Each picture once (`average_duplicates` sees to it).
    sizes : sequence of int
        Context sizes, 2 or more.
    draws, test_images, seed : int

    Returns
    -------
    Splits

    Raises
    ------
    ResponseError
        A picture is there twice, or a size is beyond the pool.
    """
    ids = np.asarray(image_ids)
    if len(np.unique(ids)) < len(ids):
        raise ResponseError("an image_id occurs twice; average duplicates first, or one picture may be on both sides")
    if not sizes or min(sizes) < 2:
        raise ResponseError(f"context sizes must be 2 or more, got {list(sizes)}")
    if draws < 1:
        raise ResponseError(f"the number of draws must be 1 or more, got {draws}")
    if not 2 <= test_images <= len(ids) - 2:
        raise ResponseError(
            f"{test_images} test images of {len(ids)} pictures; give at least 2 and leave at least 2 for the context"
        )
    if max(sizes) > (pool_size := len(ids) - test_images):
        raise ResponseError(
            f"a context of {max(sizes)} is beyond the pool: {len(ids)} pictures less {test_images} test images leave "
            f"{pool_size}; use smaller contexts or fewer test images"
        )
    # sorted by id, so that the split follows the pictures and not their order in the file
    order = np.argsort(ids, kind="stable")[numpy_generator(seed, "test images").permutation(len(ids))]
    pool = order[test_images:]
    contexts: dict[int, list[NDArray[np.int64]]] = {}
    for size in sizes:
        in_one_order = pool_size // size
        contexts[size] = []
        for draw in range(draws):
            turn, piece = divmod(draw, in_one_order)
            shuffled = pool[numpy_generator(seed, "contexts", turn).permutation(pool_size)]
            contexts[size].append(shuffled[piece * size : (piece + 1) * size])
    return Splits(order[:test_images], contexts)


def split_subject(
    given: xr.Dataset, contexts: Sequence[int], draws: int, test_images: int | None, seed: int
) -> SplitSubject:
    """Split a subject into test pictures and contexts.

    Parameters
    ----------
    given : response set with embeddings
        Rows that show one picture are averaged.
    contexts : sequence of int
        Context sizes, in pictures.
    draws : int
        Contexts per size.
    test_images : int, optional
        None: `default_test_images`.
    seed : int

    Returns
    -------
    SplitSubject

    Raises
    ------
    ResponseError
        A context size is beyond the pool or occurs twice, or no voxel varies over the test pictures.
    """
    if len(set(contexts)) < len(contexts):
        raise ResponseError(f"a context size occurs twice in {list(contexts)}")
    dataset = average_duplicates(given)
    test_images = default_test_images(dataset.sizes["image"]) if test_images is None else test_images
    splits = context_draws(dataset["image_id"].values, contexts, draws, test_images, seed)
    Y = dataset["response"].values
    kept = ~constant_voxels(Y[splits.test])
    if not kept.any():
        raise ResponseError(
            f"all {len(kept)} voxels are constant over the {test_images} test images; no score is defined"
        )
    return SplitSubject(dataset, dataset["embedding"].values, Y, splits, kept)
