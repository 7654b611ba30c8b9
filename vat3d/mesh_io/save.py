"""Writing mesh files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from setcore.files import atomic_path
from vat3d.errors import MeshError
from vat3d.mesh_io.load import FLOAT32_LOSS

WRITABLE = (".obj", ".ply", ".stl", ".glb")


def save_mesh(path: str | Path, vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> list[str]:
    """Write a triangle mesh as OBJ, PLY, STL or GLB (by the name's ending), atomically.

    OBJ and PLY keep float64 where float32 would not do; STL and GLB cannot.

    Parameters
    ----------
    path : path
    vertices : array of shape (n, 3)
    faces : int array of shape (m, 3)

    Returns
    -------
    list of str
        A note where float32 cannot hold the coordinates, because they lie far from the origin.

    Raises
    ------
    MeshError
        The ending is none of these, or the coordinates overflow float32.
    InputError
        The place cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in WRITABLE:
        raise MeshError(f"{path}: format {kind!r} is not written; choose one of {', '.join(WRITABLE)}")
    points, triangles = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    with np.errstate(over="ignore"):
        narrow = points.astype(np.float32)
    loss = np.abs(narrow.astype(np.float64) - points).max(initial=0.0)
    lossy = bool(loss > FLOAT32_LOSS * np.ptp(points, axis=0).max() / 2)
    if lossy and kind in (".stl", ".glb") and not np.isfinite(narrow).all():
        raise MeshError(f"{path}: the coordinates are too large for {kind}; write OBJ or PLY")
    with atomic_path(path) as temporary:
        if kind == ".obj":
            temporary.write_text(_obj_text(points, triangles), encoding="ascii")
        elif kind == ".ply":
            temporary.write_bytes(_ply_bytes(points if lossy else narrow, triangles))
        else:
            import trimesh

            mesh = trimesh.Trimesh(points, triangles, process=False)
            temporary.write_bytes(mesh.export(file_type=kind[1:]))  # type: ignore[arg-type]
    if lossy and kind in (".stl", ".glb"):
        return [
            f"{kind} holds float32, which moves vertices by up to {loss:.3g} this far from the origin; use OBJ or PLY"
        ]
    return []


def _obj_text(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> str:
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    return "\n".join(lines) + "\n"


def _ply_bytes(vertices: NDArray[np.floating], faces: NDArray[np.int64]) -> bytes:
    kind = "double" if vertices.dtype == np.float64 else "float"
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
        f"property {kind} x\nproperty {kind} y\nproperty {kind} z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(faces), np.dtype([("n", "u1"), ("corner", "<i4", 3)]))
    rows["n"], rows["corner"] = 3, faces
    return header.encode() + vertices.astype(vertices.dtype.newbyteorder("<")).tobytes() + rows.tobytes()
