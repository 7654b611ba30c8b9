"""The population prior of training subjects: how it is fitted, and how its settings are chosen without the new subject.

A fold leaves out whole subjects, or sessions where there is one subject only, or halves of the voxels where there is
one session only. Settings are chosen by prediction in the left-out folds, and each fold's prior is what the network is
trained with on the data left out, so that it learns to use a prior that has not seen the subject at hand.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from braincl.errors import ResponseError
from braincl.estimators.base import standardiser
from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.evidence import evidence_of_all, group_experts, read_through
from braincl.models.experts import Context
from braincl.models.prior import Prior
from braincl.training.expectation_maximisation import fit_mixture, fit_prior, moments
from setcore.checkpoint import load_tensors, save_tensors
from setcore.errors import InputError
from setcore.evaluation.metrics import pearson_r
from setcore.progress import progress_bar
from setcore.seeding import numpy_generator

ITERATIONS = (1, 2, 3, 5)
SHRINKAGES = (0.0, 0.1, 0.3, 0.6)
COMPONENTS = (4, 8, 16)
MIXTURE_ITERATIONS = (2, 5, 15)
VOXELS_PER_COMPONENT = 64
SELECTION_CONTEXTS = (20, 100, 400)
PARTS = ("log_weights", "means", "covariances", "shares", "embedding_covariance")  # of a prior, as they are stored


class Subject(NamedTuple):
    """What training needs of a response set.

    Parameters
    ----------
    name : str
    X : ndarray, shape (i, E)
        Embeddings.
    Y : ndarray, shape (i, V)
        Responses.
    """

    name: str
    X: NDArray[np.float32]
    Y: NDArray[np.float32]

    def responses(self, pictures: NDArray[np.int64], voxels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Responses of some voxels to some pictures; nothing else is copied.

        Parameters
        ----------
        pictures, voxels : int array

        Returns
        -------
        array of shape (pictures, voxels)
        """
        return self.Y[pictures[:, None], voxels]


class Fold(NamedTuple):
    """Data left out together.

    Parameters
    ----------
    datasets : tuple of int
        Indices of the data sets.
    voxels : tuple of ndarray, optional
        Which voxels of each; all where there is none.
    """

    datasets: tuple[int, ...]
    voxels: tuple[NDArray[np.int64], ...] | None


@dataclass(frozen=True)
class PopulationFit:
    """A population prior and how it came about.

    Parameters
    ----------
    gaussian : Prior
        Of all training voxels, at the chosen iterations and shrinkage.
    mixture : Prior or None
        None where a mixture does not predict the left-out folds better.
    folds : list of (Fold, gaussian, mixture)
        The same without each fold.
    report : dict
        Settings, and the mean Pearson r in the left-out folds of every candidate.
    """

    gaussian: Prior
    mixture: Prior | None
    folds: list[tuple[Fold, Prior, Prior | None]]
    report: dict[str, Any]


def _make_folds(subjects: Sequence[Subject]) -> list[Fold]:
    """Folds by subject, else by session, else by halves of the voxels."""
    names = sorted({subject.name for subject in subjects})
    if len(names) > 1:
        return [Fold(tuple(i for i, s in enumerate(subjects) if s.name == name), None) for name in names]
    if len(subjects) > 1:
        return [Fold((index,), None) for index in range(len(subjects))]
    voxels = subjects[0].Y.shape[1]
    if voxels < 4:
        raise ResponseError(f"a population prior needs at least 4 voxels to learn from, got {voxels}")
    return [Fold((0,), (np.arange(start, voxels, 2),)) for start in (0, 1)]


class _Stages:
    """What a fit is made of: each part is stored as soon as it is there, so that a killed fit goes on with the next."""

    def __init__(self, folder: Path | None, origin: str, bar: tqdm[Any]) -> None:
        self.folder, self.origin, self.bar = folder, origin, bar
        if folder is not None:
            folder.mkdir(exist_ok=True)

    def priors(self, name: str, make: Callable[[], list[Prior]]) -> list[Prior]:
        """Found in the folder, or made."""
        found = self._stored(name)
        if found is None:
            found = make()
            if self.folder is not None:
                tensors = _pack({str(number): prior for number, prior in enumerate(found)}, {"origin": self.origin})
                save_tensors(self.folder / f"{name}.safetensors", tensors)
        self.bar.update()
        return found

    def _stored(self, name: str) -> list[Prior] | None:
        path = None if self.folder is None else self.folder / f"{name}.safetensors"
        if path is None or not path.is_file():
            return None
        tensors = load_tensors(path)
        if _text(tensors).get("origin") != self.origin:
            return None
        count = len({tensor.partition(".")[0] for tensor in tensors} - {"report"})
        return [prior for number in range(count) if (prior := _prior(tensors, str(number))) is not None]


def fit_population(
    subjects: Sequence[Subject], *, mixtures: bool = True, seed: int = 0, progress: bool = False,
    keep: Path | None = None, origin: str = "",
) -> PopulationFit:  # fmt: skip
    """Fit the population prior, its settings chosen by leaving out folds of the training data.

    Parameters
    ----------
    subjects : sequence of Subject
        At least one; embeddings of equal width.
    mixtures : bool
        Also try mixtures of Gaussians, where there are voxels enough.
    seed : int
        Of the mixtures' starts and of the contexts drawn for the choice.
    progress : bool
        Show a progress bar on standard error, where that is a terminal.
    keep : path, optional
        Folder for parts of the fit while it lasts: one that was killed goes on from there.
    origin : str
        What the parts come from; those of another origin are made anew.

    Returns
    -------
    PopulationFit
    """
    with progress_bar(desc="population prior", unit=" fits", shown=progress) as bar:
        return _fit_population(subjects, mixtures, seed, _Stages(keep, origin, bar))


def _fit_population(subjects: Sequence[Subject], mixtures: bool, seed: int, stages: _Stages) -> PopulationFit:
    folds = _make_folds(subjects)
    stored = [moments(subject.X, subject.Y) for subject in subjects]
    others = [_without(subjects, stored, fold) for fold in folds]
    tried: list[dict[str, Any]] = []

    def _score(priors: Sequence[Prior], components: int, iterations: int, shrinkage: float) -> float:
        values = [_left_out_score(subjects, fold, prior, seed) for fold, prior in zip(folds, priors, strict=True)]
        r = float(np.mean(values))
        tried.append({"components": components, "iterations": iterations, "shrinkage": shrinkage, "pearson_r": r})
        return r

    best, gaussians, setting = -np.inf, [], (1, 0.0)
    paths = [
        stages.priors(f"gaussian-{fold}", partial(fit_prior, other, 1, max(ITERATIONS)))
        for fold, other in enumerate(others)
    ]
    for iterations in ITERATIONS:
        for shrinkage in SHRINKAGES:
            priors = [path[iterations - 1].shrunk(shrinkage) for path in paths]
            if (found := _score(priors, 1, iterations, shrinkage)) > best:
                best, gaussians, setting = found, priors, (iterations, shrinkage)

    chosen: tuple[int, int] | None = None
    parts: Sequence[Prior | None] = [None] * len(folds)
    voxels = min(sum(m.cross.shape[1] for m in other) for other in others)
    for components in COMPONENTS if mixtures else ():
        if voxels < VOXELS_PER_COMPONENT * components:
            break
        paths = [
            stages.priors(
                f"mixture-{components}-{fold}",
                partial(fit_mixture, other, components, max(MIXTURE_ITERATIONS), seed=seed),
            )
            for fold, other in enumerate(others)
        ]
        before = best
        for iterations in MIXTURE_ITERATIONS:
            priors = [path[iterations - 1] for path in paths]
            if (found := _score(priors, components, iterations, 0.0)) > best:
                best, parts, chosen = found, priors, (components, iterations)
        if best == before:
            break

    report = {"iterations": setting[0], "shrinkage": setting[1], "components": chosen[0] if chosen else 1,
              "mixture_iterations": chosen[1] if chosen else None, "left_out_r": tried}  # fmt: skip
    gaussian = stages.priors("gaussian", lambda: fit_prior(stored, 1, setting[0]))[-1].shrunk(setting[1])
    mixture = stages.priors("mixture", partial(fit_mixture, stored, *chosen, seed=seed))[-1] if chosen else None
    return PopulationFit(gaussian, mixture, list(zip(folds, gaussians, parts, strict=True)), report)


def _without(subjects: Sequence[Subject], stored: Sequence[Any], fold: Fold) -> list[Any]:
    if fold.voxels is None:
        return [m for index, m in enumerate(stored) if index not in fold.datasets]
    subject = subjects[fold.datasets[0]]
    return [moments(subject.X, np.delete(subject.Y, fold.voxels[0], axis=1))]


def _left_out_score(subjects: Sequence[Subject], fold: Fold, prior: Prior, seed: int, voxel_limit: int = 256) -> float:
    """Mean Pearson r on a left-out fold, over context sizes, on at most `voxel_limit` voxels per data set."""
    scores: list[float] = []
    for index in fold.datasets:
        X, Y = subjects[index].X, subjects[index].Y
        if fold.voxels is not None:
            Y = Y[:, fold.voxels[0]]
        rng = numpy_generator(seed, "selection", index)
        Y = Y[:, rng.permutation(Y.shape[1])[:voxel_limit]]
        for size in SELECTION_CONTEXTS:
            size = min(size, len(X) // 2)
            order = rng.permutation(len(X))
            context, query = order[:size], order[size : size + 300]
            predicted = _mixture_predict(prior, X[context], Y[context], X[query])
            r = pearson_r(Y[query], predicted)
            scores.append(float(np.nanmean(r)) if np.isfinite(r).any() else 0.0)
    return float(np.mean(scores))


def _mixture_predict(prior: Prior, X: NDArray[Any], Y: NDArray[Any], queries: NDArray[Any]) -> NDArray[Any]:
    """Predictions (t, V) under a mixture prior, exact but for the grid; a single Gaussian goes through `PriorRidge`."""
    if len(prior.means) == 1:
        return np.asarray(PriorRidge(prior).fit(X, Y).predict(queries))
    standardise = standardiser(Y)
    standardised = torch.as_tensor(standardise(Y)).double()
    context = Context(torch.as_tensor(X))
    experts = []
    for component_mean, covariance in zip(prior.means, prior.covariances, strict=True):
        basis = context.add_basis(torch.as_tensor(covariance))
        experts.append(context.gaussian("mixture", torch.as_tensor(component_mean), basis))
    groups = group_experts(experts, len(X))  # one for each, since each has a system of its own
    found = evidence_of_all(context, groups, standardised)
    log_weights = torch.cat([f.log_likelihood for f in found], dim=1)
    log_weights = log_weights + torch.as_tensor(prior.log_weights)[:, None]
    log_weights = log_weights + torch.as_tensor(prior.shares).log()
    weights = log_weights.flatten(1).softmax(dim=1).view_as(log_weights)
    centred = torch.as_tensor(queries).double() - context.offset
    predicted = torch.zeros(len(standardise.varying), len(queries), dtype=torch.float64)
    for c, expert in enumerate(experts):
        dual, mean_coefficient = read_through(groups[c], found[c], weights[:, c : c + 1])
        predicted += mean_coefficient * (centred @ expert.mean_weights)
        predicted += dual @ (centred @ context.cross(expert)).T
    return standardise.undo(predicted.numpy().T)


def load_or_fit(path: Path, subjects: Sequence[Subject], seed: int, *, progress: bool = False) -> PopulationFit:
    """`fit_population`, or what an earlier run has stored of it.

    Parameters
    ----------
    path : path
        Of the stored fit; a folder beside it holds the parts of one that is not whole yet.
    subjects : sequence of Subject
    seed : int
    progress : bool
        Show a progress bar.

    Returns
    -------
    PopulationFit

    Raises
    ------
    InputError
        The file was fitted to other data or with another seed.
    """
    origin = json.dumps([data_fingerprint(subjects), seed])
    if path.is_file():
        return _unpack(load_tensors(path), subjects, origin, path)
    parts = path.with_suffix("")
    fit = fit_population(subjects, seed=seed, progress=progress, keep=parts, origin=origin)
    priors = {"all.gaussian": fit.gaussian, "all.mixture": fit.mixture}
    for number, (_, gaussian, mixture) in enumerate(fit.folds):
        priors |= {f"{number}.gaussian": gaussian, f"{number}.mixture": mixture}
    save_tensors(path, _pack(priors, {"origin": origin, "report": fit.report}))
    shutil.rmtree(parts)
    return fit


def data_fingerprint(subjects: Sequence[Subject]) -> str:
    """A hash of subjects' names, embeddings and responses, so that a run is resumed with the same ones.

    Parameters
    ----------
    subjects : sequence of Subject

    Returns
    -------
    str
        Sixteen hexadecimal digits.
    """
    digest = hashlib.sha256()
    for subject in subjects:
        digest.update(f"{subject.name} {subject.X.shape} {subject.Y.shape}".encode())
        for values in (subject.X, subject.Y):
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()[:16]


def _pack(priors: Mapping[str, Prior | None], text: dict[str, Any]) -> dict[str, Tensor]:
    tensors = {
        f"{name}.{part}": torch.as_tensor(getattr(prior, part))
        for name, prior in priors.items() if prior is not None
        for part in PARTS
    }  # fmt: skip
    return tensors | {"report": torch.frombuffer(bytearray(json.dumps(text).encode()), dtype=torch.uint8)}


def _text(tensors: dict[str, Tensor]) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(bytes(tensors.get("report", torch.zeros(0)).tolist()).decode() or "{}")
    return stored


def _prior(tensors: dict[str, Tensor], name: str) -> Prior | None:
    if f"{name}.means" not in tensors:
        return None
    return Prior(*(tensors[f"{name}.{part}"].numpy() for part in PARTS))


def _unpack(tensors: dict[str, Tensor], subjects: Sequence[Subject], origin: str, path: Path) -> PopulationFit:
    text = _text(tensors)
    if text.get("origin") != origin:
        raise InputError(f"{path} was fitted on other data or with another seed; name another folder")

    def gaussian(name: str) -> Prior:
        found = _prior(tensors, f"{name}.gaussian")
        assert found is not None
        return found

    folds = [(fold, gaussian(str(n)), _prior(tensors, f"{n}.mixture")) for n, fold in enumerate(_make_folds(subjects))]
    return PopulationFit(gaussian("all"), _prior(tensors, "all.mixture"), folds, text["report"])
