"""The pool's held-out meshes as a folder that `vat3d bench` takes: openly licensed, never trained on.

    python tools/validation_meshes.py --out FOLDER [--cache ~/.cache/vat3d] [--all]

One mesh of each object in the validation split (variants of one object look alike), closed and in one piece unless
`--all`, as it lies in its package; the splits go by object names, see `vat3d corpus`. Names are those of the
packages, so that their licences can be looked up in `data_manifests/`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from vat3d.data.corpus import CACHE, corpus_items
from vat3d.data.prepare import VALIDATION, split_share
from vat3d.errors import MeshError
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.solid import Solid
from vat3d.mesh_io.load import load_mesh


def is_closed_body(path: Path) -> bool:
    """Whether a mesh is one closed component."""
    try:
        mesh = canonical_mesh(*load_mesh(path)[:2])
        return mesh.report["components"] == 1 and Solid(mesh).report["closed"]
    except MeshError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--all", action="store_true", help="open meshes and those of several pieces, too")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    objects: set[str] = set()
    for item in corpus_items(args.cache):
        path = Path(item.path)
        if item.group not in objects and split_share(item.group) < VALIDATION and (args.all or is_closed_body(path)):
            objects.add(item.group)
            name = f"{item.source}_{item.group.replace(' ', '-')}{path.suffix.lower()}"
            shutil.copyfile(path, args.out / name)
            print(name, flush=True)


if __name__ == "__main__":
    main()
