"""Held-out meshes at 256, 512 and 1,024 bytes beside decimation + Draco: a JSON that holds what is drawn, a picture.

    python benchmarks/vat3d/held_out.py [--cache ~/.cache/vat3d] [--effort normal] --out OUT.json

The first meshes, in the fixed order of `vat3d corpus`, of the validation split of furniture (Sweet Home 3D), bones
(dm-control) and robots (robosuite): of names not trained on, and not chosen by how they come out. The JSON holds the
meshes themselves, as Draco writes them at 11 bits a coordinate, so that the picture can be drawn again without the
packages and whatever the embedded weights will be. Without --out: the picture of the stored measurement.
"""

from __future__ import annotations

import argparse
import base64
import sys
from pathlib import Path
from typing import Any

import DracoPy
import fast_simplification
import numpy as np
from matplotlib.figure import Figure

import vat3d
from setcore.files import atomic_path, read_json, write_json
from vat3d.data.corpus import CACHE, corpus_items
from vat3d.data.split import group_split
from vat3d.errors import MeshError
from vat3d.evaluation.draco import best_at_budgets, draco_mesh
from vat3d.mesh.render import mesh_box, render_mesh
from vat3d.mesh_io.load import load_mesh

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import OUTPUT, RESULTS, commit

PACKAGES = {"sweethome3d-furniture": 3, "dm-control": 1, "robosuite": 1}
SHOWN = {"bonec": "neck vertebra", "rh": "finger"}  # for names that say little
BUDGETS = (256, 512, 1024)
SCORE = "f_score@0.01"
FACES, BITS = 4000, 11  # of a stored mesh
FEWEST_FACES = 400  # of a mesh that is worth a picture


def measure(cache: Path, effort: str) -> dict[str, Any]:
    """Encode the meshes, find Draco's best, and pack what will be drawn."""
    tokenizer, rows = vat3d.MeshTokenizer.from_pretrained(), []
    for package, count in PACKAGES.items():
        for name, credit, vertices, faces in held_out(cache, package, count):
            reference = (vertices, faces)
            row: dict[str, Any] = {"name": name, "from": credit, "reference": packed(vertices, faces), "budgets": {}}
            rival = best_at_budgets(reference, BUDGETS)
            for budget in BUDGETS:
                stream = tokenizer.encode(reference, budget, effort)
                mesh = tokenizer.decode(stream, 128)
                found = {"vat3d": cell(reference, mesh.vertices, mesh.faces, len(stream.to_bytes()))}
                if best := rival[budget]:
                    found["Draco"] = cell(reference, *draco_mesh(reference, best), best["bytes"])
                row["budgets"][str(budget)] = found
            rows.append(row)
            print(name, {b: {m: c[SCORE] for m, c in found.items()} for b, found in row["budgets"].items()}, flush=True)
    return {"commit": commit(), "effort": effort, "meshes": rows}


def held_out(cache: Path, package: str, count: int) -> list[tuple[str, str, Any, Any]]:
    """Name, source, vertices and faces of the first meshes of the validation split, one of an object."""
    found: dict[str, tuple[str, str, Any, Any]] = {}
    for item in corpus_items(cache, (package,)):
        if group_split(item.group) == "validation" and item.group not in found and len(found) < count:
            try:
                vertices, faces, _ = load_mesh(Path(item.path))
            except MeshError:
                continue
            if len(faces) >= FEWEST_FACES:
                found[item.group] = (SHOWN.get(item.group, item.group), item.name, vertices, faces)
    return list(found.values())


def cell(reference: Any, vertices: Any, faces: Any, size: int) -> dict[str, Any]:
    """The scores of a mesh, and the mesh."""
    scores = vat3d.evaluate(reference, (vertices, faces))
    kept = {name: round(float(scores[name]), 4) for name in ("f_score@0.02", "f_score@0.01")}
    return kept | {"bytes": size, "mesh": packed(vertices, faces)}


def packed(vertices: Any, faces: Any) -> str:
    """A mesh of at most `FACES` faces as text."""
    vertices, where = np.unique(np.asarray(vertices, np.float64), axis=0, return_inverse=True)  # STL has each thrice
    faces = where.reshape(-1)[np.asarray(faces, np.int64)]
    if len(faces) > FACES:  # a picture need not be of a closed mesh, as those of vat3d.mesh.decimate are
        scale = np.abs(vertices).max()
        vertices, faces = fast_simplification.simplify(vertices / scale, faces.astype(np.int32), target_count=FACES)
        vertices = vertices * scale
    data = DracoPy.encode(vertices.astype(np.float32), faces.astype(np.uint32), quantization_bits=BITS)
    return base64.b64encode(data).decode()


def unpacked(text: str) -> tuple[Any, Any]:
    """The mesh of such a text."""
    mesh = DracoPy.decode(base64.b64decode(text))
    return np.asarray(mesh.points, np.float64), np.asarray(mesh.faces, np.int64)


def draw(result: dict[str, Any], path: Path, size: int = 200) -> None:
    """A row a mesh: the mesh, then vat3d and Draco at each budget."""
    meshes = result["meshes"]
    figure = Figure(figsize=(1.65 * (1 + 2 * len(BUDGETS)), 1.85 * len(meshes)), layout="constrained")
    grid = figure.subplots(len(meshes), 1 + 2 * len(BUDGETS), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for places, row in zip(grid, meshes, strict=True):
        reference = unpacked(row["reference"])
        box = mesh_box(reference)
        places[0].imshow(render_mesh(reference, size, box=box))
        places[0].set_title(row["name"], fontsize=10)
        for number, (budget, found) in enumerate(row["budgets"].items()):
            for axes, method in zip(places[1 + 2 * number :], ("vat3d", "Draco"), strict=False):
                if method in found:
                    axes.imshow(render_mesh(unpacked(found[method]["mesh"]), size, box=box))
                    axes.set_title(f"{method}, {budget} bytes\nF@.01 {found[method][SCORE]:.2f}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--out", type=Path, help="measure, and write here")
    args = parser.parse_args()
    if args.out:
        write_json(args.out, measure(args.cache, args.effort))
    stored = args.out or RESULTS / "vat3d" / "held_out.json"
    OUTPUT.mkdir(parents=True, exist_ok=True)
    draw(read_json(stored), OUTPUT / "held_out.png")
    print(f"{OUTPUT / 'gallery.png'} is drawn from {stored}")


if __name__ == "__main__":
    main()
