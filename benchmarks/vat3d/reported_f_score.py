"""Is the F-score that `encode` reports the one that `vat3d.evaluate` measures?

    python benchmarks/vat3d/reported_f_score.py [FOLDER] [--every 3] [--efforts fast,normal,best] [--resume]

Encodes every third mesh at 96, 128, 256 and 512 bytes and prints, by effort and budget, the mean of both at .02, their
mean difference, the share of files whose two figures lie within .02 of each other, and the older measure of the same
files, from samples to samples, by which earlier tables were made. All efforts of 37 meshes take about two and a half
hours of one core; what is there is written after each mesh, and `--resume` goes on from it.
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
from bench_common import EMBEDDED_MESHES, mesh_files, output, shared
from sample_distances import f_score_of_samples

BUDGETS = (96, 128, 256, 512)
NEAR = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = shared("meshes_dev") or EMBEDDED_MESHES
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="of meshes")
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--efforts", default="fast")
    parser.add_argument("--json", type=Path, default=output("reported_f_score.json"))
    parser.add_argument("--resume", action="store_true", help="keep what --json holds of a run of the same version")
    args = parser.parse_args()
    tokenizer = MeshTokenizer.from_pretrained()
    files = mesh_files(args.folder, args.every)
    found: list[dict[str, Any]] = json.loads(args.json.read_text())["files"] if args.resume else []
    done = {(row["file"], row["effort"]) for row in found}
    for path in tqdm(files, unit="mesh", disable=not os.isatty(2)):
        efforts = [effort for effort in args.efforts.split(",") if (path.name, effort) not in done]
        if not efforts:
            continue
        source = load_mesh(path)[:2]
        reference = Reference(source)
        for effort in efforts:
            for budget in BUDGETS:
                stream = tokenizer.encode(source, budget, effort)
                mesh = tokenizer.decode(stream)
                vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
                measured = reference.surface_scores(vertices, faces)["f_score@0.02"]
                older = f_score_of_samples(reference, vertices, faces, NEAR)
                reported = stream.report["f_score@0.02"]
                found.append(
                    {"file": path.name, "effort": effort, "budget": budget}
                    | {"reported": reported, "measured": measured, "older": older}
                )
        write_json(args.json, {"files": found})
    print("| effort | bytes | files | reported | measured | difference | within .02 | older measure |")
    print("|---|---|---|---|---|---|---|---|")
    for effort in args.efforts.split(","):
        for budget in BUDGETS:
            rows = [row for row in found if (row["effort"], row["budget"]) == (effort, budget)]
            reported, measured, older = (
                np.array([row[key] for row in rows]) for key in ("reported", "measured", "older")
            )
            error = reported - measured
            print(
                f"| {effort} | {budget} | {len(rows)} | {reported.mean():.3f} | {measured.mean():.3f} | "
                f"{error.mean():+.4f} | {(abs(error) <= 0.02).mean():.3f} | {older.mean():.3f} |"
            )


if __name__ == "__main__":
    main()
