"""Makes the frozen model and the golden token files of the tests.

    PYTHONPATH=. python tests/make_tiny_model.py [--train]

Run it when the file format changes by intent: the golden files follow it. The model stays, unless it is trained anew.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import trimesh
from toy_shapes import CODEC, TRAIN, Toy

from setcore.training import Budget
from vat3d.tokenizer import MeshTokenizer
from vat3d.training.train import train

DATA = Path(__file__).parent / "data"


def golden_meshes() -> dict[str, trimesh.Trimesh]:
    """A box, an ellipsoid and a torus, each somewhere else and of another size."""
    box = trimesh.creation.box((2.0, 1.2, 0.8))
    ellipsoid = trimesh.creation.icosphere(subdivisions=3)
    ellipsoid.apply_transform(np.diag([3.0, 2.0, 1.5, 1.0]) @ trimesh.transformations.translation_matrix([4, 5, 6]))
    torus = trimesh.creation.torus(0.01, 0.004)
    return {"box": box, "ellipsoid": ellipsoid, "torus": torus}


def train_model(model: Path) -> None:
    """Train the tiny model and write it."""
    config = dataclasses.replace(
        TRAIN, batch=4, surface=1024, volume=256, near=256, warmup=20, learning_rate=3e-3, report_every=10**9,
        save_every=10**9, revive_every=20, table_shapes=512,
    )  # fmt: skip
    model.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        print(train([Toy(400)], folder, CODEC, config, Budget(steps=700)))
        for name in ("config.json", "model.safetensors", "tables.safetensors"):
            (model / name).write_bytes((Path(folder) / name).read_bytes())


def main() -> None:
    """Encode the golden meshes, decode them again, write all of it."""
    torch.set_num_threads(1)
    model = DATA / "tiny"
    if "--train" in sys.argv[1:]:
        train_model(model)
    tokenizer = MeshTokenizer.from_pretrained(model)
    golden = {}
    for name, mesh in golden_meshes().items():
        stream = tokenizer.encode(mesh, 160, "fast")
        (DATA / f"{name}.vat").write_bytes(stream.to_bytes())
        decoded = tokenizer.decode(stream, resolution=32)
        golden[name] = {
            "ids": [part.tolist() for part in stream.ids],
            "vertices": len(decoded.vertices),
            "faces": len(decoded.faces),
            "area": float(decoded.area),
            "volume": float(decoded.volume),
            "bounds": decoded.bounds.tolist(),
        }
    (DATA / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
