"""Building blocks of procedural shapes: solids with exact booleans (manifold3d), and smooth unions on a grid.

All lengths are in the shape's own unit and z points up. `Rng` is numpy's generator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import manifold3d
import numpy as np
from manifold3d import CrossSection, Manifold
from numpy.typing import NDArray

from vat3d.errors import MeshError

Rng = np.random.Generator
Numbers: TypeAlias = NDArray[Any] | Sequence[Any] | float
"""A number, a point or rows of points."""
GRID_CELLS = 200_000
"""Cells of the grid on which a smooth union is evaluated: bounds the time for one shape."""


def chance(rng: Rng, probability: float) -> bool:
    """True with the given probability.

    Parameters
    ----------
    rng : numpy.random.Generator
    probability : float

    Returns
    -------
    bool
    """
    return bool(rng.random() < probability)


def pick(rng: Rng, *choices: Any) -> Any:
    """One of some choices.

    Parameters
    ----------
    rng : numpy.random.Generator
    *choices : object

    Returns
    -------
    object
    """
    return choices[int(rng.integers(len(choices)))]


def builder_name(rng: Rng, builders: Mapping[str, tuple[Any, float]], name: str | None) -> str:
    """A given name, or one drawn by the relative frequencies in a table of builders.

    Parameters
    ----------
    rng : numpy.random.Generator
    builders : mapping of str to (builder, frequency)
    name : str, optional

    Returns
    -------
    str

    Raises
    ------
    MeshError
        The table does not hold `name`.
    """
    if name is None:
        weights = np.array([weight for _, weight in builders.values()])
        return list(builders)[int(rng.choice(len(weights), p=weights / weights.sum()))]
    if name not in builders:
        raise MeshError(f"there is no procedural shape {name!r}; choose one of {', '.join(builders)}")
    return name


def _triple(at: Numbers) -> tuple[float, float, float]:
    x, y, z = np.asarray(at, float)
    return float(x), float(y), float(z)


def box(size: Numbers, at: Numbers = (0, 0, 0), bevel: float = 0.0) -> Manifold:
    """A box.

    Parameters
    ----------
    size : three numbers
        Full side lengths.
    at : three numbers
        Its centre.
    bevel : float
        By which its edges are cut.

    Returns
    -------
    Manifold
    """
    size = np.asarray(size, float)
    if bevel <= 0:
        return Manifold.cube(tuple(size), True).translate(_triple(at))
    bevel = min(bevel, 0.45 * size.min())
    cut = size - 2 * bevel * (1 - np.eye(3))
    return Manifold.batch_hull([Manifold.cube(tuple(row), True) for row in cut]).translate(_triple(at))


def ball(at: Numbers, radii: Numbers, segments: int = 24) -> Manifold:
    """An ellipsoid.

    Parameters
    ----------
    at : three numbers
        Its centre.
    radii : one or three numbers
        Half-axes.
    segments : int
        Around.

    Returns
    -------
    Manifold
    """
    return Manifold.sphere(1.0, segments).scale(tuple(np.broadcast_to(radii, 3).astype(float))).translate(_triple(at))


def rod(a: Numbers, b: Numbers, radius: float, end_radius: float | None = None, segments: int = 16) -> Manifold:
    """A cylinder, prism or frustum between two points.

    Parameters
    ----------
    a, b : three numbers
    radius : float
        At `a`.
    end_radius : float, optional
        At `b`; the same, if not given.
    segments : int
        Around.

    Returns
    -------
    Manifold
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    length = float(np.linalg.norm(b - a))
    frame = _frame((b - a) / length)
    solid = Manifold.cylinder(length, radius, radius if end_radius is None else end_radius, segments)
    return solid.transform(np.concatenate([frame, a[:, None]], 1))


def limb(a: Numbers, b: Numbers, radius: float, end_radius: float | None = None, segments: int = 16) -> Manifold:
    """A rod with round ends.

    Parameters
    ----------
    a, b : three numbers
    radius : float
        At `a`.
    end_radius : float, optional
        At `b`; the same, if not given.
    segments : int
        Around.

    Returns
    -------
    Manifold
    """
    return Manifold.batch_hull([ball(a, radius, segments), ball(b, end_radius or radius, segments)])


def lathe(profile: Numbers, segments: int = 40, degrees: float = 360.0) -> Manifold:
    """Revolve a profile about the z axis.

    Parameters
    ----------
    profile : array of shape (n, 2)
        Points (radius, z), from bottom to top.
    segments : int
        Around.
    degrees : float

    Returns
    -------
    Manifold
    """
    profile = np.asarray(profile, float)
    outline = np.concatenate([[[0, profile[0, 1]]], profile, [[0, profile[-1, 1]]]])
    return Manifold.revolve(cross_section(outline), segments, degrees)


def ring(radius: float, thickness: float, segments: int = 40, sides: int = 14) -> Manifold:
    """A torus about the z axis.

    Parameters
    ----------
    radius, thickness : float
    segments, sides : int
        Around the ring, and around its section.

    Returns
    -------
    Manifold
    """
    return Manifold.revolve(CrossSection.circle(thickness, sides).translate((radius, 0)), segments)


def plate(outline: CrossSection, height: float, top: float = 1.0, twist: float = 0.0) -> Manifold:
    """Extrude an outline from z = 0.

    Parameters
    ----------
    outline : CrossSection
    height : float
    top : float
        What the outline is scaled by on the way.
    twist : float
        Degrees by which it is turned.

    Returns
    -------
    Manifold
    """
    return Manifold.extrude(outline, height, 24 if twist else 0, twist, (top, top))


def cross_section(points: Numbers) -> CrossSection:
    """The area inside a closed polygon of either direction.

    Parameters
    ----------
    points : array of shape (n, 2)

    Returns
    -------
    CrossSection
    """
    return CrossSection([np.asarray(points, float)], manifold3d.FillRule.NonZero)


def stroke(points: Numbers, width: float) -> CrossSection:
    """A polyline drawn with a round pen.

    Parameters
    ----------
    points : array of shape (n, 2)
    width : float

    Returns
    -------
    CrossSection
    """
    points = np.asarray(points, float)
    dots = [CrossSection.circle(width / 2, 12).translate(tuple(p)) for p in points]
    return CrossSection.batch_boolean([CrossSection.batch_hull(pair) for pair in pairwise(dots)], manifold3d.OpType.Add)


def regular_polygon(n: int, radius: float = 1.0, phase: float = 0.0) -> NDArray[np.float64]:
    """Corners of a regular polygon.

    Parameters
    ----------
    n : int
    radius : float
    phase : float
        Radians of the first corner.

    Returns
    -------
    array of shape (n, 2)
    """
    angle = phase + 2 * np.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def tube(path: Numbers, radius: Numbers, closed: bool = False, sides: int = 14, flat: float = 1.0) -> Manifold:
    """Sweep a circle along a path of points.

    Parameters
    ----------
    path : array of shape (n, 3)
    radius : float or array of shape (n,)
    closed : bool
        The path's end meets its start.
    sides : int
        Around.
    flat : float
        Below 1: an ellipse instead of a circle.

    Returns
    -------
    Manifold
    """
    path = np.asarray(path, float)
    n = len(path)
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normals = np.empty_like(path)
    normals[0] = _frame(tangent[0])[:, 0]
    for i in range(1, n):  # parallel transport: no twist at inflections
        across = normals[i - 1] - tangent[i] * (normals[i - 1] @ tangent[i])
        normals[i] = across / np.linalg.norm(across)
    binormals = np.cross(tangent, normals)
    angle = 2 * np.pi * np.arange(sides) / sides
    around = np.cos(angle)[:, None, None] * normals + flat * np.sin(angle)[:, None, None] * binormals
    points = (path + np.broadcast_to(np.asarray(radius, float).reshape(-1, 1), (n, 1)) * around).transpose(1, 0, 2)
    here = np.arange((n if closed else n - 1) * sides)
    row, column = np.divmod(here, sides)
    beside, ahead = (column + 1) % sides, (row + 1) % n * sides
    quad = np.stack([here, row * sides + beside, ahead + beside, ahead + column], 1)
    faces = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])
    vertices = points.reshape(-1, 3)
    if not closed:
        fan, k = np.arange(1, sides - 1), (n - 1) * sides
        low = np.stack([np.zeros_like(fan), fan + 1, fan], 1)
        faces = np.concatenate([faces, low, low[:, ::-1] + k])
    return solid_from(vertices, faces)


def superquadric(radii: Numbers, e1: float, e2: float, n: int = 24) -> Manifold:
    """A superquadric: exponents near 0 give a box, 1 an ellipsoid, 2 an octahedron.

    Parameters
    ----------
    radii : three numbers
        Half-axes.
    e1, e2 : float
        Exponents.
    n : int
        Rows.

    Returns
    -------
    Manifold
    """
    unit, faces = arrays(Manifold.sphere(1.0, n))
    theta = np.arctan2(unit[:, 2], np.hypot(unit[:, 0], unit[:, 1]))
    phi = np.arctan2(unit[:, 1], unit[:, 0])

    def power(value: NDArray[np.float64], e: float) -> NDArray[np.float64]:
        return np.sign(value) * np.abs(value) ** e

    shape = np.stack(
        [
            power(np.cos(theta), e1) * power(np.cos(phi), e2),
            power(np.cos(theta), e1) * power(np.sin(phi), e2),
            power(np.sin(theta), e1),
        ],
        1,
    )
    return solid_from(shape * np.broadcast_to(radii, 3), faces)


def solid_from(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> Manifold:
    """A manifold3d solid from a closed triangle mesh.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    faces : int array of shape (m, 3)

    Returns
    -------
    Manifold
    """
    # copies, since manifold3d refuses read-only arrays
    return Manifold(manifold3d.Mesh64(np.array(vertices, np.float64, order="C"), np.array(faces, np.uint64, order="C")))


def arrays(solid: Manifold) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The mesh of a solid.

    Parameters
    ----------
    solid : Manifold

    Returns
    -------
    vertices : array of shape (n, 3)
    faces : int array of shape (m, 3)
        Outward.
    """
    mesh = solid.to_mesh64()
    return np.asarray(mesh.vert_properties, np.float64)[:, :3], np.asarray(mesh.tri_verts).astype(np.int64)


def union(parts: Iterable[Manifold]) -> Manifold:
    """Everything that is inside any part.

    Parameters
    ----------
    parts : iterable of Manifold

    Returns
    -------
    Manifold
    """
    return Manifold.batch_boolean(list(parts), manifold3d.OpType.Add)


def both_sides(parts: Iterable[Manifold]) -> list[Manifold]:
    """The parts and their mirror images in the plane y = 0.

    Parameters
    ----------
    parts : iterable of Manifold

    Returns
    -------
    list of Manifold
    """
    parts = list(parts)
    return parts + [part.mirror((0, 1, 0)) for part in parts]


def around(part: Manifold, n: int) -> list[Manifold]:
    """Copies turned about the z axis.

    Parameters
    ----------
    part : Manifold
    n : int

    Returns
    -------
    list of Manifold
    """
    return [part.rotate((0, 0, 360.0 * k / n)) for k in range(n)]


def curve(points: Numbers, n: int = 40) -> NDArray[np.float64]:
    """A smooth curve through points.

    Parameters
    ----------
    points : array of shape (m, d)
    n : int

    Returns
    -------
    array of shape (n, d)
    """
    from scipy.interpolate import make_interp_spline

    points = np.asarray(points, float)
    knots = np.linspace(0, 1, len(points))
    return np.asarray(make_interp_spline(knots, points, k=min(3, len(points) - 1))(np.linspace(0, 1, n)))


def profile_curve(points: Numbers, n: int = 40) -> NDArray[np.float64]:
    """A smooth lathe profile through (radius, z) points without overshoot, heights ascending.

    Parameters
    ----------
    points : array of shape (m, 2)
    n : int

    Returns
    -------
    array of shape (n, 2)
    """
    from scipy.interpolate import PchipInterpolator

    points = np.asarray(points, float)
    z = np.linspace(points[0, 1], points[-1, 1], n)
    return np.stack([PchipInterpolator(points[:, 1], points[:, 0])(z), z], 1)


class Blend:
    """Round cones and ellipsoids that melt into each other, for organic shapes.

    Parameters
    ----------
    softness : float
        Radius within which neighbouring parts melt together.
    """

    def __init__(self, softness: float) -> None:
        self.softness = softness
        self._parts: list[tuple[Any, ...]] = []

    def bone(self, a: Numbers, b: Numbers, radius: float, end_radius: float | None = None) -> None:
        """Add a round cone between two points.

        Parameters
        ----------
        a, b : three numbers
        radius : float
            At `a`.
        end_radius : float, optional
            At `b`; the same, if not given.
        """
        a, b = np.asarray(a, float), np.asarray(b, float)
        self._parts.append(("bone", a, b, radius, radius if end_radius is None else end_radius))

    def chain(self, points: Numbers, radii: Sequence[float] | NDArray[np.float64]) -> None:
        """Add round cones along a path.

        Parameters
        ----------
        points : array of shape (n, 3)
        radii : sequence of float
        """
        points = np.asarray(points, float)
        for a, b, ra, rb in zip(points, points[1:], radii, radii[1:], strict=False):
            self.bone(a, b, ra, rb)

    def blob(self, at: Numbers, radii: Numbers, turn: Numbers | None = None) -> None:
        """Add an ellipsoid.

        Parameters
        ----------
        at : three numbers
            Its centre.
        radii : three numbers
            Half-axes.
        turn : array of shape (3, 3), optional
            Rotation.
        """
        matrix = np.eye(3) if turn is None else np.asarray(turn, float)
        self._parts.append(("blob", np.asarray(at, float), np.broadcast_to(radii, 3).astype(float), matrix))

    def mirror(self, start: int = 0) -> None:
        """Add mirror images (y to -y) of parts.

        Parameters
        ----------
        start : int
            Of the parts from this number on.
        """
        flip = np.array([1.0, -1.0, 1.0])
        for part in self._parts[start:]:
            if part[0] == "bone":
                self._parts.append(("bone", part[1] * flip, part[2] * flip, part[3], part[4]))
            else:
                self._parts.append(("blob", part[1] * flip, part[2], np.diag(flip) @ part[3]))

    def __len__(self) -> int:
        return len(self._parts)

    def solid(self) -> Manifold:
        """The surface of the smooth union, by marching cubes.

        Returns
        -------
        Manifold
        """
        from skimage.measure import marching_cubes

        corners = [_bounds(part) for part in self._parts]
        low = np.min([c[0] for c in corners], 0) - self.softness
        high = np.max([c[1] for c in corners], 0) + self.softness
        step = max((np.prod(high - low) / GRID_CELLS) ** (1 / 3), (high - low).max() / 144)
        axes = [np.arange(low[k] - step, high[k] + 2 * step, step, dtype=np.float32) for k in range(3)]
        total = np.zeros([len(a) for a in axes], np.float32)
        reach = 6 * self.softness + 2 * step
        for part, (start, stop) in zip(self._parts, corners, strict=True):
            # exp(-d / softness) vanishes far away, so each part is evaluated in its own neighbourhood only
            window = tuple(slice(*np.searchsorted(a, (start[k] - reach, stop[k] + reach))) for k, a in enumerate(axes))
            near = [a[w] for a, w in zip(axes, window, strict=True)]
            grid = np.stack(np.meshgrid(*near, indexing="ij"), -1)
            total[window] += np.exp(np.clip(-_distance(part, grid) / self.softness, -30, 30))
        field = -np.log(np.maximum(total, 1e-12))
        vertices, faces, _, _ = marching_cubes(field, 0.0)
        pieces = solid_from(vertices * step + [a[0] for a in axes], faces).simplify(0.04 * step).decompose()
        most = max(piece.volume() for piece in pieces)
        return union(piece for piece in pieces if piece.volume() > 0.002 * most)  # specks where thin parts break up


def _bounds(part: tuple[Any, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if part[0] == "bone":
        _, a, b, ra, rb = part
        return np.minimum(a - ra, b - rb), np.maximum(a + ra, b + rb)
    _, at, radii, turn = part
    extent = np.sqrt(((turn * radii) ** 2).sum(1))
    return at - extent, at + extent


def _distance(part: tuple[Any, ...], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance-like field of one part, negative inside."""
    if part[0] == "bone":
        _, a, b, ra, rb = part
        ra, rb = np.float32(ra), np.float32(rb)
        axis = (b - a).astype(np.float32)
        offset = points - a.astype(np.float32)
        along = np.clip(offset @ axis / max(float(axis @ axis), 1e-12), 0, 1)
        offset -= along[..., None] * axis
        return np.asarray(np.sqrt(np.einsum("...i,...i", offset, offset)) - (ra + along * (rb - ra)))
    _, at, radii, turn = part
    local = ((points - at.astype(np.float32)) @ turn.astype(np.float32)) / radii.astype(np.float32)
    length = np.sqrt(np.einsum("...i,...i", local, local))
    local /= radii.astype(np.float32)
    slope = np.sqrt(np.einsum("...i,...i", local, local))
    return np.asarray(length * (length - 1) / np.maximum(slope, 1e-6))


def rotation(axis: str, degrees: float) -> NDArray[np.float64]:
    """Rotation matrix about an axis.

    Parameters
    ----------
    axis : {"x", "y", "z"}
    degrees : float

    Returns
    -------
    array of shape (3, 3)
    """
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return matrix


def _frame(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal columns, the last one along `direction`."""
    helper = np.eye(3)[np.argmin(np.abs(direction))]
    x = np.cross(helper, direction)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(direction, x), direction], 1)
