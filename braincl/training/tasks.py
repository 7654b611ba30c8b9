"""The tasks that meta-training draws from: subjects, each left out of the population that it is predicted from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.responses import average_duplicates, open_responses
from braincl.errors import ResponseError
from braincl.models.prior import Prior
from braincl.training.config import TrainConfig
from braincl.training.population_prior import PopulationFit, Subject
from setcore.seeding import numpy_generator


class Task(NamedTuple):
    """One data set with the priors that have not seen it, its validation pictures apart."""

    subject: Subject
    gaussian: Prior
    mixture: Prior | None
    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def of_one_backbone(datasets: Sequence[xr.Dataset], agnostic: bool) -> list[list[xr.Dataset]]:
    """Data sets that share a population prior: all of them, unless the network is to be agnostic."""
    if not agnostic or not datasets:
        return [list(datasets)]
    groups: dict[tuple[str, int], list[xr.Dataset]] = {}
    for dataset in datasets:
        groups.setdefault((str(dataset.attrs.get("backbone", "")), dataset.sizes["feature"]), []).append(dataset)
    return list(groups.values())


def prepare_subjects(datasets: Sequence[xr.Dataset | str | Path]) -> list[Subject]:
    """Validated subjects; pictures that were shown again are averaged.

    Raises
    ------
    ResponseError
    """
    if not datasets:
        raise ResponseError("training needs at least one response set")
    subjects, backbones = [], set()
    for position, source in enumerate(datasets):
        dataset = average_duplicates(open_responses(source))
        name = str(dataset.attrs.get("subject", "")) or f"subject {position}"
        subjects.append(Subject(name, dataset["embedding"].values, dataset["response"].values))
        backbones.add(str(dataset.attrs.get("backbone", "")))
        if len(subjects[-1].X) < 20:
            raise ResponseError(f"{name}: {len(subjects[-1].X)} pictures; training needs at least 20 in each set")
    widths = sorted({subject.X.shape[1] for subject in subjects})
    if len(widths) > 1 or len(backbones - {""}) > 1:
        raise ResponseError(
            f"the response sets have embeddings of {widths} features from {sorted(backbones)}; embed all of them with "
            "one backbone"
        )
    return subjects


def make_tasks(subjects: list[Subject], fit: PopulationFit, config: TrainConfig, seed: int) -> list[Task]:
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
