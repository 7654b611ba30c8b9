"""Pictures of meshes without a graphics library: dense surface samples, projected and shaded, nearest one wins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from setcore.errors import InputError
from setcore.evaluation.mesh_metrics import sample_surface
from setcore.files import atomic_path
from vat3d.errors import MeshError
from vat3d.mesh_io.load import load_mesh

_BACKGROUND, _COLOUR = 255, np.array([164.0, 184.0, 208.0])
_LIGHT = np.array([-0.35, 0.55, 0.76])
_CAPTION_HEIGHT = 18
_MARGIN = 1.05


def render_mesh(
    mesh: Any,
    size: int = 320,
    azimuth: float = 35.0,
    elevation: float = 20.0,
    box: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """An orthographic picture of a mesh, y up.

    Parameters
    ----------
    mesh : path, trimesh.Trimesh, or (vertices, faces)
    size : int
        Pixels a side.
    azimuth, elevation : float
        Where the camera stands, in degrees: around the y axis from +z, and above the horizon.
    box : (low, high), optional
        The bounding box that fills the picture, the mesh's own by default; give one box to compare meshes.

    Returns
    -------
    uint8 array of shape (size, size, 3)

    Raises
    ------
    MeshError
        The mesh has no area.
    """
    vertices, faces, _ = load_mesh(mesh)
    low, high = mesh_box((vertices, faces)) if box is None else box
    radius = float(np.linalg.norm(high - low)) / 2 * _MARGIN or 1.0
    count = 6 * size * size
    try:
        surface = sample_surface((vertices - (low + high) / 2) / radius, faces, count)
    except InputError as error:
        raise MeshError(str(error)) from error
    turn = _rotation(azimuth, elevation)
    seen, normals = surface.points @ turn.T, surface.normals @ turn.T
    pixels = np.floor((seen[:, :2] * [1, -1] + 1) / 2 * size).astype(np.int64)
    order = np.argsort(seen[:, 2], kind="stable")  # far to near: later assignments win
    order = order[((pixels[order] >= 0) & (pixels[order] < size)).all(1)]
    image = np.full((size, size, 3), _BACKGROUND, dtype=np.uint8)
    facing = normals * np.where(normals[:, 2:] < 0, -1, 1)  # open sheets show both sides
    shade = 0.3 + 0.7 * np.clip(facing @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, 1)
    image[pixels[order, 1], pixels[order, 0]] = (shade[order, None] * _COLOUR).astype(np.uint8)
    return image


def mesh_box(mesh: Any) -> tuple[np.ndarray, np.ndarray]:
    """The box of the vertices that faces refer to.

    Parameters
    ----------
    mesh : path or mesh

    Returns
    -------
    low, high : arrays of shape (3,)
    """
    vertices, faces, _ = load_mesh(mesh)
    used = vertices[np.unique(faces)]
    return used.min(0), used.max(0)


def save_gallery(
    path: str | Path,
    rows: Sequence[Sequence[Any | None]],
    captions: Sequence[Sequence[str]] | None = None,
    size: int = 320,
    together: bool = True,
) -> None:
    """Write a PNG of meshes in rows.

    Parameters
    ----------
    path : file to write
    rows : meshes, rows of equal length; a pair side by side is one row of two. None leaves a place empty
    captions : one text for each mesh, optional
    size : pixels a side of each picture
    together : show all meshes of a row in the frame of its first one, else each fills its picture

    Raises
    ------
    MeshError
        A mesh has no area, or rows differ in length.
    InputError
        The file cannot be written.
    """
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        raise MeshError("a gallery takes rows of meshes of equal length")
    from PIL import Image, ImageDraw

    bar = _CAPTION_HEIGHT if captions else 0
    sheet = Image.new("RGB", (size * len(rows[0]), (size + bar) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        box = mesh_box(row[0])
        for j, mesh in enumerate(row):
            if mesh is not None:
                picture = render_mesh(mesh, size, box=box if together else None)
                sheet.paste(Image.fromarray(picture), (j * size, i * (size + bar) + bar))
            if captions:
                draw.text((j * size + 6, i * (size + bar) + 3), captions[i][j], fill="black")
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _rotation(azimuth: float, elevation: float) -> np.ndarray:
    """World to camera, which looks along its own -z."""
    a, e = np.radians(azimuth), np.radians(elevation)
    around = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]])
    return np.asarray(tilt @ around)
