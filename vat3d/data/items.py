"""One mesh of a data set to be."""

from __future__ import annotations

import dataclasses


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
    fill: str = "nonzero"
