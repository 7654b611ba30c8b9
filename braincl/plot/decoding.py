"""What is done with fitted encoders: identification and variance partitioning by region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from braincl.analysis.identify import responses_scored
from braincl.plot.axes import COLOURS, new_axes
from setcore.files import atomic_path

PANELS = {"top_1": ("top-1", COLOURS[0]), "top_5": ("top-5", COLOURS[5]), "two_alternative": ("2AFC", COLOURS[1])}


def plot_identification(report: dict[str, Any], path: str | Path) -> None:
    """Plot identification by region to an image file.

    Parameters
    ----------
    report : dict
        From `braincl.identify_pictures`.
    path : path whose suffix chooses the format
    """
    _save(draw_identification(report), path)


def draw_identification(report: dict[str, Any], axes: Any = None) -> Any:
    """Draw how many pictures each region identifies, with 95 % intervals; dotted lines are chance.

    Parameters
    ----------
    report : dict
        From `braincl.identify_pictures`.
    axes : matplotlib axes, optional

    Returns
    -------
    matplotlib axes
    """
    rows, count = report["results"], report["candidates"]
    axes = new_axes(axes, (max(4.5, 1.2 + 0.9 * len(rows)), 4))
    chance = {"top_1": 1 / count, "top_5": min(5 / count, 1), "two_alternative": 0.5}
    for number, (name, (label, colour)) in enumerate(PANELS.items()):
        at = [place + 0.2 * (number - 1) for place in range(len(rows))]
        values = [row[name] for row in rows]
        known = [row[f"{name}_low"] is not None for row in rows]  # a single response has no interval
        spread = [
            [abs(row[name] - row[f"{name}_{end}"]) if has else 0 for row, has in zip(rows, known, strict=True)]
            for end in ("low", "high")
        ]
        axes.errorbar(at, values, spread, fmt="o", color=colour, capsize=3, label=label)
        axes.axhline(chance[name], color=colour, linestyle=":", linewidth=1)
    axes.set_xticks(range(len(rows)), [f"{row['roi']}\n{row['voxels']}" for row in rows])
    axes.set(xlim=(-0.6, len(rows) - 0.4), ylim=(0, 1), xlabel="region, number of voxels", ylabel="share of responses")
    axes.set_title(
        f"{report['subject'] or 'subject without a name'}\n{responses_scored(report)}, {count} candidates",
        fontsize="medium", wrap=True, pad=22,
    )  # fmt: skip
    axes.legend(frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return axes


def plot_partition(report: dict[str, Any], path: str | Path) -> None:
    """Plot variance partitioning by region to an image file.

    Parameters
    ----------
    report : dict
        From `braincl.analysis.partition.partition_report`.
    path : path whose suffix chooses the format
    """
    _save(draw_partition(report), path)


def draw_partition(report: dict[str, Any], axes: Any = None) -> Any:
    """Draw the explained variance that is unique to each space and shared, by region, with 95 % intervals over voxels.

    Parameters
    ----------
    report : dict
        From `braincl.analysis.partition.partition_report`.
    axes : matplotlib axes, optional

    Returns
    -------
    matplotlib axes
    """
    rows = [row for row in report["results"] if not row["part"].startswith("product ")]
    regions = list(dict.fromkeys((row["roi"], row["voxels"]) for row in rows if row["part"] == "total"))
    parts = list(dict.fromkeys(row["part"] for row in rows))
    axes = new_axes(axes, (max(5, 1.5 + 1.1 * len(regions)), 4))
    width = 0.8 / len(parts)
    for number, part in enumerate(parts):
        of_part = {row["roi"]: row for row in rows if row["part"] == part}
        found = [(place, of_part[name]) for place, (name, _) in enumerate(regions) if name in of_part]
        at = [place + (number - (len(parts) - 1) / 2) * width for place, _ in found]
        means = [row["mean"] for _, row in found]
        spread = [[row["mean"] - row["interval_low"] for _, row in found],
                  [row["interval_high"] - row["mean"] for _, row in found]]  # fmt: skip
        label = part if part == "total" else f"shared: {part}" if "&" in part else f"unique: {part}"
        colour = "#999999" if part == "total" else COLOURS[number % (len(COLOURS) - 1)]
        axes.bar(at, means, width, color=colour, alpha=0.85, label=label)
        axes.errorbar(at, means, spread, fmt="none", ecolor="black", capsize=2, linewidth=1)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks(range(len(regions)), [f"{name}\n{count}" for name, count in regions])
    axes.set(xlabel="region, number of voxels", ylabel="explained variance, mean over voxels")
    kept = f", {report['groups']} left out whole" if report["groups"] else ""
    axes.set_title(
        f"{report['subject'] or 'subject without a name'}\n{report['images']} pictures, {report['folds']} folds{kept}",
        fontsize="medium", wrap=True, pad=36,
    )  # fmt: skip
    axes.legend(frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return axes


def _save(axes: Any, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        axes.figure.savefig(temporary, dpi=150)
