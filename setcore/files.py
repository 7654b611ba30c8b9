"""Files that are whole or absent: atomic writes, journals of long jobs, locked folders."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from setcore.errors import InputError

_MARK = ".tmp-"
"""In the names of temporary files, so that what a killed process left is known as such."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`, on error removed.

    The temporary name keeps the suffix of `path`, since many writers choose the format by it. Of two processes that
    write the same path, one wins whole. A symlink is written through, and the mode of a file that is there is kept.
    What killed processes left in the folder is removed.

    Parameters
    ----------
    path : path
        The file to write.

    Raises
    ------
    InputError
        The folder of `path` does not exist or cannot be written, or `path` is a folder, a device or write-protected.
    OSError
        The disk is full, or another fault of it; the error names `path`.
    """
    path = Path(path)
    check_writable(path)
    target = Path(os.path.realpath(path))
    remove_leftovers(target.parent)
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    with naming_file(path):
        handle, temporary = _locked_temporary(target, suffix)
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(_mode(target))  # mkstemp makes private files
            os.replace(temporary, target)
        finally:
            os.close(handle)
            temporary.unlink(missing_ok=True)


def _locked_temporary(target: Path, suffix: str) -> tuple[int, Path]:
    """A new file beside `target`, locked as long as its handle is open, so that nobody takes it for a leftover."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}{_MARK}", suffix=suffix, dir=target.parent)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process saw it before it was locked


@functools.cache  # once a process: it removes its own
def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `atomic_path` that killed processes left in a folder.

    Parameters
    ----------
    folder : path
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(".") and _MARK in entry.name and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError), open(entry.path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whoever writes it still holds the lock
                    os.unlink(entry.path)


def _mode(path: Path) -> int:
    """Permissions of a file that is there; of a new one those that the user's umask allows."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextlib.contextmanager
def naming_file(path: str | Path) -> Iterator[None]:
    """Let errors of the disk name the file that was to be written.

    Parameters
    ----------
    path : path

    Raises
    ------
    OSError
        As it was raised, about `path` unless it names another file that is not temporary.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and _MARK not in str(error.filename):
            raise
        if error.errno is None:  # as libraries raise it
            raise OSError(f"cannot write {path}: {error}") from error
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def check_writable(path: str | Path) -> None:
    """Refuse what cannot be written as a file: folders, devices, write-protected files, folders that are not there.

    Parameters
    ----------
    path : path

    Raises
    ------
    InputError
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InputError(f"{path} is a folder; name a file in a folder that exists and can be written")
    if target.exists() and not target.is_file():
        raise InputError(f"{path} is a device, not a file; name a file to write")
    if not target.parent.is_dir():
        raise InputError(
            f"folder {target.parent} does not exist; create it first, or name a file in a folder that exists"
        )
    _check_makes_files(target.parent, "name a file in a folder that can be written")
    if target.exists() and not os.access(target, os.W_OK):
        raise InputError(f"{path} is write-protected; name another file")


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
    check_writable(path)
    for given in inputs:
        if os.path.exists(path) and os.path.exists(given) and os.path.samefile(path, given):
            raise InputError(f"{path} would replace the input of that name; choose another name for the output")


def check_folder(path: str | Path) -> None:
    """Refuse a folder that cannot be made or written in, before any work is done for it.

    Parameters
    ----------
    path : path

    Raises
    ------
    InputError
    """
    whole = Path(path).absolute()
    there = next(folder for folder in (whole, *whole.parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; name a folder that can be written")
    _check_makes_files(there, "name a folder that can be written")


def _check_makes_files(folder: Path, advice: str) -> None:
    """Refuse a folder in which no file can be made: permissions do not tell, as of /proc, or of root on any folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):  # without a name where the system can do so, so that nobody sees it
            pass
    except OSError as error:
        raise InputError(f"cannot write in {folder} ({error.strerror}); {advice}") from error


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
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
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or a number of absurd length
        raise InputError(f"{path} is not valid JSON ({error}); it may be truncated") from error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def append_line(path: str | Path, value: Any) -> None:
    """Add a value to a file of JSON lines, so that neither a kill nor a power cut after it loses it.

    Parameters
    ----------
    path : path
    value : object
        Plain JSON values.
    """
    with naming_file(path), open(path, "ab") as file:
        file.write(json.dumps(value).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: str | Path, *, repair: bool = False) -> list[Any]:
    """Values of a file of JSON lines; a last line that a kill cut off is left out.

    Parameters
    ----------
    path : path
    repair : bool
        Cut such a line from the file, too.

    Returns
    -------
    list of objects
        Empty where there is no file.

    Raises
    ------
    InputError
        Another line is no JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if repair and len(whole) < len(data):
        os.truncate(path, len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); remove it and begin again") from error


@contextlib.contextmanager
def job_journal(path: str | Path, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Records of a long job's finished parts, which a killed run left for the same job to go on with.

    The first line is what the job was asked for. The file is locked while the job runs, and removed when it is done.

    Parameters
    ----------
    path : path
        Of the journal; `add_record` adds to it.
    settings : dict
        Plain JSON values; with others than those of the journal that is there, the job begins anew.

    Yields
    ------
    dict
        Records by name.

    Raises
    ------
    InputError
        The same job is running.
    """
    with naming_file(path):
        lock = open(path, "ab")  # noqa: SIM115 - held for the whole context
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{path} is in use by another process; wait for it or name another output") from error
        head, *lines = read_lines(path, repair=True) or [None]
        if head != json.loads(json.dumps(settings)):
            os.truncate(path, 0)
            append_line(path, settings)
            lines = []
        yield {line["name"]: line["record"] for line in lines}
        os.unlink(path)


def add_record(path: str | Path, name: str, record: Any) -> None:
    """Note in a job's journal that a part is done.

    Parameters
    ----------
    path : path
    name : str
    record : object
        Plain JSON values.
    """
    append_line(path, {"name": name, "record": record})


_held: set[IO[bytes]] = set()
"""Locks of folders that this process holds."""


def _drop_locks() -> None:
    """In a forked process, such as one that makes batches: a lock ends with the process that took it, even if that is
    killed and its children live a little longer."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_drop_locks)


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
        lock = open(folder / ".lock", "ab")  # noqa: SIM115 - held for the whole context; never truncated
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{folder} is in use by another process; wait for it or choose another folder") from error
        remove_leftovers(folder)
        _held.add(lock)
        try:
            yield folder
        finally:
            _held.discard(lock)
