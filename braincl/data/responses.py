"""Response sets: one subject's responses to pictures, validated on the way in and on the way out.

A response set is an `xarray.Dataset` with ``response (image, voxel)`` and usually ``embedding (image, feature)``;
on disk it is NetCDF-4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import H5NetCDFStore

from braincl.data.attributes import storable, without_multi_index
from braincl.data.hdf5_check import check_hdf5
from braincl.data.stores.zarr_check import check_zarr
from braincl.errors import ModelError, OutOfMemory, ResponseError
from setcore.files import check_writable, write_bytes

DIMENSIONS = {
    "response": ("image", "voxel"),
    "response_trials": ("image", "repeat", "voxel"),
    "embedding": ("image", "feature"),
}
LARGE, SMALL = ("response", "response_trials"), 1 << 24  # not read before they are needed, if they have more bytes
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
ROUNDING = 1e-5  # noise ceilings may leave 0..1 by so much
IN_MEMORY = "response set"  # stands for the name of the file in messages
FROM_ARRAYS = "braincl.from_arrays(responses, embeddings) makes a valid response set of two arrays"
SAME_EMBEDDING = 1e-3  # two embeddings of one picture may differ by rounding (batching, precision), not by more


def open_responses(
    source: str | Path | xr.Dataset, require_embedding: bool = True, *, lazy: bool = False, least_pictures: int = 2
) -> xr.Dataset:
    """Open and validate a response set.

    Parameters
    ----------
    source : path of a NetCDF file or of a Zarr store, or Dataset
    require_embedding : bool
        Whether ``embedding (image, feature)`` must be there.
    lazy : bool
        Leave responses and trials where they are if they are large: they are read, and looked at for NaN and inf, when
        they are needed (`braincl.data.stores.blocks.VoxelBlocks`).
    least_pictures : int
        How many different pictures must be there. A context needs two; of new responses one may be identified.

    Returns
    -------
    Dataset
        In memory unless `lazy`, float32, with axes in the order (image, voxel), (image, repeat, voxel) and (image,
        feature). Arrays of `source` that are so already are shared, not copied.

    Raises
    ------
    ResponseError
        Naming the variable, the dimension and what to do.

    Examples
    --------
    >>> import numpy as np
    >>> import braincl
    >>> rng = np.random.default_rng(0)
    >>> subject = braincl.from_arrays(rng.normal(size=(30, 5)), rng.normal(size=(30, 8)), subject="S1")
    >>> braincl.save_responses(subject, "subject.nc")
    >>> braincl.open_responses("subject.nc")["response"].shape
    (30, 5)
    >>> braincl.open_responses("none.nc")
    Traceback (most recent call last):
    braincl.errors.ResponseError: none.nc does not exist; name a NetCDF-4 file or a Zarr store
    """
    dataset, where, lazy = _read(source, lazy)
    dataset = _common_checks(dataset, where, ("response", "image_id", "voxel_id"), lazy)
    if require_embedding and "embedding" not in dataset:
        raise ResponseError(
            f"{where}: variable 'embedding' (image, feature) is missing; make it with `braincl embed` and bring it in "
            "with `braincl join`"
        )
    if dataset.sizes["voxel"] == 0:
        raise ResponseError(f"{where}: dimension 'voxel' has length 0; keep at least one voxel")
    if (pictures := len(np.unique(dataset["image_id"]))) < least_pictures:
        raise ResponseError(f"{where}: {pictures} different image_id along 'image'; at least {least_pictures} needed")
    voxel_ids, counts = np.unique(dataset["voxel_id"], return_counts=True)
    if (counts > 1).any():
        raise ResponseError(
            f"{where}: voxel_id {str(voxel_ids[counts > 1][0])!r} occurs more than once along 'voxel'; make them unique"
        )
    dataset = _with_ceiling(dataset, where)
    _check_grid(dataset, where)
    return dataset


def open_embeddings(source: str | Path | xr.Dataset, *, empty: bool = False) -> xr.Dataset:
    """Open a file that needs only ``embedding (image, feature)``: query images, or features made by `braincl embed`.

    Parameters
    ----------
    source : path of a NetCDF file or of a Zarr store, or Dataset
    empty : bool
        Whether there may be no image, as in a share of a job array that had none to embed.

    Returns
    -------
    Dataset
        In memory, float32.

    Raises
    ------
    ResponseError
        Naming what is missing and what to do.
    """
    dataset, where, _ = _read(source)
    dataset = _common_checks(dataset, where, ("embedding",))
    if dataset.sizes["image"] == 0 and not empty:
        raise ResponseError(f"{where}: dimension 'image' has length 0; give at least one image")
    return dataset


def save_responses(dataset: xr.Dataset, path: str | Path) -> None:
    """Validate a response set and write it as NetCDF-4, atomically.

    Parameters
    ----------
    dataset : response set
        `braincl.from_arrays` makes one of two arrays. Attributes may be text, numbers, truth values (stored as 0 and
        1), paths, lists and mappings (stored as JSON); those that are None are left out.
    path : path

    Raises
    ------
    ResponseError
        Before anything is written: it is no valid response set, or holds something that NetCDF cannot.
    setcore.errors.InputError
        `path` cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> import braincl
    >>> rng = np.random.default_rng(0)
    >>> subject = braincl.from_arrays(rng.normal(size=(30, 5)), rng.normal(size=(30, 8)), subject="S1")
    >>> braincl.save_responses(subject, "subject.nc")
    >>> braincl.open_responses("subject.nc").attrs["subject"]
    'S1'
    """
    save_netcdf(open_responses(dataset, require_embedding=False), path)


def save_netcdf(dataset: xr.Dataset, path: str | Path) -> None:
    """Write any Dataset as NetCDF-4, atomically; attributes and names as `braincl.data.attributes.storable` has them.

    Parameters
    ----------
    dataset : Dataset
    path : path

    Raises
    ------
    ResponseError
        It holds something that NetCDF cannot.
    setcore.errors.InputError
        `path` cannot be written.
    OSError
        The disk is full.
    """
    check_writable(path)
    write_bytes(path, netcdf_bytes(storable(dataset).drop_encoding()))


def netcdf_bytes(dataset: xr.Dataset, encoding: dict[str, Any] | None = None) -> bytes:
    """A Dataset as a NetCDF-4 file.

    It is made in memory: where a disk is full, the HDF5 library crashes the process.

    Parameters
    ----------
    dataset : Dataset
    encoding : dict, optional
        As of `xarray.Dataset.to_netcdf`.

    Returns
    -------
    bytes
    """
    store = H5NetCDFStore.open("memory", mode="w", driver="core", driver_kwds={"backing_store": False})
    try:
        dataset.dump_to_store(store, encoding=encoding or {})
        store.ds.flush()
        file = store.ds._h5file
        file.flush()
        return bytes(file.id.get_file_image())
    finally:
        store.close()


def average_duplicates(dataset: xr.Dataset) -> xr.Dataset:
    """Average the rows that show one picture, so that counts are of different pictures.

    Rows come in the order in which pictures first appear. Trials of one picture are joined along 'repeat'. The new
    coordinate ``duplicates (image)`` counts the rows that were averaged. Where the set has ``repeats (image)``, the
    trials that each row is the mean of, responses are weighted by them, and they are added up. Where no picture comes
    twice, arrays are shared with `dataset`, not copied.

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

    Examples
    --------
    >>> import numpy as np
    >>> import braincl
    >>> rng = np.random.default_rng(0)
    >>> subject = braincl.from_arrays(rng.normal(size=(30, 5)), rng.normal(size=(30, 8)), subject="S1")
    >>> import xarray as xr
    >>> twice = xr.concat([subject, subject.isel(image=slice(0, 3))], "image")
    >>> braincl.average_duplicates(twice).sizes["image"]
    30
    """
    _, first, counts = np.unique(dataset["image_id"].values, return_index=True, return_counts=True)
    order = np.argsort(first)
    counts = counts[order]
    grouped = group_pictures(dataset)
    if grouped is None:
        return dataset.assign_coords(duplicates=("image", counts))
    group, trials = grouped
    result = dataset.isel(image=first[order])
    result = result.assign_coords(duplicates=("image", counts))
    if "repeats" in dataset.coords and trials is not None:
        result = result.assign_coords(repeats=("image", np.bincount(group, trials).astype(trials.dtype)))
    for name in ("response", "embedding"):
        if name not in dataset:
            continue
        values = dataset[name].values
        means = mean_rows(values, group, trials if name == "response" else None)
        if name == "embedding":
            spread = np.abs(values - means[group]).max(axis=1)
            if (wrong := spread > SAME_EMBEDDING * np.abs(values).max()).any():
                raise ResponseError(
                    f"image_id {str(dataset['image_id'].values[wrong][0])!r} occurs with different embeddings; an "
                    "image_id is the hash of one picture, so correct the ids or the embeddings"
                )
        result[name] = (DIMENSIONS[name], means)
    if "response_trials" in dataset:
        result = result.drop_vars("response_trials")
        result["response_trials"] = (DIMENSIONS["response_trials"], _join_trials(dataset, group, counts))
    return result


def group_pictures(dataset: xr.Dataset) -> tuple[NDArray[np.int64], NDArray[Any] | None] | None:
    """Which rows show one picture.

    Parameters
    ----------
    dataset : response set

    Returns
    -------
    None where no picture comes twice, else:
    group : int array of shape (image,)
        Which picture each row shows, counted in the order in which they first appear.
    trials : array of shape (image,) or None
        How many trials each row is the mean of, where the set says so.
    """
    ids, first, inverse = np.unique(dataset["image_id"].values, return_index=True, return_inverse=True)
    if len(ids) == len(inverse):
        return None
    group = np.argsort(np.argsort(first))[inverse]
    known = "repeats" in dataset.coords and dataset["repeats"].dims == ("image",) and (dataset["repeats"] > 0).all()
    return group, dataset["repeats"].values if known else None


def mean_rows(
    values: NDArray[Any], group: NDArray[np.int64], weights: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """Weighted means of the rows of each group.

    Parameters
    ----------
    values : array of shape (n, columns)
    group : int array of shape (n,)
    weights : array of shape (n,), optional
        None: all alike.

    Returns
    -------
    float32 array of shape (groups, columns)
    """
    weights = np.ones(len(group)) if weights is None else weights
    sums = np.zeros((group.max() + 1, values.shape[1]))
    np.add.at(sums, group, weights[:, None] * values)
    return (sums / np.bincount(group, weights)[:, None]).astype(np.float32)


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
        `features` has no `image_id`, or two different embeddings of one; or fewer than 2 pictures have an embedding.

    Examples
    --------
    >>> import numpy as np
    >>> import braincl
    >>> rng = np.random.default_rng(0)
    >>> subject = braincl.from_arrays(rng.normal(size=(30, 5)), rng.normal(size=(30, 8)), subject="S1")
    >>> features = subject[["embedding"]].isel(image=slice(0, 20))
    >>> joined, missing = braincl.join_embeddings(subject.drop_vars("embedding"), features)
    >>> joined.sizes["image"], len(missing)
    (20, 10)
    """
    if "image_id" not in features.coords:
        raise ResponseError("the features have no coordinate 'image_id' (image); make them with `braincl embed`")
    features = average_duplicates(features[["embedding"]])
    row_of = {image_id: row for row, image_id in enumerate(features["image_id"].values)}
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
                "pictures with that one, or use a model that takes any embedding (the default); if it is the same "
                "encoder by another name: --any-backbone, InContextEncoder(any_backbone=True)"
            )


def _read(source: Any, lazy: bool = False) -> tuple[xr.Dataset, str, bool]:
    """The set, its name, and whether its large arrays were left where they are."""
    if isinstance(source, xr.Dataset):
        dataset = without_multi_index(source)
        return dataset if lazy else dataset.compute(), IN_MEMORY, lazy and _is_large(dataset)
    if not isinstance(source, str | Path):
        raise ResponseError(f"a {type(source).__name__} is no response set; {FROM_ARRAYS}")
    path = Path(source)
    if not path.exists():
        raise ResponseError(f"{path} does not exist; name a NetCDF-4 file or a Zarr store")
    try:
        dataset = _opened(path)
        lazy = lazy and _is_large(dataset)
        return dataset if lazy else _loaded(dataset), str(path), lazy
    except ResponseError:
        raise
    except MemoryError as error:
        raise OutOfMemory(
            f"{path} does not fit into memory; `braincl predict` and `evaluate` read it in parts, in Python "
            "open_responses(path, lazy=True)"
        ) from error
    except Exception as error:  # what a damaged file raises inside HDF5, Zarr and xarray is not documented
        kind = "Zarr store" if path.is_dir() else "NetCDF-4 file"
        raise ResponseError(
            f"{path} is not a readable {kind} ({type(error).__name__}: {error}); it may be truncated, fetch or "
            "write it again"
        ) from error


def _opened(path: Path) -> xr.Dataset:
    if path.is_dir():
        check_zarr(path)
        return xr.open_dataset(path, engine="zarr", consolidated=False, cache=False, chunks=None)
    if not _is_netcdf3(path):
        check_hdf5(path)
        return xr.open_dataset(path, engine="h5netcdf", cache=False)
    dataset = xr.open_dataset(path, engine="scipy", cache=False)
    if not dataset.variables:
        raise ValueError("it holds nothing")
    return dataset


def _is_large(dataset: xr.Dataset) -> bool:
    return sum(dataset[name].size * 4 for name in LARGE if name in dataset.variables) > SMALL


def _loaded(dataset: xr.Dataset) -> xr.Dataset:
    with dataset:
        return dataset.load()


def _is_netcdf3(path: Path) -> bool:
    """Whether a file is of the older format, which xarray writes where it finds SciPy alone."""
    with open(path, "rb") as file:
        return file.read(3) == b"CDF"


def _common_checks(dataset: xr.Dataset, where: str, required: tuple[str, ...], lazy: bool = False) -> xr.Dataset:
    """Presence, dimensions, dtypes and finiteness of whatever variables and coordinates are there."""
    if lazy:
        small = [name for name in dataset.variables if name not in LARGE]
        dataset = dataset.assign({name: dataset[name].load() for name in small if name in dataset.data_vars})
        dataset = dataset.assign_coords({name: dataset[name].load() for name in small if name in dataset.coords})
    dataset = dataset.set_coords([name for name in COORDINATES if name in dataset.variables])
    for name in required:
        if name not in dataset.variables:
            axes = ", ".join(DIMENSIONS.get(name) or (COORDINATES[name],))
            kind = "coordinate" if name in COORDINATES else "variable"
            made = f"; {FROM_ARRAYS}" if where == IN_MEMORY else ""
            raise ResponseError(
                f"{where}: {kind} {name!r} ({axes}) is missing; it has {', '.join(map(str, dataset.variables))}{made}"
            )
    for name, dimensions in DIMENSIONS.items():
        if name in dataset:
            read = not lazy or name not in LARGE
            dataset[name] = _floats(dataset[name], dimensions, where, read, missing_allowed=name == "response_trials")
    for name, dimension in COORDINATES.items():
        if name not in dataset.coords:
            continue
        if dataset[name].dims != (dimension,):
            raise ResponseError(
                f"{where}: coordinate {name!r} has dimensions {dataset[name].dims}; it must have ({dimension!r},)"
            )
        if name in ("image_id", "roi") or (name == "voxel_id" and dataset[name].dtype.kind in "OS"):
            dataset = dataset.assign_coords({name: (dimension, _strings(dataset[name], where))})
    return dataset


def _floats(
    array: xr.DataArray, dimensions: tuple[str, ...], where: str, read: bool, missing_allowed: bool
) -> xr.DataArray:
    if set(array.dims) != set(dimensions):
        raise ResponseError(f"{where}: {array.name!r} has dimensions {array.dims}; rename them to {dimensions}")
    if array.dtype.kind != "f":
        raise ResponseError(
            f"{where}: {array.name!r} has dtype {array.dtype}; it must be float32 (write it with .astype('float32'))"
        )
    if array.dims != dimensions:
        array = array.transpose(*dimensions)
    if not read:
        return array
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
        values = np.char.decode(values, "utf-8", "backslashreplace")
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values):
        values = values.astype(str)
    if values.dtype.kind != "U" and not hasattr(values.dtype, "na_object"):
        raise ResponseError(
            f"{where}: coordinate {array.name!r} has dtype {values.dtype}; it must hold strings (.astype(str))"
        )
    return values.astype(str)


def _with_ceiling(dataset: xr.Dataset, where: str) -> xr.Dataset:
    """The set with noise ceilings in 0..1: what is beyond by rounding alone is brought back."""
    if "noise_ceiling" not in dataset.coords:
        return dataset
    values = dataset["noise_ceiling"].values
    if values.dtype.kind != "f" or (values < -ROUNDING).any() or (values > 1 + ROUNDING).any():
        raise ResponseError(
            f"{where}: coordinate 'noise_ceiling' must be a share of variance, floats in 0..1 (NaN where unknown)"
        )
    return dataset.assign_coords(noise_ceiling=dataset["noise_ceiling"].clip(0, 1, keep_attrs=True))


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
