"""Whether an HDF5 file can be read at all: tried in a child process, within limits of time and memory.

The HDF5 library loops for ever, crashes, or takes any memory that is asked of it where a sector of a file was zeroed or
a file was made to hurt, and nothing can stop it within a process. So a child process reads the file first: all of its
structure, and its values, piece by piece. What claims more than the file can hold is not read, nor is what lies in
other files. The child is this module, run as ``python -m braincl.data.hdf5_check FILE``.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from braincl.errors import ResponseError

SECONDS, BYTES_PER_SECOND = 2, 20e6
"""Processor time of the child: for the structure and for each variable, and for bytes that a variable claims."""
MEMORY, PIECE = 1 << 30, 1 << 26
"""Bytes of the child, beside a variable's chunk; and of values that are read at once."""
UNWRITTEN = 1 << 24
"""Bytes that a variable may claim without having written them: it holds its fill value."""
DEFLATE = 1100
"""The best that deflate can do is 1,032 bytes for one."""
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable"


def hdf5_fault(path: str | Path, *, values: bool = True) -> str | None:
    """What keeps an HDF5 file from being read safely.

    It may be damaged so that reading does not end, fails or crashes; claim more than it can hold; or have links or
    values in other files.

    Parameters
    ----------
    path : path
    values : bool
        Read all values, too; else the structure alone, as of files of many gigabytes.

    Returns
    -------
    str or None
        None where it can be read.
    """
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(path), *["values"] * values],
        capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    told = child.stdout.strip().splitlines()
    return None if not child.returncode else told[-1] if told else "reading it does not end, or crashes"


def check_hdf5(path: str | Path) -> None:
    """Refuse a NetCDF-4 file that cannot be read safely.

    Parameters
    ----------
    path : path

    Raises
    ------
    ResponseError
        It has a `hdf5_fault`.
    """
    if what := hdf5_fault(path):
        raise ResponseError(
            f"{path} is not a readable NetCDF-4 file ({what}); it may be damaged, fetch or write it again"
        )


def _variables(group: Any, seen: set[int]) -> Iterator[Any]:
    """All variables below a group, each once; attributes are read on the way."""
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(f"{name!r} is a link to another file, {link.filename}")
        if isinstance(link, h5py.SoftLink):
            continue  # what it names in this file is visited by its own name
        item = group[name]
        place = h5py.h5o.get_info(item.id).addr
        if place in seen:
            continue
        seen.add(place)
        _read_attributes(item)
        if isinstance(item, h5py.Group):
            yield from _variables(item, seen)
        elif isinstance(item, h5py.Dataset):
            yield item


def _read_attributes(item: Any) -> None:
    for name in item.attrs:
        space = item.attrs.get_id(name)
        if space.get_storage_size() > UNWRITTEN:
            raise ValueError(f"attribute {name!r} claims {space.get_storage_size():,} bytes")
        item.attrs[name]


def _claim(variable: Any) -> int:
    """Bytes that reading a variable takes, checked against those that are there."""
    import h5py

    layout = variable.id.get_create_plist()
    if layout.get_external_count() or layout.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(f"the values of {variable.name!r} lie in other files")
    if not variable.shape:
        return int(variable.dtype.itemsize)
    claimed, stored = variable.dtype.itemsize, variable.id.get_storage_size()
    for size, chunk in zip(variable.shape, variable.chunks or variable.shape, strict=True):
        claimed *= -(-size // chunk) * chunk if chunk else 0
    if claimed > max(UNWRITTEN, stored * (DEFLATE if layout.get_nfilters() else 1)):
        raise ValueError(f"{variable.name!r} claims {claimed:,} bytes, but {stored:,} are there")
    return int(claimed)


def _read_values(variable: Any, claimed: int) -> None:
    if not variable.shape or not claimed:
        variable[()]
        return
    rows = variable.shape[0]
    step = max(1, PIECE * rows // claimed, variable.chunks[0] if variable.chunks else 1)
    for start in range(0, rows, step):
        variable[start : start + step]


def _limit(seconds: float, memory: int) -> None:
    """Allow this process so much more processor time, and so much memory in all."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    for kind, value in (
        (resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 1),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        with contextlib.suppress(ValueError, OSError):  # a system that does not limit this
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _main(path: str, values: bool) -> None:
    _limit(SECONDS, MEMORY)
    import h5py

    with h5py.File(path, "r") as file:
        _read_attributes(file)
        variables = [v for v in _variables(file, set()) if NO_VARIABLE not in str(v.attrs.get("NAME"))]
        claims = [_claim(variable) for variable in variables]
        for variable, claimed in zip(variables, claims, strict=True):
            chunk = claimed if variable.chunks is None else variable.dtype.itemsize
            for size in variable.chunks or ():
                chunk *= size
            _limit(SECONDS + claimed / BYTES_PER_SECOND, MEMORY + 4 * min(chunk, claimed))
            if variable.chunks:
                variable.id.get_num_chunks()
            if values:
                _read_values(variable, claimed)


if __name__ == "__main__":
    try:
        _main(sys.argv[1], "values" in sys.argv[2:])
    except Exception as error:  # what a damaged file raises inside HDF5 and h5py is not documented
        sys.stdout.write(f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
        sys.exit(1)
