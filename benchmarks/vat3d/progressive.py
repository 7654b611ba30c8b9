"""Do files decode coarse to fine? F@.02 of every prefix of scales, over a folder of meshes.

    python benchmarks/vat3d/progressive.py FOLDER [--max-bytes 1024] [--effort normal] [--every 3] [--json OUT.json]

Prints the mean over meshes at each number of scales with the bytes of the prefix, the greatest loss of any mesh by one
more scale, and the share of its final F that a file has when cut to a third of its bytes (`TokenStream.fit`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from setcore.files import write_json
from vat3d import MeshTokenizer
from vat3d.mesh.compare import Reference
from vat3d.mesh_io.load import load_mesh

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import EMBEDDED_MESHES, mesh_files, output

SCORE = "f_score@0.02"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=EMBEDDED_MESHES, help="of meshes")
    parser.add_argument("--max-bytes", type=int, default=1024)
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--model")
    parser.add_argument("--json", type=Path, default=output("vat3d_progressive.json"))
    args = parser.parse_args()
    tokenizer = MeshTokenizer.from_pretrained(args.model)
    files = mesh_files(args.folder, args.every)
    meshes = []
    for path in tqdm(files, unit="mesh"):
        source = load_mesh(path)[:2]
        reference = Reference(source)
        stream = tokenizer.encode(source, args.max_bytes, args.effort, progress=False)
        prefixes = [stream.truncate(scales) for scales in range(1, len(stream.ids) + 1)]
        scores = [reference.compare(tokenizer.decode(prefix))[SCORE] for prefix in prefixes]
        sizes = [len(prefix.to_bytes()) for prefix in prefixes]
        third = reference.compare(tokenizer.decode(stream.fit(sizes[-1] // 3)))[SCORE]
        levels = list(stream.levels)
        meshes.append({"file": path.name, "bytes": sizes, SCORE: scores, "third": third, "levels": levels})
    longest = max(len(mesh["bytes"]) for mesh in meshes)
    for scales in range(longest):
        rows = [mesh for mesh in meshes if len(mesh["bytes"]) > scales]
        mean_bytes, mean_score = (np.mean([mesh[key][scales] for mesh in rows]) for key in ("bytes", SCORE))
        print(f"{scales + 1:2} scales: {len(rows)} files, {mean_bytes:5.0f} bytes, F {mean_score:.3f}")
    drops = [float(-np.diff(mesh[SCORE]).min()) for mesh in meshes]
    many = sum(drop > 0.02 for drop in drops)
    print(f"greatest loss by one more scale: {max(drops):.3f}; {many} of {len(meshes)} files lose more than .02")
    shares = [float(mesh["third"] / mesh[SCORE][-1]) for mesh in meshes]
    few = sum(share < 0.85 for share in shares)
    print(f"share of F at a third of the bytes: mean {np.mean(shares):.3f}, least {min(shares):.3f}, {few} below .85")
    write_json(args.json, {"max_bytes": args.max_bytes, "effort": args.effort, "meshes": meshes})


if __name__ == "__main__":
    main()
