"""The samples that a network is trained on: surface points with normals, signed distances near and far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from setcore.seeding import numpy_generator
from vat3d.errors import MeshError
from vat3d.mesh.canonical import HALF_DOMAIN
from vat3d.mesh.solid import NEAR_SIGMAS, Solid

POINTS = 8192
"""Samples of each kind for one mesh."""
Samples = dict[str, NDArray[np.float16]]


def sample_solid(solid: Solid, seed: int, points: int = POINTS) -> Samples:
    """Training samples of one solid in the canonical frame.

    Parameters
    ----------
    solid : Solid
    seed : int
    points : int
        Samples of each kind.

    Returns
    -------
    dict of float16 arrays
        `surface` (points, 6): position and outward unit normal; `near` (points, 4) and `volume` (points, 4): position
        and signed distance, negative inside. Distances belong to the rounded float16 positions.

    Raises
    ------
    MeshError
        The faces bound no solid, or the signs are absurd (see `check_signs`).
    """
    position, normal = solid.surface_samples(2 * points, seed)
    rng = numpy_generator(seed, "queries")
    sigma = np.where(np.arange(points) < points // 2, NEAR_SIGMAS[0], NEAR_SIGMAS[1])
    near = position[points:] + sigma[:, None] * rng.standard_normal((points, 3))
    queries = np.concatenate([near, rng.uniform(-HALF_DOMAIN, HALF_DOMAIN, (points, 3))]).astype(np.float16)
    distance = solid.signed_distance(queries.astype(np.float64)).astype(np.float16)
    labelled = np.concatenate([queries, distance[:, None]], 1)
    surface = np.concatenate([position, normal], 1)[:points].astype(np.float16)
    samples: Samples = {"surface": surface, "near": labelled[:points], "volume": labelled[points:]}
    check_signs(samples)
    return samples


def check_signs(samples: Samples) -> None:
    """Refuse samples whose signs cannot be right.

    Parameters
    ----------
    samples : dict
        As `sample_solid` makes them.

    Raises
    ------
    MeshError
        More than 90 % of the cube is inside, points outside the mesh's box count as inside, or fewer than 10 % or
        more than 90 % of the near points are inside.
    """
    volume, near = samples["volume"].astype(np.float32), samples["near"].astype(np.float32)
    inside = volume[:, 3] < 0
    beyond = np.abs(volume[:, :3]).max(1) > 1.02
    share = float((near[:, 3] < 0).mean())
    if inside.mean() > 0.9 or inside[beyond].any() or not 0.1 < share < 0.9:
        raise MeshError(
            f"inside and outside of the mesh cannot be told apart ({100 * inside.mean():.0f} % of the volume and "
            f"{100 * share:.0f} % of the points near the surface seem to be inside); repair the mesh first"
        )
