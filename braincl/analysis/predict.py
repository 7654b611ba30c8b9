"""Predictions as a Dataset: what `braincl predict` writes."""

from __future__ import annotations

import numpy as np
import xarray as xr

from braincl.data.responses import (
    EMBEDDING_ATTRIBUTES,
    average_duplicates,
    check_model_backbone,
    check_same_embedding,
)
from braincl.estimators.base import LinearEncoder


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
    check_same_embedding(context, query)
    check_model_backbone(encoder, context=context, query=query)
    context = average_duplicates(context)
    encoder.fit(context["embedding"].values, context["response"].values)
    mean, std = encoder.predict(query["embedding"].values, return_std=True)
    coordinates = {name: c for name, c in context.coords.items() if c.dims == ("voxel",)}
    coordinates |= {name: c for name, c in query.coords.items() if c.dims == ("image",)}
    kept = ("subject", *EMBEDDING_ATTRIBUTES, "affine", "grid_shape", "space")
    return xr.Dataset(
        {
            "prediction": (("image", "voxel"), mean.astype(np.float32)),
            "prediction_std": (("image", "voxel"), std.astype(np.float32)),
            "weights": (("voxel", "feature"), np.asarray(encoder.coef_, dtype=np.float32)),
            "intercept": (("voxel",), np.asarray(encoder.intercept_, dtype=np.float32)),
            "constant": (("voxel",), encoder.constant_voxels_.astype(np.int8)),
        },
        coords=coordinates,
        attrs={name: context.attrs[name] for name in kept if name in context.attrs},
    )


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
