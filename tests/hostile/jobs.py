"""The long commands with small networks, to be killed or starved of disk.

``python -m tests.hostile.jobs vat3d train ...``.

Beside the sizes everything is as users have it: processes, signals, imports and files.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

from setcore.signals import catch_signals, quiet

TESTS = Path(__file__).resolve().parents[1]
TINY_MODEL = TESTS / "data" / "tiny"
TINY_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 9, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
}
VALIDATION_BOX = 10
"""A name that the hash of names puts among the validation meshes."""
ENCODE = ("--effort", "fast", "--max-bytes", "120", "--model", str(TINY_MODEL))


def make_inputs(folder: Path) -> dict[str, list[str]]:
    """Write small inputs; returns the commands that work on them, to which ``OUT`` is to be added."""
    import numpy as np
    import torch
    import trimesh
    from PIL import Image

    import braincl
    from setcore.checkpoint import save_tensors

    sys.path.insert(0, str(TESTS))
    from synthetic import make_responses

    subjects = [str(folder / f"subject{seed}.nc") for seed in (1, 2)]
    for seed, path in enumerate(subjects, 1):
        braincl.save_responses(make_responses(seed=seed, voxels=7 + seed), path)
    rng = np.random.default_rng(0)
    meshes, pictures = folder / "meshes", folder / "pictures"
    meshes.mkdir()
    pictures.mkdir()
    for number in (*range(7), VALIDATION_BOX):
        trimesh.creation.box(1 + np.arange(3) * (number + 1) / 8).export(meshes / f"box{number}.ply")
    for number in range(40):
        Image.fromarray(rng.integers(256, size=(24, 32, 3)).astype(np.uint8)).save(pictures / f"{number:02d}.png")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    import open_clip

    open_clip.add_model_config(folder / "tiny-clip.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_tensors(folder / "clip.safetensors", open_clip.create_model("tiny-clip").state_dict())
    data = str(folder / "data")
    subprocess.run(command("vat3d", "prepare", str(meshes), "--out", data), check=True, capture_output=True)
    return {
        "train": ["braincl", "train", *subjects, "--steps", "60", "--resume", "--out"],
        "prepare": ["vat3d", "prepare", str(meshes), "--out"],
        "train tokenizer": ["vat3d", "train", data, "--preset", "small", "--steps", "30", "--resume", "--out"],
        "tune": ["vat3d", "tune", str(TINY_MODEL), data, "--steps", "30", "--resume", "--out"],
        "train generator": [
            "vat3d", "train-generator", data, "--steps", "30", "--resume", "--model", str(TINY_MODEL), "--out",
        ],
        "encode": ["vat3d", "encode", *ENCODE, str(meshes)],
        "embed": [
            "braincl", "embed", str(pictures), "--backbone", "tiny-clip", "--weights", str(folder / "clip.safetensors"),
            "--device", "cpu", "--batch-size", "1", "--out",
        ],
    }  # fmt: skip


def command(*arguments: str) -> list[str]:
    """The command line of a small job."""
    return [sys.executable, "-m", "tests.hostile.jobs", *arguments]


def _make_small(arguments: list[str]) -> None:
    sys.path.insert(0, str(TESTS))
    if "embed" in arguments:
        import open_clip

        from braincl.embedding.backbones import BACKBONES, Backbone

        weights = Path(arguments[arguments.index("--weights") + 1])
        open_clip.add_model_config(weights.with_name("tiny-clip.json"))
        BACKBONES["tiny-clip"] = Backbone("tiny-clip", "open_clip", "tiny-clip")
    elif arguments[0] == "braincl":
        from braincl.models.config import SharedContextConfig
        from braincl.training import config

        config.PRESETS["small"] = dataclasses.replace(
            config.PRESETS["small"], network=SharedContextConfig(width=8, heads=2, hidden=8, layers=1), queries=8,
            voxels=12, validation_contexts=(5, 11), report_every=4, start="",
        )  # fmt: skip
    elif arguments[1] in ("train", "tune", "train-generator"):
        from toy_shapes import CODEC, TRAIN

        from vat3d.generation import train as generator
        from vat3d.training import config, refined_pool

        often = dataclasses.replace(TRAIN, report_every=3, save_every=3)
        config.PRESETS["small"] = (CODEC, often)
        small = refined_pool.TuningConfig(
            training=often, groups=3, visits=5, stored=300, fewest=4, encoder_every=4
        )  # fmt: skip
        refined_pool.TuningConfig = lambda: small  # type: ignore[assignment,misc]
        generator.REPORT_EVERY = 3


def main() -> int:
    """Run a small job."""
    arguments = sys.argv[1:]
    catch_signals(arguments[0])
    _make_small(arguments)
    status: int = importlib.import_module(f"{arguments[0]}.cli.main").main(arguments[1:])
    quiet()  # the process ends, as after a command of the process's own arguments
    return status


if __name__ == "__main__":
    sys.exit(main())
