"""Which pictures are test and which are context; pictures are counted, not rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from braincl.data.splits import pictures_for_testing
from braincl.data.stores.blocks import VoxelBlocks
from braincl.errors import ResponseError
from braincl.estimators.base import standardiser
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
    dataset : Dataset
        Each picture once, without the responses.
    X : array of shape (n_images, n_features)
    blocks : VoxelBlocks
        The responses.
    splits : Splits
    kept : bool array of shape (n_voxels,)
        Voxels that vary over the test images.
    """

    dataset: xr.Dataset
    X: NDArray[np.float32]
    blocks: VoxelBlocks
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


def context_draws(
    image_ids: ArrayLike,
    sizes: Sequence[int],
    draws: int,
    test_images: int,
    seed: int,
    held: ArrayLike | None = None,
) -> Splits:
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
    held : bool array of shape (n_images,), optional
        Pictures that a split keeps for testing: test pictures come from these, contexts from the others. None: any
        picture may be either.

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
    candidates = np.ones(len(ids), bool) if held is None else np.asarray(held)
    # sorted by id, so that the split follows the pictures and not their order in the file
    order = np.argsort(ids, kind="stable")[numpy_generator(seed, "test images").permutation(len(ids))]
    test = order[candidates[order]][: max(test_images, 0)]
    pool = order[~np.isin(order, test)] if held is None else order[~candidates[order]]
    pool_size = len(pool)
    if not 2 <= test_images <= candidates.sum() or pool_size < 2:
        raise ResponseError(
            f"{test_images} test images of {candidates.sum()} pictures{'' if held is None else ' of the test split'}; "
            f"give at least 2 and leave at least 2 for the context (there are {len(ids)} pictures in all)"
        )
    if max(sizes) > pool_size:
        less = f"{test_images} test images" if held is None else f"{candidates.sum()} of the test split"
        raise ResponseError(
            f"a context of {max(sizes)} is beyond the pool: {len(ids)} pictures less {less} leave {pool_size}; use "
            "smaller contexts or fewer test images"
        )
    contexts: dict[int, list[NDArray[np.int64]]] = {}
    for size in sizes:
        in_one_order = pool_size // size
        contexts[size] = []
        for draw in range(draws):
            turn, piece = divmod(draw, in_one_order)
            shuffled = pool[numpy_generator(seed, "contexts", turn).permutation(pool_size)]
            contexts[size].append(shuffled[piece * size : (piece + 1) * size])
    return Splits(test, contexts)


def split_subject(
    given: xr.Dataset,
    contexts: Sequence[int],
    draws: int,
    test_images: int | None,
    seed: int,
    test_ids: Sequence[str] | None = None,
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
        None: all pictures that the coordinate `split` of the set calls "test", or `default_test_images` where it has
        none.
    seed : int
    test_ids : sequence of str, optional
        The test pictures, in place of those that a split or `test_images` names.

    Returns
    -------
    SplitSubject

    Raises
    ------
    ResponseError
        A picture of `test_ids` is not there, or `test_images` is given as well; a context size is beyond the pool or
        occurs twice; a split is unknown or not the same in all rows of a picture; or no voxel varies over the test
        pictures.
    """
    if len(set(contexts)) < len(contexts):
        raise ResponseError(f"a context size occurs twice in {list(contexts)}")
    blocks = VoxelBlocks(given)
    dataset = blocks.head
    ids, held = dataset["image_id"].values, None
    if test_ids is not None:
        if test_images is not None:
            raise ResponseError("give either the test pictures or their number")
        held = np.isin(ids, list(test_ids))
        if missing := sorted(set(test_ids) - set(ids.tolist())):
            raise ResponseError(
                f"{len(missing)} of {len(set(test_ids))} test pictures are not in the response set, the first is "
                f"{missing[0]!r}; list them by their image_id"
            )
    elif "split" in given.variables:
        names = given["split"].values
        held = np.isin(ids, list(pictures_for_testing(given["image_id"].values, names, "the response set")))
    if test_images is None:
        test_images = default_test_images(len(ids)) if held is None else int(held.sum())
    splits = context_draws(ids, contexts, draws, test_images, seed, held)
    kept = np.zeros(blocks.voxels, bool)
    for part, Y in blocks:
        kept[part.start + standardiser(Y[splits.test]).varying] = True
    if not kept.any():
        raise ResponseError(
            f"all {len(kept)} voxels are constant over the {test_images} test images; no score is defined"
        )
    return SplitSubject(dataset, dataset["embedding"].values, blocks, splits, kept)
