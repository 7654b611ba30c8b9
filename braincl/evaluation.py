"""Scores on a new subject, beside the baselines: the model, population-prior ridge, ridge, and the mean.

Axes: n context image, m test image, V voxel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.base import LinearEncoder, constant_voxels
from braincl.errors import ResponseError
from braincl.mean import PopulationMean
from braincl.prior import SIGNAL_SHARES
from braincl.responses import average_duplicates, check_model_backbone, open_responses, save_netcdf
from braincl.ridge import RidgeCV
from braincl.splits import Splits, context_draws, default_test_images
from setcore.bootstrap import bootstrap_methods
from setcore.files import write_json
from setcore.metrics import (
    explained_variance,
    gaussian_nll,
    interval_coverage,
    noise_ceiling_from_repeats,
    normalized_explained_variance,
    pearson_r,
)

METHODS = ("model", "prior_ridge", "ridge", "mean")
SCORES = ("pearson_r", "explained_variance", "coverage_90", "nll")
BASELINES = ("prior_ridge", "ridge")  # those that the model is compared with, pair by pair


class Evaluation(NamedTuple):
    """What `evaluate` returns.

    report : the content of the JSON file
    voxels : the scores of every method, context size, draw and voxel
    """

    report: dict[str, Any]
    voxels: xr.Dataset


class _Subject(NamedTuple):
    dataset: xr.Dataset  # each picture once
    X: NDArray[np.float32]
    Y: NDArray[np.float32]
    splits: Splits
    kept: NDArray[np.bool_]  # voxels that vary over the test images


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
    from tqdm import tqdm

    given = open_responses(subject)
    data = _prepare(given, contexts, draws, test_images, seed)
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
                    rows.append(_null_row(method, n, reasons[method]))
                else:
                    of_method = {name: values[index, size] for name, values in scores.items()}
                    rows.append(_row(method, n, of_method, ceiling, intervals[method]))
            differences += [_difference(pair[1], n, compared[pair]) for pair in pairs]
    report = {
        "results": rows,
        "differences": differences,
        **_circumstances(given, data, encoder, contexts, draws, seed),
        "mean_is": "context mean" if "prior_ridge" in reasons else "population mean weights",
        "prior_reason": reasons.get("prior_ridge"),
    }
    return Evaluation(report, _voxel_scores(scores, data, contexts, draws, ceiling))


def output_paths(json_path: str | Path) -> tuple[Path, Path, Path]:
    """The files of an evaluation: the report, the per-voxel scores (.nc) and the plot (.png) beside it."""
    path = Path(json_path)
    return path, path.with_suffix(".nc"), path.with_suffix(".png")


def write_evaluation(evaluation: Evaluation, json_path: str | Path) -> None:
    """Write the report to `json_path`, and beside it the per-voxel scores and a plot of r against n.

    The report comes last: where it is, all are.
    """
    from braincl.plot import plot_scores

    report_path, voxel_path, plot_path = output_paths(json_path)
    save_netcdf(evaluation.voxels, voxel_path)
    plot_scores(evaluation.report, plot_path)
    write_json(report_path, evaluation.report | {"voxel_file": voxel_path.name, "plot_file": plot_path.name})


def _prepare(given: xr.Dataset, contexts: Sequence[int], draws: int, test_images: int | None, seed: int) -> _Subject:
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
    return _Subject(dataset, dataset["embedding"].values, Y, splits, kept)


def _load_encoder(model: Any) -> Any:
    if model is None or isinstance(model, str | Path):
        from braincl.encoder import InContextEncoder

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
    scores: dict[str, NDArray[Any]], data: _Subject, contexts: Sequence[int], draws: int, ceiling: NDArray[Any] | None
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


def _row(
    method: str,
    n: int,
    scores: dict[str, NDArray[Any]],
    ceiling: NDArray[Any] | None,
    interval: tuple[float, float],
) -> dict[str, Any]:
    """One line of the table, from scores of shape (draw, voxel); voxels without a score do not count."""
    ev = scores["explained_variance"].mean(axis=0)  # NaN in all draws or in none
    normalized = math.nan if ceiling is None else normalized_explained_variance(ev, ceiling)
    return {
        "method": method,
        "n": n,
        "pearson_r": _mean(scores["pearson_r"]),
        "explained_variance": _mean(ev),
        "normalized_explained_variance": _number(normalized),
        "interval_low": _number(interval[0]),
        "interval_high": _number(interval[1]),
        "coverage_90": _mean(scores["coverage_90"]),
        "nll": _mean(scores["nll"]),
        "seconds": _mean(scores["seconds"]),
    }


def _null_row(method: str, n: int, reason: str) -> dict[str, Any]:
    values = ("pearson_r", "explained_variance", "normalized_explained_variance", "interval_low", "interval_high",
              "coverage_90", "nll", "seconds")  # fmt: skip
    return {"method": method, "n": n, **dict.fromkeys(values), "reason": reason}


def _difference(baseline: str, n: int, compared: tuple[float, float, float]) -> dict[str, Any]:
    mean, low, high = map(_number, compared)
    return {
        "method": "model", "baseline": baseline, "n": n, "pearson_r": mean, "interval_low": low, "interval_high": high,
    }  # fmt: skip


def _mean(values: NDArray[Any]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=np.float64)) if known.size else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _circumstances(
    given: xr.Dataset, data: _Subject, encoder: Any, contexts: Sequence[int], draws: int, seed: int
) -> dict[str, Any]:
    """What a reader of the report must know beside the scores, warnings included."""
    subject = str(given.attrs.get("subject", ""))
    training = [str(name) for name in encoder.training_subjects]
    pictures, test = len(data.X), len(data.splits.test)
    warnings = []
    if subject in training:
        warnings.append(f"subject {subject!r} was in training: its scores say nothing about new subjects")
    if not subject:
        warnings.append("the response set has no attribute 'subject': whether it was in training cannot be told")
    if (repeated := given.sizes["image"] - pictures) > 0:
        warnings.append(f"{repeated} rows show a picture again; they were averaged before the split")
    if (shared := _shared_embeddings(data)) > 0:
        warnings.append(
            f"{shared} test images have the embedding of an image in the context pool under another image_id: they "
            "may show the same picture"
        )
    if (excluded := int((~data.kept).sum())) > 0:
        warnings.append(f"{excluded} voxels are constant over the test images and were left out")
    return {
        "subject": subject,
        "subject_in_training": subject in training,
        "training_subjects": training,
        "voxels": int(data.kept.sum()),
        "excluded_constant_voxels": excluded,
        "images": pictures,
        "test_images": test,
        "contexts": [int(n) for n in contexts],
        "draws": draws,
        "disjoint_draws": {str(n): min(draws, (pictures - test) // n) for n in contexts},
        "seed": seed,
        "warnings": warnings,
    }


def _shared_embeddings(data: _Subject) -> int:
    """Number of test images whose embedding is also that of an image in the pool."""
    test = set(data.splits.test.tolist())
    pool = {data.X[row].tobytes() for row in range(len(data.X)) if row not in test}
    return sum(data.X[row].tobytes() in pool for row in test)
