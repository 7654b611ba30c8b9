"""Between NIfTI volumes and the voxel axis.

The voxel axis lists the voxels of a mask in C order of (i, j, k): k runs fastest, as `numpy.argwhere` has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
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
SPACES = {"unknown": 0, "scanner": 1, "aligned": 2, "talairach": 3, "mni": 4, "template": 5}
MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}  # lengths of affines, as nibabel names them
VOLUMES = 16  # of a 4-D image that are in memory at once, besides the voxels that are kept


def voxel_table(mask: Any, above: float = 0) -> xr.Dataset:
    """The voxel axis of a mask: coordinates `voxel_id`, `i`, `j`, `k`, attributes `affine`, `grid_shape`, `space`.

    Parameters
    ----------
    mask : path of a three-dimensional image, NIfTI or FreeSurfer's MGH, or an image of nibabel
        Further axes must be of length 1.
    above : float
        Voxels of a larger value are in the mask; neither are -1 and NaN, which stand for "outside".

    Returns
    -------
    Dataset
        Without variables; merge responses along 'voxel' into it. `affine` is in mm; where the image does not state an
        affine (`space` then is "unknown") or a unit, the attribute `notes` says what was taken instead.

    Raises
    ------
    ResponseError
        It is no mask, or no voxel is in it.

    Examples
    --------
    >>> import nibabel
    >>> import numpy as np
    >>> import braincl
    >>> mask = np.zeros((4, 5, 6), np.uint8)
    >>> mask[1:3, 2, 3] = 1
    >>> nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), "mask.nii.gz")
    >>> table = braincl.voxel_table("mask.nii.gz")
    >>> table["i"].values.tolist(), table.attrs["grid_shape"].tolist()
    ([1, 2], [4, 5, 6])
    """
    image = open_nifti(mask)
    if len(image.shape) < 3 or int(np.prod(image.shape[3:])) != 1:
        raise ResponseError(f"{mask}: a mask has 3 axes, this image has shape {image.shape}")
    with _damage_named(mask):
        data = np.asanyarray(image.dataobj).reshape(image.shape[:3])
    if np.isinf(data).any():
        raise ResponseError(f"{mask}: the mask holds inf; use 0 outside and 1 inside")
    indices = np.argwhere(data > above)
    if len(indices) == 0:
        raise ResponseError(f"{mask}: the mask is empty: 0 voxels above {above:g}")
    space, unit = _space(image), _unit(image)
    notes = []
    if space == "unknown":
        notes.append("the mask states no affine (its sform and qform codes are 0): one was made of its voxel sizes")
    if unit not in MILLIMETRES:
        notes.append("the mask states no unit of length: its affine was taken to be in mm")
    table = xr.Dataset(
        coords={
            "voxel_id": ("voxel", np.array(["-".join(map(str, index)) for index in indices])),
            **{axis: ("voxel", indices[:, column]) for column, axis in enumerate("ijk")},
        },
        attrs={"affine": _affine(image).ravel(), "grid_shape": np.array(data.shape), "space": space},
    )
    return with_notes(table, notes)


def with_notes(dataset: xr.Dataset, notes: Iterable[str]) -> xr.Dataset:
    """A set whose attribute `notes` says more of what its files left open, and what was taken instead.

    Parameters
    ----------
    dataset : Dataset
    notes : iterable of str

    Returns
    -------
    Dataset
        Without the attribute where there is nothing to say.
    """
    said = [*filter(None, [dataset.attrs.get("notes")]), *notes]
    return dataset.assign_attrs(notes="; ".join(said)) if said else dataset


def read_voxels(
    path: str | Path, table: xr.Dataset, volumes: NDArray[np.bool_] | None = None, *, same_affine: bool = True
) -> NDArray[np.float32]:
    """Values of a NIfTI image at the voxels of a table.

    A series of volumes is read a few at a time: memory is that of the voxels that are kept. Axes of length 1 between
    space and volumes, or behind them, do not count.

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
    if image.shape[:3] != shape:
        raise ResponseError(f"{path}: shape {image.shape} does not fit the grid {shape}; resample it to the mask")
    if same_affine and not np.allclose(_affine(image), affine, atol=1e-3):
        if _space(image) == "unknown":
            raise ResponseError(
                f"{path}: states no affine (its sform and qform codes are 0), so that nothing says where its voxels "
                "lie; give it the affine of the mask if it is on the mask's grid"
            )
        raise ResponseError(f"{path}: the affine differs from that of the mask; resample it to the mask")
    at = tuple(indices.T)
    with _damage_named(path):
        if len(image.shape) == 3:
            return np.asarray(np.asarray(image.dataobj)[at], np.float32)
        length = count_volumes(path)
        series = image.dataobj.reshape((*shape, length))
        wanted = np.arange(length) if volumes is None else np.flatnonzero(volumes)
        values = np.empty((len(wanted), len(indices)), dtype=np.float32)
        for start in range(0, length, VOLUMES):
            inside = (wanted >= start) & (wanted < start + VOLUMES)
            if inside.any():
                part = np.asarray(series[..., start : start + VOLUMES])
                values[inside] = part[at].T[wanted[inside] - start]
        return values


def read_map(path: str | Path, table: xr.Dataset, *, same_affine: bool = True) -> NDArray[np.float32]:
    """One value for each voxel of a table, from an image of one volume, such as a mask or labels of areas.

    Parameters
    ----------
    path, table, same_affine
        See `read_voxels`.

    Returns
    -------
    array of shape (voxel,)

    Raises
    ------
    ResponseError
        As `read_voxels`, or the image has several volumes.
    """
    values = read_voxels(path, table, same_affine=same_affine)
    if values.ndim == 2 and len(values) != 1:
        raise ResponseError(f"{path} holds {len(values)} volumes; one value for each voxel is needed")
    return values.reshape(-1)


def count_volumes(path: str | Path) -> int:
    """Number of volumes of an image with a fourth axis, from its header.

    Parameters
    ----------
    path : path

    Returns
    -------
    int

    Raises
    ------
    ResponseError
        The image is damaged, has no fourth axis, or several that are longer than 1.
    """
    shape = open_nifti(path).shape
    if len(shape) < 4 or sum(length != 1 for length in shape[3:]) > 1:
        raise ResponseError(f"{path}: betas have 4 axes (i, j, k, trial), this image has shape {shape}")
    return int(np.prod(shape[3:]))


def open_nifti(path: Any) -> Any:
    """Open a NIfTI image; its values are not read yet, so that damage behind the header is not found.

    Parameters
    ----------
    path : path or image of nibabel

    Returns
    -------
    image of nibabel

    Raises
    ------
    ResponseError
        The file is absent, damaged in its header, or does not hold one real number for each voxel of a volume.
    """
    nibabel: Any = import_module("nibabel")
    image = path
    if isinstance(path, str | Path) and Path(path).suffix != ".gii":
        with _damage_named(path):
            image = nibabel.load(path, keep_file_open=True)  # else gzip begins anew for each part that is read
    if not isinstance(image, nibabel.spatialimages.SpatialImage):
        named = path if isinstance(path, str | Path) else f"a {type(path).__name__}"
        raise ResponseError(f"{named} is an image of a surface, not of volumes, or no image; give NIfTI volumes")
    if (dtype := image.get_data_dtype()).kind not in "iuf":
        kind = "colours (RGB)" if dtype.fields else f"numbers of type {dtype}"
        raise ResponseError(f"{path} holds {kind}; one real number for each voxel is needed, so write it as float32")
    return image


def _space(image: Any) -> str:
    """The coordinate system of the affine, a key of `SPACES`: of the sform, else of the qform, as nibabel chooses."""
    if "sform_code" not in image.header:
        return "scanner"  # MGH
    names = {code: name for name, code in SPACES.items()}
    return names.get(int(image.header["sform_code"]) or int(image.header["qform_code"]), "aligned")


def _unit(image: Any) -> str:
    if "xyzt_units" not in image.header:
        return "mm"  # MGH
    try:
        return str(image.header.get_xyzt_units()[0])
    except KeyError:  # a code that the standard does not have
        return "unknown"


def _affine(image: Any) -> NDArray[np.float64]:
    """The affine in mm."""
    scale = MILLIMETRES.get(_unit(image), 1.0)
    return np.asarray(np.diag([scale, scale, scale, 1]) @ image.affine, dtype=float)


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
    image.header.set_xyzt_units("mm")
    return image


def to_nifti(values: Any, dataset: xr.Dataset, path: str | Path, *, mask: Any = None) -> None:
    """Write values of voxels as a NIfTI image, atomically; 0 outside the voxels.

    Parameters
    ----------
    values : array of shape (voxel,) or (image, voxel)
        Written as a 3-D image, or as a 4-D image with the images last.
    dataset : Dataset
        With coordinates `i`, `j`, `k` and attributes `affine` and `grid_shape`.
    path : path that ends in .nii or .nii.gz
    mask : path or image of nibabel, optional
        Mask whose header the image takes over where it is NIfTI, with its units, codes and description. None: affine
        (in mm) and coordinate system come from the attributes of `dataset`.

    Raises
    ------
    ResponseError
        The geometry is missing, values and voxels do not fit, or the mask's shape or affine are not those of
        `dataset`.

    Examples
    --------
    >>> import nibabel
    >>> import numpy as np
    >>> import braincl
    >>> mask = np.zeros((4, 5, 6), np.uint8)
    >>> mask[1:3, 2, 3] = 1
    >>> nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), "mask.nii.gz")
    >>> braincl.to_nifti([0.5, 2.0], braincl.voxel_table("mask.nii.gz"), "map.nii.gz")
    >>> nibabel.load("map.nii.gz").get_fdata()[1:3, 2, 3].tolist()
    [0.5, 2.0]
    """
    nibabel: Any = import_module("nibabel")
    check_nifti_name(path)
    image = to_image(values, dataset) if mask is None else _in_header_of(mask, values, dataset)
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def _in_header_of(mask: Any, values: Any, dataset: xr.Dataset) -> Any:
    _, affine, shape = grid_of(dataset)
    image = open_nifti(mask)
    if image.shape[:3] != shape or not np.allclose(_affine(image), affine, atol=1e-3):
        raise ResponseError(
            f"{mask}: shape {image.shape} or affine are not those of the voxels ({shape}); give the mask that the "
            "responses were read with"
        )
    if "scl_slope" not in image.header:  # MGH: there is nothing more to take over
        return to_image(values, dataset)
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


@contextlib.contextmanager
def _damage_named(path: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file raises whatever gzip, zlib, numpy or nibabel stumble over
        raise ResponseError(
            f"{path} is not a readable NIfTI image ({type(error).__name__}: {error}); it may be truncated, fetch it "
            "again"
        ) from error
