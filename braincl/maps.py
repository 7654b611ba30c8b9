"""Maps: one value for each voxel, out to NIfTI volumes and to GIFTI or MGH surfaces.

Axes: m image, V voxel. A "voxel" of surface data is a vertex.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.errors import ResponseError
from braincl.nifti import check_nifti_name, grid_of, open_nifti, to_nifti
from setcore.files import atomic_path
from setcore.metrics import explained_variance, pearson_r

SURFACE_SUFFIXES = (".gii", ".mgh", ".mgz")
HEMISPHERES = {"left": "CortexLeft", "right": "CortexRight"}
SMALLEST_CEILING = 0.05  # below it a score over its ceiling is mostly noise


def voxel_maps(predicted: xr.Dataset, observed: xr.Dataset | None = None) -> xr.Dataset:
    """Uncertainty and, where measured responses are given, scores per voxel.

    Parameters
    ----------
    predicted : Dataset
        As from `braincl.predict.predict_responses`.
    observed : response set, optional
        Measured responses of the same voxels; pictures are matched by `image_id`, those that are in both count.

    Returns
    -------
    Dataset
        ``uncertainty (voxel)``, the root mean square over images of the predictive standard deviation, in the units of
        the responses. With `observed` also ``pearson_r``, ``explained_variance``, and
        ``normalized_explained_variance``, the latter over the voxel's noise ceiling where it is known and above
        `SMALLEST_CEILING`, else NaN. Coordinates and attributes are those of `predicted`.

    Raises
    ------
    ResponseError
        The voxels differ, or fewer than 2 pictures are in both.
    """
    maps = {"uncertainty": np.sqrt(np.square(predicted["prediction_std"].values.astype(float)).mean(axis=0))}
    if observed is not None:
        mean, measured = _matched(predicted, observed)
        maps["pearson_r"] = pearson_r(measured, mean)
        maps["explained_variance"] = explained_variance(measured, mean)
        ceiling = np.full(mean.shape[1], np.nan)
        for dataset in (predicted, observed):
            if "noise_ceiling" in dataset.coords:
                ceiling = dataset["noise_ceiling"].values.astype(float)
        known = np.where(ceiling > SMALLEST_CEILING, ceiling, np.nan)
        maps["normalized_explained_variance"] = maps["explained_variance"] / known
    return _as_maps(maps, predicted)


def picture_selectivity(predicted: xr.Dataset, pictures: Any) -> xr.Dataset:
    """How much more each voxel is predicted to respond to some pictures than to the others.

    ``d' = (mean inside - mean outside) / sqrt((variance inside + variance outside) / 2)`` over the predictions
    (Afraz, Kiani & Esteky 2006), 0 for a voxel whose predictions do not vary.

    Parameters
    ----------
    predicted : Dataset with ``prediction (image, voxel)``
    pictures : bool array of shape (m,), or sequence of image_id

    Returns
    -------
    Dataset with ``selectivity (voxel)``

    Raises
    ------
    ResponseError
        Fewer than 2 pictures are inside or outside.
    """
    chosen = np.asarray(pictures)
    if chosen.dtype != bool:
        chosen = np.isin(predicted["image_id"].values, chosen)
    values = predicted["prediction"].values.astype(float)
    if chosen.shape != values.shape[:1] or min(chosen.sum(), (~chosen).sum()) < 2:
        raise ResponseError(
            f"selectivity needs at least 2 pictures inside and outside the group, of {len(values)}; it has "
            f"{int(chosen.sum())} inside"
        )
    inside, outside = values[chosen], values[~chosen]
    spread = np.sqrt((inside.var(axis=0, ddof=1) + outside.var(axis=0, ddof=1)) / 2)
    difference = inside.mean(axis=0) - outside.mean(axis=0)
    return _as_maps({"selectivity": np.where(spread > 0, difference / np.where(spread > 0, spread, 1), 0)}, predicted)


def write_maps(
    maps: xr.Dataset, folder: str | Path, *, names: Sequence[str] | None = None, mask: str | Path | None = None
) -> dict[str, Path]:
    """Write variables with the axis 'voxel' as ``FOLDER/NAME.nii.gz``, each atomically.

    Parameters
    ----------
    maps : Dataset with i, j, k (voxel), affine and grid_shape
    folder : existing folder
    names : sequence of str, optional
        Which variables; None: all that have the axis 'voxel' as their last.
    mask : path, optional
        NIfTI mask whose header the maps take over; see `write_nifti`.

    Returns
    -------
    dict of name to path

    Raises
    ------
    ResponseError
        Before anything is written: the geometry is missing, or a name is unknown.
    """
    found = [str(name) for name, variable in maps.data_vars.items() if variable.dims[-1:] == ("voxel",)]
    names = found if names is None else list(names)
    if unknown := [name for name in names if name not in found]:
        raise ResponseError(f"there is no map {unknown[0]!r}; there are: {', '.join(found)}")
    grid_of(maps)
    paths = {name: Path(folder) / f"{name}.nii.gz" for name in names}
    for name, path in paths.items():
        write_nifti(maps[name].values, maps, path, mask=mask)
    return paths


def write_nifti(values: Any, dataset: xr.Dataset, path: str | Path, *, mask: str | Path | None = None) -> None:
    """Write values of voxels (V,) or (m, V) as a NIfTI image, with the header of the mask where one is given.

    Without `mask` it is `braincl.to_nifti`: affine and coordinate system come from the attributes of `dataset`. The
    header of a mask brings its units, codes and description along.

    Raises
    ------
    ResponseError
        The mask's shape or affine is not that of `dataset`, or values and voxels do not fit.
    """
    if mask is None:
        to_nifti(values, dataset, path)
        return
    import nibabel

    indices, affine, shape = grid_of(dataset)
    check_nifti_name(path)
    image = open_nifti(mask)
    if image.shape[:3] != shape or not np.allclose(image.affine, affine, atol=1e-3):
        raise ResponseError(
            f"{mask}: shape {image.shape} or affine are not those of the voxels ({shape}); give the mask that the "
            "responses were read with"
        )
    values = np.asarray(values, dtype=np.float32)
    if values.ndim not in (1, 2) or values.shape[-1] != len(indices):
        raise ResponseError(f"values of shape {values.shape} do not fit {len(indices)} voxels")
    volume = np.zeros(shape + values.shape[:-1], dtype=np.float32)
    volume[tuple(indices.T)] = values.T
    header = image.header.copy()
    header.set_data_dtype(np.float32)
    header["scl_slope"], header["scl_inter"], header["cal_min"], header["cal_max"] = np.nan, np.nan, 0, 0
    with atomic_path(path) as temporary:
        nibabel.save(type(image)(volume, image.affine, header), temporary)


def write_surface(
    values: Any,
    path: str | Path,
    *,
    hemisphere: str | None = None,
    vertices: Any = None,
    n_vertices: int | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write values of vertices as GIFTI (``.func.gii``, ``.shape.gii``) or MGH (``.mgh``, ``.mgz``), atomically.

    Parameters
    ----------
    values : array of shape (vertex,) or (map, vertex)
    path : path; its suffix chooses the format
    hemisphere : {"left", "right"}, optional
        Stored in GIFTI files, where viewers look for it; MGH files have it in their name (lh., rh.) alone.
    vertices : int array of shape (vertex,), optional
        Where the values lie on the surface, for data of a part of it. NaN elsewhere.
    n_vertices : int, optional
        Vertices of the whole surface; needed with `vertices`. fsaverage5 has 10242 a hemisphere.
    names : sequence of str, optional
        Of the maps; stored in GIFTI files.

    Raises
    ------
    ResponseError
        The suffix, hemisphere or shapes cannot be used.
    """
    import nibabel

    path = Path(path)
    if path.suffix not in SURFACE_SUFFIXES:
        raise ResponseError(f"{path}: name the surface file .func.gii, .shape.gii, .mgh or .mgz")
    if hemisphere is not None and hemisphere not in HEMISPHERES:
        raise ResponseError(f"hemisphere is {hemisphere!r}; it must be 'left' or 'right'")
    rows = np.atleast_2d(np.asarray(values, dtype=np.float32))
    if rows.ndim != 2 or rows.size == 0:
        raise ResponseError(f"values have shape {np.shape(values)}; expected (vertex,) or (map, vertex)")
    if names is not None and len(names) != len(rows):
        raise ResponseError(f"{len(names)} names for {len(rows)} maps")
    if vertices is not None:
        rows = _spread(rows, np.asarray(vertices), n_vertices)
    elif n_vertices is not None and rows.shape[1] != n_vertices:
        raise ResponseError(f"{rows.shape[1]} values for {n_vertices} vertices; say which with `vertices`")
    image: Any
    if path.suffix == ".gii":
        gifti = nibabel.gifti
        arrays = [
            gifti.GiftiDataArray(row, "NIFTI_INTENT_NONE", "NIFTI_TYPE_FLOAT32", meta={"Name": name})
            for row, name in zip(rows, names or [f"map {number}" for number in range(len(rows))], strict=True)
        ]
        side = {"AnatomicalStructurePrimary": HEMISPHERES[hemisphere]} if hemisphere else {}
        image = gifti.GiftiImage(meta=gifti.GiftiMetaData(side), darrays=arrays)
    else:
        frames = rows.T[:, None, None, :] if len(rows) > 1 else rows[0][:, None, None]
        image = nibabel.MGHImage(np.ascontiguousarray(frames), np.eye(4))
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def read_surface(path: str | Path) -> NDArray[np.float32]:
    """Values of a GIFTI or MGH file: (vertex,) of one map, (map, vertex) of several.

    Raises
    ------
    ResponseError
    """
    import nibabel

    path = Path(path)
    try:
        content = path.read_bytes()  # nibabel would leave the file open
        if path.suffix == ".gii":
            rows = np.stack([array.data for array in nibabel.GiftiImage.from_bytes(content).darrays])
        else:
            content = gzip.decompress(content) if path.suffix == ".mgz" else content
            values = np.asarray(nibabel.MGHImage.from_bytes(content).dataobj)
            rows = values.reshape(-1, values.shape[3] if values.ndim == 4 else 1, order="F").T
    except Exception as error:  # a damaged file raises whatever expat, zlib, numpy or nibabel stumble over
        raise ResponseError(
            f"{path} is not a readable surface file ({type(error).__name__}: {error}); it may be truncated, fetch it "
            "again"
        ) from error
    rows = rows.astype(np.float32)
    return rows[0] if len(rows) == 1 else rows


def _spread(rows: NDArray[np.float32], vertices: NDArray[Any], n_vertices: int | None) -> NDArray[np.float32]:
    if n_vertices is None:
        raise ResponseError("values of a part of the surface need n_vertices, the number of vertices of the whole")
    if vertices.shape != rows.shape[1:] or vertices.dtype.kind not in "iu":
        raise ResponseError(f"vertices have shape {vertices.shape} for values of {rows.shape[1]}; give one index each")
    if vertices.min() < 0 or vertices.max() >= n_vertices or len(np.unique(vertices)) < len(vertices):
        raise ResponseError(f"vertices must be different and lie in 0..{n_vertices - 1}")
    whole = np.full((len(rows), n_vertices), np.nan, dtype=np.float32)
    whole[:, vertices] = rows
    return whole


def _matched(predicted: xr.Dataset, observed: xr.Dataset) -> tuple[NDArray[Any], NDArray[Any]]:
    """Predictions and measured responses (m, V) of the pictures that are in both."""
    if not np.array_equal(predicted["voxel_id"].values, observed["voxel_id"].values):
        raise ResponseError("the predicted and the measured voxels differ in voxel_id or its order; score equal voxels")
    if "image_id" not in predicted.coords:
        raise ResponseError("the predictions have no image_id; predict for images that have one (`braincl embed`)")
    _, first, second = np.intersect1d(predicted["image_id"], observed["image_id"], return_indices=True)
    if len(first) < 2:
        raise ResponseError(f"{len(first)} pictures are both predicted and measured; scores need at least 2")
    return predicted["prediction"].values[first], observed["response"].values[second]


def _as_maps(maps: dict[str, NDArray[Any]], dataset: xr.Dataset) -> xr.Dataset:
    coordinates = {name: c for name, c in dataset.coords.items() if c.dims == ("voxel",)}
    variables = {name: (("voxel",), values.astype(np.float32)) for name, values in maps.items()}
    return xr.Dataset(variables, coords=coordinates, attrs=dict(dataset.attrs))
