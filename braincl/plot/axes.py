"""Axes to draw into, for functions that are given none."""

from __future__ import annotations

from typing import Any

# colours of Okabe & Ito (2008), told apart with any colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def new_axes(axes: Any = None, size: tuple[float, float] = (6, 4), **options: Any) -> Any:
    """`axes`, or those of a new figure, which pyplot does not keep, so that no memory leaks.

    Parameters
    ----------
    axes : matplotlib axes, optional
    size : (width, height)
        In inches, of a new figure.
    **options
        Of `matplotlib.figure.Figure.subplots`.

    Returns
    -------
    matplotlib axes, or an array of them
    """
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").subplots(**options)
