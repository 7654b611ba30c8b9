"""Maps: one value for each voxel, computed from predictions and written as NIfTI volumes.

Axes: m image, V voxel. A "voxel" of surface data is a vertex.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.nifti import grid_of, to_nifti
from braincl.data.responses import average_duplicates
from braincl.errors import ResponseError
from setcore.errors import InputError
from setcore.evaluation.metrics import explained_variance, pearson_r

SMALLEST_CEILING = 0.05  # below it a score over its ceiling is mostly noise


def voxel_maps(predicted: xr.Dataset, observed: xr.Dataset | None = None) -> xr.Dataset:
    """Uncertainty and, where measured responses are given, scores per voxel.

    Parameters
    ----------
    predicted : Dataset
        As from `braincl.analysis.predict.predict_responses`.
    observed : response set, optional
        Measured responses of the same voxels; pictures are matched by `image_id`, those that are in both count, each by
        the mean of its rows.

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
        `predicted` holds no predictions, the voxels differ, or fewer than 2 pictures are in both.

    Examples
    --------
    >>> import numpy as np
    >>> import braincl
    >>> rng = np.random.default_rng(0)
    >>> subject = braincl.from_arrays(rng.normal(size=(30, 5)), rng.normal(size=(30, 8)), subject="S1")
    >>> predicted = subject.rename(response="prediction")
    >>> predicted["prediction_std"] = 0.5 + 0 * predicted["prediction"]
    >>> maps = braincl.voxel_maps(predicted, subject)  # predictions that are the measured responses themselves
    >>> maps["pearson_r"].values.round(3).tolist(), maps["uncertainty"].values.tolist()
    ([1.0, 1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5, 0.5])
    """
    if missing := [name for name in ("prediction", "prediction_std") if name not in predicted]:
        raise ResponseError(
            f"the first set has no {missing[0]!r}; give what `braincl predict` wrote, then the measured"
        )
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

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> import braincl
    >>> values = np.array([[1.0, 5.0], [3.0, 5.0], [0.0, 5.0], [-2.0, 5.0]])  # 4 pictures, 2 voxels
    >>> predicted = xr.Dataset({"prediction": (("image", "voxel"), values)})
    >>> found = braincl.picture_selectivity(predicted, np.array([True, True, False, False]))
    >>> found["selectivity"].values.astype(float).round(3).tolist()  # 3 / sqrt(2), and a voxel that does not vary
    [2.121, 0.0]
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
    maps: xr.Dataset, folder: str | Path, *, names: Sequence[str] | None = None, mask: Any = None
) -> dict[str, Path]:
    """Write variables with the axis 'voxel' as ``FOLDER/NAME.nii.gz``, each atomically.

    Parameters
    ----------
    maps : Dataset with i, j, k (voxel), affine and grid_shape
    folder : path
        It is made where it does not exist.
    names : sequence of str, optional
        Which variables; None: all that have the axis 'voxel' as their last.
    mask : path or image of nibabel, optional
        NIfTI mask whose header the maps take over; see `braincl.to_nifti`.

    Returns
    -------
    dict of name to path

    Raises
    ------
    ResponseError
        Before anything is written: the geometry is missing, or a name is unknown.
    InputError
        The folder cannot be made.

    Examples
    --------
    >>> import nibabel
    >>> import numpy as np
    >>> import braincl
    >>> mask = np.zeros((4, 5, 6), np.uint8)
    >>> mask[1:3, 2, 3] = 1
    >>> nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), "mask.nii.gz")
    >>> table = braincl.voxel_table("mask.nii.gz")
    >>> maps = table.assign(selectivity=("voxel", np.array([1.0, -1.0])))
    >>> sorted(braincl.write_maps(maps, "maps"))
    ['selectivity']
    """
    found = [str(name) for name, variable in maps.data_vars.items() if variable.dims[-1:] == ("voxel",)]
    names = found if names is None else list(names)
    if unknown := [name for name in names if name not in found]:
        raise ResponseError(f"there is no map {unknown[0]!r}; there are: {', '.join(found)}")
    grid_of(maps)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made ({error.strerror}); name another one") from error
    paths = {name: Path(folder) / f"{name}.nii.gz" for name in names}
    for name, path in paths.items():
        to_nifti(maps[name].values, maps, path, mask=mask)
    return paths


def _matched(predicted: xr.Dataset, observed: xr.Dataset) -> tuple[NDArray[Any], NDArray[Any]]:
    """Predictions and measured responses (m, V) of the pictures that are in both."""
    if not np.array_equal(predicted["voxel_id"].values, observed["voxel_id"].values):
        raise ResponseError("the predicted and the measured voxels differ in voxel_id or its order; score equal voxels")
    if "image_id" not in predicted.coords:
        raise ResponseError("the predictions have no image_id; predict for images that have one (`braincl embed`)")
    observed = average_duplicates(observed[["response"]])
    _, first, second = np.intersect1d(predicted["image_id"], observed["image_id"], return_indices=True)
    if len(first) < 2:
        raise ResponseError(f"{len(first)} pictures are both predicted and measured; scores need at least 2")
    return predicted["prediction"].values[first], observed["response"].values[second]


def _as_maps(maps: dict[str, NDArray[Any]], dataset: xr.Dataset) -> xr.Dataset:
    coordinates = {name: c for name, c in dataset.coords.items() if c.dims == ("voxel",)}
    variables = {name: (("voxel",), values.astype(np.float32)) for name, values in maps.items()}
    return xr.Dataset(variables, coords=coordinates, attrs=dict(dataset.attrs))
