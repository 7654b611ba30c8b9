"""`make demo`, the mesh half: a mesh into at most 512 bytes and back, with the embedded weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from setcore.files import write_bytes
from vat3d.mesh.compare import ceiling, evaluate
from vat3d.mesh.render import save_gallery
from vat3d.mesh_io.save import save_mesh
from vat3d.tokenizer import MeshTokenizer

MESH = Path(__file__).parent / "embedded" / "vertebra.ply"
MAX_BYTES = 512
FIGURES = ("f_score@0.02", "f_score@0.01", "chamfer_distance", "normal_consistency", "volume_iou")


def main() -> None:
    """Encode, decode, compare; everything is written below `--out`."""
    parser = argparse.ArgumentParser(prog="python -m vat3d.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_output/vat3d"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = MeshTokenizer.from_pretrained()
    stream = tokenizer.encode(MESH, max_bytes=MAX_BYTES, effort="normal", progress=True)
    data = stream.to_bytes()
    write_bytes(out / "vertebra.vat", data)
    mesh = tokenizer.decode(data, resolution=128)
    save_mesh(out / "vertebra.ply", mesh.vertices, mesh.faces)
    found, most = evaluate(MESH, mesh), ceiling(MESH)
    print(f"vat3d: {MESH.name}, {MESH.stat().st_size} bytes of PLY, in {len(data)} bytes of tokens")
    for name in FIGURES:
        print(f"  {name:20}{found[name]:8.4f}   (the mesh against itself: {most[name]:.4f})")
    print(f"  watertight          {found['watertight']!s:>8}")
    captions = (MESH.name, f"{len(data)} bytes, F@.02 {found['f_score@0.02']:.3f}")
    save_gallery(out / "vertebra.png", [[MESH, mesh]], [captions])
    print(f"vat3d: tokens, mesh and picture lie in {out}/")


if __name__ == "__main__":
    main()
