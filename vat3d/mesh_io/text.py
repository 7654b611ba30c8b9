"""What the text formats of meshes have in common."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import MeshError

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}


def plain_text(data: bytes) -> bytes:
    """Text without a byte-order mark: that of UTF-16 or UTF-32 is turned into UTF-8.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    bytes

    Raises
    ------
    MeshError
        It has such a mark and is not of that encoding.
    """
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding).encode()
            except UnicodeDecodeError:
                name = encoding.removesuffix("-sig").upper()
                raise MeshError(f"the file begins as {name} text and goes on otherwise; save it as UTF-8") from None
    return data


def coordinates(rows: Iterable[Iterable[bytes]], kind: str) -> NDArray[np.float64]:
    """Rows of three numbers as an array.

    Parameters
    ----------
    rows : iterable of triples of bytes
    kind : str
        Name of the format, for the message.

    Returns
    -------
    float64 array of shape (n, 3)

    Raises
    ------
    MeshError
        A coordinate is no number.
    """
    try:
        return np.fromiter(map(float, chain.from_iterable(rows)), np.float64).reshape(-1, 3)
    except ValueError:
        raise MeshError(f"a coordinate of the {kind} file is no number; it is cut off or damaged") from None
