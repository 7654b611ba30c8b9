"""Pictures of training shapes, as the features that a generator is shown.

The meshes are those that ``vat3d corpus`` has left in its cache, and procedural shapes made anew. Axes: m mesh, r
round, v view, p patch, c feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from setcore.devices import autocast
from setcore.progress import progress_bar
from setcore.seeding import derive_seed
from vat3d.data.items import procedural_item, procedural_mesh
from vat3d.data.split import PROCEDURAL
from vat3d.generation.picture_encoder import FEATURES, PATCHES, SIZE, load_picture_encoder
from vat3d.generation.pictures import render_views
from vat3d.generation.shape_tokens import NamedMesh
from vat3d.mesh_io.load import load_mesh

VIEWS = 1
"""Of a training shape in a round."""


def training_mesh(line: Mapping[str, Any], cache: str | Path) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """The mesh of a data set's line, as its file has it.

    Parameters
    ----------
    line : mapping
        Of the data set's index.
    cache : path
        That of ``vat3d corpus``.

    Returns
    -------
    vertices : array of shape (n, 3)
    faces : int array of shape (k, 3)
        None, where the cache does not hold it.
    """
    source, name = str(line["source"]), str(line["name"])
    if source in PROCEDURAL:
        item = procedural_item(name)
        if item is None or item.seed is None:
            return None
        vertices, faces = procedural_mesh(item.seed, item.opened, item.family)[:2]
    else:
        path = Path(cache).expanduser() / "unpacked" / name
        path = path if path.suffix else path.with_name(f"{path.name}.ply")
        if not path.is_file():
            return None
        vertices, faces = load_mesh(path)[:2]
    return np.asarray(vertices), np.asarray(faces)


def picture_features(
    meshes: Sequence[NamedMesh], cache: str | Path, rounds: int, views: int, seed: int
) -> Float[Tensor, "m r v p c"]:
    """Features of pictures of meshes, as each round moves them.

    Parameters
    ----------
    meshes : sequence of m NamedMesh
    cache : path
    rounds : int
    views : int
        Of a mesh in a round.
    seed : int
        That of the rounds' moves.

    Returns
    -------
    float16 tensor of shape (m, rounds, views, p, c)
        Zero for meshes that the cache does not hold.
    """
    found = torch.zeros(len(meshes), rounds, views, PATCHES, FEATURES, dtype=torch.float16)
    for place, mesh in enumerate(progress_bar(meshes, desc="pictures")):
        held = training_mesh(mesh.line, cache)
        if held is None:
            continue
        pictures = []
        for round_ in range(rounds):
            flipped = torch.linalg.det(mesh.move(round_, seed).linear) < 0
            faces = held[1][:, ::-1] if flipped else held[1]
            drawn = derive_seed(seed, "pictures", mesh.line["name"], round_)
            pictures.append(render_views(mesh.moved_vertices(held[0], round_, seed), faces, views, SIZE, drawn))
        with autocast("auto", torch.device("cpu")):
            seen = load_picture_encoder()(torch.from_numpy(np.concatenate(pictures)))
        found[place] = seen.view(rounds, views, PATCHES, FEATURES).half()
    return found
