"""Wavefront OBJ."""

from __future__ import annotations

from collections.abc import Iterator

from vat3d.errors import MeshError
from vat3d.mesh_io.polygons import triangulate
from vat3d.mesh_io.raw_mesh import RawMesh
from vat3d.mesh_io.text import coordinates, plain_text


def read_obj(data: bytes) -> RawMesh:
    """Wavefront OBJ: the `v` and `f` lines.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    RawMesh
    """
    vertices: list[list[bytes]] = []
    polygons: list[list[int]] = []
    textured, loose = False, 0
    data = plain_text(data)
    for number, words, last in _lines(data):
        if words[0] == b"v":
            if len(words) < 4:
                raise MeshError(f"line {number} of the OBJ file has {len(words) - 1} coordinates, not 3; it is cut off")
            vertices.append(words[1:4])
        elif words[0] == b"f":
            try:
                indices = [int(word.split(b"/", 1)[0]) for word in words[1:]]
            except ValueError:
                raise MeshError(f"line {number} of the OBJ file is no list of corners; it is damaged") from None
            if 0 in indices or (len(indices) < 3 and last):
                raise MeshError(f"line {number} of the OBJ file is no whole face; it is cut off or damaged")
            loose += len(indices) < 3
            polygons.append([i - 1 if i > 0 else len(vertices) + i for i in indices])
        elif words[0] in (b"usemtl", b"vt"):
            textured = True
    points = coordinates(vertices, "OBJ")
    notes = ["materials and texture are dropped"] if textured else []
    if loose:
        notes.append(f"{loose} faces of fewer than three corners are dropped")
    return RawMesh(points, triangulate(points, polygons), notes)


def _lines(data: bytes) -> Iterator[tuple[int, list[bytes], bool]]:
    """Number of each line that says something, its words, and whether it is the file's last; a line that ends in a
    backslash goes on in the next, but for a comment and the path of a library, which runs to the line's end."""
    lines = data.splitlines()
    carried, number = b"", 0
    for k, line in enumerate(lines, 1):
        number = number or k
        carried += line.split(b"#", 1)[0].rstrip()
        if carried.endswith(b"\\") and k < len(lines) and not carried.split()[0].startswith(b"mtllib"):
            carried = carried[:-1] + b" "
            continue
        words = carried.split()
        if words:
            yield number, words, k == len(lines)
        carried, number = b"", 0
