"""What can be read from responses: identification by region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    axes = draw_identification(report)
    with atomic_path(path) as temporary:
        axes.figure.savefig(temporary, dpi=150)


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
        spread = [[row[name] - row[f"{name}_low"] for row in rows], [row[f"{name}_high"] - row[name] for row in rows]]
        axes.errorbar(at, values, spread, fmt="o", color=colour, capsize=3, label=label)
        axes.axhline(chance[name], color=colour, linestyle=":", linewidth=1)
    axes.set_xticks(range(len(rows)), [f"{row['roi']}\n{row['voxels']}" for row in rows])
    axes.set(ylim=(0, 1), xlabel="region, number of voxels", ylabel="share of responses")
    axes.set_title(
        f"{report['subject'] or 'subject without a name'}\n{len(report['responses'])} responses, {count} candidates",
        fontsize="medium", wrap=True,
    )  # fmt: skip
    axes.legend(frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.12))
    return axes
