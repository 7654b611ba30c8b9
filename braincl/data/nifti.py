"""Between NIfTI volumes and the voxel axis.

The voxel axis lists the voxels of a mask in C order of (i, j, k): k runs fastest, as `numpy.argwhere` has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.scatter import scatter
from braincl.errors import ResponseError
from setcore.files import atomic_path

# NIfTI-1 codes of coordinate systems, by the names that the attribute `space` holds
SPACES = {"scanner": 1, "aligned": 2, "talairach": 3, "mni": 4}
VOLUMES = 16  # of a 4-D image that are in memory at once, besides the voxels that are kept


def voxel_table(mask_path: str | Path, above: float | None = None) -> xr.Dataset:
    """The voxel axis of a mask: coordinates `voxel_id`, `i`, `j`, `k`, attributes `affine`, `grid_shape`, `space`.

    Parameters
    ----------
    mask_path : path of a three-dimensional NIfTI image
    above : float, optional
        Voxels of a larger value are in the mask. None: all but those of value 0.

    Returns
    -------
    Dataset
        Without variables; merge responses along 'voxel' into it.

    Raises
    ------
    ResponseError
    """
    data, image = _load(mask_path)
    if data.ndim != 3:
        raise ResponseError(f"{mask_path}: a mask has 3 axes, this image has shape {data.shape}")
    if not np.isfinite(data).all():
        raise ResponseError(f"{mask_path}: the mask holds NaN or inf; use 0 outside and 1 inside")
    indices = np.argwhere(data != 0 if above is None else data > above)
    if len(indices) == 0:
        raise ResponseError(f"{mask_path}: the mask is empty: 0 voxels")
    names = {code: name for name, code in SPACES.items()}
    return xr.Dataset(
        coords={
            "voxel_id": ("voxel", np.array(["-".join(map(str, index)) for index in indices])),
            **{axis: ("voxel", indices[:, column]) for column, axis in enumerate("ijk")},
        },
        attrs={
            "affine": image.affine.ravel().astype(float),
            "grid_shape": np.array(data.shape),
            "space": names.get(int(image.header["sform_code"]), "aligned"),
        },
    )


def read_voxels(
    path: str | Path, table: xr.Dataset, volumes: NDArray[np.bool_] | None = None, *, same_affine: bool = True
) -> NDArray[np.float32]:
    """Values of a NIfTI image at the voxels of a table.

    A 4-D image is read a few volumes at a time: memory is that of the voxels that are kept.

    Parameters
    ----------
    path : path
    table : Dataset
        With coordinates `i`, `j`, `k` and attributes `affine` and `grid_shape`.
    volumes : array of bool, shape (n_volumes,), optional
        Which volumes of a 4-D image are kept; None: all.
    same_affine : bool
        Refuse an image whose affine is not that of `table`. False is for images known to be on the same grid, written
        by a tool that keeps no affine.

    Returns
    -------
    array of shape (voxel,) or (volume, voxel)
        One axis for a 3-D image, two for a 4-D one.

    Raises
    ------
    ResponseError
        The image is damaged, or its grid or affine is not that of `table`.
    """
    indices, affine, shape = grid_of(table)
    image = open_nifti(path)
    if image.shape[:3] != shape or len(image.shape) not in (3, 4):
        raise ResponseError(f"{path}: shape {image.shape} does not fit the grid {shape}; resample it to the mask")
    if same_affine and not np.allclose(image.affine, affine, atol=1e-3):
        raise ResponseError(f"{path}: the affine differs from that of the mask; resample it to the mask")
    at = tuple(indices.T)
    with _damage_named(path):
        if len(image.shape) == 3:
            return np.asarray(np.asarray(image.dataobj)[at], np.float32)
        wanted = np.arange(image.shape[3]) if volumes is None else np.flatnonzero(volumes)
        values = np.empty((len(wanted), len(indices)), dtype=np.float32)
        for start in range(0, image.shape[3], VOLUMES):
            inside = (wanted >= start) & (wanted < start + VOLUMES)
            if inside.any():
                part = np.asarray(image.dataobj[..., start : start + VOLUMES])
                values[inside] = part[at].T[wanted[inside] - start]
        return values


def open_nifti(path: str | Path) -> Any:
    """Open a NIfTI image; its values are not read yet, so that damage behind the header is not found.

    Parameters
    ----------
    path : path

    Returns
    -------
    image of nibabel

    Raises
    ------
    ResponseError
        The file is absent, or damaged in its header.
    """
    nibabel: Any = import_module("nibabel")
    with _damage_named(path):
        return nibabel.load(path, keep_file_open=True)  # else gzip begins anew for each part that is read


def _to_volume(values: Any, dataset: xr.Dataset) -> NDArray[np.float32]:
    """Values of voxels in their places in the grid; 0 outside the voxels.

    Parameters
    ----------
    values : array of shape (voxel,) or (image, voxel)
    dataset : Dataset
        With coordinates `i`, `j`, `k` and attributes `affine` and `grid_shape`.

    Returns
    -------
    array of shape grid_shape or (*grid_shape, image)

    Raises
    ------
    ResponseError
        The geometry is missing, or values and voxels do not fit.
    """
    indices, _, shape = grid_of(dataset)
    values = np.asarray(values, dtype=np.float32)
    if values.ndim not in (1, 2) or values.shape[-1] != len(indices):
        raise ResponseError(f"values of shape {values.shape} do not fit {len(indices)} voxels")
    return scatter(values.T, tuple(indices.T), shape + values.shape[:-1])


def to_image(values: Any, dataset: xr.Dataset) -> Any:
    """Values of voxels as an image of nibabel in memory.

    Parameters
    ----------
    values : array of shape (voxel,) or (image, voxel)
        A 3-D image, or a 4-D image with the images last.
    dataset : Dataset
        As in `to_volume`; the attribute `space` names the coordinate system.

    Returns
    -------
    nibabel.Nifti1Image

    Raises
    ------
    ResponseError
    """
    nibabel: Any = import_module("nibabel")
    _, affine, _ = grid_of(dataset)
    image = nibabel.Nifti1Image(_to_volume(values, dataset), affine)
    code = SPACES.get(str(dataset.attrs.get("space", "")), SPACES["aligned"])
    image.header.set_sform(affine, code)
    image.header.set_qform(affine, code)
    return image


def to_nifti(values: Any, dataset: xr.Dataset, path: str | Path, *, mask: str | Path | None = None) -> None:
    """Write values of voxels as a NIfTI image, atomically; 0 outside the voxels.

    Parameters
    ----------
    values : array of shape (voxel,) or (image, voxel)
        Written as a 3-D image, or as a 4-D image with the images last.
    dataset : Dataset
        With coordinates `i`, `j`, `k` and attributes `affine` and `grid_shape`.
    path : path that ends in .nii or .nii.gz
    mask : path, optional
        NIfTI mask whose header the image takes over, with its units, codes and description. None: affine and
        coordinate system come from the attributes of `dataset`.

    Raises
    ------
    ResponseError
        The geometry is missing, values and voxels do not fit, or the mask's shape or affine are not those of
        `dataset`.
    """
    nibabel: Any = import_module("nibabel")
    check_nifti_name(path)
    image = to_image(values, dataset) if mask is None else _in_header_of(mask, values, dataset)
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def _in_header_of(mask: str | Path, values: Any, dataset: xr.Dataset) -> Any:
    _, affine, shape = grid_of(dataset)
    image = open_nifti(mask)
    if image.shape[:3] != shape or not np.allclose(image.affine, affine, atol=1e-3):
        raise ResponseError(
            f"{mask}: shape {image.shape} or affine are not those of the voxels ({shape}); give the mask that the "
            "responses were read with"
        )
    header = image.header.copy()
    header.set_data_dtype(np.float32)
    header["scl_slope"], header["scl_inter"], header["cal_min"], header["cal_max"] = np.nan, np.nan, 0, 0
    return type(image)(_to_volume(values, dataset), image.affine, header)


def check_nifti_name(path: str | Path) -> None:
    """Refuse a file name from which nibabel would not write NIfTI.

    Parameters
    ----------
    path : path

    Raises
    ------
    ResponseError
        It does not end in .nii or .nii.gz.
    """
    if not str(path).endswith((".nii", ".nii.gz")):
        raise ResponseError(f"{path}: name the NIfTI file .nii or .nii.gz")


def grid_of(dataset: xr.Dataset) -> tuple[NDArray[np.int64], NDArray[np.float64], tuple[int, ...]]:
    """Where the voxels of a response set lie.

    Parameters
    ----------
    dataset : Dataset
        With coordinates `i`, `j`, `k` and attributes `affine` and `grid_shape`.

    Returns
    -------
    indices : int array of shape (voxel, 3)
    affine : array of shape (4, 4)
    shape : tuple of int

    Raises
    ------
    ResponseError
        Naming what is missing.
    """
    missing = [axis for axis in "ijk" if axis not in dataset.coords]
    missing += [name for name in ("affine", "grid_shape") if name not in dataset.attrs]
    if missing:
        raise ResponseError(
            f"a NIfTI image needs coordinates i, j, k (voxel) and attributes affine, grid_shape; missing: "
            f"{', '.join(missing)} (`braincl.voxel_table` makes them from a mask)"
        )
    indices = np.stack([dataset[axis].values for axis in "ijk"], axis=1).astype(np.int64)
    affine = np.asarray(dataset.attrs["affine"], dtype=float).reshape(4, 4)
    shape = tuple(int(length) for length in dataset.attrs["grid_shape"])
    return indices, affine, shape


def _load(path: str | Path) -> tuple[NDArray[Any], Any]:
    image = open_nifti(path)
    with _damage_named(path):
        return np.asanyarray(image.dataobj), image


@contextlib.contextmanager
def _damage_named(path: str | Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file raises whatever gzip, zlib, numpy or nibabel stumble over
        raise ResponseError(
            f"{path} is not a readable NIfTI image ({type(error).__name__}: {error}); it may be truncated, fetch it "
            "again"
        ) from error
