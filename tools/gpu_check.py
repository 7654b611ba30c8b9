"""Speeds of both packages on a device, beside the CPU, in one JSON file; `tools/gpu_check.sh` calls it."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from setcore.devices import auto_precision, find_device
from setcore.files import write_json
from setcore.training import STATE_FILE, Budget

ROOT = Path(__file__).resolve().parents[1]
FILLED = 0.8
"""Share of a GPU's memory that a batch may take."""


@dataclass(frozen=True)
class Check:
    """Where and how much.

    Parameters
    ----------
    device : torch.device
    small : bool
        A few of everything, to try the steps out.
    folder : Path
        For files on the way.
    """

    device: torch.device
    small: bool
    folder: Path

    def size(self, few: int, many: int) -> int:
        """How many of something."""
        return few if self.small else many


def seconds(device: torch.device, work: Callable[[], Any]) -> float:
    """Time of a second call; the first one compiles kernels and fills caches."""
    work()
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def fit_and_predict(check: Check) -> dict[str, Any]:
    """A subject of NSD's size: fit from 100 pictures and predict 1,000 others, on the device and on the CPU."""
    from braincl import InContextEncoder

    rng = np.random.default_rng(0)
    features = 512
    X = rng.standard_normal((1100, features), dtype=np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    found: dict[str, Any] = {}
    for device in dict.fromkeys((str(check.device), "cpu")):
        voxels = check.size(300, 220_000 if device != "cpu" else 20_000)
        Y = X[:100] @ rng.standard_normal((features, voxels), dtype=np.float32)
        Y += rng.standard_normal(Y.shape, dtype=np.float32)
        encoder = InContextEncoder.from_pretrained(device=device)
        found[device] = {
            "voxels": voxels,
            "fit_seconds": seconds(torch.device(device), lambda: encoder.fit(X[:100], Y)),  # noqa: B023
            "predict_seconds": seconds(torch.device(device), lambda: encoder.predict(X[100:])),  # noqa: B023
        }
    return found


def pictures(check: Check) -> dict[str, Any]:
    """Pictures embedded per second, by the architecture of CLIP ViT-B/32 with random weights, reading included."""
    import open_clip
    from PIL import Image

    from braincl import embed_images
    from setcore.checkpoint import save_tensors

    folder, count = check.folder / "pictures", check.size(8, 2048)
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(256, size=(256, 320, 3)).astype(np.uint8)).save(folder / f"{number}.jpg")
    weights = check.folder / "clip.safetensors"
    save_tensors(weights, open_clip.create_model("ViT-B-32-quickgelu").state_dict())
    start = time.perf_counter()
    batch = check.size(4, 256)
    embed_images([folder], "clip-vit-b-32", weights, batch_size=batch, device=str(check.device), progress=False)
    return {"pictures": count, "batch": batch, "pictures_per_second": count / (time.perf_counter() - start)}


def codec(check: Check) -> dict[str, Any]:
    """Seconds to encode and decode the embedded mesh at each effort, on the device and on the CPU."""
    from vat3d import MeshTokenizer
    from vat3d.demo import MESH

    efforts = ("fast",) if check.small else ("fast", "normal")
    found: dict[str, Any] = {}
    for device in dict.fromkeys((str(check.device), "cpu")):
        tokenizer = MeshTokenizer.from_pretrained(device=device)
        place, times = torch.device(device), {}
        for effort in efforts if device == str(check.device) else efforts[:1]:
            times[f"encode_{effort}"] = seconds(place, lambda: tokenizer.encode(MESH, 512, effort))  # noqa: B023
        stream = tokenizer.encode(MESH, 512, "fast")
        for cells in (128, check.size(128, 256)):
            times[f"decode_{cells}"] = seconds(place, lambda: tokenizer.decode(stream, cells))  # noqa: B023
        found[device] = times
    return found


def batches(check: Check) -> dict[str, Any]:
    """Seconds to encode and decode several meshes on the device, as a batch and in a loop."""
    from vat3d import MeshTokenizer
    from vat3d.procedural.shapes import shape

    tokenizer = MeshTokenizer.from_pretrained(device=str(check.device))
    meshes = [shape(seed)[:2] for seed in range(check.size(2, 16))]
    streams = tokenizer.encode_batch(meshes, 512, "fast")
    work: dict[str, Callable[[], Any]] = {
        "encode_batch": lambda: tokenizer.encode_batch(meshes, 512, "fast"),
        "encode_loop": lambda: [tokenizer.encode(mesh, 512, "fast") for mesh in meshes],
        "decode_batch": lambda: tokenizer.decode_batch(streams),
        "decode_loop": lambda: [tokenizer.decode(stream) for stream in streams],
    }
    return {"meshes": len(meshes)} | {name: seconds(check.device, call) for name, call in work.items()}


def generation(check: Check) -> dict[str, Any]:
    """Generated shapes per second, without decoding them to meshes."""
    from vat3d import MeshGenerator

    generator, count = MeshGenerator.from_pretrained(device=str(check.device)), check.size(1, 32)
    return {
        "shapes": count,
        "shapes_per_second": count / seconds(check.device, lambda: generator.sample(count, seed=0)),
    }


def shapes(check: Check) -> Path:
    """A data set of procedural shapes, made once."""
    from setcore.parallel.jobs import Parallel
    from vat3d.data.corpus import procedural_items
    from vat3d.data.prepare import prepare

    out = check.folder / "shapes"
    if not out.exists():
        items, parallel = procedural_items(check.size(6, 48)), Parallel(jobs=check.size(1, 8))
        prepare(items, out, validation=0.3, parallel=parallel, progress=False)
    return out


def tokenizer_training(check: Check) -> dict[str, Any]:
    """Steps per second of `vat3d train` at the batch that fills the card, by preset."""
    from vat3d.data.dataset import Dataset
    from vat3d.training.config import PRESETS
    from vat3d.training.train import train

    data, found = [Dataset(shapes(check))], {}
    for preset in ("small",) if check.small else ("default", "paper"):
        network, config = PRESETS[preset]
        config = replace(config, device=str(check.device), table_shapes=8, basis_shapes=64, report_every=10**9)

        def run(name: str, batch: int, network: Any = network, config: Any = config) -> Path:
            out = check.folder / name
            train(data, out, network, replace(config, batch=batch), Budget(steps=check.size(2, 20)), progress=False)
            return out

        found[preset] = filled(check, preset, run, check.size(2, 16))
    return found


def generator_training(check: Check) -> dict[str, Any]:
    """Steps per second of `vat3d train-generator` at its own batch."""
    from vat3d import MeshTokenizer
    from vat3d.data.dataset import Dataset
    from vat3d.generation.train import train

    tokenizer = MeshTokenizer.from_pretrained(device=str(check.device))
    out, steps = check.folder / "generator", check.size(2, 50)
    train([Dataset(shapes(check))], out, tokenizer, Budget(steps=steps), progress=False, device=str(check.device))
    return {"steps_per_second": steps_per_second(out, steps)}


def tuning(check: Check) -> dict[str, Any]:
    """Steps per second of `vat3d tune` at its own batch."""
    from vat3d.data.dataset import Dataset
    from vat3d.training.refined_pool import TuningConfig
    from vat3d.training.tune import tune

    config, out, steps = TuningConfig(), check.folder / "tuned", check.size(2, 50)
    if check.small:
        config = replace(config, groups=2, visits=2, training=replace(config.training, batch=2))
    settings = replace(config.training, device=str(check.device), table_shapes=8, report_every=10**9)
    data = [Dataset(shapes(check))]
    tune("default", data, out, replace(config, training=settings), Budget(steps=steps), progress=False)
    return {"steps_per_second": steps_per_second(out, steps)}


def encoder_training(check: Check) -> dict[str, Any]:
    """Steps per second of `braincl train` on simulated subjects of 512 features."""
    from braincl.simulation.subjects import gaussian_prior, simulate_subject, with_truth
    from braincl.training.config import PRESETS
    from braincl.training.train import meta_train

    rng = np.random.default_rng(0)
    X = rng.standard_normal((check.size(60, 600), check.size(32, 512)), dtype=np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    prior = gaussian_prior(X, seed=0)
    subjects = [with_truth(simulate_subject(X, prior, check.size(20, 2000), seed=seed)) for seed in (1, 2, 3)]
    subjects = [subject.assign_attrs(subject=f"s{number}") for number, subject in enumerate(subjects)]
    out, steps = check.folder / "encoder", check.size(2, 50)
    config = replace(PRESETS["small"], device=str(check.device))
    meta_train(subjects, config, out, budget=Budget(steps=steps), progress=False)
    return {"steps_per_second": steps_per_second(out, steps)}


def steps_per_second(out: Path, steps: int) -> float:
    """Of a run, from its checkpoint: preparations before the first step aside."""
    from safetensors import safe_open

    with safe_open(out / STATE_FILE, "pt") as file:
        used = json.loads(file.metadata()["progress"])["seconds"]
    return steps / float(used)


def filled(check: Check, name: str, run: Callable[[str, int], Path], batch: int) -> dict[str, Any]:
    """Steps per second at a batch, and at the largest that fits: memory grows in proportion to it."""
    steps = check.size(2, 20)
    if check.device.type != "cuda":
        return {"batch": batch, "steps_per_second": steps_per_second(run(f"{name}-{batch}", batch), steps)}
    torch.cuda.reset_peak_memory_stats()
    first = steps_per_second(run(f"{name}-{batch}", batch), steps)
    peak, whole = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(check.device).total_memory
    largest = max(batch, int(batch * FILLED * whole / peak) // 8 * 8)
    found = {"batch": batch, "steps_per_second": first, "peak_gigabytes": peak / 1e9, "largest_batch": largest}
    second = steps_per_second(run(f"{name}-{largest}", largest), steps)
    return {**found, "steps_per_second_at_largest": second, "shapes_per_second_at_largest": second * largest}


CHECKS = (
    fit_and_predict, codec, batches, generation, pictures, encoder_training, generator_training, tuning,
    tokenizer_training,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--tests-status", type=int)
    args = parser.parse_args()
    device = find_device(args.device)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or str(device),
        "precision": auto_precision(device),
        "torch": torch.__version__,
        "tests_status": args.tests_status,
    }
    with tempfile.TemporaryDirectory() as folder:
        check = Check(device, args.small, Path(folder))
        for step in CHECKS:
            start = time.perf_counter()
            try:
                result[step.__name__] = step(check)
            except Exception as error:
                traceback.print_exc()
                result[step.__name__] = {"error": f"{type(error).__name__}: {error}"}
            result[step.__name__]["seconds_of_this_check"] = round(time.perf_counter() - start, 1)
            print(step.__name__, json.dumps(result[step.__name__]), flush=True)
            write_json(args.json, result)  # after each step: what is cut short leaves what it has
    return int(any("error" in result[step.__name__] for step in CHECKS))


if __name__ == "__main__":
    raise SystemExit(main())
