"""Scores on a new subject, beside the baselines: the model, population-prior ridge, ridge, and the mean.

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
from tqdm import tqdm

from braincl.data.responses import check_model_backbone, open_responses
from braincl.estimators.base import LinearEncoder, constant_voxels
from braincl.estimators.in_context import InContextEncoder
from braincl.estimators.population_mean import PopulationMean
from braincl.estimators.ridge import RidgeCV
from braincl.evaluation.report import Evaluation, difference_row, metadata, null_row, score_row
from braincl.evaluation.splits import SplitSubject, split_subject
from braincl.models.noise_levels import SIGNAL_SHARES
from setcore.evaluation.bootstrap import bootstrap_methods
from setcore.evaluation.metrics import (
    explained_variance,
    gaussian_nll,
    interval_coverage,
    noise_ceiling_from_repeats,
    pearson_r,
)

METHODS = ("model", "prior_ridge", "ridge", "mean")
SCORES = ("pearson_r", "explained_variance", "coverage_90", "nll")
BASELINES = ("prior_ridge", "ridge")  # those that the model is compared with, pair by pair


def evaluate(
    model: Any,
    subject: str | Path | xr.Dataset,
    contexts: Sequence[int] = (20, 50, 100, 200, 400),
    draws: int = 5,
    test_images: int | None = None,
    seed: int = 0,
    resamples: int = 1000,
    progress: bool = False,
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
        Test pictures, the same for all contexts and never in one. None: a quarter of the pictures, 300 at most.
    seed : int
        Of the split and of the bootstrap.
    resamples : int
        Bootstrap resamples of voxels and test images.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Evaluation

    Raises
    ------
    ResponseError
        The response set cannot be used, or a context size is beyond the pool; before any work.
    ModelError
        The model does not take embeddings of this width, or was trained on those of another backbone.
    """
    given = open_responses(subject)
    data = split_subject(given, contexts, draws, test_images, seed)
    encoder = _load_encoder(model)
    check_model_backbone(encoder, subject=given)
    estimators, reasons = _estimators(encoder, data.X.shape[1])
    test_X, test_Y = data.X[data.splits.test], data.Y[data.splits.test][:, data.kept]
    ceiling = _ceiling(data.dataset)
    shape = (len(METHODS), len(contexts), draws)
    scores = {name: np.full((*shape, len(data.kept)), np.nan, dtype=np.float32) for name in SCORES}
    scores["seconds"] = np.full(shape, np.nan)
    rows, differences = [], []
    with tqdm(total=len(contexts) * draws, disable=not progress, unit="draw", desc="evaluate") as bar:
        for size, n in enumerate(contexts):
            predictions: dict[str, list[NDArray[Any]]] = {method: [] for method in estimators}
            for draw, context in enumerate(data.splits.contexts[n]):
                for method, estimator in estimators.items():
                    start = time.perf_counter()
                    estimator.fit(data.X[context], data.Y[context])
                    mean, std = (values[:, data.kept] for values in estimator.predict(test_X, return_std=True))
                    at = METHODS.index(method), size, draw
                    scores["seconds"][at] = time.perf_counter() - start
                    for name, values in _scores(test_Y, mean, std, data.Y[context][:, data.kept]).items():
                        scores[name][at][data.kept] = values
                    predictions[method].append(mean)
                bar.update()
            pairs = [("model", baseline) for baseline in BASELINES if baseline in predictions]
            intervals, compared = bootstrap_methods(test_Y, predictions, pairs, resamples, seed)
            for index, method in enumerate(METHODS):
                if method in reasons:
                    rows.append(null_row(method, n, reasons[method]))
                else:
                    of_method = {name: values[index, size] for name, values in scores.items()}
                    rows.append(score_row(method, n, of_method, ceiling, intervals[method]))
            differences += [difference_row(pair[1], n, compared[pair]) for pair in pairs]
    report = {
        "results": rows,
        "differences": differences,
        **metadata(given, data, encoder, contexts, draws, seed),
        "mean_is": "context mean" if "prior_ridge" in reasons else "population mean weights",
        "prior_reason": reasons.get("prior_ridge"),
    }
    return Evaluation(report, _voxel_scores(scores, data, contexts, draws, ceiling))


def _load_encoder(model: Any) -> Any:
    if model is None or isinstance(model, str | Path):
        return InContextEncoder.from_pretrained(model)
    return model


def _estimators(encoder: Any, features: int) -> tuple[dict[str, LinearEncoder], dict[str, str]]:
    """The methods that can be run, and the reasons for those that cannot."""
    prior_ridge = encoder.population_prior()
    reasons: dict[str, str] = {}
    mean_weights = None
    if prior_ridge is None:
        reasons["prior_ridge"] = str(encoder.prior_reason)
    elif prior_ridge.prior.n_features != features:
        width = prior_ridge.prior.n_features
        reasons["prior_ridge"] = f"the population prior is of width {width}, the embedding of {features}"
    else:
        prior = prior_ridge.prior  # of weights for signals of unit variance; shares are what signals have of a response
        mean_weights = np.sqrt(prior.shares @ SIGNAL_SHARES) * prior.means[0]
    estimators: dict[str, LinearEncoder] = {
        "model": encoder,
        "ridge": RidgeCV(),
        "mean": PopulationMean(mean_weights),
    }
    if not reasons:
        estimators["prior_ridge"] = prior_ridge
    return estimators, reasons


def _ceiling(dataset: xr.Dataset) -> NDArray[Any] | None:
    if "noise_ceiling" in dataset.coords:
        return dataset["noise_ceiling"].values
    if "response_trials" in dataset:
        return noise_ceiling_from_repeats(dataset["response_trials"].values)
    return None


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
    scale = np.where(constant_voxels(context), np.nan, context.std(axis=0))
    return {
        "pearson_r": pearson_r(y, mean),
        "explained_variance": explained_variance(y, mean),
        "coverage_90": np.where(np.isnan(scale), np.nan, interval_coverage(y, mean, std)),
        "nll": gaussian_nll(y, mean, std) - np.log(scale),
    }
