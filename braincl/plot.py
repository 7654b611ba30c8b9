"""The figure beside an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from setcore.files import atomic_path

# colours of Okabe & Ito (2008), told apart with any colour vision
STYLES = {
    "model": ("model", "#0072B2", "o"),
    "prior_ridge": ("population-prior ridge", "#D55E00", "s"),
    "ridge": ("ridge", "#009E73", "^"),
    "mean": ("mean", "#999999", "v"),
}


def plot_scores(report: dict[str, Any], path: str | Path) -> None:
    """Plot mean Pearson r against context size for all methods, with 95 % intervals, to an image file.

    Parameters
    ----------
    report : the report of `braincl.evaluate`
    path : path whose suffix chooses the format
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    draw_scores(report, figure.subplots())
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_scores(report: dict[str, Any], axes: Any) -> None:
    """Draw what `plot_scores` plots into matplotlib `axes`."""
    for method, (label, colour, marker) in STYLES.items():
        rows = [row for row in report["results"] if row["method"] == method and row["pearson_r"] is not None]
        if not rows:
            continue
        rows.sort(key=lambda row: row["n"])
        sizes = [row["n"] for row in rows]
        axes.plot(sizes, [row["pearson_r"] for row in rows], color=colour, marker=marker, label=label)
        low, high = ([row[end] for row in rows] for end in ("interval_low", "interval_high"))
        axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(report["contexts"], [str(n) for n in report["contexts"]])
    axes.minorticks_off()
    axes.set_xlabel("context images")
    axes.set_ylabel("Pearson r, mean over voxels")
    axes.set_title(
        f"subject {report['subject'] or 'unnamed'}: {report['voxels']} voxels, {report['test_images']} test images"
    )
    axes.legend(frameon=False)
