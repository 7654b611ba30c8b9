"""Open procedural surfaces: hollow and thin things as people model them, without an inside.

`open_shape(seed)` gives domes, bowls, hats, masks, vases without a wall, curtains, sails, foliage of flat leaves, and
shapes of `vat3d.procedural.shapes` with a part cut away. Encoding makes shells of them; a tokenizer that has seen few
thin, hollow shapes in training breaks them into patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from setcore.seeding import derive_seed, numpy_generator
from vat3d.errors import MeshError
from vat3d.procedural.parts import Rng, arrays, builder_name, chance, curve, pick, rotation, solid_from, tube
from vat3d.procedural.shapes import shape

Mesh = tuple[NDArray[np.float64], NDArray[np.int64]]


def sheet(points: NDArray[np.float64], around: bool = False) -> Mesh:
    """A grid of points as triangles.

    Parameters
    ----------
    points : array of shape (n, m, 3)
    around : bool
        The last column meets the first.

    Returns
    -------
    vertices, faces : arrays of shape (n m, 3) and (k, 3)
    """
    n, m = points.shape[:2]
    number = np.arange(n * m).reshape(n, m)
    if around:
        number = np.concatenate([number, number[:, :1]], 1)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]
    faces = np.concatenate([np.stack(corner, -1).reshape(-1, 3) for corner in ((a, b, c), (a, c, d))])
    return points.reshape(-1, 3), faces


def walled(points: NDArray[np.float64], thickness: float) -> NDArray[np.float64]:
    """Rows of a surface that goes all around, then rows of its inside, back to the first row.

    Parameters
    ----------
    points : array of shape (n, m, 3)
    thickness : float

    Returns
    -------
    array of shape (2 n + 1, m, 3)
    """
    ahead, beside = np.gradient(points, axis=0), np.roll(points, -1, 1) - np.roll(points, 1, 1)
    normal = np.cross(beside, ahead)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
    return np.concatenate([points, (points - thickness * normal)[::-1], points[:1]])


def together(parts: Sequence[Mesh]) -> Mesh:
    """Several meshes as one, side by side.

    Parameters
    ----------
    parts : sequence of (vertices, faces)

    Returns
    -------
    vertices, faces : arrays
    """
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts[:-1])])
    faces = [faces + start for (_, faces), start in zip(parts, starts, strict=True)]
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces)


def cut_away(rng: Rng) -> Mesh:
    """A closed shape, hollow, with an opening on one side or on two.

    Parameters
    ----------
    rng : numpy.random.Generator

    Returns
    -------
    vertices, faces : arrays
    """
    vertices, faces, _ = shape(int(rng.integers(2**31)))
    solid = solid_from(vertices, faces)
    direction = np.eye(3)[rng.integers(3)] if chance(rng, 0.6) else rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    planes = []
    for side in (1, -1) if chance(rng, 0.25) else (pick(rng, 1, -1),):
        normal = side * direction
        along = vertices @ normal
        offset = float(along.min() + rng.uniform(0.03, 0.6) * (along.max() - along.min()))
        solid = solid.trim_by_plane(tuple(normal), offset)
        planes.append((normal, offset))
    vertices, faces = arrays(solid)
    for normal, offset in planes:
        on = np.abs(vertices @ normal - offset) < 1e-6 * np.abs(vertices).max()
        faces = faces[~on[faces].all(1)]
    return vertices, faces


def turned_sheet(rng: Rng) -> Mesh:
    """Domes, bowls, hats, lampshades, vases, tubes: a curve turned about the z axis, all around or in part.

    Some have a thin wall and are closed.

    Parameters
    ----------
    rng : numpy.random.Generator

    Returns
    -------
    vertices, faces : arrays
    """
    u = rng.uniform
    corners = int(rng.integers(3, 7))
    height = u(0.2, 2.0)
    profile = np.stack([u(0.15, 1.0, corners), np.linspace(0, height, corners)], 1)
    if chance(rng, 0.5):  # a dome, closed at the top, with or without a brim
        angle = np.linspace(0, np.pi / 2, corners)
        profile = np.stack([np.cos(angle) ** u(0.4, 1.2), height * np.sin(angle)], 1)
        profile[-1, 0] = 1e-3
        if chance(rng, 0.4):
            profile = np.concatenate([[[1 + u(0.1, 0.6), u(-0.1, 0.1)]], profile])
    profile = curve(profile, 28) if chance(rng, 0.7) else profile
    profile[:, 0] = np.abs(profile[:, 0])
    whole = chance(rng, 0.7)
    sides = pick(rng, 40, 40, 40, 4, 6, 8)
    angle = np.linspace(0, 2 * np.pi if whole else u(1.5, 5.5), sides, endpoint=not whole)
    if whole and sides <= 8:
        angle += np.pi / sides
    waves, depth = rng.integers(3, 12), pick(rng, 0, 0, u(0.02, 0.12))
    radius = profile[:, :1] * (1 + depth * np.cos(waves * angle) * np.linspace(1, u(0, 1), len(profile))[:, None])
    z = np.broadcast_to(profile[:, 1:], radius.shape)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], -1) * [1, u(0.6, 1), 1]
    if whole and chance(rng, 0.35):  # with a wall after all, but a thin one
        points = walled(points, u(0.02, 0.08))
    return sheet(points, around=whole)


def waving(rng: Rng) -> Mesh:
    """Curtains, flags, sails, roofs, ribbons: a curve swept along another, and ruffled.

    Parameters
    ----------
    rng : numpy.random.Generator

    Returns
    -------
    vertices, faces : arrays
    """
    u = rng.uniform
    a, b = np.linspace(-1, 1, 32), np.linspace(-1, 1, 24)
    across = curve(np.stack([np.linspace(-1, 1, 5), u(-0.5, 0.5, 5) * pick(rng, 0.2, 1)], 1), 32)
    along = curve(np.stack([np.linspace(-1, 1, 4) * u(0.3, 1), u(-0.4, 0.4, 4) * pick(rng, 0, 1)], 1), 24)
    x = across[:, :1] * (1 + u(-0.6, 0.6) * b)
    z = across[:, 1:] + along[:, 1] + u(0, 0.08) * np.sin(u(3, 12) * a[:, None] + u(0, 3) * b)
    return sheet(np.stack([x, np.broadcast_to(along[:, 0], x.shape), z], -1))


def leaf(rng: Rng, length: float, width: float, bend: float) -> Mesh:
    """A pointed sheet from the origin along x, bent downwards.

    Parameters
    ----------
    rng : numpy.random.Generator
    length, width, bend : float

    Returns
    -------
    vertices, faces : arrays
    """
    t = np.linspace(0, 1, 8)
    half = width * np.sin(np.pi * t ** rng.uniform(0.5, 1.2)) ** 0.8 + 0.02 * width
    middle = np.stack([length * t, 0 * t, length * bend * t * (0.5 - t)], 1)
    rows = [middle + side * half[:, None] * [0, 1, 0] + abs(side) * half[:, None] * [0, 0, 0.3] for side in (-1, 0, 1)]
    return sheet(np.stack(rows, 1))


def foliage(rng: Rng) -> Mesh:
    """Stems with flat leaves, on some a pot; ferns, bouquets, palms, feathers.

    Parameters
    ----------
    rng : numpy.random.Generator

    Returns
    -------
    vertices, faces : arrays
    """
    u = rng.uniform
    parts: list[Mesh] = []
    long, wide, bend, lift = u(0.25, 0.9), u(0.04, 0.22), u(-0.5, 1.5), u(-0.3, 1.2)
    for stem in range(int(rng.integers(1, 6))):
        lean = rng.normal(0, 0.3, 2) * (stem > 0)
        path = curve([[0, 0, 0], [*lean * 0.6, 0.5], [*lean, u(0.6, 1.3)]], 16)
        parts.append(arrays(tube(path, np.linspace(u(0.02, 0.05), 0.012, 16), sides=6)))
        for _ in range(int(rng.integers(4, 14))):
            vertices, faces = leaf(rng, long * u(0.6, 1.2), wide, bend)
            turn = rotation("z", u(0, 360)) @ rotation("y", -np.degrees(lift) + u(-25, 25))
            parts.append((vertices @ turn.T + path[rng.integers(4, 16)], faces))
    if chance(rng, 0.5):
        pot, angle = u(0.15, 0.35), np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
        walls = [pot * u(0.6, 0.9) * ring - [0, 0, 0.4], pot * ring]
        parts.append(sheet(np.stack([0 * ring - [0, 0, 0.4], *walls]), around=True))
    return together(parts)


KINDS: dict[str, tuple[Callable[[Rng], Mesh], float]] = {
    "cut_away": (cut_away, 0.45),
    "turned_sheet": (turned_sheet, 0.3),
    "waving": (waving, 0.1),
    "foliage": (foliage, 0.15),
}
"""Builder and relative frequency of each kind."""


def open_shape(seed: int, kind: str | None = None) -> tuple[NDArray[np.float64], NDArray[np.int64], str]:
    """One open shape.

    Parameters
    ----------
    seed : int
    kind : str, optional
        A key of `KINDS`; drawn by its frequency if not given.

    Returns
    -------
    vertices : float64 array of shape (n_vertices, 3), z up, any size
    faces : int64 array of shape (n_faces, 3)
    kind : str

    Raises
    ------
    MeshError
        The kind does not exist, or nothing was left of the shape.
    """
    rng = numpy_generator(derive_seed(seed, "open"))
    kind = builder_name(rng, KINDS, kind)
    vertices, faces = KINDS[kind][0](rng)
    if not len(faces):
        raise MeshError(f"the open shape {kind} of seed {seed} is empty")
    return vertices, faces, kind
