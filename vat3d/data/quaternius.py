"""Quaternius's packs of low-polygon models, as `.npz` files of vertices and faces.

A pack holds the arrays `names` (m,), `vertex_counts` (m,), `face_counts` (m,), `vertices` (n, 3) and `faces` (k, 3):
one model after another, faces numbered from a model's own first vertex. `data_manifests/quaternius.yaml` says more.
"""

from __future__ import annotations

import re
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from vat3d.data.items import MeshItem
from vat3d.data.object_names import pack_name
from vat3d.errors import DatasetError
from vat3d.mesh_io.save import save_mesh

SOURCE = "quaternius"
ARRAYS = ("names", "vertex_counts", "face_counts", "vertices", "faces")


def quaternius_items(folder: str | Path, cache: str | Path) -> list[MeshItem]:
    """Unpack the packs of a folder into `cache`/unpacked/quaternius, as PLY files, and list their models by name.

    Parameters
    ----------
    folder : path
    cache : path

    Returns
    -------
    list of MeshItem
        A pack is the category, the cleaned name the group.

    Raises
    ------
    DatasetError
        The folder holds no packs, or one is damaged.
    """
    packs = sorted(Path(folder).expanduser().glob("*.npz"))
    if not packs:
        raise DatasetError(f"{folder} holds no packs; name the folder of Quaternius's packs as .npz files")
    target = Path(cache).expanduser().resolve() / "unpacked" / SOURCE
    return [item for pack in packs for item in _unpack(pack, target / pack.stem)]


def _unpack(pack: Path, target: Path) -> list[MeshItem]:
    try:
        with pack.open("rb") as opened, np.load(opened) as file:
            names, vertex_counts, face_counts, vertices, faces = (file[name] for name in ARRAYS)
        points = np.split(vertices, np.cumsum(vertex_counts)[:-1])
        triangles = np.split(faces, np.cumsum(face_counts)[:-1])
        models = sorted(zip(map(str, names), points, triangles, strict=True), key=lambda model: model[0])
    except (OSError, TypeError, ValueError, KeyError, BadZipFile) as error:
        raise DatasetError(f"{pack} is no pack of models, or damaged: {error}") from error
    target.mkdir(parents=True, exist_ok=True)
    items = []
    for name, *mesh in models:
        if not re.fullmatch(r"[\w-]+", name):
            raise DatasetError(f"{pack} names a model {name!r}; letters, digits, _ and - are expected")
        path = target / f"{name}.ply"
        if not path.exists():
            save_mesh(path, *mesh)
        items.append(MeshItem(f"{SOURCE}/{pack.stem}/{name}", SOURCE, pack.stem, pack_name(name), str(path)))
    return items
