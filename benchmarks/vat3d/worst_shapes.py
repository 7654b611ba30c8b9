"""Which meshes decode worst, and whether a later version lifts them.

    python benchmarks/vat3d/worst_shapes.py [FOLDER] [--every 1] [--effort fast] [--json OUT.json] [--before OLD.json]

Encodes all meshes of a folder within 512 bytes, measures what decodes, and prints the twenty worst by F@.02. With
`--before`, an earlier run on the same meshes, the twenty are those that were worst then, and beside them stand the
scores of now; below, how both runs compare on these and on all. Effort `fast` takes about ten minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from setcore.files import write_json
from vat3d import MeshTokenizer
from vat3d.mesh.compare import Reference
from vat3d.mesh_io.load import load_mesh

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import EMBEDDED_MESHES, commit, mesh_files, output, shared

BUDGET, WORST = 512, 20
NEAR, FINE = "f_score@0.02", "f_score@0.01"


def measure(files: list[Path], effort: str) -> dict[str, dict[str, Any]]:
    """Scores of each mesh, and what `encode` says of it."""
    tokenizer, found = MeshTokenizer.from_pretrained(), {}
    for path in tqdm(files, unit="mesh", disable=not os.isatty(2)):
        source = load_mesh(path)[:2]
        stream = tokenizer.encode(source, BUDGET, effort)
        mesh = tokenizer.decode(stream)
        scores = Reference(source).surface_scores(np.asarray(mesh.vertices), np.asarray(mesh.faces))
        said = {name: stream.report[name] for name in ("components", "fill", "mirrored_axes")}
        found[path.name] = {NEAR: scores[NEAR], FINE: scores[FINE], **said}
    return found


def gains(before: dict[str, Any], now: dict[str, Any], names: list[str]) -> str:
    """How much some meshes have gained."""
    parts = []
    for score in (NEAR, FINE):
        old, new = (np.array([run[name][score] for name in names]) for run in (before, now))
        parts.append(
            f"{score} {old.mean():.3f} -> {new.mean():.3f} ({(new - old).min():+.3f} to {(new - old).max():+.3f})"
        )
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = shared("meshes_dev") or EMBEDDED_MESHES
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="of meshes")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--json", type=Path, default=output("worst_shapes.json"))
    parser.add_argument("--before", type=Path, metavar="OLD.json")
    args = parser.parse_args()
    files = mesh_files(args.folder, args.every)
    now = measure(files, args.effort)
    write_json(args.json, {"commit": commit(), "budget": BUDGET, "effort": args.effort, "meshes": now})
    before = json.loads(args.before.read_text())["meshes"] if args.before else now
    worst = sorted(now, key=lambda name: before[name][NEAR])[:WORST]
    for name in worst:
        row = now[name]
        facts = f"{row['components']} parts, {row['fill']}, mirrored {row['mirrored_axes'] or 'not'}"
        print(f"{name:36} {before[name][NEAR]:.3f} -> {row[NEAR]:.3f}   {facts}")
    print(f"the {len(worst)} worst: {gains(before, now, worst)}\nall {len(now)}: {gains(before, now, list(now))}")


if __name__ == "__main__":
    main()
