"""Mesh files in and out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vat3d.errors import MeshError
from vat3d.mesh_io.gltf import read_gltf
from vat3d.mesh_io.obj import read_obj
from vat3d.mesh_io.off import read_off
from vat3d.mesh_io.ply import read_ply
from vat3d.mesh_io.polygons import triangulate
from vat3d.mesh_io.raw_mesh import RawMesh
from vat3d.mesh_io.stl import read_stl

READERS: dict[str, Callable[[bytes, Path], RawMesh]] = {
    ".obj": lambda data, _: read_obj(data),
    ".ply": lambda data, _: read_ply(data),
    ".stl": lambda data, _: read_stl(data),
    ".off": lambda data, _: read_off(data),
    ".glb": lambda data, _: read_gltf(data),
    ".gltf": read_gltf,
}
"""By the ending of the name; each takes the file's bytes and its folder, where glTF may have its buffers."""
EXTENSIONS = tuple(READERS)
MAX_BYTES = 512 * 2**20
"""Largest mesh file that is read."""
_FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\xfd7zXZ": "an xz archive",
    b"Rar!": "a RAR archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x7fELF": "a program",
    b"\x80\x04": "a pickle",
}


def load_mesh(source: Any) -> RawMesh:
    """Vertices, triangles and notes of a mesh.

    Parameters
    ----------
    source : path, trimesh.Trimesh, trimesh.Scene, (vertices, faces), or what this function returned
        Faces may have more than three corners; they are cut into triangles.

    Returns
    -------
    RawMesh
        Whose indices and coordinates are sound.

    Raises
    ------
    MeshError
        The file is absent, too large, of another format than its name says, cut off or damaged; there are no faces,
        indices out of range, or coordinates that are not finite.
    """
    if isinstance(source, RawMesh):
        return source
    name = "the mesh"
    if isinstance(source, (str, Path)):
        name = str(source)
        try:
            vertices, faces, notes = _read(Path(source))
        except MeshError as error:
            raise MeshError(f"{name}: {error}") from error
    else:
        vertices, faces, notes = _from_memory(source)
    if not len(faces):
        raise MeshError(f"{name}: it has no faces; point clouds and curves cannot be used")
    if faces.min() < 0 or faces.max() >= len(vertices):
        at = np.argwhere((faces < 0) | (faces >= len(vertices)))[0]
        raise MeshError(
            f"{name}: triangle {at[0]} points to vertex {faces[tuple(at)]}, but there are {len(vertices)} vertices; it "
            "is cut off or damaged"
        )
    if not np.isfinite(vertices[np.unique(faces)]).all():
        raise MeshError(f"{name}: it has coordinates that are not finite (NaN or infinity); export it again")
    return RawMesh(vertices, faces, notes)


def _read(path: Path) -> RawMesh:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise MeshError(f"format {path.suffix!r} is not read; convert it to one of {', '.join(EXTENSIONS)}")
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise MeshError("it is not a file; name a mesh file")
        if size > MAX_BYTES:
            raise MeshError(f"the file has {size:,} bytes, more than {MAX_BYTES:,}; simplify the mesh first")
        data = path.read_bytes()
    except OSError as error:
        raise MeshError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise MeshError("the file is empty")
    for magic, what in _FOREIGN.items():
        if data.startswith(magic):
            raise MeshError(f"the file is {what}, not a mesh; unpack or export it first")
    return reader(data, path.parent)


def _from_memory(source: Any) -> RawMesh:
    import trimesh

    notes = []
    if isinstance(source, trimesh.Scene):
        try:
            source = source.to_mesh()
        except ValueError as error:
            raise MeshError(f"the scene cannot be merged into one mesh ({error})") from error
    if isinstance(source, trimesh.Trimesh):
        if source.visual is not None and source.visual.defined:
            notes.append("texture and colours are dropped")
        source = (source.vertices, source.faces)
    if not isinstance(source, (tuple, list)) or len(source) != 2:
        raise MeshError(
            "a mesh is a path, a trimesh.Trimesh, a trimesh.Scene or a pair (vertices, faces), "
            f"not {type(source).__name__}"
        )
    try:
        vertices, faces = np.asarray(source[0]), np.asarray(source[1])
    except (ValueError, RuntimeError, TypeError) as error:  # uneven rows; a tensor that needs grad or is elsewhere
        raise MeshError(f"vertices and faces must be rectangular arrays ({error})") from error
    if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind not in "fiu":
        raise MeshError(f"vertices must be numbers of shape (n, 3), not {vertices.dtype} of shape {vertices.shape}")
    if faces.ndim != 2 or (faces.size and (faces.shape[1] < 3 or faces.dtype.kind not in "iu")):
        raise MeshError(f"faces must be integers of shape (n, 3), not {faces.dtype} of shape {faces.shape}")
    points = vertices.astype(np.float64)
    return RawMesh(points, triangulate(points, faces) if faces.size else np.zeros((0, 3), np.int64), notes)
