"""Distances between surfaces: chamfer distance, F-score, normal consistency, volume IoU.

Measured from area-uniform samples of one surface to the triangles of the other, both ways, so that a mesh is at no
distance from itself. Results depend on the triangles alone, not on the order of faces and vertices in a file.
Definitions follow Tatarchenko et al. 2019 (F-score) and Mescheder et al. 2019 (normal consistency, IoU).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from setcore.errors import InputError
from setcore.seeding import numpy_generator

SAMPLES = 30_000
"""Samples of each surface in figures that are reported."""
THRESHOLDS = (0.005, 0.01, 0.02)
"""Distances of the F-scores that are reported."""


@dataclass(frozen=True, eq=False)
class SurfaceSamples:
    """Points on a surface and the unit normals there.

    Parameters
    ----------
    points, normals : array of shape (n, 3)
    """

    points: np.ndarray
    normals: np.ndarray


class Surface:
    """The triangles of a mesh, with samples of them, to measure distances from and to.

    Parameters
    ----------
    vertices : array of shape (n_vertices, 3)
    faces : int array of shape (n_faces, 3)
        Those without area do not count.
    count : int
        Samples.
    seed : int
        Of the samples.
    any_order : bool
        As for `sample_surface`.

    Raises
    ------
    InputError
        The mesh has no area, or its coordinates are not finite.
    """

    def __init__(
        self, vertices: np.ndarray, faces: np.ndarray, count: int = SAMPLES, seed: int = 0, *, any_order: bool = True
    ) -> None:
        triangles = np.asarray(vertices, np.float64)[np.asarray(faces, np.int64)]
        self._triangles = _canonical(triangles) if any_order else triangles
        self.samples = _drawn(self._triangles, count, seed)

    @cached_property
    def _tree(self) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        """A bounding volume hierarchy with its corners, faces and unit normals."""
        import igl

        cross = _area_vectors(self._triangles)
        length = np.linalg.norm(cross, axis=1)
        corners = np.ascontiguousarray(self._triangles[length > 0]).reshape(-1, 3)
        faces = np.arange(len(corners)).reshape(-1, 3)
        tree = igl.AABB()
        tree.init(corners, faces)
        return tree, corners, faces, cross[length > 0] / length[length > 0, None]

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far points are from the surface, and its normals at the nearest places.

        Parameters
        ----------
        points : array of shape (m, 3)

        Returns
        -------
        distance : array of shape (m,)
        normals : array of shape (m, 3)
        """
        tree, corners, faces, normals = self._tree
        squared, face, _ = tree.squared_distance(corners, faces, np.ascontiguousarray(points, np.float64))
        return np.sqrt(squared), normals[face]


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, count: int, seed: int = 0, *, any_order: bool = True
) -> SurfaceSamples:
    """Area-uniform samples of a triangle mesh.

    Parameters
    ----------
    vertices : array of shape (n_vertices, 3)
    faces : int array of shape (n_faces, 3)
    count : int
    seed : int
    any_order : bool
        Bit-identical samples for every order of vertices and faces, and of the corners within a face; costs two sorts.

    Returns
    -------
    SurfaceSamples

    Raises
    ------
    InputError
        The mesh has no area, or its coordinates are not finite.
    """
    triangles = np.asarray(vertices, np.float64)[np.asarray(faces, np.int64)]
    return _drawn(_canonical(triangles) if any_order else triangles, count, seed)


def _drawn(triangles: np.ndarray, count: int, seed: int) -> SurfaceSamples:
    cross = _area_vectors(triangles)
    double_area = np.linalg.norm(cross, axis=1)
    cumulative = np.cumsum(double_area)
    if not len(cumulative) or not np.isfinite(cumulative[-1]) or cumulative[-1] <= 0:
        raise InputError("the mesh has no surface to sample: no faces, no area, or coordinates that are not finite")
    rng = numpy_generator(seed, "surface")
    chosen = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    chosen = np.minimum(chosen, np.flatnonzero(double_area)[-1])  # a draw that rounds up to the whole area
    first, second = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    corners = triangles[chosen]
    points = (1 - first) * corners[:, 0] + first * ((1 - second) * corners[:, 1] + second * corners[:, 2])
    return SurfaceSamples(points, cross[chosen] / double_area[chosen, None])


def _area_vectors(triangles: np.ndarray) -> np.ndarray:
    """Normals (n, 3) of triangles (n, 3, 3), as long as twice their areas."""
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])


def _canonical(triangles: np.ndarray) -> np.ndarray:
    """Triangles (n, 3, 3) turned to their lexicographically smallest corner and sorted."""
    rank = np.argsort(np.lexsort(triangles.reshape(-1, 3).T[::-1])).reshape(-1, 3)
    # equal corners get different ranks, but a turn between equal corners changes nothing that is measured
    first = rank.argmin(1)
    turned = triangles[np.arange(len(triangles))[:, None], (first[:, None] + np.arange(3)) % 3]
    return np.asarray(turned[np.lexsort(turned.reshape(-1, 9).T[::-1])])


def chamfer_distance(a: Surface, b: Surface) -> float:
    """Mean distance from the samples of each surface to the other, both directions summed.

    Parameters
    ----------
    a, b : Surface

    Returns
    -------
    float
        In the units of the points.
    """
    return float(b.nearest(a.samples.points)[0].mean() + a.nearest(b.samples.points)[0].mean())


def f_score(reference: Surface, other: Surface, threshold: float) -> float:
    """Harmonic mean of precision and recall (Tatarchenko et al. 2019).

    Precision is the share of the samples of `other` closer than the threshold to `reference`, recall the reverse.

    Parameters
    ----------
    reference, other : Surface
    threshold : float
        Distance, in the units of the points.

    Returns
    -------
    float
        0..1.
    """
    to_reference, to_other = reference.nearest(other.samples.points)[0], other.nearest(reference.samples.points)[0]
    return f_score_of(to_reference, to_other, threshold)


def normal_consistency(a: Surface, b: Surface) -> float:
    """Mean absolute cosine between normals of samples and of the nearest places, both directions averaged.

    Parameters
    ----------
    a, b : Surface

    Returns
    -------
    float
        0..1.
    """
    return _consistency(a, b, a.nearest(b.samples.points)[1], b.nearest(a.samples.points)[1])


def volume_iou(inside_a: np.ndarray, inside_b: np.ndarray) -> float:
    """Intersection over union of two solids.

    Parameters
    ----------
    inside_a, inside_b : bool array of shape (n,)
        Whether common uniform points lie inside each solid.

    Returns
    -------
    float
        0..1; 1 where both are empty.
    """
    inside_a, inside_b = np.asarray(inside_a, bool), np.asarray(inside_b, bool)
    union = int((inside_a | inside_b).sum())
    return float((inside_a & inside_b).sum() / union) if union else 1.0


def surface_scores(reference: Surface, other: Surface, thresholds: tuple[float, ...] = THRESHOLDS) -> dict[str, float]:
    """F-scores, chamfer distance and normal consistency at once: nearest places are searched only once.

    Parameters
    ----------
    reference, other : Surface
    thresholds : tuple of float
        Of the F-scores, in the units of the points.

    Returns
    -------
    dict
        ``f_score@T`` for each threshold, ``chamfer_distance``, ``normal_consistency``.
    """
    to_reference, at_reference = reference.nearest(other.samples.points)
    to_other, at_other = other.nearest(reference.samples.points)
    scores = {f"f_score@{threshold:g}": f_score_of(to_reference, to_other, threshold) for threshold in thresholds}
    scores["chamfer_distance"] = float(to_reference.mean() + to_other.mean())
    scores["normal_consistency"] = _consistency(reference, other, at_reference, at_other)
    return scores


def is_closed(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether every edge has exactly two faces, once vertices at the same place are one.

    Parameters
    ----------
    vertices : array of shape (n_vertices, 3)
    faces : int array of shape (n_faces, 3)

    Returns
    -------
    bool
    """
    faces = np.asarray(faces, np.int64)
    _, place = np.unique(np.asarray(vertices), axis=0, return_inverse=True)
    corners = place.reshape(-1)[faces]
    corners = corners[(corners != np.roll(corners, 1, axis=1)).all(1)]
    if not len(corners):
        return False
    edges = np.sort(np.stack([corners, np.roll(corners, -1, axis=1)], -1).reshape(-1, 2), axis=1)
    return bool((np.unique(edges, axis=0, return_counts=True)[1] == 2).all())


def harmonic_mean(precision: float, recall: float) -> float:
    """What an F-score is of precision and recall.

    Parameters
    ----------
    precision, recall : float
        0..1.

    Returns
    -------
    float
        0 where both are.
    """
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def f_score_of(to_reference: np.ndarray, to_other: np.ndarray, threshold: float) -> float:
    """The F-score of distances that are known.

    Parameters
    ----------
    to_reference : array of shape (n,)
        From samples of the other surface.
    to_other : array of shape (m,)
        From samples of the reference.
    threshold : float

    Returns
    -------
    float
        0..1.
    """
    return harmonic_mean(float((to_reference < threshold).mean()), float((to_other < threshold).mean()))


def _consistency(a: Surface, b: Surface, at_a: np.ndarray, at_b: np.ndarray) -> float:
    """Of normals at a nearest to samples of b, and at b nearest to samples of a."""
    forward = np.abs((a.samples.normals * at_b).sum(1)).mean()
    backward = np.abs((b.samples.normals * at_a).sum(1)).mean()
    return float((forward + backward) / 2)
