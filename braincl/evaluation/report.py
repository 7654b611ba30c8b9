"""An evaluation as a JSON report, a NetCDF file of per-voxel scores, and a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.responses import save_netcdf
from braincl.evaluation.splits import SplitSubject
from braincl.models.model_folder import short_ids
from setcore.evaluation.metrics import normalized_explained_variance
from setcore.files import write_json


class Evaluation(NamedTuple):
    """What `evaluate` returns.

    Parameters
    ----------
    report : dict
        The content of the JSON file.
    voxels : Dataset
        Scores of every method, context size, draw and voxel.
    """

    report: dict[str, Any]
    voxels: xr.Dataset


def output_paths(json_path: str | Path) -> tuple[Path, Path, Path]:
    """The files of an evaluation: the report, the per-voxel scores (.nc) and the plot (.png) beside it.

    Parameters
    ----------
    json_path : path
        Of the report.

    Returns
    -------
    report, voxels, plot : Path
    """
    path = Path(json_path)
    return path, path.with_suffix(".nc"), path.with_suffix(".png")


def write_evaluation(
    evaluation: Evaluation, json_path: str | Path, plot: Callable[[dict[str, Any], Path], None] | None = None
) -> None:
    """Write the report to `json_path`, and beside it the per-voxel scores and a plot.

    The report comes last: where it is, all are.

    Parameters
    ----------
    evaluation : Evaluation
    json_path : path
        See `output_paths` for the files beside it.
    plot : callable, optional
        Draws a report into an image file, such as `braincl.plot.plot_scores`. None: no plot is written.
    """
    report_path, voxel_path, plot_path = output_paths(json_path)
    files = {"voxel_file": voxel_path.name}
    save_netcdf(evaluation.voxels, voxel_path)
    if plot is not None:
        plot(evaluation.report, plot_path)
        files["plot_file"] = plot_path.name
    write_json(report_path, evaluation.report | files)


def format_table(report: dict[str, Any]) -> str:
    """A report as a table to print.

    Parameters
    ----------
    report : dict
        From `braincl.evaluate`.

    Returns
    -------
    str
    """
    columns = ("pearson_r", "explained_variance", "normalized_explained_variance", "coverage_90", "nll", "seconds")
    heads = ("r", "EV", "EV/ceiling", "cover 90", "nll", "seconds")
    lines = [f"{'method':15}{'n':>6}" + "".join(f"{head:>12}" for head in heads) + "   r, 95 %"]
    for row in report["results"]:
        cells = "".join(f"{'-' if row[name] is None else format(row[name], '.3f'):>12}" for name in columns)
        if row["interval_low"] is not None:
            cells += f"   {row['interval_low']:.3f}..{row['interval_high']:.3f}"
        lines.append(f"{row['method']:15}{row['n']:>6}{cells}")
    for row in report["differences"]:
        lines.append(
            f"model - {row['baseline']}, n = {row['n']}: r {row['pearson_r']:+.3f} "
            f"({row['interval_low']:+.3f}..{row['interval_high']:+.3f})"
        )
    if report["noise_ceiling_r"] is not None:
        lines.append(f"noise ceiling: r {report['noise_ceiling_r']:.3f}, from {report['noise_ceiling_from']}")
    if report["prior_reason"]:
        lines.append(f"closed forms under a population prior are left out: {report['prior_reason']}")
    return "\n".join(lines)


def score_row(
    method: str,
    n: int,
    scores: dict[str, NDArray[Any]],
    ceiling: NDArray[Any] | None,
    interval: tuple[float, float],
) -> dict[str, Any]:
    """One line of the table: means over draws and voxels.

    Parameters
    ----------
    method : str
    n : int
        Images in a context.
    scores : dict of str to array of shape (draws,) or (draws, n_voxels)
        Voxels without a score (NaN) do not count.
    ceiling : array of shape (n_voxels,), optional
        Noise ceiling, 0..1.
    interval : (low, high)
        Of the mean r.

    Returns
    -------
    dict
    """
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


def mean_ceiling(ceiling: NDArray[Any]) -> float | None:
    """The mean r that predictions free of error would have: noise is in the responses that they are compared with.

    Parameters
    ----------
    ceiling : array of shape (n_voxels,)
        Explainable share of variance; below 0 counts as 0.

    Returns
    -------
    float or None
        None where no voxel has one.
    """
    return _mean(np.sqrt(np.clip(ceiling, 0, None)))


def null_row(method: str, n: int, reason: str) -> dict[str, Any]:
    """The line of a method that could not be run.

    Parameters
    ----------
    method : str
    n : int
    reason : str

    Returns
    -------
    dict
    """
    values = ("pearson_r", "explained_variance", "normalized_explained_variance", "interval_low", "interval_high",
              "coverage_90", "nll", "seconds")  # fmt: skip
    return {"method": method, "n": n, **dict.fromkeys(values), "reason": reason}


def difference_row(baseline: str, n: int, compared: tuple[float, float, float]) -> dict[str, Any]:
    """One line of how the model compares with a baseline.

    Parameters
    ----------
    baseline : str
    n : int
    compared : (mean, low, high)
        Difference in r, and its interval.

    Returns
    -------
    dict
    """
    mean, low, high = map(_number, compared)
    return {
        "method": "model", "baseline": baseline, "n": n, "pearson_r": mean, "interval_low": low, "interval_high": high,
    }  # fmt: skip


def metadata(
    given: xr.Dataset,
    data: SplitSubject,
    encoder: Any,
    contexts: Sequence[int],
    draws: int,
    seed: int,
    listed: bool = False,
) -> dict[str, Any]:
    """What a reader of the report must know beside the scores, warnings included.

    Parameters
    ----------
    given : response set
        As it came.
    data : SplitSubject
    encoder : encoder
        With `training_subjects`.
    contexts : sequence of int
    draws, seed : int
    listed : bool
        Whether the test pictures came as a list.

    Returns
    -------
    dict
    """
    subject = str(given.attrs.get("subject", ""))
    training = [str(name) for name in encoder.training_subjects]
    pictures, test = len(data.X), len(data.splits.test)
    drawn = "the split of the response set" if "split" in given.variables else "a random draw"
    test_from = "a list" if listed else drawn
    warnings = []
    if subject in training:
        warnings.append(f"subject {subject!r} was in training: its scores say nothing about new subjects")
    if not subject:
        warnings.append("the response set has no attribute 'subject': whether it was in training cannot be told")
    ids = data.dataset["image_id"].values[data.splits.test]
    if (seen := int(np.isin(short_ids(ids), encoder.training_images).sum())) > 0:
        warnings.append(
            f"{seen} of {test} test images were in training, with the responses of other subjects: scores say little "
            "about new pictures; train with --exclude-images"
        )
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
        "test_images_from": test_from,
        "contexts": [int(n) for n in contexts],
        "draws": draws,
        "disjoint_draws": {str(n): min(draws, (pictures - test) // n) for n in contexts},
        "seed": seed,
        "warnings": warnings,
    }


def _shared_embeddings(data: SplitSubject) -> int:
    """Number of test images whose embedding is also that of an image in the pool."""
    test = set(data.splits.test.tolist())
    pool = {data.X[row].tobytes() for row in range(len(data.X)) if row not in test}
    return sum(data.X[row].tobytes() in pool for row in test)


def _mean(values: NDArray[Any]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=np.float64)) if known.size else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
