"""How close a mesh comes to a reference, in the evaluation frame that all figures of this package are given in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from setcore.errors import InputError, naming
from setcore.evaluation.mesh_metrics import SAMPLES, Surface, is_closed, surface_scores, volume_iou
from setcore.seeding import numpy_generator
from vat3d.errors import MeshError
from vat3d.mesh_io.load import load_mesh

VOLUME_POINTS = 100_000
_REFERENCE_SEED, _OTHER_SEED = 0, 1


def evaluate(reference: Any, other: Any) -> dict[str, Any]:
    """Compare `other` with `reference`.

    Both are brought into the frame in which the reference's bounding box is centred and its longest half-side is 1;
    unreferenced vertices do not count. Sampling is fixed and independent of the order of faces.

    Parameters
    ----------
    reference, other : path, trimesh.Trimesh, or (vertices, faces)

    Returns
    -------
    dict
        ``f_score@0.005``, ``f_score@0.01``, ``f_score@0.02``, ``chamfer_distance``, ``normal_consistency``: from 30,000
        samples of each surface to the triangles of the other. ``volume_iou``: on 100,000 points of the joint bounding
        box, None unless both are closed. ``watertight``: whether every edge of `other` has exactly two faces.

    Raises
    ------
    MeshError
        A mesh cannot be read, has no area, or the reference has no extent.

    Examples
    --------
    >>> import trimesh
    >>> import vat3d
    >>> sphere = trimesh.creation.icosphere(3)
    >>> vat3d.evaluate(sphere, sphere)["f_score@0.01"]
    1.0
    >>> larger = vat3d.evaluate(sphere, sphere.copy().apply_scale(1.03))
    >>> round(larger["f_score@0.02"], 3), round(larger["volume_iou"], 2)
    (0.0, 0.91)
    """
    return Reference(reference).compare(other)


class Reference:
    """A reference mesh whose samples are drawn once, for many comparisons.

    Parameters
    ----------
    mesh : path, trimesh.Trimesh, or (vertices, faces)
    samples : int
        Samples of each surface; figures that are reported use the default.
    """

    def __init__(self, mesh: Any, samples: int = SAMPLES) -> None:
        vertices, faces, _ = load_mesh(mesh)
        with _named(mesh):
            self._frame(vertices, faces, samples)

    def _frame(self, vertices: np.ndarray, faces: np.ndarray, samples: int) -> None:
        used = vertices[np.unique(faces)]
        low, high = used.min(0), used.max(0)
        self.centre = low / 2 + high / 2
        self.half_side = float((high / 2 - low / 2).max())
        if not self.half_side > 0:
            raise MeshError("the reference has no extent: all its vertices coincide")
        self.vertices, self.faces = self._framed(vertices), faces
        self.surface = _surface(self.vertices, faces, samples, _REFERENCE_SEED)

    @cached_property
    def _closed(self) -> bool:
        return is_closed(self.vertices, self.faces)

    def _framed(self, vertices: np.ndarray) -> np.ndarray:
        return np.asarray((vertices - self.centre) / self.half_side)

    def surface_scores(self, vertices: np.ndarray, faces: np.ndarray) -> dict[str, float]:
        """F-scores, chamfer distance and normal consistency of a mesh in the reference's own units.

        Parameters
        ----------
        vertices : array of shape (n, 3)
        faces : int array of shape (m, 3)

        Returns
        -------
        dict
        """
        count = len(self.surface.samples.points)
        return surface_scores(self.surface, _surface(self._framed(vertices), faces, count, _OTHER_SEED))

    def compare(self, other: Any) -> dict[str, Any]:
        """All that `evaluate` returns.

        Parameters
        ----------
        other : path or mesh

        Returns
        -------
        dict
        """
        vertices, faces, _ = load_mesh(other)
        with _named(other):
            scores: dict[str, Any] = self.surface_scores(vertices, faces)
        vertices = self._framed(vertices)
        closed = is_closed(vertices, faces)
        scores["volume_iou"] = (
            _volume_iou(self.vertices, self.faces, vertices, faces) if closed and self._closed else None
        )
        scores["watertight"] = closed
        return scores


def _named(mesh: Any) -> AbstractContextManager[None]:
    """Let errors name the file, where a mesh is one."""
    return naming(mesh) if isinstance(mesh, (str, Path)) else nullcontext()


def _surface(vertices: np.ndarray, faces: np.ndarray, count: int, seed: int) -> Surface:
    try:
        return Surface(vertices, faces, count, seed)
    except InputError as error:
        raise MeshError(str(error)) from error


def _volume_iou(vertices: np.ndarray, faces: np.ndarray, other_vertices: np.ndarray, other_faces: np.ndarray) -> float:
    both = np.concatenate([vertices[np.unique(faces)], other_vertices[np.unique(other_faces)]])
    low, high = both.min(0), both.max(0)
    points = low + (high - low) * numpy_generator(0, "volume").random((VOLUME_POINTS, 3))
    return volume_iou(_inside(vertices, faces, points), _inside(other_vertices, other_faces, points))


def _inside(vertices: np.ndarray, faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    """By winding number of the consistently oriented mesh, either sign, so that inside-out solids are solids too."""
    import igl

    from vat3d.mesh.canonical import canonical_mesh

    mesh = canonical_mesh(vertices, faces)
    points = np.ascontiguousarray((points - mesh.centre) / mesh.half_side)
    return np.asarray(np.abs(igl.fast_winding_number(mesh.vertices, mesh.faces, points)) > 0.5)
