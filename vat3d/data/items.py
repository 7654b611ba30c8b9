"""One mesh of a data set to be."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
from numpy.typing import NDArray

from setcore.seeding import derive_seed
from vat3d.data.split import PROCEDURAL


@dataclasses.dataclass(frozen=True)
class MeshItem:
    """One mesh to prepare: a file, or the seed of a procedural shape.

    Parameters
    ----------
    name : str
        Unique within a data set.
    source : str
        The package or folder it comes from.
    category : str
    group : str
        The object's name. All meshes of a group are on the same side of the validation split.
    path : str or None
        Mesh file; None for a procedural shape.
    seed : int or None
        Seed of `vat3d.procedural.shapes.shape`.
    opened : bool
        The seed is one of `vat3d.procedural.open_shapes.open_shape` instead.
    family : str or None
        Of the procedural shape; None: drawn by the seed.
    fill : {"nonzero", "even-odd"}
        What overlapping parts stand for; `vat3d.data.prepare.prepare` sets it, one rule for a data set. By the even-odd
        rule meshes are left out that hide no parts.
    """

    name: str
    source: str
    category: str
    group: str
    path: str | None = None
    seed: int | None = None
    opened: bool = False
    family: str | None = None
    fill: str = "nonzero"


def procedural_item(name: str) -> MeshItem | None:
    """A procedural shape by its name, from which alone it can be made again.

    Parameters
    ----------
    name : str
        As "procedural/7-12", or of one family "procedural/sword-7-12": the source, a seed, and a number.

    Returns
    -------
    MeshItem
        None, if nothing procedural is called so.
    """
    found = re.fullmatch(rf"({'|'.join(PROCEDURAL)})/((?:(\w+)-)?(\d+)-(\d+))", name)
    if found is None:
        return None
    source, group, family, seed, number = found.groups()
    drawn = derive_seed(int(seed), "shape", int(number))
    return MeshItem(name, source, "", group, seed=drawn, opened=source == PROCEDURAL[True], family=family)


def procedural_mesh(seed: int, opened: bool, family: str | None) -> tuple[NDArray[np.float64], NDArray[np.int64], str]:
    """The mesh of a procedural shape.

    Parameters
    ----------
    seed, opened, family
        As of `MeshItem`.

    Returns
    -------
    vertices, faces, category
        As of `vat3d.procedural.shapes.shape`, which raises the same errors.
    """
    from vat3d.procedural.open_shapes import open_shape
    from vat3d.procedural.shapes import shape

    return (open_shape if opened else shape)(seed, family)
