"""Held-out meshes as a folder that `vat3d bench` takes: openly licensed, of names that are not trained on.

    python tools/held_out_meshes.py --out FOLDER [--split validation] [--quaternius PACKS] [--cache FOLDER] [--all]

One mesh of each name that `vat3d/data/split.csv` lists for the test (or for validation), of the packages or of
Quaternius's packs, closed and in one piece unless `--all`, as it lies there; with `--all` every mesh. File names begin
with the source, so that its licence can be looked up in `data_manifests/`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from vat3d.data.corpus import CACHE, corpus_items, mixed
from vat3d.data.quaternius import quaternius_items
from vat3d.data.split import read_split
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
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--quaternius", type=Path, metavar="PACKS", help="take these packs, not the packages")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--all", action="store_true", help="every mesh: open ones and several of a name, too")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    groups = {row.name: row.group for row in read_split() if row.split == args.split}
    packs = args.quaternius
    items = corpus_items(args.cache) if packs is None else mixed(quaternius_items(packs, args.cache))
    taken: set[str] = set()
    for item in items:
        path, group = Path(item.path), groups.get(item.name)
        if group and (args.all or (group not in taken and is_closed_body(path))):
            taken.add(group)
            stem = item.name.removesuffix(path.suffix) if args.all else f"{item.source}/{group}"
            name = stem.replace("/", "_").replace(" ", "-") + path.suffix.lower()
            shutil.copyfile(path, args.out / name)
            print(name, flush=True)


if __name__ == "__main__":
    main()
