"""Predictions as a Dataset: what `braincl predict` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from braincl.data.responses import EMBEDDING_ATTRIBUTES, check_model_backbone, check_same_embedding, save_netcdf
from braincl.data.stores.blocks import VoxelBlocks
from braincl.data.stores.write import ArraySpec, block_store
from braincl.estimators.base import LinearEncoder
from braincl.estimators.in_blocks import fit_blocks

WHOLE = 1 << 28  # bytes of predictions that are written at once
Parts: TypeAlias = Iterator[tuple[slice, dict[str, Any]]]


def predict_responses(encoder: LinearEncoder, context: xr.Dataset, query: xr.Dataset) -> xr.Dataset:
    """Fit an encoder to a context and predict the responses to the images of `query`.

    Parameters
    ----------
    encoder : InContextEncoder or any other encoder
    context : response set with embeddings; rows that show one picture are averaged
    query : Dataset with ``embedding (image, feature)``, as from `open_embeddings`

    Returns
    -------
    Dataset
        ``prediction`` and ``prediction_std (image, voxel)``, ``weights (voxel, feature)``, ``intercept (voxel)``,
        ``constant (voxel)`` (1 where the voxel is constant in the context), with the context's voxel coordinates and
        attributes and the query's image coordinates.

    Raises
    ------
    ResponseError
        The embeddings differ in width or in the backbone that they state.
    ModelError
        The model takes embeddings of another width, or was trained on those of another backbone.
    """
    head, arrays, parts = _prediction_blocks(encoder, context, query)
    found = {name: np.empty(spec.shape, spec.dtype) for name, spec in arrays.items()}
    _fill(found, arrays, parts)
    variables = {name: (arrays[name].dimensions, values) for name, values in found.items()}
    return xr.Dataset(variables, coords=head.coords, attrs=head.attrs)


def write_predictions(
    path: str | Path, encoder: LinearEncoder, context: xr.Dataset, query: xr.Dataset
) -> tuple[int, int]:
    """Write what `predict_responses` returns, large sets block by block.

    Parameters
    ----------
    path : path
        ``.zarr`` for a Zarr store, else NetCDF-4.
    encoder, context, query
        As of `predict_responses`; the context may be opened lazily.

    Returns
    -------
    images, voxels : int

    Raises
    ------
    ResponseError, ModelError
        As of `predict_responses`, or the disk is full.
    """
    head, arrays, parts = _prediction_blocks(encoder, context, query)
    if sum(spec.bytes for spec in arrays.values()) <= WHOLE and Path(path).suffix != ".zarr":
        save_netcdf(predict_responses(encoder, context, query), path)
    else:
        with block_store(path, head, arrays) as store:
            _fill(store, arrays, parts)
    images, voxels = arrays["prediction"].shape
    return images, voxels


def _fill(whole: Mapping[str, Any], arrays: Mapping[str, ArraySpec], parts: Parts) -> None:
    for voxels, values in parts:
        for name, spec in arrays.items():
            whole[name][spec.at(voxels)] = values[name].astype(spec.dtype)


def _prediction_blocks(
    encoder: LinearEncoder, context: xr.Dataset, query: xr.Dataset
) -> tuple[xr.Dataset, dict[str, ArraySpec], Parts]:
    """Coordinates and attributes, the arrays that there will be, and those arrays in blocks of voxels."""
    check_same_embedding(context, query)
    check_model_backbone(encoder, context=context, query=query)
    blocks = VoxelBlocks(context)
    coordinates = {name: c for name, c in blocks.head.coords.items() if c.dims == ("voxel",)}
    coordinates |= {name: c for name, c in query.coords.items() if c.dims == ("image",)}
    kept = ("subject", *EMBEDDING_ATTRIBUTES, "affine", "grid_shape", "space")
    attributes = {name: context.attrs[name] for name in kept if name in context.attrs}
    images, voxels, features = query.sizes["image"], blocks.voxels, query.sizes["feature"]
    arrays = {
        "prediction": ArraySpec(("image", "voxel"), (images, voxels)),
        "prediction_std": ArraySpec(("image", "voxel"), (images, voxels)),
        "weights": ArraySpec(("voxel", "feature"), (voxels, features)),
        "intercept": ArraySpec(("voxel",), (voxels,)),
        "constant": ArraySpec(("voxel",), (voxels,), "int8"),
    }

    def parts() -> Parts:
        for part, fitted in fit_blocks(encoder, blocks):
            mean, std = fitted.predict(query["embedding"].values, return_std=True)
            yield part, {
                "prediction": mean, "prediction_std": std, "weights": fitted.coef_, "intercept": fitted.intercept_,
                "constant": fitted.constant_voxels_,
            }  # fmt: skip

    return xr.Dataset(coords=coordinates, attrs=attributes), arrays, parts()


def shared_pictures(context: xr.Dataset, query: xr.Dataset) -> int:
    """Number of pictures that are both in the context and in the query.

    Parameters
    ----------
    context, query : Dataset
        With the coordinate `image_id`; a query without one shares none.

    Returns
    -------
    int
    """
    if "image_id" not in query.coords:
        return 0
    return len(np.intersect1d(context["image_id"].values, query["image_id"].values))
