"""PLY: the Polygon File Format."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import MeshError
from vat3d.mesh_io.polygons import Polygons, triangulate
from vat3d.mesh_io.raw_mesh import RawMesh
from vat3d.mesh_io.strips import strip_triangles
from vat3d.mesh_io.text import plain_text

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER = 1 << 16
_INDICES = ("vertex_indices", "vertex_index")


@dataclass(frozen=True)
class _Property:
    """A column of an element: `size` is the type of a list's length, of a scalar None."""

    name: str
    kind: np.dtype[Any]
    size: np.dtype[Any] | None = None


@dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)


_Table = dict[str, dict[str, Any]]
"""By element and property: an array, or a list of rows where lists differ in length."""


def read_ply(data: bytes) -> RawMesh:
    """PLY in its three encodings: x, y, z of `vertex`, the corner lists of `face`, and the strips of `tristrips`.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    RawMesh
    """
    data = plain_text(data)
    encoding, elements, body = _header(data)
    table = _read_text(body, elements) if encoding == "ascii" else _read_binary(body, elements)
    vertex, face = table.get("vertex", {}), table.get("face", {})
    if not {"x", "y", "z"} <= vertex.keys():
        raise MeshError("the PLY file has no vertices with x, y and z; it is damaged or no mesh")
    try:
        points = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], 1)
    except ValueError:
        raise MeshError("x, y and z of the PLY vertices are lists; the file is damaged") from None
    triangles = triangulate(points, _indices(face))
    strips = [strip_triangles(part) for row in _indices(table.get("tristrips", {})) for part in _runs(row)]
    triangles = np.concatenate([triangles, *strips])
    coloured = "red" in vertex or "red" in face or "texcoord" in face
    return RawMesh(points, triangles, ["colours are dropped"] if coloured else [])


def _header(data: bytes) -> tuple[str, list[_Element], bytes]:
    """The encoding, the elements and the bytes after the header, whose lines end as its first does."""
    first = re.match(rb"ply[ \t]*(\r\n|\n|\r)", data)
    end = first and re.search(first[1] + rb"end_header[ \t]*" + first[1], data[:_MAX_HEADER])
    if not first or not end:
        raise MeshError("the file has no PLY header; it is another format or cut off")
    words = [line.split() for line in data[first.end() : end.start()].decode("latin-1").splitlines() if line.split()]
    encoding = next((w[1] for w in words if w[0] == "format" and len(w) > 1), "")
    if encoding != "ascii" and encoding not in _ORDERS:
        raise MeshError(f"the PLY encoding {encoding[:40]!r} does not exist; the file is damaged")
    order = _ORDERS.get(encoding, "=")
    elements: list[_Element] = []
    try:
        for word in words:
            if word[0] == "element":
                elements.append(_Element(word[1], int(word[2])))
            elif word[0] == "property":
                kinds = word[2:4] if word[1] == "list" else word[1:2]
                if any(kind not in _TYPES for kind in kinds):
                    raise MeshError(f"the PLY property {' '.join(word)[:60]!r} has no known type; the file is damaged")
                *size, kind = (np.dtype(order + _TYPES[kind]) for kind in kinds)
                elements[-1].properties.append(_Property(word[-1], kind, *size))
    except (IndexError, ValueError):
        raise MeshError("the PLY header cannot be understood; the file is damaged") from None
    return encoding, elements, data[end.end() :]


def _indices(columns: dict[str, Any]) -> Polygons:
    """The corner lists of an element, as integers; indices that are stored as real numbers have to be whole."""
    rows: Any = next((columns[name] for name in _INDICES if name in columns), [])
    try:
        flat = rows if isinstance(rows, np.ndarray) else np.fromiter(chain.from_iterable(rows), np.float64)
        if flat.dtype.kind == "f" and not (np.isfinite(flat).all() and (flat == np.rint(flat)).all()):
            raise ValueError
        return rows.astype(np.int64) if isinstance(rows, np.ndarray) else [[int(i) for i in row] for row in rows]
    except (ValueError, TypeError):
        raise MeshError("the PLY faces hold corners that are no whole numbers; the file is damaged") from None


def _runs(strip: Any) -> list[NDArray[np.int64]]:
    """The strips that a list holds: -1, which unsigned integers have as their greatest, begins a new one."""
    row = np.asarray(strip, np.int64)
    row = np.where(row == 2**32 - 1, -1, row)
    return [part[part >= 0] for part in np.split(row, np.flatnonzero(row < 0))]


def _read_text(body: bytes, elements: list[_Element]) -> _Table:
    """Rows of one line each, or words that fill the rows exactly however they are broken into lines."""
    _check_claim(elements, len(body.split()), 1)
    rows = [line.split() for line in body.splitlines() if line.strip()]
    try:
        return _columns(rows, elements)
    except MeshError:
        if (flowing := _rows_of_words(body.split(), elements)) is None:
            raise
        return _columns(flowing, elements)


def _rows_of_words(words: list[bytes], elements: list[_Element]) -> list[list[bytes]] | None:
    """Words cut into rows; None where they do not fill them exactly."""
    rows, at = [], 0
    for element in elements:
        for _ in range(element.count):
            start = at
            for prop in element.properties:
                if at >= len(words) or (prop.size is not None and not re.fullmatch(rb"\d{1,9}", words[at])):
                    return None
                at += 1 if prop.size is None else 1 + int(words[at])
            rows.append(words[start:at])
    return rows if at == len(words) else None


def _columns(rows: list[list[bytes]], elements: list[_Element]) -> _Table:
    table: _Table = {}
    start = 0
    for element in elements:
        columns: dict[str, Any] = {prop.name: [] for prop in element.properties}
        if start + element.count > len(rows):
            raise MeshError(f"the PLY file ends within its {element.count} rows of {element.name}; it is cut off")
        try:
            for row in rows[start : start + element.count]:
                at = 0
                for prop in element.properties:
                    if prop.size is None:
                        columns[prop.name].append(float(row[at]))
                        at += 1
                    else:
                        size = int(row[at])
                        columns[prop.name].append([float(word) for word in row[at + 1 : at + 1 + size]])
                        if len(columns[prop.name][-1]) != size:
                            raise IndexError
                        at += 1 + size
        except (ValueError, IndexError):
            raise MeshError(f"a {element.name} row of the PLY file does not fit its header; it is damaged") from None
        table[element.name] = columns
        start += element.count
    return table


def _read_binary(body: bytes, elements: list[_Element]) -> _Table:
    table: _Table = {}
    for element in elements:
        # a row takes at least its scalars and the sizes of its lists
        least = sum((prop.size or prop.kind).itemsize for prop in element.properties)
        _check_claim([element], len(body), least)
        sizes = _first_sizes(body, element.properties) if element.count else {}
        fields: list[tuple[Any, ...]] = []
        for prop in element.properties:
            if prop.size is None:
                fields.append((prop.name, prop.kind))
            else:
                fields += [(f"#{prop.name}", prop.size), (prop.name, prop.kind, (sizes.get(prop.name, 0),))]
        try:
            row = np.dtype(fields)
        except ValueError:
            raise MeshError(f"the PLY element {element.name} has two properties of one name; it is damaged") from None
        if row.itemsize * element.count <= len(body):
            rows = np.frombuffer(body, row, element.count)
            if all((rows[f"#{p.name}"] == sizes.get(p.name, 0)).all() for p in element.properties if p.size):
                table[element.name] = {prop.name: rows[prop.name] for prop in element.properties}
                body = body[row.itemsize * element.count :]
                continue
        table[element.name], body = _read_uneven(body, element)
    return table


def _first_sizes(body: bytes, properties: list[_Property]) -> dict[str, int]:
    """List lengths of the first row: usually those of all rows, which then are read at once."""
    sizes, at = {}, 0
    for prop in properties:
        if prop.size is None:
            at += prop.kind.itemsize
        elif at + prop.size.itemsize <= len(body):
            sizes[prop.name] = _length(np.frombuffer(body, prop.size, 1, at)[0], len(body))
            at += prop.size.itemsize + sizes[prop.name] * prop.kind.itemsize
    return sizes


def _read_uneven(body: bytes, element: _Element) -> tuple[dict[str, Any], bytes]:
    """Rows whose lists differ in length, one by one; and the bytes after them."""
    columns: dict[str, Any] = {prop.name: [] for prop in element.properties}
    at = 0
    try:
        for _ in range(element.count):
            for prop in element.properties:
                if prop.size is None:
                    columns[prop.name].append(np.frombuffer(body, prop.kind, 1, at)[0])
                    at += prop.kind.itemsize
                    continue
                count = _length(np.frombuffer(body, prop.size, 1, at)[0], len(body))
                at += prop.size.itemsize
                if at + count * prop.kind.itemsize > len(body):
                    raise ValueError
                columns[prop.name].append(np.frombuffer(body, prop.kind, count, at).tolist() if count else [])
                at += count * prop.kind.itemsize
    except ValueError:
        raise MeshError(f"the PLY file ends within its {element.count} rows of {element.name}; it is cut off") from None
    return columns, body[at:]


def _length(stored: Any, most: int) -> int:
    """The length of a list; what is none becomes 0 or more than the file holds."""
    return int(np.clip(np.nan_to_num(float(stored)), 0, most))


def _check_claim(elements: list[_Element], room: int, least: int) -> None:
    need = sum(element.count for element in elements) * least
    if need > room or any(element.count < 0 for element in elements):
        claims = ", ".join(f"{element.count} of {element.name}" for element in elements)
        raise MeshError(f"the PLY header claims {claims[:100]}, more than the file can hold; it is cut off or damaged")
