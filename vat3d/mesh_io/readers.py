"""Readers of mesh files that trust no number in a file before it fits the file's size.

Each takes the whole file as bytes and returns vertices (n, 3), triangles (m, 3) and notes. Polygons become fans of
triangles. Memory is bounded by a small multiple of the bytes that are there, whatever a header claims.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import MeshError

Mesh = tuple[NDArray[np.float64], NDArray[np.int64], list[str]]
MAX_TRIANGLES = 20_000_000
"""Most triangles that the instances of a GLB scene may add up to."""
_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}


def triangulate(polygons: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """Cut polygons into triangle fans; those of fewer than three corners are skipped.

    Parameters
    ----------
    polygons : iterable of sequences of int
        Vertex indices.

    Returns
    -------
    int array of shape (m, 3)
    """
    polygons = list(polygons)
    if all(len(p) == 3 for p in polygons):
        return np.array(polygons, np.int64).reshape(-1, 3)
    fans = [(p[0], p[k], p[k + 1]) for p in polygons for k in range(1, len(p) - 1)]
    return np.array(fans, np.int64).reshape(-1, 3)


def read_obj(data: bytes) -> Mesh:
    """Wavefront OBJ: the `v` and `f` lines.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    vertices, faces : arrays of shape (n, 3) and (m, 3)
    notes : list of str
        What of the file is dropped, for the reader to be told.
    """
    vertices: list[list[bytes]] = []
    polygons: list[list[int]] = []
    textured, loose = False, 0
    lines = data.replace(b"\\\n", b" ").splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith(b"v "):
            corner = line.split()[1:4]
            if len(corner) != 3:
                raise MeshError(f"line {number} of the OBJ file has {len(corner)} coordinates, not 3; it is cut off")
            vertices.append(corner)
        elif line.startswith((b"f ", b"f\t")):
            try:
                indices = [int(word.split(b"/", 1)[0]) for word in line.split()[1:]]
            except ValueError:
                raise MeshError(f"line {number} of the OBJ file is no list of corners; it is damaged") from None
            if 0 in indices or (len(indices) < 3 and number == len(lines)):
                raise MeshError(f"line {number} of the OBJ file is no whole face; it is cut off or damaged")
            loose += len(indices) < 3
            polygons.append([i - 1 if i > 0 else len(vertices) + i for i in indices])
        elif line.startswith((b"usemtl", b"vt ")):
            textured = True
    points = _floats(vertices, "OBJ").reshape(-1, 3)
    notes = ["materials and texture are dropped"] if textured else []
    if loose:
        notes.append(f"{loose} faces of fewer than three corners are dropped")
    return points, triangulate(polygons), notes


def read_off(data: bytes) -> Mesh:
    """Object File Format, with or without colours and normals.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    vertices, faces : arrays of shape (n, 3) and (m, 3)
    notes : list of str
        What of the file is dropped, for the reader to be told.
    """
    lines = [line for line in (raw.split(b"#", 1)[0].strip() for raw in data.splitlines()) if line]
    match = re.match(rb"(?:ST|C|N)*OFF\b\s*|OFF(?=\d)", lines[0] if lines else b"")
    if match is None:
        raise MeshError("the file does not start with OFF; it is another format or damaged")
    rest = lines[0][match.end() :]
    lines = ([rest] if rest else []) + lines[1:]
    try:
        n, m = (int(word) for word in lines[0].split()[:2])
    except (ValueError, IndexError):
        raise MeshError("the OFF file has no line of counts; it is damaged") from None
    if n < 0 or m < 0 or len(lines) < 1 + n + m:
        raise MeshError(
            f"the OFF header claims {n} vertices and {m} faces, the file has {len(lines) - 1} lines: cut off"
        )
    corners = [line.split()[:3] for line in lines[1 : 1 + n]]
    points = _floats(corners, "OFF")
    polygons, coloured = [], False
    for line in lines[1 + n : 1 + n + m]:
        words = line.split()
        try:
            count = int(words[0])
            polygon = [int(word) for word in words[1 : 1 + count]]
        except ValueError:
            raise MeshError(f"the OFF face {line[:40].decode('latin-1')!r} is no list of corners") from None
        if count < 0 or len(polygon) != count:
            raise MeshError(f"an OFF face claims {count} corners and has {len(polygon)}; the file is cut off")
        coloured |= len(words) > 1 + count
        polygons.append(polygon)
    return points, triangulate(polygons), ["colours are dropped"] if coloured else []


def read_stl(data: bytes) -> Mesh:
    """STL, binary or text. Its triangles share no vertices; `vat3d.mesh.canonical` merges them.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    vertices, faces : arrays of shape (n, 3) and (m, 3)
    notes : list of str
        What of the file is dropped, for the reader to be told.
    """
    if len(data) >= 84:
        (count,) = struct.unpack_from("<I", data, 80)
        if len(data) == 84 + 50 * count or not data.lstrip().startswith(b"solid"):
            if len(data) < 84 + 50 * count:
                raise MeshError(f"the STL header claims {count} triangles, the file holds {(len(data) - 84) // 50}")
            rows = np.frombuffer(
                data, np.dtype([("normal", "<f4", 3), ("corner", "<f4", (3, 3)), ("", "<u2")]), count, 84
            )
            points = rows["corner"].reshape(-1, 3).astype(np.float64)
            return points, np.arange(3 * count).reshape(-1, 3), []
    if not data.lstrip().startswith(b"solid") or b"endsolid" not in data:
        raise MeshError("the STL file is neither a whole binary nor a whole text one; it is cut off or another format")
    corners = re.findall(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)", data)
    if len(corners) % 3 or len(corners) != 3 * data.count(b"endfacet"):
        raise MeshError(
            f"the STL file has {len(corners)} corners for {data.count(b'endfacet')} triangles; it is damaged"
        )
    return _floats(corners, "STL").reshape(-1, 3), np.arange(len(corners)).reshape(-1, 3), []


def read_ply(data: bytes) -> Mesh:
    """PLY in its three encodings: x, y, z of `vertex` and the corner lists of `face`.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    vertices, faces : arrays of shape (n, 3) and (m, 3)
    notes : list of str
        What of the file is dropped, for the reader to be told.
    """
    end = re.search(rb"^end_header\r?\n", data[: 1 << 16], re.MULTILINE)
    if not data.startswith(b"ply") or end is None:
        raise MeshError("the file has no PLY header; it is another format or cut off")
    header, body = data[: end.start()].decode("latin-1").split("\n"), data[end.end() :]
    words = [line.split() for line in header if line.split()]
    encoding = next((w[1] for w in words if w[0] == "format" and len(w) > 1), "")
    if encoding not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise MeshError(f"the PLY encoding {encoding!r} does not exist; the file is damaged")
    elements: list[tuple[str, int, list[list[str]]]] = []
    try:
        for word in words:
            if word[0] == "element":
                elements.append((word[1], int(word[2]), []))
            elif word[0] == "property":
                types = word[2:4] if word[1] == "list" else word[1:2]
                if any(t not in _PLY_TYPES for t in types):
                    raise MeshError(f"the PLY property {' '.join(word)!r} has no known type; the file is damaged")
                elements[-1][2].append(word[1:])
    except (IndexError, ValueError):
        raise MeshError("the PLY header cannot be understood; the file is damaged") from None
    read = _ply_text if encoding == "ascii" else _ply_binary
    table = read(body, elements, "<" if encoding == "binary_little_endian" else ">")
    if not {"x", "y", "z"} <= table.get("vertex", {}).keys():
        raise MeshError("the PLY file has no vertices with x, y and z; it is damaged or no mesh")
    points = np.stack([np.asarray(table["vertex"][axis], np.float64) for axis in "xyz"], 1)
    face = table.get("face", {})
    lists = face.get("vertex_indices", face.get("vertex_index", ()))
    triangles = lists.astype(np.int64) if isinstance(lists, np.ndarray) and lists.ndim == 2 else triangulate(lists)
    if triangles.ndim == 2 and triangles.shape[1] != 3:
        triangles = triangulate(triangles.tolist())
    coloured = "red" in table["vertex"] or "red" in face or "texcoord" in face
    return points, triangles, ["colours are dropped"] if coloured else []


def _ply_text(body: bytes, elements: list[tuple[str, int, list[list[str]]]], _: str) -> dict[str, dict[str, Any]]:
    lines = [line for line in body.splitlines() if line.strip()]
    _ply_claim(elements, len(lines), 1)
    table: dict[str, dict[str, Any]] = {}
    start = 0
    for name, count, properties in elements:
        rows = [line.split() for line in lines[start : start + count]]
        start += count
        columns: dict[str, Any] = {prop[-1]: [] for prop in properties}
        try:
            for row in rows:
                at = 0
                for prop in properties:
                    if prop[0] == "list":
                        size = int(row[at])
                        columns[prop[-1]].append([int(float(w)) for w in row[at + 1 : at + 1 + size]])
                        if len(columns[prop[-1]][-1]) != size:
                            raise IndexError
                        at += 1 + size
                    else:
                        columns[prop[-1]].append(float(row[at]))
                        at += 1
        except (ValueError, IndexError, OverflowError):
            raise MeshError(f"a {name} row of the PLY file does not fit its header; the file is damaged") from None
        table[name] = columns
    return table


def _ply_binary(body: bytes, elements: list[tuple[str, int, list[list[str]]]], order: str) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for number, (name, count, properties) in enumerate(elements):
        # a row takes at least its scalars and the sizes of its lists
        least = sum(np.dtype(_PLY_TYPES[prop[1] if prop[0] == "list" else prop[0]]).itemsize for prop in properties)
        _ply_claim(elements[number : number + 1], len(body), least)
        sizes = _first_sizes(body, properties, order) if count else {}
        fields: list[tuple[Any, ...]] = []
        for prop in properties:
            if prop[0] == "list":
                fields.append((f"#{prop[-1]}", order + _PLY_TYPES[prop[1]]))
                fields.append((prop[-1], order + _PLY_TYPES[prop[2]], sizes.get(prop[-1], 0)))
            else:
                fields.append((prop[-1], order + _PLY_TYPES[prop[0]]))
        row = np.dtype(fields)
        lists = [prop[-1] for prop in properties if prop[0] == "list"]
        if row.itemsize * count <= len(body):
            rows = np.frombuffer(body, row, count)
            if all((rows[f"#{key}"] == sizes.get(key, 0)).all() for key in lists):
                table[name] = {prop[-1]: rows[prop[-1]] for prop in properties}
                body = body[row.itemsize * count :]
                continue
        table[name], body = _ply_uneven(body, name, count, properties, order)
    return table


def _first_sizes(body: bytes, properties: list[list[str]], order: str) -> dict[str, int]:
    """List lengths of the first row: usually those of all rows, which then are read at once."""
    sizes, at = {}, 0
    for prop in properties:
        kind = np.dtype(order + _PLY_TYPES[prop[1] if prop[0] == "list" else prop[0]])
        if prop[0] == "list" and at + kind.itemsize <= len(body):
            sizes[prop[-1]] = min(int(np.frombuffer(body, kind, 1, at)[0]), len(body))
            at += max(sizes[prop[-1]], 0) * np.dtype(_PLY_TYPES[prop[2]]).itemsize
        at += kind.itemsize
    return {key: max(size, 0) for key, size in sizes.items()}


def _ply_uneven(
    body: bytes, name: str, count: int, properties: list[list[str]], order: str
) -> tuple[dict[str, Any], bytes]:
    """Rows whose lists differ in length, one by one."""
    columns: dict[str, Any] = {prop[-1]: [] for prop in properties}
    at = 0
    try:
        for _ in range(count):
            for prop in properties:
                kind = np.dtype(order + _PLY_TYPES[prop[1] if prop[0] == "list" else prop[0]])
                value = np.frombuffer(body, kind, 1, at)[0]
                at += kind.itemsize
                if prop[0] == "list":
                    item = np.dtype(order + _PLY_TYPES[prop[2]])
                    if value < 0 or at + int(value) * item.itemsize > len(body):
                        raise ValueError
                    columns[prop[-1]].append(np.frombuffer(body, item, int(value), at).tolist())
                    at += int(value) * item.itemsize
                else:
                    columns[prop[-1]].append(value)
    except ValueError:
        raise MeshError(f"the PLY file ends within its {count} rows of {name}; it is cut off or damaged") from None
    return columns, body[at:]


def _ply_claim(elements: list[tuple[str, int, list[list[str]]]], room: int, least: int) -> None:
    need = sum(count for _, count, _ in elements) * least
    if need > room or any(count < 0 for _, count, _ in elements):
        claims = ", ".join(f"{count} of {name}" for name, count, _ in elements)
        raise MeshError(f"the PLY header claims {claims}, more than the file can hold; it is cut off or damaged")


def read_glb(data: bytes) -> Mesh:
    """Binary glTF without outside resources, through trimesh, all instances merged.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    vertices, faces : arrays of shape (n, 3) and (m, 3)
    notes : list of str
        What of the file is dropped, for the reader to be told.
    """
    check_glb(data)
    import trimesh

    try:
        scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False, skip_materials=True)
        mesh = scene.to_mesh()
    except Exception as error:  # whatever a damaged file makes the parser raise
        raise MeshError(f"the GLB file cannot be read ({type(error).__name__}: {error}); export it again") from error
    coloured = bool(json.loads(_glb_chunks(data)[0]).get("materials"))
    return (
        np.asarray(mesh.vertices, np.float64).reshape(-1, 3),
        np.asarray(mesh.faces, np.int64).reshape(-1, 3),
        ["materials and texture are dropped"] if coloured else [],
    )


def check_glb(data: bytes) -> None:
    """Refuse a GLB whose chunks, accessors, links or scene graph cannot be trusted.

    Parameters
    ----------
    data : bytes

    Raises
    ------
    MeshError
    """
    text, room = _glb_chunks(data)
    try:
        tree = json.loads(text)
        for kind in ("buffers", "images"):
            for entry in tree.get(kind, []):
                uri = entry.get("uri")
                if uri is not None and (kind == "buffers" or not uri.startswith("data:")):
                    raise MeshError(f"the GLB file refers to {uri[:60]!r}; embed everything and export it again")
        if "KHR_draco_mesh_compression" in tree.get("extensionsRequired", []):
            raise MeshError("the GLB file is Draco-compressed; export it without compression")
        views = tree.get("bufferViews", [])
        for view in views:
            if view.get("byteOffset", 0) < 0 or view.get("byteOffset", 0) + view["byteLength"] > room:
                raise MeshError("a buffer view of the GLB file reaches beyond its data; it is cut off or damaged")
        for accessor in tree.get("accessors", []):
            if "bufferView" not in accessor or "sparse" in accessor:
                raise MeshError("the GLB file has sparse accessors, which are not read; export it without them")
            width = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}[accessor["componentType"]]
            width *= {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}[accessor["type"]]
            if accessor["count"] < 0 or accessor["count"] * width > views[accessor["bufferView"]]["byteLength"]:
                raise MeshError(f"an accessor of the GLB file claims {accessor['count']} items, more than there are")
        _check_scene(tree)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        if isinstance(error, MeshError):
            raise
        raise MeshError(f"the GLB file's JSON part is damaged ({type(error).__name__}); export it again") from error


def _check_scene(tree: dict[str, Any]) -> None:
    """A glTF scene is a forest; a node with two parents could multiply without end."""
    children = [child for node in tree.get("nodes", []) for child in node.get("children", [])]
    if len(children) != len(set(children)):
        raise MeshError("a node of the GLB scene has two parents; export it again")
    accessors, triangles = tree.get("accessors", []), []
    for mesh in tree.get("meshes", []):
        used = [p.get("indices", p["attributes"]["POSITION"]) for p in mesh["primitives"]]
        triangles.append(sum(accessors[index]["count"] for index in used))
    total = sum(triangles[node["mesh"]] for node in tree.get("nodes", []) if "mesh" in node)
    if total > 3 * MAX_TRIANGLES:
        raise MeshError(f"the instances of the GLB scene add up to over {MAX_TRIANGLES:,} triangles; simplify it")


def _glb_chunks(data: bytes) -> tuple[bytes, int]:
    """The JSON chunk of a GLB file and the length of its binary chunk."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise MeshError("the file has no GLB header; it is another format or cut off")
    version, length, size, kind = struct.unpack_from("<IIII", data, 4)
    if version != 2 or length != len(data) or kind != 0x4E4F534A or 20 + size > len(data):
        raise MeshError(f"the GLB header (version {version}, {length} bytes) does not fit a file of {len(data)} bytes")
    room = 0
    if 28 + size <= len(data):
        (room,) = struct.unpack_from("<I", data, 20 + size)
        if 28 + size + room > len(data):
            raise MeshError(f"the GLB file claims {room} bytes of data and ends before; it is cut off")
    return data[20 : 20 + size], room


def _floats(rows: Sequence[Sequence[bytes]], kind: str) -> NDArray[np.float64]:
    try:
        return np.array(rows, dtype="S").astype(np.float64) if len(rows) else np.zeros((0, 3))
    except ValueError:
        raise MeshError(f"a coordinate of the {kind} file is no number; it is cut off or damaged") from None
