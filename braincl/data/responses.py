"""Response sets: one subject's responses to pictures, validated on the way in and on the way out.

A response set is an `xarray.Dataset` with ``response (image, voxel)`` and usually ``embedding (image, feature)``;
on disk it is NetCDF-4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from braincl.errors import ModelError, ResponseError
from setcore.files import atomic_path

DIMENSIONS = {
    "response": ("image", "voxel"),
    "response_trials": ("image", "repeat", "voxel"),
    "embedding": ("image", "feature"),
}
COORDINATES = {
    "image_id": "image",
    "voxel_id": "voxel",
    "roi": "voxel",
    "noise_ceiling": "voxel",
    "i": "voxel",
    "j": "voxel",
    "k": "voxel",
}
# What `braincl embed` states of an embedding; where two files both state one, it must be the same.
EMBEDDING_ATTRIBUTES = ("backbone", "weights_sha256", "preprocessing", "normalization")
SAME_EMBEDDING = 1e-3  # two embeddings of one picture may differ by rounding (batching, precision), not by more


def open_responses(source: str | Path | xr.Dataset, require_embedding: bool = True) -> xr.Dataset:
    """Open and validate a response set.

    Parameters
    ----------
    source : path of a NetCDF-4 file, or Dataset
    require_embedding : bool
        Whether ``embedding (image, feature)`` must be there.

    Returns
    -------
    Dataset
        In memory, float32, with axes in the order (image, voxel), (image, repeat, voxel) and (image, feature). Arrays
        of `source` that are so already are shared, not copied.

    Raises
    ------
    ResponseError
        Naming the variable, the dimension and what to do.
    """
    dataset, where = _read(source)
    dataset = _common_checks(dataset, where, ("response", "image_id", "voxel_id"))
    if require_embedding and "embedding" not in dataset:
        raise ResponseError(
            f"{where}: variable 'embedding' (image, feature) is missing; make it with `braincl embed` and bring it in "
            "with `braincl join`"
        )
    if dataset.sizes["voxel"] == 0:
        raise ResponseError(f"{where}: dimension 'voxel' has length 0; keep at least one voxel")
    if (pictures := len(np.unique(dataset["image_id"]))) < 2:
        raise ResponseError(f"{where}: {pictures} different image_id along 'image'; at least 2 are needed")
    voxel_ids, counts = np.unique(dataset["voxel_id"], return_counts=True)
    if (counts > 1).any():
        raise ResponseError(
            f"{where}: voxel_id {voxel_ids[counts > 1][0]!r} occurs more than once along 'voxel'; make them unique"
        )
    _check_ceiling(dataset, where)
    _check_grid(dataset, where)
    return dataset


def open_embeddings(source: str | Path | xr.Dataset) -> xr.Dataset:
    """Open a file that needs only ``embedding (image, feature)``: query images, or features made by `braincl embed`.

    Parameters
    ----------
    source : path of a NetCDF-4 file, or Dataset

    Returns
    -------
    Dataset
        In memory, float32.

    Raises
    ------
    ResponseError
        Naming what is missing and what to do.
    """
    dataset, where = _read(source)
    dataset = _common_checks(dataset, where, ("embedding",))
    if dataset.sizes["image"] == 0:
        raise ResponseError(f"{where}: dimension 'image' has length 0; give at least one image")
    return dataset


def save_responses(dataset: xr.Dataset, path: str | Path) -> None:
    """Validate a response set and write it as NetCDF-4, atomically.

    Parameters
    ----------
    dataset : response set
    path : path

    Raises
    ------
    ResponseError
    setcore.errors.InputError
        `path` cannot be written.
    """
    save_netcdf(open_responses(dataset, require_embedding=False), path)


def save_netcdf(dataset: xr.Dataset, path: str | Path) -> None:
    """Write any Dataset as NetCDF-4, atomically.

    Parameters
    ----------
    dataset : Dataset
    path : path
    """
    with atomic_path(path) as temporary:
        dataset.drop_encoding().to_netcdf(temporary, engine="h5netcdf")


def average_duplicates(dataset: xr.Dataset) -> xr.Dataset:
    """Average the rows that show one picture, so that counts are of different pictures.

    Rows come in the order in which pictures first appear. Trials of one picture are joined along 'repeat'. The new
    coordinate ``duplicates (image)`` counts the rows that were averaged. Where no picture comes twice, arrays are
    shared with `dataset`, not copied.

    Parameters
    ----------
    dataset : response set

    Returns
    -------
    Dataset
        Each picture once.

    Raises
    ------
    ResponseError
        One picture has two different embeddings.
    """
    ids, first, inverse, counts = np.unique(
        dataset["image_id"].values, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    group = np.argsort(order)[inverse]  # the row of the result that each row goes to
    counts = counts[order]
    if (counts == 1).all():
        return dataset.assign_coords(duplicates=("image", counts))
    result = dataset.isel(image=first[order])
    result = result.assign_coords(duplicates=("image", counts))
    for name in ("response", "embedding"):
        if name not in dataset:
            continue
        values = dataset[name].values
        sums = np.zeros((len(ids), values.shape[1]))
        np.add.at(sums, group, values)
        means = (sums / counts[:, None]).astype(np.float32)
        if name == "embedding":
            spread = np.abs(values - means[group]).max(axis=1)
            if (wrong := spread > SAME_EMBEDDING * np.abs(values).max()).any():
                raise ResponseError(
                    f"image_id {dataset['image_id'].values[wrong][0]!r} occurs with different embeddings; an image_id "
                    "is the hash of one picture, so correct the ids or the embeddings"
                )
        result[name] = (DIMENSIONS[name], means)
    if "response_trials" in dataset:
        result = result.drop_vars("response_trials")
        result["response_trials"] = (DIMENSIONS["response_trials"], _join_trials(dataset, group, counts))
    return result


def join_embeddings(responses: xr.Dataset, features: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """Bring embeddings into a response set by `image_id`.

    Images without an embedding are left out of the result.

    Parameters
    ----------
    responses : response set
    features : Dataset with ``embedding (image, feature)``
        With the coordinate `image_id`.

    Returns
    -------
    joined : Dataset
    missing : list of str
        The image_ids that have no embedding, in order, each once.

    Raises
    ------
    ResponseError
        `features` has no `image_id`, or fewer than 2 pictures have an embedding.
    """
    if "image_id" not in features.coords:
        raise ResponseError("the features have no coordinate 'image_id' (image); make them with `braincl embed`")
    row_of = {image_id: row for row, image_id in reversed(list(enumerate(features["image_id"].values)))}
    ids = responses["image_id"].values
    known = np.array([image_id in row_of for image_id in ids], dtype=bool)
    missing = list(dict.fromkeys(str(image_id) for image_id in ids[~known]))
    if len(set(ids[known])) < 2:
        raise ResponseError(
            f"only {len(set(ids[known]))} of {len(set(ids))} pictures have an embedding; were the features made from "
            "the same picture files? image_id is the hash of the file"
        )
    rows = [row_of[image_id] for image_id in ids[known]]
    # drop first: an embedding of another width may be there
    joined = responses.drop_vars("embedding", errors="ignore").isel(image=known)
    joined["embedding"] = (DIMENSIONS["embedding"], features["embedding"].values[rows])
    for name in EMBEDDING_ATTRIBUTES:
        joined.attrs.pop(name, None)  # that of the embedding which was replaced
        if name in features.attrs:
            joined.attrs[name] = features.attrs[name]
    return joined, missing


def check_same_embedding(context: xr.Dataset, query: xr.Dataset) -> None:
    """Refuse two sets whose embeddings state different image encoders, weights or preprocessing.

    Parameters
    ----------
    context, query : Dataset with ``embedding (image, feature)``

    Raises
    ------
    ResponseError
        They differ in width, or in an attribute of `EMBEDDING_ATTRIBUTES` that both state.
    """
    widths = context.sizes["feature"], query.sizes["feature"]
    if widths[0] != widths[1]:
        raise ResponseError(
            f"the context's embedding has {widths[0]} features, the query's {widths[1]}; embed both with one backbone"
        )
    for name in EMBEDDING_ATTRIBUTES:
        ours, theirs = (str(dataset.attrs.get(name, "")) for dataset in (context, query))
        if ours and theirs and ours != theirs:
            raise ResponseError(
                f"the context's embedding has {name} {ours!r}, the query's {theirs!r}; embed both in one way"
            )


def check_model_backbone(model: Any, **datasets: xr.Dataset) -> None:
    """Refuse data whose embeddings come from another image encoder than those that a model was trained on.

    Parameters
    ----------
    model : encoder
        One without an attribute `backbone`, or with an empty one, takes any embedding.
    **datasets : Dataset
        By what they are to the user, such as ``context=...``; one that states no backbone passes.

    Raises
    ------
    ModelError
    """
    trained_on = str(getattr(model, "backbone", ""))
    for name, dataset in datasets.items():
        stated = str(dataset.attrs.get("backbone", ""))
        if trained_on and stated and stated != trained_on:
            raise ModelError(
                f"the {name}'s embedding has backbone {stated!r}, the model was trained on {trained_on!r}; embed the "
                "pictures with that one, or use a model that takes any embedding (the default)"
            )


def _read(source: str | Path | xr.Dataset) -> tuple[xr.Dataset, str]:
    if isinstance(source, xr.Dataset):
        return source.compute(), "response set"
    path = Path(source)
    if not path.is_file():
        raise ResponseError(f"{path} does not exist or is not a file; name a NetCDF-4 file")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            file.attrs.get("_nc3_strict")  # a damaged root fails here; in h5netcdf it would fail once more on deletion
        return xr.load_dataset(path, engine="h5netcdf"), str(path)
    except Exception as error:  # what a damaged file raises inside HDF5, h5py and xarray is not documented
        raise ResponseError(
            f"{path} is not a readable NetCDF-4 file ({type(error).__name__}: {error}); it may be truncated, fetch or "
            "write it again"
        ) from error


def _common_checks(dataset: xr.Dataset, where: str, required: tuple[str, ...]) -> xr.Dataset:
    """Presence, dimensions, dtypes and finiteness of whatever variables and coordinates are there."""
    dataset = dataset.set_coords([name for name in COORDINATES if name in dataset.variables])
    for name in required:
        if name not in dataset.variables:
            axes = ", ".join(DIMENSIONS.get(name) or (COORDINATES[name],))
            kind = "coordinate" if name in COORDINATES else "variable"
            raise ResponseError(
                f"{where}: {kind} {name!r} ({axes}) is missing; it has {', '.join(map(str, dataset.variables))}"
            )
    for name, dimensions in DIMENSIONS.items():
        if name in dataset:
            dataset[name] = _floats(dataset[name], dimensions, where, missing_allowed=name == "response_trials")
    for name, dimension in COORDINATES.items():
        if name not in dataset.coords:
            continue
        if dataset[name].dims != (dimension,):
            raise ResponseError(
                f"{where}: coordinate {name!r} has dimensions {dataset[name].dims}; it must have ({dimension!r},)"
            )
        if name in ("image_id", "roi"):
            dataset = dataset.assign_coords({name: (dimension, _strings(dataset[name], where))})
    return dataset


def _floats(array: xr.DataArray, dimensions: tuple[str, ...], where: str, missing_allowed: bool) -> xr.DataArray:
    if set(array.dims) != set(dimensions):
        raise ResponseError(f"{where}: {array.name!r} has dimensions {array.dims}; rename them to {dimensions}")
    if array.dtype.kind != "f":
        raise ResponseError(
            f"{where}: {array.name!r} has dtype {array.dtype}; it must be float32 (write it with .astype('float32'))"
        )
    array = array.transpose(*dimensions)
    with np.errstate(over="ignore"):  # what overflows is found as inf below
        array = array.astype(np.float32, copy=False)
    if array.size == 0:
        return array
    bad = np.isinf(array.values) if missing_allowed else ~np.isfinite(array.values)
    if bad.any():
        at = ", ".join(f"{d}={i}" for d, i in zip(dimensions, np.argwhere(bad)[0], strict=True))
        fix = "only NaN may stand for a missing trial" if missing_allowed else "drop or average over missing values"
        raise ResponseError(f"{where}: {array.name!r} has {bad.sum()} NaN or inf, the first at {at}; {fix}")
    return array


def _strings(array: xr.DataArray, where: str) -> np.ndarray:
    values = array.values
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values):
        values = values.astype(str)
    if values.dtype.kind != "U" and not hasattr(values.dtype, "na_object"):
        raise ResponseError(
            f"{where}: coordinate {array.name!r} has dtype {values.dtype}; it must hold strings (.astype(str))"
        )
    return values.astype(str)


def _check_ceiling(dataset: xr.Dataset, where: str) -> None:
    if "noise_ceiling" not in dataset.coords:
        return
    values = dataset["noise_ceiling"].values
    if values.dtype.kind != "f" or (values < 0).any() or (values > 1).any():
        raise ResponseError(
            f"{where}: coordinate 'noise_ceiling' must be a share of variance, floats in 0..1 (NaN where unknown)"
        )


def _check_grid(dataset: xr.Dataset, where: str) -> None:
    """Voxel indices, `grid_shape` and `affine`, as far as they are there."""
    axes = [axis for axis in "ijk" if axis in dataset.coords]
    if axes and len(axes) < 3:
        raise ResponseError(f"{where}: voxel indices need all of i, j, k; there is only {', '.join(axes)}")
    attributes = dataset.attrs
    if "affine" in attributes:
        affine = np.asarray(attributes["affine"])
        if affine.size != 16 or affine.dtype.kind not in "fi" or not np.isfinite(affine).all():
            raise ResponseError(f"{where}: attribute 'affine' must be 16 finite numbers, the 4x4 matrix flattened")
        if abs(np.linalg.det(affine.reshape(4, 4))) < 1e-12:
            raise ResponseError(f"{where}: attribute 'affine' is singular; take it from the image of the mask")
    shape = None
    if "grid_shape" in attributes:
        shape = np.asarray(attributes["grid_shape"])
        if shape.size != 3 or shape.dtype.kind not in "iu" or (shape < 1).any():
            raise ResponseError(f"{where}: attribute 'grid_shape' must be 3 positive integers, got {shape.tolist()}")
    if not axes:
        return
    if any(dataset[axis].dtype.kind not in "iu" for axis in axes):
        raise ResponseError(f"{where}: coordinates i, j, k must be integers")
    indices = np.stack([dataset[axis].values for axis in axes], axis=1).astype(np.int64)
    if shape is not None and ((indices < 0) | (indices >= shape)).any():
        raise ResponseError(f"{where}: coordinates i, j, k leave the grid_shape {shape.tolist()}; indices count from 0")
    if len(np.unique(indices, axis=0)) < len(indices):
        raise ResponseError(f"{where}: two voxels have the same i, j, k; make them unique")


def _join_trials(dataset: xr.Dataset, group: np.ndarray, counts: np.ndarray) -> np.ndarray:
    trials = dataset["response_trials"].values
    repeats, voxels = trials.shape[1:]
    joined = np.full((len(counts), counts.max() * repeats, voxels), np.nan, dtype=np.float32)
    filled = np.zeros(len(counts), dtype=int)
    for row, target in enumerate(group):
        joined[target, filled[target] : filled[target] + repeats] = trials[row]
        filled[target] += repeats
    return joined
