"""Writing mesh files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from setcore.files import write_bytes
from vat3d.errors import MeshError

FLOAT32_LOSS = 1e-4
"""Rounding to float32 beyond this share of the longest half-side counts."""
WRITABLE = (".obj", ".ply", ".stl", ".glb")


def save_mesh(path: str | Path, vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> None:
    """Write a triangle mesh as OBJ, PLY, STL or GLB (by the name's ending), atomically.

    OBJ and PLY keep float64 where float32 would not do. GLB holds float32 around the middle of such a mesh, which its
    node keeps in full.

    Parameters
    ----------
    path : path
    vertices : array of shape (n, 3)
    faces : int array of shape (m, 3)

    Raises
    ------
    MeshError
        The ending is none of these, the coordinates overflow float32, or STL would move or open the mesh, because it
        lies so far from the origin.
    InputError
        The place cannot be written.
    """
    path = Path(path)
    kind = check_ending(path)
    points, triangles = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    lossy = _float32_moves(points)
    if kind == ".obj":
        data = _obj_text(points, triangles).encode()
    elif kind == ".ply":
        data = _ply_bytes(points if lossy else points.astype(np.float32), triangles)
    elif kind == ".glb":
        centre = points.min(0) / 2 + points.max(0) / 2 if lossy else np.zeros(3)
        data = _glb_bytes(_float32(path, points - centre), triangles, centre)
    else:
        narrow = _float32(path, points)
        if lossy:
            raise MeshError(
                f"{path}: the mesh lies so far from the origin that STL, whose numbers are float32, would tear it; "
                "write GLB, PLY or OBJ"
            )
        data = _stl_bytes(narrow, triangles)
    write_bytes(path, data)


def check_ending(path: str | Path) -> str:
    """The format that a name asks for.

    Parameters
    ----------
    path : path

    Returns
    -------
    str
        One of `WRITABLE`.

    Raises
    ------
    MeshError
        It is none of these.
    """
    kind = Path(path).suffix.lower()
    if kind not in WRITABLE:
        raise MeshError(f"{path}: format {kind!r} is not written; choose one of {', '.join(WRITABLE)}")
    return kind


def _float32_moves(points: NDArray[np.float64]) -> bool:
    """Whether rounding to float32 moves a vertex by a share of the mesh's extent that counts, or onto another one."""
    with np.errstate(over="ignore"):
        narrow = points.astype(np.float32)
    loss = np.abs(narrow - points).max(initial=0.0)
    if loss > FLOAT32_LOSS * np.ptp(points, axis=0).max() / 2:
        return True
    return len(np.unique(narrow, axis=0)) < len(np.unique(points, axis=0))


def _float32(path: Path, points: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        narrow = points.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise MeshError(f"{path}: the coordinates are too large for {path.suffix}; write OBJ or PLY")
    return narrow


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


def _stl_bytes(vertices: NDArray[np.float32], faces: NDArray[np.int64]) -> bytes:
    rows = np.zeros(len(faces), np.dtype([("normal", "<f4", 3), ("corner", "<f4", (3, 3)), ("", "<u2")]))
    rows["corner"] = corner = vertices[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    rows["normal"] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return bytes(80) + struct.pack("<I", len(faces)) + rows.tobytes()


def _glb_bytes(vertices: NDArray[np.float32], faces: NDArray[np.int64], centre: NDArray[np.float64]) -> bytes:
    """A scene of one node, which moves the vertices to the centre."""
    positions, indices = vertices.astype("<f4").tobytes(), faces.astype("<u4").tobytes()
    views = [
        {"buffer": 0, "byteOffset": 0, "byteLength": len(positions), "target": 34962},
        {"buffer": 0, "byteOffset": len(positions), "byteLength": len(indices), "target": 34963},
    ]
    bounds = {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()} if len(vertices) else {}
    tree = {
        "asset": {"version": "2.0", "generator": "vat3d"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0} | ({"translation": centre.tolist()} if centre.any() else {})],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(vertices), "type": "VEC3", **bounds},
            {"bufferView": 1, "componentType": 5125, "count": faces.size, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(positions) + len(indices)}],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(positions) + len(indices), b"BIN\0") + positions + indices
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks
