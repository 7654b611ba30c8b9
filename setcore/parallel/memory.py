"""How much memory there is, and giving back what is not used."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def return_memory() -> None:
    """Give memory that is not used back to the system; glibc's allocator else keeps gigabytes of small pieces."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def free_memory() -> int | None:
    """Memory that can be had without swapping, within the limit of a container or a batch system.

    Returns
    -------
    int or None
        In bytes; None where the system does not say.
    """
    try:
        lines = MEMINFO.read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].partition("::/")[2]
        return min(free, int(Path("/sys/fs/cgroup", group, "memory.max").read_text()))
    except (OSError, ValueError, IndexError):  # no limit is set ("max"), or none of this kind
        return free
