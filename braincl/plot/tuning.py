"""What voxels are tuned to: their weights in two dimensions, coloured by area."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braincl.errors import ResponseError
from braincl.plot.axes import COLOURS, new_axes
from setcore.errors import InputError
from setcore.seeding import numpy_generator


def draw_tuning(weights: Any, roi: Any, axes: Any = None, *, method: str = "pca", seed: int = 0) -> Any:
    """Draw voxels by the direction of their weights, coloured by area.

    Parameters
    ----------
    weights : array of shape (n_voxels, n_features)
        Without the intercepts. Each voxel's is brought to unit norm: how strongly it responds is not what it is tuned
        to. Voxels whose weights are 0 are left out.
    roi : sequence of str of length n_voxels
    axes : matplotlib axes, optional
    method : {"pca", "umap"}
        UMAP (McInnes, Healy & Melville 2018) needs umap-learn.
    seed : int
        Of UMAP and of the order in which points are drawn.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    InputError
        umap-learn is asked for and is not installed.
    ResponseError
        The method is unknown, or weights and areas do not fit.
    """
    weights, roi = np.asarray(weights, dtype=float), np.asarray(roi)
    if weights.ndim != 2 or roi.shape != weights.shape[:1]:
        raise ResponseError(
            f"weights of shape {weights.shape} and {len(roi)} areas; give (voxel, feature) and (voxel,)"
        )
    norms = np.linalg.norm(weights, axis=1)
    if (norms > 0).sum() < 3:
        raise ResponseError(f"{int((norms > 0).sum())} voxels have weights; a picture of tuning needs at least 3")
    directions, roi = weights[norms > 0] / norms[norms > 0, None], roi[norms > 0]
    if method == "pca":
        places, shares = principal_components(directions)
        labels = [f"component {number} ({share:.0%} of variance)" for number, share in enumerate(shares, start=1)]
    elif method == "umap":
        places, labels = _umap(directions, seed), ["UMAP 1", "UMAP 2"]
    else:
        raise ResponseError(f"method is {method!r}; it must be 'pca' or 'umap'")
    axes = new_axes(axes, (5.5, 5))
    areas = sorted(set(roi.tolist()))
    order = numpy_generator(seed, "tuning").permutation(len(roi))  # else the last area would cover the others
    number = np.array([areas.index(area) for area in roi])[order]
    palette = np.array([COLOURS[index % len(COLOURS)] for index in range(len(areas))])
    axes.scatter(*places[order].T, c=palette[number], s=max(6, 300 / np.sqrt(len(roi))), linewidths=0, alpha=0.6)
    for area, colour in zip(areas, palette, strict=True):
        axes.scatter([], [], color=colour, s=25, label=area)
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    axes.set(xlabel=labels[0], ylabel=labels[1], xticks=[], yticks=[])
    axes.set_title(f"tuning of {len(roi)} voxels", fontsize="medium")
    return axes


def principal_components(rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first two principal components of rows.

    Parameters
    ----------
    rows : array of shape (V, E)

    Returns
    -------
    scores : array of shape (V, 2)
    shares : array of shape (2,)
        Of variance.
    """
    centred = rows - rows.mean(axis=0)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    scores = np.zeros((len(rows), 2))
    shares = np.zeros(2)
    kept = min(2, len(singular))
    signs = np.sign(right[np.arange(kept), np.abs(right[:kept]).argmax(axis=1)])  # else they differ between machines
    scores[:, :kept] = left[:, :kept] * singular[:kept] * signs
    shares[:kept] = singular[:kept] ** 2 / max((singular**2).sum(), 1e-300)
    return scores, shares


def _umap(rows: NDArray[Any], seed: int) -> NDArray[np.float64]:
    try:
        from umap import UMAP
    except ImportError as error:
        raise InputError(
            "method='umap' needs umap-learn; install it (`pip install umap-learn`) or use 'pca'"
        ) from error
    return np.asarray(UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(rows))
