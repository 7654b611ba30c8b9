"""STL, binary and text."""

from __future__ import annotations

import re
import struct

import numpy as np

from vat3d.errors import MeshError
from vat3d.mesh_io.raw_mesh import RawMesh
from vat3d.mesh_io.text import coordinates, plain_text


def read_stl(data: bytes) -> RawMesh:
    """STL, binary or text. Its triangles share no vertices; `vat3d.mesh.canonical` merges them.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    RawMesh
    """
    (count,) = struct.unpack_from("<I", data, 80) if len(data) >= 84 else (None,)
    whole = count is not None and len(data) >= 84 + 50 * count
    if whole and count and (len(data) == 84 + 50 * count or b"facet" not in data.lower()):
        return _binary(data, count)  # also where its header says "solid", as some programs write
    text = plain_text(data).lower() if data[:1] in b"sS \t\r\n\xef\xff\xfe" else b""
    if text.lstrip().startswith(b"solid"):
        return _text(text)
    if count is None:
        raise MeshError("the STL file is neither a whole binary nor a whole text one; it is cut off or another format")
    if not whole:
        raise MeshError(f"the STL header claims {count} triangles, the file holds {(len(data) - 84) // 50}")
    return _binary(data, count)


def _binary(data: bytes, count: int) -> RawMesh:
    row = np.dtype([("normal", "<f4", 3), ("corner", "<f4", (3, 3)), ("", "<u2")])
    points = np.frombuffer(data, row, count, 84)["corner"].reshape(-1, 3).astype(np.float64)
    return RawMesh(points, np.arange(3 * count).reshape(-1, 3), [])


def _text(data: bytes) -> RawMesh:
    """Text in lower case."""
    if b"endsolid" not in data:
        raise MeshError("the STL file is neither a whole binary nor a whole text one; it is cut off or another format")
    data = re.sub(rb"^[ \t]*(?:end)?solid\b[^\r\n]*", b"", data, flags=re.MULTILINE)  # names may hold any word
    corners = re.findall(rb"\bvertex\s+(\S+)\s+(\S+)\s+(\S+)", data)
    facets = data.count(b"endfacet")
    if len(corners) != 3 * facets:
        raise MeshError(f"the STL file has {len(corners)} corners for {facets} triangles; it is damaged")
    return RawMesh(coordinates(corners, "STL"), np.arange(len(corners)).reshape(-1, 3), [])
