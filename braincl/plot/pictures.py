"""Pictures: those that a voxel or area prefers, and those of the context that its weights rest on."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braincl.data.pictures import read_picture
from braincl.errors import ResponseError
from braincl.plot.axes import COLOURS, new_axes

TEXT_WIDTH = 12  # characters of a line where a picture's name stands in its place


def draw_pictures(responses: Any, pictures: Sequence[Any], axes: Any = None, *, count: int = 5, label: str = "") -> Any:
    """Draw the pictures of the highest responses, and below them those of the lowest.

    Parameters
    ----------
    responses : array of shape (m,)
        Of one voxel, measured or predicted, or the mean over an area.
    pictures : sequence of length m
        Paths, images of PIL, arrays (height, width, 3), or, where the pictures are not at hand, their names.
    axes : array of matplotlib axes of shape (2, count), optional
    count : int
        Pictures in a row.
    label : str
        Of the figure, such as the voxel's id.

    Returns
    -------
    array of matplotlib axes of shape (2, count)

    Raises
    ------
    ResponseError
        Lengths differ, or there are fewer than ``2 * count`` pictures.
    """
    responses = np.asarray(responses, dtype=float)
    if responses.ndim != 1 or len(pictures) != len(responses) or len(responses) < 2 * count:
        raise ResponseError(
            f"responses of shape {responses.shape} to {len(pictures)} pictures; give one for each, {2 * count} or more"
        )
    grid = new_axes(axes, (1.5 * count, 3.6), nrows=2, ncols=count)
    order = np.argsort(-responses, kind="stable")
    for row, chosen in enumerate((order[:count], order[::-1][:count])):
        for place, index in zip(grid[row], chosen, strict=True):
            _show(place, pictures[index], f"{responses[index]:.2f}")
        grid[row, 0].set_ylabel(("highest", "lowest")[row])
    if label:
        grid[0, 0].figure.suptitle(label, fontsize="medium")
    return grid


def draw_context(shares: Any, pictures: Sequence[Any], axes: Any = None, *, count: int = 5, label: str = "") -> Any:
    """Draw how a voxel's weights rest on the context: all shares in order, and the pictures of the largest.

    Parameters
    ----------
    shares : array of shape (n,)
        A row of `braincl.analysis.attribution.context_shares`.
    pictures : sequence of length n
        As in `draw_pictures`.
    axes : sequence of ``1 + count`` matplotlib axes, optional
        The curve, then the pictures.
    count : int
    label : str

    Returns
    -------
    array of matplotlib axes of shape (1 + count,)

    Raises
    ------
    ResponseError
        Lengths differ, there are too few pictures, or the voxel has no shares since it is constant in the context.
    """
    shares = np.asarray(shares, dtype=float)
    if shares.ndim != 1 or len(pictures) != len(shares) or len(shares) < count:
        raise ResponseError(
            f"shares of shape {shares.shape} for {len(pictures)} pictures; give one each, {count} or more"
        )
    if not np.isfinite(shares).all():
        raise ResponseError("the shares are NaN: the voxel is constant in the context, its weights rest on no picture")
    ratios = {"width_ratios": [2.2, *[1] * count]}
    row = np.asarray(new_axes(axes, (3 + 1.4 * count, 2.2), ncols=1 + count, gridspec_kw=ratios))
    order = np.argsort(-shares, kind="stable")
    curve = row[0]
    curve.bar(range(len(shares)), shares[order], width=1, color=COLOURS[0])
    curve.axhline(1 / len(shares), color="black", linewidth=0.8, linestyle="--")
    curve.annotate("all alike", (len(shares), 1 / len(shares)), ha="right", va="bottom", fontsize="x-small")
    curve.set(xlabel="context pictures, in order", ylabel="share of the weights")
    for place, index in zip(row[1:], order[:count], strict=True):
        _show(place, pictures[index], f"{shares[index]:.1%}")
    if label:
        curve.figure.suptitle(label, fontsize="medium")
    return row


def _show(axes: Any, picture: Any, title: str) -> None:
    """One picture in its axes: an image, the image of a file, or a name."""
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize="small")
    pixels = picture_pixels(picture)
    if pixels is not None:
        axes.imshow(pixels)
        return
    axes.set_box_aspect(1)
    lines = "\n".join(textwrap.wrap(str(picture), TEXT_WIDTH)[:4])
    axes.text(0.5, 0.5, lines, ha="center", va="center", fontsize="x-small", transform=axes.transAxes)


def picture_pixels(picture: Any) -> NDArray[Any] | None:
    """Pixels of a picture.

    Parameters
    ----------
    picture : path, image of PIL, array, or the name of a picture that is not at hand

    Returns
    -------
    array of shape (height, width, 3), or None for a name
    """
    if isinstance(picture, Path) or (isinstance(picture, str) and Path(picture).is_file()):
        return np.asarray(read_picture(picture)[1])
    return None if isinstance(picture, str) else np.asarray(picture)
