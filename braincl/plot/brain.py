"""Maps on brains, through nilearn: slices, glass brain, and the surface of fsaverage5.

The outlines of the glass brain and the surface are those of the MNI template: they fit data whose attribute `space` is
"mni". Other data are drawn as they lie, and the figure says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.nifti import to_image
from braincl.errors import ResponseError
from braincl.plot.axes import new_axes
from setcore.errors import InputError

FSAVERAGE5_VERTICES = 10242  # of a hemisphere
DIVERGING = "RdBu_r"  # white is 0


def draw_slices(
    values: Any,
    dataset: xr.Dataset,
    axes: Any = None,
    *,
    direction: str = "z",
    cuts: int | Sequence[float] = 4,
    background: Any = None,
    label: str = "",
    **options: Any,
) -> Any:
    """Draw slices through a map.

    Parameters
    ----------
    values : array of shape (n_voxels,)
        NaN and voxels that are not in `dataset` stay empty.
    dataset : Dataset
        With i, j, k (voxel), `affine` and `grid_shape`.
    axes : matplotlib axes, optional
    direction : {"x", "y", "z", "ortho"}
    cuts : int or sequence of float
        How many slices, or where, in mm.
    background : image, optional
        A NIfTI image or path in the space of the data. None: the outline of all voxels, as seen through the brain.
    label : str
        What the values are; it stands above the colour bar.
    **options
        Of `nilearn.plotting.plot_stat_map`, such as `vmax` or `cmap`. Colours are symmetric about 0, unless told
        otherwise.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    InputError
        nilearn is not installed.
    ResponseError
        The geometry is missing, or values and voxels do not fit.
    """
    plotting = nilearn("plotting")
    axes = new_axes(axes, (11, 3))
    # Empty voxels are 0 to nilearn, which hides what is at or below the threshold.
    options = {"cut_coords": None if direction == "ortho" else cuts, "display_mode": direction, "threshold": 1e-12,
               "black_bg": False, "annotate": True, "draw_cross": False, "cmap": DIVERGING} | options  # fmt: skip
    display = plotting.plot_stat_map(_to_map(values, dataset), bg_img=background, axes=axes, **options)
    if background is None and direction in ("x", "y", "z"):
        outline = _silhouette(dataset, "xyz".index(direction))
        display.add_contours(outline, levels=[0.5], colors="#999999", linewidths=0.6)
    _name_colours(display, label)
    return axes


def draw_glass_brain(values: Any, dataset: xr.Dataset, axes: Any = None, *, label: str = "", **options: Any) -> Any:
    """Draw the value farthest from 0 along each line of sight through a glass brain.

    Its outline is that of the MNI template; data of another space are drawn as they lie, and the title says so.

    Parameters
    ----------
    values, dataset, axes, label
        As in `draw_slices`.
    **options
        Of `nilearn.plotting.plot_glass_brain`.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    InputError, ResponseError
        As `draw_slices`.
    """
    plotting = nilearn("plotting")
    axes = new_axes(axes, (9, 3.2))
    options = {"display_mode": "lyrz", "threshold": 1e-12, "colorbar": True, "plot_abs": False,
               "black_bg": False, "cmap": DIVERGING} | options  # fmt: skip
    display = plotting.plot_glass_brain(_to_map(values, dataset), axes=axes, **options)
    _name_colours(display, label)
    axes.set_title(_in_space(dataset), fontsize="medium")
    return axes


def draw_surface(
    values: Any, hemisphere: str = "left", axes: Any = None, *, view: str = "lateral", label: str = "", **options: Any
) -> Any:
    """Draw values of vertices on the inflated surface of fsaverage5.

    Parameters
    ----------
    values : array of shape (10242,)
        NaN stays bare. See `project_to_surface` for data of a volume.
    hemisphere : {"left", "right"}
    axes : matplotlib axes with ``projection="3d"``, optional
    view : {"lateral", "medial", "dorsal", "ventral", "anterior", "posterior"}
    label : str
    **options
        Of `nilearn.plotting.plot_surf_stat_map`.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    InputError
        nilearn is not installed.
    ResponseError
        The hemisphere is unknown, or there is not one value for each vertex.
    """
    plotting, mesh = nilearn("plotting"), fsaverage5(hemisphere)
    values = vertex_values(values)
    axes = new_axes(axes, (4.5, 4), subplot_kw={"projection": "3d"})
    plotting.plot_surf_stat_map(
        mesh[f"infl_{hemisphere}"], values, bg_map=mesh[f"sulc_{hemisphere}"], hemi=hemisphere, view=view, axes=axes,
        figure=axes.figure, **{"cmap": DIVERGING, "symmetric_cbar": True} | options,
    )  # fmt: skip
    axes.set_title(label or f"{hemisphere}, {view}", fontsize="medium")
    return axes


def project_to_surface(
    values: Any, dataset: xr.Dataset, hemisphere: str = "left", radius: float = 3.0
) -> NDArray[np.float64]:
    """Values of voxels at the vertices of fsaverage5: the mean of what lies within `radius` of the grey matter.

    Parameters
    ----------
    values : array of shape (n_voxels,)
    dataset : Dataset
        With i, j, k (voxel), `affine` and `grid_shape`; fsaverage5 lies in MNI space, the data should, too.
    hemisphere : {"left", "right"}
    radius : float
        In mm.

    Returns
    -------
    array of shape (10242,)
        NaN where no voxel is near.

    Raises
    ------
    InputError
        nilearn is not installed.
    ResponseError
    """
    mesh = fsaverage5(hemisphere)
    values = np.asarray(values, dtype=float)
    filled = np.isfinite(values)
    inside = to_image(filled, dataset)
    # Interpolation blends the zeros around the voxels in at their edge; the mask, sampled alike, says by how much.
    sampled = _sample(to_image(np.where(filled, values, 0), dataset), inside, mesh, hemisphere, radius)
    weight = _sample(inside, inside, mesh, hemisphere, radius)
    known = np.isfinite(weight) & (weight > 0)
    return np.where(known, sampled / np.where(known, weight, 1), np.nan)


def _sample(image: Any, inside: Any, mesh: Any, hemisphere: str, radius: float) -> NDArray[np.float64]:
    """Mean at each vertex of the samples that lie in the mask `inside`; NaN where there is none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # at those vertices
        sampled: NDArray[np.float64] = nilearn("surface").vol_to_surf(
            image, mesh[f"pial_{hemisphere}"], radius=radius, interpolation="linear", mask_img=inside,
            inner_mesh=mesh[f"white_{hemisphere}"],
        )  # fmt: skip
    return sampled


def _to_map(values: Any, dataset: xr.Dataset) -> Any:
    """A map as an image; 0 where there is no value."""
    return to_image(np.nan_to_num(np.asarray(values, dtype=np.float32)), dataset)


def _silhouette(dataset: xr.Dataset, direction: int) -> Any:
    """An image that is 1 wherever there is a voxel in front or behind, along world axis `direction`."""
    image = to_image(np.ones(dataset.sizes["voxel"]), dataset)
    along = int(np.abs(image.affine[direction, :3]).argmax())
    seen = np.asarray(image.dataobj).max(axis=along, keepdims=True)
    return type(image)(np.broadcast_to(seen, image.shape).copy(), image.affine)


def vertex_values(values: Any) -> NDArray[np.float64]:
    """Values of the vertices of a hemisphere of fsaverage5.

    Parameters
    ----------
    values : array of shape (10242,)

    Returns
    -------
    array of shape (10242,)

    Raises
    ------
    ResponseError
        There is not one value for each vertex.
    """
    found: NDArray[np.float64] = np.asarray(values, dtype=float)
    if found.shape != (FSAVERAGE5_VERTICES,):
        raise ResponseError(
            f"values have shape {found.shape}; fsaverage5 has {FSAVERAGE5_VERTICES} vertices a hemisphere"
        )
    return found


def nilearn(module: str) -> Any:
    """A module of nilearn.

    Parameters
    ----------
    module : str

    Returns
    -------
    module

    Raises
    ------
    InputError
        nilearn is not installed.
    """
    try:
        return import_module(f"nilearn.{module}")
    except ImportError as error:
        raise InputError("drawing brains needs nilearn; install it with `pip install nilearn`") from error


def fsaverage5(hemisphere: str) -> Any:
    """Files of the surface, as nilearn names them.

    Parameters
    ----------
    hemisphere : {"left", "right"}

    Returns
    -------
    dict

    Raises
    ------
    ResponseError
        The hemisphere is unknown.
    """
    if hemisphere not in ("left", "right"):
        raise ResponseError(f"hemisphere is {hemisphere!r}; it must be 'left' or 'right'")
    return nilearn("datasets").fetch_surf_fsaverage("fsaverage5")  # comes with nilearn: no network


def _in_space(dataset: xr.Dataset) -> str:
    space = str(dataset.attrs.get("space", "")) or "an unknown"
    return "" if space == "mni" else f"outline: MNI; data: {space} space, so that positions are approximate"


def _name_colours(display: Any, label: str) -> None:
    """A label at the colour bar of a display of nilearn, where it has one."""
    if getattr(display, "_colorbar", False):
        display._cbar.ax.set_title(label, fontsize="small", loc="right", pad=10)  # beside it there is no room
