"""Finished batches of an embedding that is being made, in a file that a kill cannot spoil.

After a first line of JSON (the settings of the run) come records: number of rows, number of features, CRC-32, and the
rows as little-endian float32.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from setcore.errors import InputError
from setcore.files import naming_file

_RECORD = struct.Struct("<III")  # rows, features, CRC-32 of what follows


@contextlib.contextmanager
def partial_file(out: Path, settings: dict[str, Any]) -> Iterator[BinaryIO]:
    """The file of finished batches beside an output, locked; removed when all is done.

    A kill leaves it. An error of input removes it: the same call would meet the same error.

    Parameters
    ----------
    out : path
        Of the output; the file is ``OUT.partial``.
    settings : dict
        Plain JSON values that must be the same in a run that goes on; they are its first line.

    Yields
    ------
    binary file
        Positioned behind its first line.

    Raises
    ------
    InputError
        It is in use, or comes from other settings.
    """
    path = out.with_name(out.name + ".partial")
    with naming_file(path), open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{out} is being written by another process; wait for it or name another file") from error
        head = json.dumps(settings, sort_keys=True).encode() + b"\n"
        file.seek(0)
        found = file.readline(1 << 20)
        if not head.startswith(found):
            raise InputError(
                f"{path} comes from a run with other {_difference(found, settings)}; repeat that run to finish it, or "
                "delete the file to begin again"
            )
        if found != head:  # new, or killed within its first line
            file.truncate(0)
            _write_through(file, head)
        try:
            yield file
        except InputError:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def _difference(line: bytes, settings: dict[str, Any]) -> str:
    """Names of the settings in which the first line of a partial file differs."""
    try:
        found = json.loads(line)
        return ", ".join(name for name, value in settings.items() if found.get(name) != value) or "settings"
    except (ValueError, AttributeError):
        return "contents: it is no file of `braincl embed`"


def finished_batches(file: BinaryIO, images: int, batch_size: int) -> list[NDArray[np.float32]]:
    """The whole batches of a partial file; what a kill or a damage left after them is cut off.

    Parameters
    ----------
    file : binary file
        Positioned behind its first line.
    images : int
        Of the whole output.
    batch_size : int

    Returns
    -------
    list of array of shape (batch, feature)
    """
    batches: list[NDArray[np.float32]] = []
    end = file.tell()
    while (expected := min(batch_size, images - len(batches) * batch_size)) > 0:
        head = file.read(_RECORD.size)
        if len(head) < _RECORD.size:
            break
        rows, features, checksum = _RECORD.unpack(head)
        if rows != expected or features == 0 or (batches and features != batches[0].shape[1]):
            break
        data = file.read(4 * rows * features)
        if len(data) < 4 * rows * features or zlib.crc32(data) != checksum:
            break
        batches.append(np.frombuffer(data, "<f4").reshape(rows, features).astype(np.float32))
        end = file.tell()
    file.truncate(end)
    return batches


def append_batch(file: BinaryIO, features: NDArray[np.float32]) -> None:
    """Add a batch to a partial file, so that a kill or a power cut after it does not lose it.

    Parameters
    ----------
    file : binary file
        Positioned at its end.
    features : array of shape (batch, feature)
    """
    data = np.ascontiguousarray(features, dtype="<f4").tobytes()
    _write_through(file, _RECORD.pack(*features.shape, zlib.crc32(data)) + data)


def _write_through(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
