"""One response set from NetCDF to Zarr and back."""

from __future__ import annotations

from pathlib import Path

from braincl.data.responses import DIMENSIONS, LARGE, open_responses
from braincl.data.stores.blocks import BLOCK_BYTES, read_voxels
from braincl.data.stores.write import SUFFIXES, ArraySpec, block_store
from braincl.errors import ResponseError


def convert_responses(source: str | Path, out: str | Path) -> tuple[int, int]:
    """Write a response set as NetCDF or Zarr, validated, block by block.

    Parameters
    ----------
    source : path of a NetCDF file or of a Zarr store
    out : path
        Ends in ``.nc`` or ``.zarr``.

    Returns
    -------
    images, voxels : int

    Raises
    ------
    ResponseError
        It is no response set, `out` has another ending, or the disk is too small.
    """
    if Path(out).suffix not in SUFFIXES:
        raise ResponseError(f"{out}: name a file that ends in .nc or a store that ends in .zarr")
    dataset = open_responses(source, require_embedding=False, lazy=True)
    large = [name for name in LARGE if name in dataset]
    arrays = {name: ArraySpec(DIMENSIONS[name], dataset[name].shape) for name in large}
    with block_store(out, dataset.drop_vars(large), arrays) as store:
        for name, spec in arrays.items():
            step = max(1, BLOCK_BYTES * spec.shape[-1] // max(1, spec.bytes))
            for start in range(0, spec.shape[-1], step):
                part = slice(start, min(start + step, spec.shape[-1]))
                store[name][spec.at(part)] = read_voxels(dataset[name], part)
    return dataset.sizes["image"], dataset.sizes["voxel"]
