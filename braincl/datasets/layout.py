"""What a data set consists of on disk, what is missing of it, and where to get that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from braincl.data.folders import find_files
from braincl.datasets.files import need_folder


@dataclass(frozen=True)
class Part:
    """One kind of file of a data set.

    Parameters
    ----------
    name, what : str
    patterns : tuple of str
        Where it lies below the data set's folder; any of them will do. ``{subject}`` stands for the subject, ``*``
        and ``**`` as in `braincl.data.folders.find_files`.
    get : str
        How to come by it.
    needed : bool
        Whether the reader does without.
    """

    name: str
    patterns: tuple[str, ...]
    what: str
    get: str
    needed: bool = True


@dataclass(frozen=True)
class DataSet:
    """What the command `braincl data` says of a data set; `data_manifests/NAME.yaml` says it at length.

    Parameters
    ----------
    name, title, licence, source : str
    reader : str
        The function that reads it.
    parts : tuple of Part
    subjects : tuple of str
        Empty where there are too many to name.
    """

    name: str
    title: str
    licence: str
    source: str
    reader: str
    parts: tuple[Part, ...]
    subjects: tuple[str, ...] = ()


class Found(NamedTuple):
    """A part of a data set as it was found.

    Parameters
    ----------
    part : Part
    files : list of Path
    gaps : list of str
        Sessions that are lacking between those that are there.
    """

    part: Part
    files: list[Path]
    gaps: list[str]


def check_folder(dataset: DataSet, folder: str | Path, subject: str | None = None) -> list[Found]:
    """Which parts of a data set lie in a folder.

    Parameters
    ----------
    dataset : DataSet
    folder : path
    subject : str, optional
        None: files of any subject count.

    Returns
    -------
    list of Found
        One for each part.

    Raises
    ------
    ResponseError
        `folder` is not a folder.
    """
    root = need_folder(folder)
    found = []
    for part in dataset.parts:
        patterns = [pattern.replace("{subject}", subject or "*") for pattern in part.patterns]
        files = find_files(root, *patterns)
        found.append(Found(part, files, _gaps(files)))
    return found


def _gaps(files: list[Path]) -> list[str]:
    """Sessions below the last one that have no file, folder by folder, such as "subj01/.../session02"."""
    numbered: dict[tuple[Path, str], set[int]] = {}
    for file in files:
        if match := re.search(r"^(.*ses(?:sion|-))(\d\d)\.", file.name):
            numbered.setdefault((file.parent, match[1]), set()).add(int(match[2]))
    return [
        f"{folder / stem}{number:02d}"
        for (folder, stem), numbers in numbered.items()
        for number in range(1, max(numbers))
        if number not in numbers
    ]
