"""Scores on a new subject, beside the baselines: closed forms under the population prior, ridge, and the mean.

Axes: n context image, m test image, V voxel.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.responses import average_duplicates, check_model_backbone, open_responses
from braincl.data.scatter import scatter
from braincl.data.stores.blocks import BLOCK_BYTES
from braincl.errors import ResponseError
from braincl.estimators.base import VoxelEncoder, standardiser
from braincl.estimators.in_blocks import fit_part, summaries
from braincl.estimators.in_context import InContextEncoder
from braincl.estimators.population_mean import PopulationMean
from braincl.estimators.prior_ensemble import PriorEnsemble
from braincl.estimators.prior_kernel import PriorKernelRidge
from braincl.estimators.prior_ridge import PriorRidge
from braincl.estimators.ridge import RidgeCV
from braincl.evaluation.report import Evaluation, difference_row, mean_ceiling, metadata, null_row, score_row
from braincl.evaluation.splits import SplitSubject, split_subject
from braincl.models.noise_levels import SIGNAL_SHARES
from setcore.evaluation.bootstrap import MethodBootstrap
from setcore.evaluation.metrics import (
    explained_variance,
    gaussian_nll,
    interval_coverage,
    pearson_r,
)
from setcore.evaluation.noise_ceilings import (
    ncsnr_from_repeats,
    noise_ceiling_from_ncsnr,
    noise_ceiling_from_repeats,
    split_half_reliability,
)
from setcore.progress import progress_bar

METHODS = ("model", "prior_ensemble", "prior_kernel", "prior_ridge", "ridge", "mean")
SCORES = ("pearson_r", "explained_variance", "coverage_90", "nll")
CLOSED_FORMS = {"prior_ensemble": PriorEnsemble, "prior_kernel": PriorKernelRidge, "prior_ridge": PriorRidge}
CEILINGS = ("auto", "stored", "repeats", "ncsnr", "split_half")
SOURCES = {
    "repeats": "trial variance (one-way analysis of variance; Searle et al. 1992)",
    "ncsnr": "ncsnr (Allen et al. 2022)",
    "split_half": "split halves of the repeats (Guttman 1945)",
}
BASELINES = (*CLOSED_FORMS, "ridge")  # those that the model is compared with, pair by pair


def evaluate(
    model: Any,
    subject: str | Path | xr.Dataset,
    contexts: Sequence[int] = (20, 50, 100, 200, 400),
    draws: int = 5,
    test_images: int | None = None,
    seed: int = 0,
    resamples: int = 1000,
    progress: bool = False,
    device: str = "auto",
    test_ids: Sequence[str] | None = None,
    ceiling: str = "auto",
) -> Evaluation:
    """Score a model on a subject, beside its baselines on the same context and test images.

    Parameters
    ----------
    model : InContextEncoder, or what `InContextEncoder.from_pretrained` takes
    subject : response set or path
    contexts : sequence of int
        Context sizes, in pictures.
    draws : int
        Contexts per size, disjoint where the pictures allow.
    test_images : int, optional
        Test pictures, the same for all contexts and never in one. None: those that the coordinate `split` of the set
        calls "test", else a quarter of the pictures, 300 at most. With a `split`, contexts come from the others alone.
    seed : int
        Of the split and of the bootstrap.
    resamples : int
        Bootstrap resamples of voxels and test images.
    progress : bool
        Show a progress bar on standard error.
    device : str
        Where voxels are worked on: cpu, cuda, mps, or auto, the best there is. A model that is given as an estimator
        has its own.
    test_ids : sequence of str, optional
        The `image_id` of the test pictures; contexts come from the others.
    ceiling : {"auto", "stored", "repeats", "ncsnr", "split_half"}
        Which noise ceiling scores are normalised by: the coordinate of the set, or one of its trials by analysis of
        variance, NSD's signal-to-noise ratio, or split halves. "auto": the stored one, else that by analysis of
        variance, else none. The report says which in `noise_ceiling_from`.

    Returns
    -------
    Evaluation

    Raises
    ------
    ResponseError
        The response set cannot be used, a context size is beyond the pool, or the ceiling that is asked for is not
        there; before any work.
    ModelError
        The model does not take embeddings of this width, or was trained on those of another backbone.
    InputError
        The device is not there.

    Examples
    --------
    >>> import numpy as np
    >>> import braincl
    >>> rng = np.random.default_rng(0)
    >>> subject = braincl.from_arrays(rng.normal(size=(30, 5)), rng.normal(size=(30, 8)), subject="S1")
    >>> found = braincl.evaluate(braincl.InContextEncoder.from_pretrained(), subject, contexts=(10,), draws=1)
    >>> sorted({row["method"] for row in found.report["results"]})
    ['mean', 'model', 'prior_ensemble', 'prior_kernel', 'prior_ridge', 'ridge']
    """
    given = open_responses(subject, lazy=True)
    data = split_subject(given, contexts, draws, test_images, seed, test_ids)
    encoder = _load_encoder(model, device)
    check_model_backbone(encoder, subject=given)
    estimators, reason = _estimators(encoder, data.X.shape[1], device)
    test, voxels = data.splits.test, len(data.kept)
    limit, limit_from = _ceiling(given, ceiling)
    shape = (len(METHODS), len(contexts), draws)
    scores = {name: np.full((*shape, voxels), np.nan, dtype=np.float32) for name in SCORES}
    scores["seconds"] = np.full(shape, np.nan)
    for method in estimators:
        scores["seconds"][METHODS.index(method)] = 0
    pairs = [("model", baseline) for baseline in BASELINES if baseline in estimators]
    bootstraps = [MethodBootstrap(len(test), int(data.kept.sum()), pairs, resamples, seed) for _ in contexts]
    rows_of = [data.splits.contexts[n][draw] for n in contexts for draw in range(draws)]
    whole = {method: summaries(estimator, data.blocks, rows_of) for method, estimator in estimators.items()}
    total = len(data.blocks.slices()) * len(rows_of)
    with progress_bar(total=total, shown=progress, unit="draw", desc="evaluate") as bar:
        for part, Y in data.blocks:
            kept = data.kept[part]
            for size in range(len(contexts)):
                predictions: dict[str, list[NDArray[Any]]] = {method: [] for method in estimators}
                for draw in range(draws):
                    place = size * draws + draw
                    context = rows_of[place]
                    for method, estimator in estimators.items():
                        start = time.perf_counter()
                        fit_part(estimator, data.X[context], Y[context], whole[method][place])
                        mean, std = (values[:, kept] for values in estimator.predict(data.X[test], return_std=True))
                        at = METHODS.index(method), size, draw
                        scores["seconds"][at] += time.perf_counter() - start
                        for name, values in _scores(Y[test][:, kept], mean, std, Y[context][:, kept]).items():
                            scores[name][at][part][kept] = values
                        predictions[method].append(mean)
                    bar.update()
                if kept.any():
                    bootstraps[size].add(Y[test][:, kept], predictions)
    rows, differences = [], []
    for size, n in enumerate(contexts):
        intervals, compared = bootstraps[size].finish()
        for index, method in enumerate(METHODS):
            if method not in estimators:
                rows.append(null_row(method, n, reason))
            else:
                of_method = {name: values[index, size] for name, values in scores.items()}
                rows.append(score_row(method, n, of_method, limit, intervals[method]))
        differences += [difference_row(pair[1], n, compared[pair]) for pair in pairs]
    report = {
        "results": rows,
        "differences": differences,
        **metadata(given, data, encoder, contexts, draws, seed, listed=test_ids is not None),
        "noise_ceiling_r": None if limit is None else mean_ceiling(limit[data.kept]),
        "noise_ceiling_from": limit_from,
        "mean_is": "context mean" if reason else "population mean weights",
        "prior_reason": reason or None,
    }
    if limit is not None and not np.isfinite(limit).any():
        report["warnings"].append(f"there is no noise ceiling: of no voxel can one be told by {limit_from}")
    return Evaluation(report, _voxel_scores(scores, data, contexts, draws, limit))


def _load_encoder(model: Any, device: str) -> Any:
    if model is None or isinstance(model, str | Path):
        return InContextEncoder.from_pretrained(model, device=device)
    return model


def _estimators(encoder: Any, features: int, device: str) -> tuple[dict[str, VoxelEncoder], str]:
    """The methods that can be run, and why those under the population prior are not among them, where they are not."""
    held = encoder.population_prior()
    reason, mean_weights, closed_forms = "", None, {}
    if held is None:
        reason = str(encoder.prior_reason)
    elif held.prior.n_features != features:
        reason = f"the population prior is of width {held.prior.n_features}, the embedding of {features}"
    else:
        prior = held.prior  # of weights for signals of unit variance; shares are what signals have of a response
        mean_weights = np.sqrt(prior.shares @ SIGNAL_SHARES) * prior.means[0]
        closed_forms = {name: kind(prior, device=device) for name, kind in CLOSED_FORMS.items()}
    return {
        "model": encoder, **closed_forms, "ridge": RidgeCV(device=device), "mean": PopulationMean(mean_weights),
    }, reason  # fmt: skip


def _ceiling(given: xr.Dataset, which: str) -> tuple[NDArray[Any] | None, str | None]:
    """Noise ceilings, and how they were estimated."""
    if which not in CEILINGS:
        raise ResponseError(f"ceiling is {which!r}; it must be one of {', '.join(CEILINGS)}")
    stored = "noise_ceiling" in given.coords
    if which == "auto":
        which = "stored" if stored else "repeats" if "response_trials" in given else ""
    if not which:
        return None, None
    if which == "stored":
        if not stored:
            raise ResponseError(
                "the response set has no coordinate 'noise_ceiling' (voxel), and the stored one is wanted"
            )
        method = str(given.attrs.get("noise_ceiling", "unknown"))
        return given["noise_ceiling"].values, f"the set's noise_ceiling: {SOURCES.get(method, 'of unknown method')}"
    if "response_trials" not in given:
        raise ResponseError(
            f"a ceiling by {which} is of single trials, 'response_trials' (image, repeat, voxel), which the response "
            "set does not have; add them, or store a coordinate 'noise_ceiling' (voxel)"
        )
    trials = average_duplicates(given.drop_vars("response"))["response_trials"]
    step = max(1, BLOCK_BYTES // (4 * trials[:, :, 0].size))
    parts = [slice(start, start + step) for start in range(0, trials.sizes["voxel"], step)]
    return np.concatenate([_of_trials(which, trials.isel(voxel=part).values) for part in parts]), SOURCES[which]


def _of_trials(which: str, trials: NDArray[Any]) -> NDArray[Any]:
    if which == "ncsnr":
        repeats = np.isfinite(trials).sum(axis=1)
        return noise_ceiling_from_ncsnr(ncsnr_from_repeats(trials), repeats)
    found = noise_ceiling_from_repeats(trials) if which == "repeats" else split_half_reliability(trials)
    return np.clip(found, 0, 1)


def _voxel_scores(
    scores: dict[str, NDArray[Any]],
    data: SplitSubject,
    contexts: Sequence[int],
    draws: int,
    ceiling: NDArray[Any] | None,
) -> xr.Dataset:
    axes = ("estimator", "n", "draw", "voxel")  # not "method": that is an argument of `Dataset.sel`
    coordinates = {name: c for name, c in data.dataset.coords.items() if c.dims == ("voxel",)}
    if ceiling is not None:
        coordinates["noise_ceiling"] = xr.DataArray(ceiling, dims="voxel")
    return xr.Dataset(
        {name: (axes[: values.ndim], values) for name, values in scores.items()},
        coords={"estimator": list(METHODS), "n": list(contexts), "draw": range(draws), **coordinates},
        attrs={"subject": str(data.dataset.attrs.get("subject", ""))},
    )


def _scores(y: NDArray[Any], mean: NDArray[Any], std: NDArray[Any], context: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """All scores per voxel; nll is of responses standardised on the context, NaN for voxels constant there."""
    standardise = standardiser(context)
    scale = scatter(standardise.scale[standardise.varying], standardise.varying, y.shape[1:], fill=np.nan)
    std = np.where(np.isnan(std), 0, std)  # of a voxel without predictions: it has no score
    return {
        "pearson_r": pearson_r(y, mean),
        "explained_variance": explained_variance(y, mean),
        "coverage_90": np.where(np.isnan(scale), np.nan, interval_coverage(y, mean, std)),
        "nll": gaussian_nll(y, mean, std) - np.log(scale),
    }
