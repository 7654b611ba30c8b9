"""Scores: against the size of the context, by area, and of the predictive intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.errors import ResponseError
from braincl.plot.axes import COLOURS, new_axes
from setcore.evaluation.bootstrap import bootstrap_mean
from setcore.evaluation.metrics import interval_coverage
from setcore.files import atomic_path

STYLES = {
    "model": ("model", COLOURS[0], "o"),
    "prior_ensemble": ("population-prior ensemble", COLOURS[3], "D"),
    "prior_kernel": ("population-prior kernels", COLOURS[4], "P"),
    "prior_ridge": ("population-prior ridge", COLOURS[1], "s"),
    "ridge": ("ridge", COLOURS[2], "^"),
    "mean": ("mean", COLOURS[7], "v"),
}
SCORE_NAMES = {"pearson_r": "Pearson r", "explained_variance": "explained variance"}
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def plot_scores(report: dict[str, Any], path: str | Path) -> None:
    """Plot mean Pearson r against context size for all methods, with 95 % intervals, to an image file.

    Parameters
    ----------
    report : the report of `braincl.evaluate`
    path : path whose suffix chooses the format
    """
    axes = draw_scores(report)
    with atomic_path(path) as temporary:
        axes.figure.savefig(temporary, dpi=150)


def draw_scores(
    report: dict[str, Any], axes: Any = None, score: str = "pearson_r", voxels: xr.Dataset | None = None
) -> Any:
    """Draw a mean score against context size for all methods, with 95 % intervals.

    Parameters
    ----------
    report : the report of `braincl.evaluate`
    axes : matplotlib axes, optional
    score : {"pearson_r", "explained_variance"}
    voxels : Dataset, optional
        The scores per voxel of the same evaluation. The report holds intervals of r only; those of explained variance
        are a bootstrap over voxels of its mean over draws, and need them.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    ResponseError
        The score is unknown.
    """
    if score not in SCORE_NAMES:
        raise ResponseError(f"score is {score!r}; it must be one of {', '.join(SCORE_NAMES)}")
    axes = new_axes(axes)
    for method, (label, colour, marker) in STYLES.items():
        rows = [row for row in report["results"] if row["method"] == method and row[score] is not None]
        if not rows:
            continue
        rows.sort(key=lambda row: row["n"])
        sizes = [row["n"] for row in rows]
        axes.plot(sizes, [row[score] for row in rows], color=colour, marker=marker, label=label)
        if score == "pearson_r":
            intervals = [(row["interval_low"], row["interval_high"]) for row in rows]
        elif voxels is not None:
            of_method = voxels[score].sel(estimator=method).mean("draw")
            intervals = [_interval(of_method.sel(n=n).values) for n in sizes]
        else:
            continue
        axes.fill_between(sizes, *zip(*intervals, strict=True), color=colour, alpha=0.15, linewidth=0)
    if axes.get_ylim()[0] > 0 or min(row[score] or 0 for row in report["results"]) >= 0:
        axes.set_ylim(bottom=0)
    axes.set_xscale("log")
    axes.set_xticks(report["contexts"], [str(n) for n in report["contexts"]])
    axes.minorticks_off()
    axes.set_xlabel("context images")
    axes.set_ylabel(f"{SCORE_NAMES[score]}, mean over voxels")
    counts = f"{report['voxels']} voxels, {report['test_images']} test images"
    axes.set_title(f"{report['subject'] or 'subject without a name'}\n{counts}", fontsize="medium", wrap=True)
    axes.legend(frameon=False, fontsize="small", ncols=2)
    return axes


def draw_roi_bars(
    values: Any, roi: Any, axes: Any = None, *, label: str = "Pearson r", order: Any = None, seed: int = 0
) -> Any:
    """Draw the mean over the voxels of each area as bars, with 95 % bootstrap intervals over voxels.

    Parameters
    ----------
    values : array of shape (n_voxels,), or dict of name to such arrays
        Several ones stand beside each other in each area. NaN (voxels without a score) do not count.
    roi : sequence of str of length n_voxels
    axes : matplotlib axes, optional
    label : str
        Of the axis of values.
    order : sequence of str, optional
        Areas in the order wanted; None: in the order of names.
    seed : int
        Of the bootstrap.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    ResponseError
        Lengths differ, or an area has no voxel with a value.
    """
    groups = dict(values) if isinstance(values, Mapping) else {"": values}
    roi = np.asarray(roi)
    areas = list(order) if order is not None else sorted(set(roi.tolist()))
    axes = new_axes(axes)
    width = 0.8 / len(groups)
    for number, (name, of_group) in enumerate(groups.items()):
        of_group = np.asarray(of_group, dtype=float)
        if of_group.shape != roi.shape:
            raise ResponseError(f"{len(roi)} areas for values of shape {of_group.shape}; give one for each voxel")
        parts = [of_group[(roi == area) & np.isfinite(of_group)] for area in areas]
        for area, part in zip(areas, parts, strict=True):
            if len(part) == 0:
                raise ResponseError(f"area {area!r} has no voxel with a value; leave it out of `order`")
        means = np.array([part.mean() for part in parts])
        low, high = np.transpose([bootstrap_mean(part, seed=seed) for part in parts])
        at = np.arange(len(areas)) + (number - (len(groups) - 1) / 2) * width
        colour = COLOURS[number % len(COLOURS)]
        axes.bar(at, means, width, color=colour, label=name or None, alpha=0.85)
        axes.errorbar(at, means, [means - low, high - means], fmt="none", ecolor="black", capsize=3, linewidth=1)
    counts = [int((roi == area).sum()) for area in areas]
    axes.set_xticks(range(len(areas)), [f"{area}\n{count}" for area, count in zip(areas, counts, strict=True)])
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(xlabel="area, number of voxels", ylabel=f"{label}, mean over voxels")
    if len(groups) > 1:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.15 * (high - low))  # room for the legend
        axes.legend(frameon=False, ncols=len(groups), loc="upper center", fontsize="small")
    return axes


def draw_reliability(observed: Any, mean: Any, std: Any, axes: Any = None, *, label: str = "") -> Any:
    """Draw how many responses lie inside the predictive intervals, against how many should.

    Parameters
    ----------
    observed, mean, std : array of shape (m, n_voxels)
        Measured responses, predictions and their standard deviations, as from ``predict(X, return_std=True)``.
    axes : matplotlib axes, optional
    label : str
        Of the curve, for several in one figure.

    Returns
    -------
    matplotlib axes
        The curve is the mean over voxels, the band holds the middle 80 % of voxels. On the diagonal the intervals keep
        what they promise; below it they are too narrow.
    """
    coverage = np.array([interval_coverage(observed, mean, std, level) for level in LEVELS])
    coverage = coverage[:, np.isfinite(coverage[0])]
    axes = new_axes(axes, (4.5, 4.5))
    earlier = max(len(axes.lines) - 1, 0)
    if not axes.lines:
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    colour, style = COLOURS[earlier % len(COLOURS)], ("-", "--", ":", "-.")[earlier % 4]
    axes.fill_between(LEVELS, *np.quantile(coverage, [0.1, 0.9], axis=1), color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        LEVELS, coverage.mean(axis=1), color=colour, linestyle=style, marker="o", markersize=4, label=label or None
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="nominal coverage", ylabel="observed coverage", aspect="equal")
    axes.set_title("predictive intervals: mean and middle 80 % of voxels", fontsize="medium", wrap=True)
    if label:
        axes.legend(frameon=False)
    return axes


def _interval(values: NDArray[Any]) -> tuple[float, float]:
    return bootstrap_mean(values[np.isfinite(values)])
