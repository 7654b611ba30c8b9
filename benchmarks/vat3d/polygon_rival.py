"""The bare polygon coder at a number of bytes, as strong as it can be made; `rivals.py` measures it.

A mesh, or its half if it is its own mirror image, is decimated to as many faces as fit on a few grids, its vertices are
moved by Adam towards the least distance of both surfaces through the rounding to the grid, and the file of the best
F-score at .02 is kept.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import fast_simplification
import igl
import numpy as np
import torch
from numpy.typing import NDArray
from trimesh.intersections import slice_faces_plane

from setcore.errors import InputError
from setcore.evaluation.mesh_metrics import Surface, f_score_of
from setcore.seeding import numpy_generator
from vat3d.evaluation.collapse import Collapses
from vat3d.evaluation.draco import drop_components
from vat3d.mesh.canonical import CanonicalMesh, canonical_mesh
from vat3d.mesh.compare import Reference
from vat3d.placement.pose import best_pose

sys.path.append(str(Path(__file__).resolve().parents[1]))
from polygon_file import HEADER_BYTES, Grid, read_polygons, whole_mesh, write_polygons

Vertices, Faces = NDArray[np.float64], NDArray[np.int64]
KEPT_AREAS = (1.0, 0.9, 0.75)
MOST_FACES = 4000
"""Larger meshes are first brought down to so many by a faster decimation."""
CELLS = (32, 48, 64, 80, 104, 136)
"""Grids tried, cells along the longest side."""
STEPS, RATE, NEW_PLACES = 60, 0.3, 4
"""Of Adam: steps, rate in cells, and after how many steps nearest places are searched anew."""
SAMPLES = 2500
NEAR, FINE = 0.02, 0.01
FEW_STEPS, SHORT_LIST = 16, 4
"""Steps of Adam with which every recipe is tried, and recipes of which files are made."""
FIRST_CELLS, FIRST_BITS, BITS_OF_AXES = 48, 14.0, 2.7
"""What a vertex takes at first sight on such a grid, and how much more on one twice as fine."""
ATTEMPTS = 4
FULL = 0.97
"""With such a share of its bytes a file counts as full."""
SNAP = 0.005
"""Vertices so near to the plane of the mirror lie on it."""


class Part:
    """What is coded of a mesh: all of it, or its half, in the frame of its file.

    Parameters
    ----------
    mesh : CanonicalMesh
    """

    def __init__(self, mesh: CanonicalMesh) -> None:
        posed = best_pose(mesh)
        self.frame = posed.frame
        vertices, faces = posed.mesh.vertices, posed.mesh.faces
        for axis in np.flatnonzero(self.frame.mirrored):
            vertices, faces = upper_half(vertices, faces, int(axis))
        self.mesh = canonical_mesh(vertices, faces)
        self.vertices = self._framed(self.mesh.vertices)
        self.surface = Surface(self.vertices, self.mesh.faces, SAMPLES, seed=2)
        self._tree = igl.AABB()
        self._tree.init(self.vertices, self.mesh.faces)

    def _framed(self, vertices: Vertices) -> Vertices:
        return np.ascontiguousarray(vertices * self.mesh.half_side + self.mesh.centre)

    def nearest(self, points: Vertices) -> Vertices:
        """The nearest places (n, 3) of the surface to points (n, 3)."""
        return np.asarray(self._tree.squared_distance(self.vertices, self.mesh.faces, points)[2])

    @cached_property
    def decimations(self) -> list[tuple[float, Collapses]]:
        """Share of the area that is kept and its collapses: of all of the mesh, and without its smallest parts."""
        found = []
        for kept in KEPT_AREAS:
            vertices, faces = drop_components(self.mesh, kept)
            if kept == 1 or len(faces) < len(self.mesh.faces):
                if len(faces) > MOST_FACES:
                    vertices, faces = fast_simplification.simplify(
                        vertices, faces.astype(np.int32), target_count=MOST_FACES
                    )
                found.append((kept, Collapses(self._framed(vertices), np.asarray(faces, np.int64))))
        return found


@dataclass(frozen=True, eq=False)
class Shape:
    """A mesh on the grid of a file.

    Parameters
    ----------
    grid : Grid
    points : float array of shape (n, 3)
        Places of the grid, all of them corners of faces.
    faces : int array of shape (m, 3)
    """

    grid: Grid
    points: Vertices
    faces: Faces

    @classmethod
    def of(cls, grid: Grid, vertices: Vertices, faces: Faces) -> Shape:
        """The nearest mesh on a grid: vertices in one place merged, faces that collapse or repeat dropped.

        Parameters
        ----------
        grid : Grid
        vertices : array of shape (n, 3)
            In the frame of the file.
        faces : array of shape (m, 3)

        Returns
        -------
        Shape
        """
        places = np.rint(np.clip(vertices * grid.cells / 2, grid.low, grid.high)).astype(np.int64)
        merged, inverse = np.unique(places, axis=0, return_inverse=True)
        faces = inverse.reshape(-1)[faces]
        faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
        _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
        used, inverse = np.unique(faces[np.sort(first)], return_inverse=True)
        return cls(grid, merged[used].astype(np.float64), inverse.reshape(-1, 3))

    @property
    def vertices(self) -> Vertices:
        """In the frame of the file, shape (n, 3)."""
        return self.points * (2 / self.grid.cells)

    def to_bytes(self) -> bytes:
        """Its file."""
        return write_polygons(self.grid, self.points.astype(np.int64), self.faces)


def upper_half(vertices: Vertices, faces: Faces, axis: int) -> tuple[Vertices, Faces]:
    """The part of a mesh above the middle of an axis, open there.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    faces : array of shape (m, 3)
    axis : int

    Returns
    -------
    vertices : array
    faces : array
    """
    snapped = vertices.copy()
    snapped[np.abs(snapped[:, axis]) < SNAP, axis] = 0
    flat = (snapped[faces][:, :, axis] == 0).all(1)  # sheets within the plane, such as fins, are their own image
    above, triangles, _ = slice_faces_plane(snapped, faces[~flat], np.eye(3)[axis], np.zeros(3))
    triangles = triangles[(above[triangles][:, :, axis] > 0).any(1)]
    return np.concatenate([above, snapped]), np.concatenate([triangles, faces[flat] + len(above)])


def moved(part: Part, shape: Shape, steps: int = STEPS) -> Shape:
    """Vertices moved by Adam towards the least distance of both surfaces, through the rounding to the grid.

    Parameters
    ----------
    part : Part
    shape : Shape
    steps : int

    Returns
    -------
    Shape
        With the same faces.
    """
    grid = shape.grid
    faces = torch.from_numpy(shape.faces)
    low, high = torch.from_numpy(grid.low).float(), torch.from_numpy(grid.high).float()
    places = torch.from_numpy(shape.points).float().requires_grad_()
    pinned = torch.from_numpy(grid.frame.mirrored) & (places.detach() == 0)
    target = np.ascontiguousarray(part.surface.samples.points[:SAMPLES])
    wanted = torch.from_numpy(target).float()
    optimiser = torch.optim.Adam([places], lr=RATE, betas=(0.8, 0.95))
    best, least = places.detach().clone(), np.inf
    for step in range(steps + 1):
        rounded = places.detach().round().clamp(low, high)
        if step % NEW_PLACES == 0:
            vertices = rounded.numpy().astype(np.float64) * (2 / grid.cells)
            try:
                drawn, own, weights = surface_points(vertices, shape.faces, step)
            except InputError:
                break
            there = torch.from_numpy(part.nearest(drawn)).float()
            _, face, at = igl.point_mesh_squared_distance(target, vertices, shape.faces)
            share = barycentric(at, vertices[shape.faces[face]])
            forth, back = (faces[torch.from_numpy(np.asarray(f, np.int64))] for f in (own, face))
            forth_share, back_share = torch.from_numpy(weights).float(), torch.from_numpy(share).float()
        through = (places + (rounded - places).detach()) * (2 / grid.cells)
        loss = _near_loss((through[forth] * forth_share[..., None]).sum(1) - there) + _near_loss(
            (through[back] * back_share[..., None]).sum(1) - wanted
        )
        if step % NEW_PLACES == 0 and loss.item() < least:
            best, least = rounded, loss.item()
        optimiser.param_groups[0]["lr"] = RATE * (1 - 0.9 * step / steps)
        optimiser.zero_grad()
        loss.backward()
        places.grad[pinned] = 0
        optimiser.step()
    return replace(shape, points=best.numpy().astype(np.float64))


def _near_loss(away: torch.Tensor) -> torch.Tensor:
    """Mean of squared distances that saturate beyond the threshold of the F-score."""
    squared = (away * away).sum(1)
    return (squared / (squared + NEAR**2)).mean()


def surface_points(vertices: Vertices, faces: Faces, seed: int) -> tuple[Vertices, Faces, Vertices]:
    """Area-uniform samples of a mesh, the faces that they lie on, and their barycentric coordinates."""
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    if not area.sum() > 0:
        raise InputError("the rounded mesh has no area")
    rng = numpy_generator(seed, "polygons")
    face = np.searchsorted(np.cumsum(area), rng.random(SAMPLES) * area.sum() * (1 - 1e-9), side="right")
    first, second = np.sqrt(rng.random(SAMPLES)), rng.random(SAMPLES)
    weights = np.stack([1 - first, first * (1 - second), first * second], 1)
    return (corners[face] * weights[..., None]).sum(1), face, weights


def barycentric(points: Vertices, corners: NDArray[np.float64]) -> Vertices:
    """Barycentric coordinates (n, 3) of points (n, 3) on triangles (n, 3, 3); of those without area, the nearest
    corner's."""
    one, other, point = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], points - corners[:, 0]
    aa, ab, bb = (one * one).sum(1), (one * other).sum(1), (other * other).sum(1)
    ap, bp = (one * point).sum(1), (other * point).sum(1)
    area = aa * bb - ab * ab
    flat = area <= 1e-12
    v = (bb * ap - ab * bp) / np.where(flat, 1, area)
    w = (aa * bp - ab * ap) / np.where(flat, 1, area)
    weights = np.stack([1 - v - w, v, w], 1)
    nearest = np.linalg.norm(corners - points[:, None], axis=2).argmin(1)
    weights[flat] = np.eye(3)[nearest[flat]]
    return np.clip(weights, 0, 1)


Score = tuple[float, float]
"""F-score at .02 to three digits, and that at .01, which decides between equals."""


def quick_score(part: Part, shape: Shape) -> Score:
    """Score of what is coded, from few samples."""
    try:
        other = Surface(shape.vertices, shape.faces, SAMPLES, seed=1, any_order=False)
    except InputError:
        return 0.0, 0.0
    there, back = part.surface.nearest(other.samples.points)[0], other.nearest(part.surface.samples.points)[0]
    return round(f_score_of(there, back, NEAR), 3), f_score_of(there, back, FINE)


@dataclass(frozen=True, eq=False)
class PolygonFile:
    """A file and how it was made.

    Parameters
    ----------
    score : Score
    data : bytes
    kept_area : float
        Share of the area that was decimated, the rest dropped as small parts.
    faces, vertices : int
        Of what is coded.
    """

    score: Score
    data: bytes
    kept_area: float
    faces: int
    vertices: int


class Search:
    """Files of one mesh.

    Parameters
    ----------
    source : vertices and faces
    """

    def __init__(self, source: tuple[Vertices, Faces]) -> None:
        self.reference = Reference(source)
        self.part = Part(canonical_mesh(*source))

    def best(self, budget: int) -> tuple[tuple[Vertices, Faces], dict[str, Any]] | None:
        """What the best file of at most so many bytes decodes to, and what the file is.

        Parameters
        ----------
        budget : int

        Returns
        -------
        (vertices, faces), dict; optional
            None where nothing fits.
        """
        recipes = []
        for kept, collapses in self.part.decimations:
            first = with_vertices(
                collapses, Grid(self.part.frame, FIRST_CELLS), 8 * (budget - HEADER_BYTES) / FIRST_BITS
            )
            if not len(first.faces):
                continue
            bits = 8 * (len(first.to_bytes()) - HEADER_BYTES) / len(first.points)
            for cells in CELLS:
                wanted = 8 * (budget - HEADER_BYTES) / (bits + BITS_OF_AXES * np.log2(cells / FIRST_CELLS))
                shape = with_vertices(collapses, Grid(self.part.frame, cells), wanted)
                if len(shape.faces):
                    shape = moved(self.part, shape, FEW_STEPS)
                    recipes.append((quick_score(self.part, shape), kept, collapses, shape.grid, wanted))
        recipes.sort(key=lambda recipe: recipe[0], reverse=True)
        found = [self._fitted(*recipe[1:], budget) for recipe in recipes[:SHORT_LIST]]
        best = max(filter(None, found), key=lambda one: one.score, default=None)
        if not best or best.score == (0, 0):
            return None
        grid, points, faces = read_polygons(best.data)
        facts = {"bytes": len(best.data), "kept_area": best.kept_area, "faces": best.faces, "vertices": best.vertices}
        return whole_mesh(grid, points, faces), facts | {"cells": grid.cells, "mirrored": grid.frame.mirrored_axes}

    def _fitted(self, kept: float, collapses: Collapses, grid: Grid, wanted: float, budget: int) -> PolygonFile | None:
        """The best file by one recipe, in a few attempts at the number of vertices."""
        best: PolygonFile | None = None
        for _ in range(ATTEMPTS):
            shape = moved(self.part, with_vertices(collapses, grid, wanted))
            data = shape.to_bytes()
            if len(data) <= budget:
                file = PolygonFile(self._score(shape), data, kept, len(shape.faces), len(shape.points))
                best = max(filter(None, (best, file)), key=lambda one: one.score)
                if len(data) >= FULL * budget or len(shape.points) < 0.9 * wanted:
                    break
            wanted = len(shape.points) * (0.985 * budget - HEADER_BYTES) / (len(data) - HEADER_BYTES)
        return best

    def _score(self, shape: Shape) -> Score:
        try:
            scores = self.reference.surface_scores(*whole_mesh(shape.grid, shape.points, shape.faces))
        except InputError:  # quantisation left no area
            return 0.0, 0.0
        return round(scores[f"f_score@{NEAR:g}"], 3), scores[f"f_score@{FINE:g}"]


def with_vertices(collapses: Collapses, grid: Grid, wanted: float) -> Shape:
    """The mesh on the way down that has about so many vertices, but no more, on a grid."""
    count = wanted
    for _ in range(3):
        shape = Shape.of(grid, *collapses.mesh(int(count)))
        if 0.97 * wanted <= len(shape.points) or count >= collapses.most:
            break
        count *= wanted / max(len(shape.points), 1)
    return shape if len(shape.points) <= wanted else Shape.of(grid, *collapses.mesh(int(wanted)))
