"""Small synthetic response sets for the tests of braincl; all axes differ in length."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

IMAGES, VOXELS, FEATURES = 40, 7, 12


def make_responses(
    images: int = IMAGES, voxels: int = VOXELS, features: int = FEATURES, *, noise: float = 0.5, seed: int = 0
) -> xr.Dataset:
    """A linear subject: responses of unit signal variance plus noise, with offsets and scales of their own."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((images, features))
    weights = rng.standard_normal((features, voxels)) / np.sqrt(features)
    Y = 3 + 2 * (X @ weights + noise * rng.standard_normal((images, voxels)))
    return xr.Dataset(
        {"response": (("image", "voxel"), Y.astype("f4")), "embedding": (("image", "feature"), X.astype("f4"))},
        coords={
            "image_id": ("image", np.array([f"{seed:08x}{i:08x}" for i in range(images)])),
            "voxel_id": ("voxel", np.array([f"v{v}" for v in range(voxels)])),
            "roi": ("voxel", np.array(["V4", "IT"])[np.arange(voxels) % 2]),
        },
        attrs={"subject": f"S{seed}", "backbone": "random"},
    )


def with_grid(dataset: xr.Dataset, shape: tuple[int, int, int] = (3, 4, 5)) -> xr.Dataset:
    """The same with voxel indices in a grid and an affine that is no identity."""
    cells = np.random.default_rng(1).choice(np.prod(shape), dataset.sizes["voxel"], replace=False)
    indices: Any = np.unravel_index(np.sort(cells), shape)
    affine = np.array([[0, 2, 0, -10], [-1.5, 0, 0, 4], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    return dataset.assign_coords(
        {axis: ("voxel", index) for axis, index in zip("ijk", indices, strict=True)}
    ).assign_attrs(affine=affine.ravel(), grid_shape=np.array(shape))
