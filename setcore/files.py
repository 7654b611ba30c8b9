"""Files that are whole or absent: atomic writes and locked folders."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setcore.errors import InputError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`, on error removed.

    The temporary name keeps the suffix of `path`, since many writers choose the format by it. Of two processes that
    write the same path, one wins whole.

    Parameters
    ----------
    path : path
        The file to write.

    Raises
    ------
    InputError
        The folder of `path` does not exist, cannot be written, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file to write")
    if not path.parent.is_dir():
        raise InputError(f"folder {path.parent} does not exist; create it first")
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write in {path.parent}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes private files; outputs follow the user's umask
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically.

    Parameters
    ----------
    path : path
    data : bytes
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically.

    Parameters
    ----------
    path : path
    value : object
        Plain JSON values; NaN and infinity are refused.
    """
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : path

    Returns
    -------
    object
        Plain JSON values.

    Raises
    ------
    InputError
        The file is absent or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or a number of absurd length
        raise InputError(f"{path} is not valid JSON ({error}); it may be truncated") from error


@contextlib.contextmanager
def locked_folder(folder: str | Path) -> Iterator[Path]:
    """Hold the lock of a folder, so that two processes never train into one.

    Parameters
    ----------
    folder : path
        Made if need be.

    Raises
    ------
    InputError
        Another process holds the lock, or the folder cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115 - held for the whole context
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{folder} is in use by another process; wait for it or choose another folder") from error
        yield folder


def check_output(path: str | Path, *inputs: str | Path) -> None:
    """Refuse an output that cannot be written or would replace an input, before any work is done for it.

    Parameters
    ----------
    path : path
    *inputs : path
        Files that must stay.

    Raises
    ------
    InputError
    """
    path = Path(path)
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: name a file in a folder that exists and can be written")
    for given in inputs:
        if path.exists() and Path(given).exists() and path.samefile(given):
            raise InputError(f"{path} would replace the input of that name; choose another name for the output")
