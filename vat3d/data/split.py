"""The one split of all meshes that may be trained on: training, validation, test.

A mesh goes where the name of its object goes: one name in ten, by a hash of the cleaned name (see
`vat3d.data.object_names`), is for the test, so that a model is tested on kinds of things that it has never seen. Meshes
of one geometry have one name, that of the first one listed. `split.csv` beside this file lists the meshes of the
packages and of Quaternius's packs, and the families of procedural shapes; `tools/make_split.py` makes it.

The file holds for every data set: what it lists is known by its geometry, wherever it lies. Meshes that it does not
list, as people bring them along, are for training or validation.
"""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SPLIT_FILE = Path(__file__).with_name("split.csv")
VALIDATION, TEST = 0.06, 0.1
"""Shares of names whose meshes are for validation and for the test."""
ALWAYS_TRAIN = frozenset(
    ("bed", "car", "chair", "couch", "fish", "house", "lamp", "mushroom", "ship", "sword", "table", "tree")
)
"""Names that the generator is asked for first; it has to have learned them."""
PROCEDURAL = ("procedural", "procedural_open")
"""Sources of procedural shapes, closed and open; the file lists their families, which have no geometry."""


class SplitRow(NamedTuple):
    """A line of the file.

    Parameters
    ----------
    source : str
        A package, "quaternius", or one of `PROCEDURAL`.
    name : str
        Of the mesh, as `MeshItem` has it, or of the family.
    group : str
        Cleaned name of the object; all meshes of a group are in one split.
    geometry : str
        See `vat3d.mesh.canonical.geometry_hash`. Empty for a family.
    split : {"train", "validation", "test"}
    """

    source: str
    name: str
    group: str
    geometry: str
    split: str


def split_share(group: str) -> float:
    """A number in [0, 1) that depends on the letters of a group's name alone, not on blanks between them.

    Parameters
    ----------
    group : str

    Returns
    -------
    float
    """
    name = group.lower().replace(" ", "")
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def group_split(group: str) -> str:
    """The split of all meshes of one name.

    Parameters
    ----------
    group : str
        A cleaned name.

    Returns
    -------
    {"train", "validation", "test"}

    Examples
    --------
    >>> from vat3d.data.split import group_split
    >>> group_split("chair"), group_split("boat"), group_split("axe")
    ('train', 'test', 'validation')
    """
    share = split_share(group)
    if group in ALWAYS_TRAIN or share >= VALIDATION + TEST:
        return "train"
    return "validation" if share < VALIDATION else "test"


def split_rows(meshes: Iterable[tuple[str, str, str, str]]) -> list[SplitRow]:
    """Lines for meshes; of those with one geometry the first one names the group of all.

    Parameters
    ----------
    meshes : iterable of (source, name, group, geometry)
        In the order of the file.

    Returns
    -------
    list of SplitRow
    """
    named: dict[str, str] = {}
    rows = []
    for source, name, group, geometry in meshes:
        if geometry:
            group = named.setdefault(geometry, group)
        rows.append(SplitRow(source, name, group, geometry, group_split(group)))
    return rows


@functools.cache
def read_split() -> tuple[SplitRow, ...]:
    """The lines of the file.

    Returns
    -------
    tuple of SplitRow
    """
    with SPLIT_FILE.open(newline="", encoding="utf-8") as file:
        return tuple(SplitRow(**line) for line in csv.DictReader(file))


def listed_split(geometry: str, source: str, category: str) -> str | None:
    """What the file says of a mesh of a data set.

    Parameters
    ----------
    geometry : str
    source, category : str
        Of a procedural shape, its source and family.

    Returns
    -------
    {"train", "validation", "test"} or None
        None: it is not listed, or it is of a family that is trained on, of which a share of shapes is for validation.
    """
    meshes, families = _listed()
    return meshes.get(geometry) or families.get((source, category))


@functools.cache
def _listed() -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    rows = read_split()
    families = {(row.source, row.name): row.split for row in rows if not row.geometry and row.split != "train"}
    return {row.geometry: row.split for row in rows if row.geometry}, families
