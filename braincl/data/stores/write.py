"""NetCDF and Zarr sets that are written block by block, and appear whole or not at all."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from braincl.data.attributes import storable
from braincl.errors import ResponseError
from setcore.files import check_writable

SUFFIXES = (".nc", ".zarr")
FORMAT = 2  # of Zarr: format 3 does not say yet how text is stored
CHUNK_BYTES = 8 << 20


class ArraySpec(NamedTuple):
    """A large array of a set.

    Parameters
    ----------
    dimensions : tuple of str
    shape : tuple of int
    dtype : str
    """

    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def bytes(self) -> int:
        """Its size.

        Returns
        -------
        int
        """
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def at(self, voxels: slice) -> tuple[slice, ...]:
        """The place of some voxels.

        Parameters
        ----------
        voxels : slice

        Returns
        -------
        tuple of slice
        """
        return tuple(voxels if name == "voxel" else slice(None) for name in self.dimensions)


@contextmanager
def block_store(path: str | Path, head: xr.Dataset, arrays: Mapping[str, ArraySpec]) -> Iterator[Mapping[str, Any]]:
    """Write a set whose large arrays come in parts.

    Parameters
    ----------
    path : path
        ``.zarr`` for a Zarr store, else NetCDF-4.
    head : Dataset
        Coordinates, attributes and what is small.
    arrays : mapping of name to ArraySpec
        Those of several axes are float32 and chunked along 'voxel'; what is missing of them is NaN.

    Yields
    ------
    mapping of name to array
        To assign parts of: ``arrays["response"][:, start:stop] = values``.

    Raises
    ------
    ResponseError
        There is not enough room on the disk; before anything is written.
    setcore.errors.InputError
        `path` cannot be written.
    """
    target = Path(path)
    needed = sum(spec.bytes for spec in arrays.values())
    check_writable(target)
    if (free := shutil.disk_usage(target.absolute().parent).free) < needed:
        raise ResponseError(f"{path}: {needed / 1e9:.3g} GB are to be written, {free / 1e9:.3g} are free on that disk")
    head = storable(head).drop_encoding()
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=f".{target.name}.") as folder:
        temporary = Path(folder) / target.name
        if target.suffix == ".zarr":
            yield from _zarr(temporary, head, arrays)
        else:
            yield from _netcdf(temporary, head, arrays)
        if target.is_dir() and target.suffix == ".zarr":
            os.replace(target, Path(folder) / "before")
        os.replace(temporary, target)


def _zarr(path: Path, head: xr.Dataset, arrays: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    import zarr

    head.to_zarr(path, mode="w", consolidated=False, zarr_format=FORMAT)
    group = zarr.open_group(path, mode="a")
    made: dict[str, Any] = {
        name: group.create_array(
            name, shape=spec.shape, chunks=_chunks(spec), dtype=spec.dtype, fill_value=np.nan,
            attributes={"_ARRAY_DIMENSIONS": list(spec.dimensions)}, config={"write_empty_chunks": True},
        )
        for name, spec in arrays.items() if len(spec.shape) > 1
    }  # fmt: skip
    small = {name: np.zeros(spec.shape, spec.dtype) for name, spec in arrays.items() if name not in made}
    yield made | small
    columns = xr.Dataset({name: (arrays[name].dimensions, values) for name, values in small.items()}, attrs=head.attrs)
    columns.to_zarr(path, mode="a", consolidated=False)


def _netcdf(path: Path, head: xr.Dataset, arrays: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    import h5netcdf

    head.to_netcdf(path, engine="h5netcdf")
    with h5netcdf.File(path, "a") as file:
        made = {}
        for name, spec in arrays.items():
            for dimension, size in zip(spec.dimensions, spec.shape, strict=True):
                if dimension not in file.dimensions:
                    file.dimensions[dimension] = size
            missing = {"fillvalue": np.float32(np.nan), "chunks": _chunks(spec)} if len(spec.shape) > 1 else {}
            made[name] = file.create_variable(name, spec.dimensions, spec.dtype, **missing)
        if coordinates := " ".join(sorted(map(str, head.coords))):
            for variable in made.values():
                variable.attrs["coordinates"] = coordinates
        yield made


def _chunks(spec: ArraySpec) -> tuple[int, ...]:
    """Whole but along 'voxel', where a chunk has so many that it has about `CHUNK_BYTES`."""
    sizes = dict(zip(spec.dimensions, spec.shape, strict=True))
    others = math.prod(size for name, size in sizes.items() if name != "voxel")
    width = max(1, CHUNK_BYTES // (4 * max(others, 1)))
    return tuple(max(1, min(size, width) if name == "voxel" else size) for name, size in sizes.items())
