"""Object File Format."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import MeshError
from vat3d.mesh_io.polygons import Polygons, triangulate
from vat3d.mesh_io.raw_mesh import RawMesh
from vat3d.mesh_io.text import coordinates, plain_text

_PER_VERTEX = {b"n": 3, b"c": 4, b"st": 2}
"""Numbers that follow the position of a vertex in a binary file: normal, colour, texture coordinates."""


def read_off(data: bytes) -> RawMesh:
    """Object File Format, text or binary, with or without normals, colours and texture coordinates.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    RawMesh
    """
    data = plain_text(data)
    match = re.match(rb"(?:\s|#[^\r\n]*[\r\n])*((?:st)?c?n?)(4?n?)off(?=\s|#|\d|$)", data, re.IGNORECASE)
    if match is None:
        raise MeshError("the file does not start with OFF; it is another format or damaged")
    if match[2]:
        raise MeshError(f"the file is {match[0].strip().decode()}, of other than three dimensions; export it as OFF")
    rest = data[match.end() :]
    binary = re.match(rb"[ \t]+binary[ \t]*(\r\n|\r|\n)", rest, re.IGNORECASE)
    if binary:
        extra = sum(_PER_VERTEX[name] for name in re.findall(rb"st|c|n", match[1].lower()))
        points, polygons, dropped = _binary(rest[binary.end() :], 3 + extra)
    else:
        points, polygons, dropped = _text(rest)
    coloured = dropped or b"c" in match[1].lower()
    return RawMesh(points, triangulate(points, polygons), ["colours are dropped"] if coloured else [])


def _text(data: bytes) -> tuple[NDArray[np.float64], Polygons, bool]:
    lines = [line for line in (raw.split(b"#", 1)[0].strip() for raw in data.splitlines()) if line]
    counts: list[bytes] = []
    while len(counts) < 3 and lines:  # usually one line
        counts += lines.pop(0).split()
    try:
        n, m = (int(word) for word in counts[:2])
    except ValueError:
        raise MeshError("the OFF file has no line of counts; it is damaged") from None
    try:
        return _rows(lines, n, m)
    except MeshError:
        flowing = _lines_of_words([*counts[3:], *b" ".join(lines).split()], n, m)
        if flowing is None:
            raise
        return _rows(flowing, n, m)


def _rows(lines: list[bytes], n: int, m: int) -> tuple[NDArray[np.float64], Polygons, bool]:
    if n < 0 or m < 0 or len(lines) < n + m:
        raise MeshError(f"the OFF header claims {n} vertices and {m} faces, the file has {len(lines)} lines: cut off")
    corners = [line.split()[:3] for line in lines[:n]]
    if any(len(corner) < 3 for corner in corners):
        raise MeshError("a vertex of the OFF file has fewer than three coordinates; it is cut off or damaged")
    polygons, coloured = [], False
    for line in lines[n : n + m]:
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
    return coordinates(corners, "OFF"), polygons, coloured


def _lines_of_words(words: list[bytes], n: int, m: int) -> list[bytes] | None:
    """The lines that a file would have, of one whose lines are broken otherwise; None where its words do not fit."""
    lines, at = [], 0
    for row in range(n + m):
        if at >= len(words) or (row >= n and not re.fullmatch(rb"\d{1,9}", words[at])):
            return None
        width = 3 if row < n else 1 + int(words[at])
        lines.append(b" ".join(words[at : at + width]))
        at += width
    return lines if at == len(words) else None


def _binary(data: bytes, width: int) -> tuple[NDArray[np.float64], Polygons, bool]:
    """Big-endian int32 and float32: three counts, `width` numbers a vertex; of a face its corners, their indices, how
    many numbers of colour follow, and these."""
    words, numbers = (np.frombuffer(data, kind, len(data) // 4) for kind in (">i4", ">f4"))
    n, m = (int(count) for count in words[:2]) if len(words) >= 3 else (-1, -1)
    at = 3 + n * width
    if n < 0 or m < 0 or at + 2 * m > len(words):
        raise MeshError(f"the OFF header claims {n} vertices and {m} faces, more than the file holds; it is cut off")
    points = numbers[3:at].reshape(n, width)[:, :3].astype(np.float64)
    polygons, coloured = [], False
    for _ in range(m):
        count = int(words[at]) if at < len(words) else -1
        end = at + 1 + count
        colours = int(words[end]) if count >= 0 and end < len(words) else -1
        if colours < 0 or end + 1 + colours > len(words):
            raise MeshError("a face of the OFF file reaches beyond its end; it is cut off or damaged")
        polygons.append(words[at + 1 : end].tolist())
        coloured |= colours > 0
        at = end + 1 + colours
    return points, polygons, coloured
