"""Pictures of shapes from all around, as a generator is shown them: small, quick, and no two alike.

A view draws where the camera stands and how far away, how much of the picture the shape fills, its colour, the light,
the background, and whether the shape is shaded or plain; one seed draws all of it. Triangles are filled row by row, all
at once in numpy, and the nearest one wins a pixel.

Axis letters: f faces, r rows of pixels that faces cross, p pixels that faces cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from setcore.errors import InputError
from setcore.seeding import numpy_generator
from vat3d.errors import MeshError
from vat3d.mesh.triangles import face_areas_normals

SIZE, VIEWS = 112, 12
"""Pixels a side, and pictures of a shape, by default."""
PLAIN, WHITE = 0.25, 0.5
"""Shares of views without shading, and with a white background."""
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """What decides a picture, besides the shape.

    Parameters
    ----------
    azimuth, elevation : float
        Where the camera stands, in degrees: around the y axis from +z towards +x, and above the horizon.
    distance : float
        From the shape's centre, in radii of the sphere around it; above 1. Far away, as 1e6: no perspective.
    fill : float
        Share of the picture's side that the longer side of what is seen takes.
    light : three floats
        Where the light comes from, seen from the camera: right, up, towards it.
    ambient : float
        Brightness of what the light does not reach; 1 is a plain shape.
    colour : three floats
        Of the shape, each from 0 to 255.
    top, bottom : three floats
        Of the background, which goes from one to the other.
    """

    azimuth: float = 35.0
    elevation: float = 20.0
    distance: float = 4.0
    fill: float = 0.85
    light: tuple[float, float, float] = (-0.35, 0.55, 0.76)
    ambient: float = 0.3
    colour: Colour = (164.0, 184.0, 208.0)
    top: Colour = (255.0, 255.0, 255.0)
    bottom: Colour = (255.0, 255.0, 255.0)


def render_views(
    vertices: NDArray[np.floating], faces: NDArray[np.integer], views: int = VIEWS, size: int = SIZE, seed: int = 0
) -> NDArray[np.uint8]:
    """Pictures of a shape from all around.

    Parameters
    ----------
    vertices : array of shape (v, 3)
        y is up.
    faces : int array of shape (f, 3)
    views : int
    size : int
        Pixels a side.
    seed : int
        Of all that a `View` says; the same seed gives the same pictures.

    Returns
    -------
    uint8 array of shape (views, size, size, 3)

    Raises
    ------
    MeshError
        The shape has no area, or coordinates that are no numbers.
    InputError
        No view, or pictures of no size.
    """
    if views < 1 or size < 1:
        raise InputError(f"{views} views of {size} pixels make no picture; give 1 or more of each")
    shape = _centred(vertices, faces)
    return np.stack([_picture(shape, view, size) for view in draw_views(views, seed)])


def draw_views(views: int, seed: int) -> list[View]:
    """Views from evenly spread directions, about which chance moves them; all else is drawn.

    Parameters
    ----------
    views : int
    seed : int

    Returns
    -------
    list of View
    """
    rng = numpy_generator(seed, "views")
    first = rng.uniform(0, 360)
    return [_drawn(rng, first + 360 * (number + rng.uniform(-0.4, 0.4)) / views) for number in range(views)]


def _drawn(rng: np.random.Generator, azimuth: float) -> View:
    def colour(low: float, high: float) -> Colour:
        red, green, blue = rng.uniform(low, high) + rng.uniform(-35, 35, 3)
        return float(red), float(green), float(blue)

    light = rng.normal((0, 0.5, 1), 0.6)
    white, dark, even = rng.random() < WHITE, rng.random() < 0.5, rng.random() < 0.5
    behind = (35, 90) if dark else (165, 220)
    top = (255.0, 255.0, 255.0) if white else colour(*behind)
    return View(
        azimuth=azimuth % 360,
        elevation=float(rng.triangular(-15, 20, 65)),
        distance=float(rng.uniform(2.5, 8)),
        fill=float(rng.uniform(0.65, 0.95)),
        light=(float(light[0]), float(light[1]), max(float(light[2]), 0.3)),
        ambient=1.0 if rng.random() < PLAIN else float(rng.uniform(0.2, 0.5)),
        colour=colour(60, 150) if white else colour(165, 220) if dark else colour(60, 110),
        top=top,
        bottom=top if white or even else colour(*behind),
    )


def render_view(
    vertices: NDArray[np.floating], faces: NDArray[np.integer], view: View, size: int = SIZE
) -> NDArray[np.uint8]:
    """One picture of a shape.

    Parameters
    ----------
    vertices : array of shape (v, 3)
        y is up.
    faces : int array of shape (f, 3)
    view : View
    size : int
        Pixels a side.

    Returns
    -------
    uint8 array of shape (size, size, 3)

    Raises
    ------
    MeshError
        The shape has no area, or coordinates that are no numbers.
    InputError
        The camera stands in the shape, or the picture has no size.
    """
    if not view.distance > 1 or size < 1:
        raise InputError(
            f"a camera at {view.distance} radii draws no picture of {size} pixels; stand further off than 1"
        )
    return _picture(_centred(vertices, faces), view, size)


def camera_turn(view: View) -> NDArray[np.float64]:
    """Rotation from the world to the camera, which looks along its own -z.

    Parameters
    ----------
    view : View

    Returns
    -------
    array of shape (3, 3)
    """
    a, e = np.radians(view.azimuth), np.radians(view.elevation)
    around = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    return np.asarray(np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]]) @ around)


class _Shape(NamedTuple):
    """A shape whose centre is the origin, in a sphere of radius 1."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    normals: NDArray[np.float64]


def _centred(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> _Shape:
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    points, corners = np.asarray(vertices, float)[used], np.asarray((np.cumsum(used) - 1)[faces], np.int64)
    if not len(points) or not np.isfinite(points).all():
        raise MeshError("the mesh has no faces, or coordinates that are no numbers; there is nothing to draw")
    points = points - (points.min(0) + points.max(0)) / 2
    points /= np.linalg.norm(points, axis=1).max() or 1.0
    return _Shape(points, corners, face_areas_normals(points, corners)[1])


def _picture(shape: _Shape, view: View, size: int) -> NDArray[np.uint8]:
    turn, down = camera_turn(view), np.linspace(0, 1, size)[:, None, None]
    image = np.broadcast_to((1 - down) * view.top + down * np.array(view.bottom), (size, size, 3)).copy()
    at, face, behind = _visible(_projected(shape.vertices, turn, view, size)[shape.faces], size)
    light = turn.T @ (np.array(view.light) / np.linalg.norm(view.light))
    lit = np.clip(shape.normals[face] @ light * np.where(behind, -1, 1), 0, 1)  # open sheets show both sides
    image.reshape(-1, 3)[at] = (view.ambient + (1 - view.ambient) * lit)[:, None] * view.colour
    return np.asarray(np.clip(image, 0, 255).round().astype(np.uint8))


def _projected(vertices: NDArray[np.float64], turn: NDArray[np.float64], view: View, size: int) -> NDArray[np.float64]:
    """Vertices in pixels from the upper left corner, and how near they are: linear over the picture of a face."""
    seen = vertices @ turn.T
    near = 1 / (view.distance - seen[:, 2])
    flat = seen[:, :2] * near[:, None] * [1, -1]
    low, high = flat.min(0), flat.max(0)
    if (high - low).max() == 0:
        raise MeshError("the mesh has no area; there is nothing to draw")
    pixels = (flat - (low + high) / 2) * (view.fill * size / (high - low).max()) + size / 2
    return np.column_stack([pixels, near])


def _visible(corners: NDArray[np.float64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Pixels that faces cover, the nearest face of each, and whether it is seen from behind."""
    kept, begin, end = _crossing(corners[:, :, 1], size)
    columns = _crossing(corners[:, :, 0], size)[0]
    numbers = np.flatnonzero(kept & columns)  # of faces: most small ones lie between the pixels' centres
    corners, begin, end = corners[numbers], begin[numbers], end[numbers]
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = corners.transpose(1, 2, 0)
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)  # twice; y points down: less than 0 where seen from outside
    wide = np.where(area == 0, 1, area)
    slope_x = ((bz - az) * (cy - ay) - (cz - az) * (by - ay)) / wide
    slope_y = ((cz - az) * (bx - ax) - (bz - az) * (cx - ax)) / wide
    face, row = _ranges(np.where(area == 0, begin - 1, end), begin)
    middle = row + 0.5
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for one, other in ((0, 1), (1, 2), (2, 0)):
        (x0, y0), (x1, y1) = corners[face, one, :2].T, corners[face, other, :2].T
        crossed = (np.minimum(y0, y1) <= middle) & (middle <= np.maximum(y0, y1)) & (y0 != y1)
        across = x0 + (middle - y0) * (x1 - x0) / np.where(y0 == y1, 1, y1 - y0)
        left = np.where(crossed, np.minimum(left, across), left)
        right = np.where(crossed, np.maximum(right, across), right)
    begin = np.ceil(np.clip(left, 0, size) - 0.5).astype(np.int64)
    end = np.floor(np.clip(right, 0, size) - 0.5).astype(np.int64)
    line, column = _ranges(end, begin)
    owner = face[line]
    depth = az[owner] + (column + 0.5 - ax[owner]) * slope_x[owner] + (middle[line] - ay[owner]) * slope_y[owner]
    order = np.argsort(depth, kind="stable")  # far to near: later assignments win
    nearest = np.full(size * size, -1)
    nearest[(row[line] * size + column)[order]] = owner[order]
    at = np.flatnonzero(nearest >= 0)
    return at, numbers[nearest[at]], area[nearest[at]] > 0


def _crossing(
    corners: NDArray[np.float64], size: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Whether faces reach over the centre of any row (or column) of pixels, the first such row and the last."""
    first = np.ceil(np.maximum(corners.min(1), 0) - 0.5).astype(np.int64)
    last = np.floor(np.minimum(corners.max(1), size) - 0.5).astype(np.int64)
    return first <= last, first, last


def _ranges(last: NDArray[np.int64], first: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of all ranges from `first` to `last`, one after another, and the range that each is of."""
    counts = np.maximum(last - first + 1, 0)
    of = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return of, first[of] + np.arange(len(of)) - starts[of]
