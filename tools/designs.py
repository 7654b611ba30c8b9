"""Both designs as boxes and arrows: what goes in, what is worked out, what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from setcore.files import atomic_path

WIDTH, HEIGHT = 2.3, 0.92  # of a box
GIVEN, LEARNED, FOUND = "#e8e8e8", "#cfe3f5", "#fde5cc"  # kinds of boxes
KINDS = ((GIVEN, "given, or comes out"), (LEARNED, "learned from training data"), (FOUND, "worked out for this input"))

Box = tuple[float, float, str, str]
BRAINCL: dict[str, Box] = {
    "subjects": (0, 2, "training subjects", GIVEN),
    "prior": (1, 2, "population prior:\nmean and covariance\nof tuning", LEARNED),
    "X": (0, 1, "embeddings X\nof n pictures", GIVEN),
    "Y": (2, 0, "responses Y of\nevery voxel to them", GIVEN),
    "experts": (1, 1, "experts: that prior,\nlooser and generic ones", FOUND),
    "evidence": (2, 1, "evidence, mean and\nleave-one-out error\nof each voxel", FOUND),
    "network": (3, 2, "set transformer over\nall voxels", LEARNED),
    "weights": (3, 1, "weights of experts\nand noise levels", FOUND),
    "encoder": (4, 1, "linear encoder\nof each voxel,\nwith error bars", GIVEN),
}
BRAINCL_ARROWS = (
    ("subjects", "prior"), ("prior", "experts"), ("X", "experts"), ("Y", "evidence"), ("experts", "evidence"),
    ("evidence", "network"), ("network", "weights"), ("evidence", "weights"), ("weights", "encoder"),
)  # fmt: skip
VAT3D: dict[str, Box] = {
    "mesh": (0, 1, "mesh", GIVEN),
    "solid": (1, 1, "closed solid\nin its own frame", FOUND),
    "encoder": (2, 1, "set transformer on\npoints of its surface", LEARNED),
    "planes": (3, 1, "three feature planes", FOUND),
    "tokens": (3, 0, "tokens: residual\nquantisation, coarse\nto fine", LEARNED),
    "file": (4, 0, "token file:\nentropy-coded ids,\nsparse residual", GIVEN),
    "decoder": (2, 0, "decoder: signed\ndistance of any prefix", LEARNED),
    "surface": (1, 0, "zero level, extracted\nhierarchically", FOUND),
    "out": (0, 0, "watertight mesh", GIVEN),
}
VAT3D_ARROWS = (
    ("mesh", "solid"), ("solid", "encoder"), ("encoder", "planes"), ("planes", "tokens"), ("tokens", "file"),
    ("tokens", "decoder"), ("decoder", "surface"), ("surface", "out"),
)  # fmt: skip
REFINEMENT = ("decoder", "tokens", "normal, best: gradient\nsteps move the tokens")


def draw(
    boxes: dict[str, Box], arrows: Sequence[tuple[str, str]], path: Path, back: tuple[str, str, str] | None = None
) -> None:
    """Draw one design; `back` is an arrow that goes back below two boxes, with what it means."""
    rows = 1 + max(y for _, y, _, _ in boxes.values())
    figure = Figure(figsize=(11, 1.45 * rows + (0.9 if back else 0.4)), layout="constrained")
    axes = figure.subplots()
    middles = {name: (3 * x, 1.5 * y) for name, (x, y, _, _) in boxes.items()}
    for name, (_, _, text, colour) in boxes.items():
        x, y = middles[name]
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        shape = FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle="round,pad=0.05", facecolor=colour, edgecolor="#555555")
        axes.add_patch(shape)
        axes.text(x, y, text, ha="center", va="center", fontsize=9.5)
    for start, stop in arrows:
        axes.add_patch(_arrow(middles[start], middles[stop]))
    if back:
        (x0, y0), (x1, y1) = middles[back[0]], middles[back[1]]
        below = HEIGHT / 2 + 0.08
        ends = {"posA": (x0, y0 - below), "posB": (x1, y1 - below)}
        axes.add_patch(
            FancyArrowPatch(
                **ends, connectionstyle="arc3,rad=0.35", arrowstyle="-|>", mutation_scale=14, color="#333333"
            )
        )
        axes.text((x0 + x1) / 2, y0 - below - 0.75, back[2], ha="center", va="top", fontsize=9.5, style="italic")
    for number, (colour, text) in enumerate(KINDS):
        axes.scatter([], [], marker="s", s=120, color=colour, edgecolor="#555555", label=text, zorder=number)
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=10)
    axes.set_xlim(-1.4, 13.4)
    axes.set_ylim(-0.75 - (1.25 if back else 0), 1.5 * (rows - 1) + 0.7)
    axes.axis("off")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _arrow(start: tuple[float, float], stop: tuple[float, float]) -> FancyArrowPatch:
    """From the side of one box to the side of another."""
    (x0, y0), (x1, y1) = start, stop
    sides, ends = WIDTH / 2 + 0.08, HEIGHT / 2 + 0.08
    if x0 == x1:
        up = 1 if y1 > y0 else -1
        points = (x0, y0 + up * ends), (x1, y1 - up * ends)
    else:
        right = 1 if x1 > x0 else -1
        points = (x0 + right * sides, y0), (x1 - right * sides, y1)
    return FancyArrowPatch(*points, arrowstyle="-|>", mutation_scale=14, color="#333333")
