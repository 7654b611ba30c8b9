"""The tasks that meta-training draws from: subjects, each left out of the population that it is predicted from."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.responses import open_responses
from braincl.data.stores.blocks import VoxelBlocks
from braincl.errors import ResponseError
from braincl.models.prior import Prior
from braincl.training.config import TrainConfig
from braincl.training.population_prior import PopulationFit, Subject
from setcore.seeding import numpy_generator

SMALLEST_SET = 20  # pictures


class TrainingSets(NamedTuple):
    """Response sets as training needs them.

    Parameters
    ----------
    groups : list of list of Subject
        Those of a group have embeddings of one image encoder, and so may share a population prior. There is one group
        unless training is agnostic of embeddings.
    backbone : str
        The image encoder that all response sets are bound to; empty where there is none, or where none states it.
    images : list of str
        The `image_id` of every picture that is trained on, where it is known.
    """

    groups: list[list[Subject]]
    backbone: str
    images: list[str]


class Task(NamedTuple):
    """One data set with the priors that have not seen it, its validation pictures apart.

    Parameters
    ----------
    subject : Subject
    gaussian : Prior
    mixture : Prior, optional
    train : ndarray of int
        Indices of the pictures that are trained on.
    validation : ndarray of int
        Indices of the others.
    """

    subject: Subject
    gaussian: Prior
    mixture: Prior | None
    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def some_voxels(voxels: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw voxels, without an order of all of them.

    Parameters
    ----------
    voxels : int
        How many there are.
    count : int
        How many to draw, at most.
    rng : numpy.random.Generator

    Returns
    -------
    int array of shape (min(count, voxels),)
        Each voxel once at most.
    """
    return rng.choice(voxels, size=min(count, voxels), replace=False)


def read_subjects(
    datasets: Sequence[xr.Dataset | str | Path],
    agnostic: bool,
    most_voxels: int = 20_000,
    seed: int = 0,
    exclude: Collection[str] = (),
) -> TrainingSets:
    """Open and validate response sets, each once; pictures that were shown again are averaged.

    Of a set with very many voxels some are drawn, and only those are read. Else arrays are those of the response sets,
    not copies, unless there was something to average.

    Parameters
    ----------
    datasets : sequence of response sets or paths
    agnostic : bool
        Whether subjects may have embeddings of several image encoders.
    most_voxels : int
        Of each set.
    seed : int
        Of their choice.
    exclude : collection of str
        The `image_id` of pictures that are left out.

    Returns
    -------
    TrainingSets

    Raises
    ------
    ResponseError
        A set cannot be used or is too small, (unless `agnostic`) embeddings differ in width or backbone, or a picture
        that is to be left out is in none of the sets.

    Warns
    -----
    UserWarning
        Pictures that a set keeps for testing are trained on.
    """
    if not datasets:
        raise ResponseError("training needs at least one response set")
    subjects, backbones, images, tested = [], [], set(), set()
    left_out, missing = np.asarray(list(exclude), str), set(exclude)
    for position, source in enumerate(datasets):
        blocks = VoxelBlocks(open_responses(source, lazy=True))
        dataset = blocks.head
        name = str(dataset.attrs.get("subject", "")) or f"subject {position}"
        Y = blocks.read() if blocks.voxels <= most_voxels else _sample(blocks, most_voxels, seed, position)
        X, ids = dataset["embedding"].values, dataset["image_id"].values.astype(str)
        kept = ~np.isin(ids, left_out)
        missing -= set(ids)
        if not kept.all():
            X, Y = X[kept], Y[kept]
        subjects.append(Subject(name, X, Y))
        backbones.append(str(dataset.attrs.get("backbone", "")))
        if (pictures := len(X)) < SMALLEST_SET:
            without = "" if kept.all() else f" that are not left out of {len(kept)}"
            raise ResponseError(
                f"{name}: {pictures} pictures{without}; training needs at least {SMALLEST_SET} in each set"
            )
        images.update(ids[kept].tolist())
        if "split" in dataset.variables:
            tested.update(ids[kept & (dataset["split"].values == "test")].tolist())
    if missing:
        raise ResponseError(
            f"{len(missing)} of {len(set(exclude))} pictures to be left out are in none of the response sets, the "
            f"first is {min(missing)!r}; list them by their image_id"
        )
    if tested:
        warnings.warn(
            f"{len(tested)} pictures that a response set keeps for testing are trained on: scores on them will say "
            "nothing about new pictures; leave them out with --exclude-images",
            stacklevel=2,
        )
    if agnostic:
        groups: dict[tuple[str, int], list[Subject]] = {}
        for backbone, subject in zip(backbones, subjects, strict=True):
            groups.setdefault((backbone, subject.X.shape[1]), []).append(subject)
        return TrainingSets(list(groups.values()), "", sorted(images))
    widths, stated = sorted({subject.X.shape[1] for subject in subjects}), sorted(set(backbones) - {""})
    if len(widths) > 1 or len(stated) > 1:
        raise ResponseError(
            f"the response sets have embeddings of {widths} features from {sorted(set(backbones))}; embed all of them "
            "with one backbone"
        )
    return TrainingSets([subjects], stated[0] if stated else "", sorted(images))


def _sample(blocks: VoxelBlocks, count: int, seed: int, position: int) -> NDArray[np.float32]:
    """Responses of some voxels, in their order, read block by block."""
    chosen = np.sort(some_voxels(blocks.voxels, count, numpy_generator(seed, "voxels of a set", position)))
    return np.concatenate([Y[:, chosen[(chosen >= p.start) & (chosen < p.stop)] - p.start] for p, Y in blocks], axis=1)


def make_tasks(subjects: list[Subject], fit: PopulationFit, config: TrainConfig, seed: int) -> list[Task]:
    """One task for each data set of each fold, validation pictures set apart.

    Parameters
    ----------
    subjects : list of Subject
        Those that `fit` was fitted to, in the same order.
    fit : PopulationFit
    config : TrainConfig
    seed : int
        Of the choice of validation pictures.

    Returns
    -------
    list of Task
    """
    tasks = []
    for fold, gaussian, mixture in fit.folds:
        for index in fold.datasets:
            subject = subjects[index]
            if fold.voxels is not None:
                subject = subject._replace(Y=subject.Y[:, fold.voxels[0]])
            order = numpy_generator(seed, "validation pictures", index).permutation(len(subject.X))
            held = min(config.validation_images, len(order) // 5)
            tasks.append(Task(subject, gaussian, mixture, np.sort(order[held:]), np.sort(order[:held])))
    return tasks
