"""Make `vat3d/data/split.csv`: every mesh that may be trained on, for training, validation or the test.

    python tools/make_split.py --quaternius FOLDER [--cache ~/.cache/vat3d]

In this order: the packages of `vat3d corpus`, Quaternius's packs (`data_manifests/quaternius.yaml`), the families of
procedural shapes; within a source by name. Of meshes with one geometry the first one names all. Meshes that cannot be
read, and packages that cannot be had, are not in the file; they are printed, and the status is then 1.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from setcore.files import write_bytes
from vat3d.data.corpus import CACHE, PACKAGES, unpack
from vat3d.data.items import MeshItem
from vat3d.data.object_names import clean_name
from vat3d.data.quaternius import quaternius_items
from vat3d.data.split import PROCEDURAL, SPLIT_FILE, SplitRow, split_rows
from vat3d.errors import DatasetError, MeshError
from vat3d.mesh.canonical import canonical_mesh, geometry_hash
from vat3d.mesh_io.load import load_mesh
from vat3d.procedural.open_shapes import KINDS
from vat3d.procedural.shapes import FAMILIES


def geometries(items: list[MeshItem], problems: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """Source, name, group and geometry of the meshes that can be read."""
    for item in sorted(items, key=lambda item: item.name):
        try:
            vertices, faces, _ = load_mesh(item.path)
            yield item.source, item.name, item.group, geometry_hash(canonical_mesh(vertices, faces))
        except MeshError as error:
            problems.append(str(error))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quaternius", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=SPLIT_FILE)
    args = parser.parse_args()
    cache, problems, meshes = args.cache.expanduser(), [], []
    for package in PACKAGES:
        try:
            meshes += geometries(unpack(package, cache), problems)
        except DatasetError as error:
            problems.append(str(error))
    meshes += geometries(quaternius_items(args.quaternius, cache), problems)
    for source, families in zip(PROCEDURAL, (FAMILIES, KINDS), strict=True):
        meshes += [(source, family, clean_name(family) or family, "") for family in sorted(families)]
    rows = split_rows(meshes)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SplitRow._fields)
    writer.writerows(rows)
    write_bytes(args.out, text.getvalue().encode())
    print(*problems, sep="\n")
    for unit, counted in (("meshes", rows), ("names", {row.group: row for row in rows}.values())):
        print(unit, dict(Counter(row.split for row in counted)))
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(main())
