"""Files below a folder: links followed, hidden ones left out, in the order in which people count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def natural_order(name: str | Path) -> list[str | int]:
    """A sort key by which run-2 comes before run-10.

    Parameters
    ----------
    name : str or path

    Returns
    -------
    list of str and int
        By turns text and the number that follows it.
    """
    parts = re.split("([0-9]+)", str(name))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def find_files(root: Path, *patterns: str) -> list[Path]:
    """Files below a folder that match any of the patterns.

    Links to folders are followed; files and folders whose name begins with a dot are left out.

    Parameters
    ----------
    root : path
    *patterns : str
        As in `pathlib.Path.glob`, with ``**/`` once at most.

    Returns
    -------
    list of Path
        In natural order, each once.
    """
    found: set[Path] = set()
    walked: dict[str, list[Path]] = {}
    above = frozenset(root.resolve().parents)
    for pattern in patterns:
        head, deep, tail = pattern.rpartition("**/")
        if deep and head not in walked:
            tops, around = (root.glob(head), above | {root.resolve()}) if head else ([root], above)
            walked[head] = [folder for top in tops for folder in _folders(top, around)]
        for folder in walked[head] if deep else [root]:
            found |= {file for file in folder.glob(tail) if file.is_file() and not _hidden(file.relative_to(root))}
    return sorted(sorted(found), key=natural_order)  # run-02 before run-2


def _folders(top: Path, above: frozenset[Path]) -> Iterator[Path]:
    """A folder and all below it; a link back to one of those that it lies in is not followed."""
    real = top.resolve()
    if top.is_dir() and real not in above:
        yield top
        for inner in top.iterdir():
            if inner.is_dir() and not _hidden(inner.relative_to(top)):
                yield from _folders(inner, above | {real})


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
