"""Responses in blocks of voxels: what is read of a set at once is bounded, however many voxels it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.arrays import check_finite
from braincl.data.responses import average_duplicates, group_pictures, mean_rows
from braincl.errors import OutOfMemory, ResponseError
from setcore.errors import naming

BLOCK_BYTES = 16 << 20
"""Of responses that are in memory at once; what is worked out of them takes about twenty times that."""


class VoxelBlocks:
    """A response set, each picture once, whose responses are read when they are needed.

    Parameters
    ----------
    dataset : response set
        From `open_responses`, in memory or not.
    block_bytes : int
        Of responses that are read at once.

    Attributes
    ----------
    head : Dataset
        All but the responses.
    images, voxels : int
    """

    def __init__(self, dataset: xr.Dataset, block_bytes: int = BLOCK_BYTES) -> None:
        self._response, self._group = dataset["response"], group_pictures(dataset)
        self._where = dataset.encoding.get("source", "response set")
        self.head = average_duplicates(dataset.drop_vars(["response", "response_trials"], errors="ignore"))
        self.images, self.voxels = self.head.sizes["image"], dataset.sizes["voxel"]
        rows, chunk = max(1, dataset.sizes["image"]), _chunk_width(dataset)
        width = max(1, block_bytes // (4 * rows))
        self._width = width // chunk * chunk or width

    def slices(self) -> list[slice]:
        """Blocks that cover all voxels.

        Returns
        -------
        list of slice
        """
        return [slice(at, min(at + self._width, self.voxels)) for at in range(0, self.voxels, self._width)]

    def read(self, voxels: Any = slice(None)) -> NDArray[np.float32]:
        """Responses of some voxels.

        Parameters
        ----------
        voxels : slice or int array

        Returns
        -------
        array of shape (images, voxels)

        Raises
        ------
        ResponseError
            They hold NaN or inf, or cannot be read.
        """
        with naming(self._where):
            values = read_voxels(self._response, voxels)
        return values if self._group is None else mean_rows(values, *self._group)

    def __iter__(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Every block, and its responses."""
        for part in self.slices():
            yield part, self.read(part)


def read_voxels(array: xr.DataArray, voxels: Any) -> NDArray[np.float32]:
    """Values of some voxels of an array that need not be in memory.

    Parameters
    ----------
    array : DataArray
        Of a response set: ``response`` or ``response_trials``.
    voxels : slice or int array

    Returns
    -------
    float32 array
        Of as many axes.

    Raises
    ------
    ResponseError
        They cannot be read, or responses hold NaN or inf.
    OutOfMemory
    """
    try:
        with np.errstate(over="ignore"):  # what overflows is found as inf below
            values = np.asarray(array.isel(voxel=voxels).values, dtype=np.float32)
    except MemoryError as error:
        raise OutOfMemory(f"{array.name!r} does not fit into memory; read fewer voxels at once") from error
    except Exception as error:  # what a damaged store raises is not documented
        raise ResponseError(
            f"{array.name!r} cannot be read ({type(error).__name__}: {error}); the file or store may be cut short, "
            "fetch or write it again"
        ) from error
    if array.name == "response":
        check_finite(values, "response", axis=1)
    elif np.isinf(values).any():
        raise ResponseError(f"{array.name!r} holds inf; only NaN may stand for a missing trial")
    return values


def _chunk_width(dataset: xr.Dataset) -> int:
    """Voxels of a chunk on disk: blocks are whole chunks, so that none is decoded twice."""
    chunks = dataset["response"].encoding.get("chunksizes") or dataset["response"].encoding.get("chunks")
    return int(chunks[1]) if chunks and len(chunks) == 2 else 1
