"""Seconds and memory to the primal weights of 20,000 voxels: the in-context encoder beside ridge and himalaya.

All contenders take turns in one run on the same data; memory is measured in processes of their own.

    python benchmarks/braincl/speed.py [--model MODEL_DIR | --model population] [--json OUT.json]

`--model population` is the network of `--preset small` with a random population prior of full rank: how long a fit
takes does not depend on what was learned.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from braincl import InContextEncoder, RidgeCV
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.models.prior import Prior
from braincl.models.shared_context import SharedContextNetwork
from braincl.training.config import PRESETS
from setcore.files import write_json

IMAGES, FEATURES, VOXELS = 100, 512, 20_000
REPEATS = 5
ALPHAS = np.logspace(-3, 4, 15)
PUBLISHED_VOXELS = 4  # enough for a time per voxel


def make_context(voxels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit-norm embeddings (100, 512) and responses (100, voxels) with a third of their variance explainable."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((IMAGES, FEATURES), dtype=np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    signal = X @ rng.standard_normal((FEATURES, voxels), dtype=np.float32)
    return X, signal + np.float32(1.4) * rng.standard_normal((IMAGES, voxels), dtype=np.float32)


def model(path: str | None) -> Callable[..., NDArray[np.float32]]:
    """The in-context encoder."""
    encoder = with_prior() if path == "population" else InContextEncoder.from_pretrained(path)
    return lambda X, Y: encoder.fit(X, Y).coef_


def with_prior() -> InContextEncoder:
    """The network of the preset "small", untrained, with a random population prior."""
    rng = np.random.default_rng(1)
    root = rng.standard_normal((FEATURES, FEATURES)) / np.sqrt(FEATURES)
    network = SharedContextNetwork(replace(PRESETS["small"].network, features=FEATURES))
    network.set_prior(Prior(np.zeros(1), 0.1 * rng.standard_normal((1, FEATURES)), (root @ root.T)[None]))
    return InContextEncoder(network.eval())


def ridge(X: NDArray[np.float32], Y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Our cross-validated ridge."""
    return RidgeCV().fit(X, Y).coef_


def himalaya(backend: str) -> Callable[..., object]:
    """KernelRidgeCV with 15 alphas and 5 folds, to primal weights."""
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV

    def fit(X: NDArray[np.float32], Y: NDArray[np.float32]) -> object:
        module = set_backend(backend)
        X, Y = module.asarray(X), module.asarray(Y)
        return KernelRidgeCV(alphas=ALPHAS, kernel="linear", cv=5, warn=False).fit(X, Y).get_primal_coef(X)

    return fit


def published_seconds_per_voxel(X: NDArray[np.float32], Y: NDArray[np.float32]) -> float:
    """The published network at its CLIP size, random weights."""
    network = PerVoxelNetwork(PerVoxelConfig(FEATURES)).eval()
    with torch.inference_mode():
        start = time.perf_counter()
        network(torch.from_numpy(X), torch.from_numpy(Y[:, :PUBLISHED_VOXELS].copy()))
    return (time.perf_counter() - start) / PUBLISHED_VOXELS


def measure_memory(path: str | None, voxels: int) -> dict[str, float]:
    """Seconds and peak memory of one fit, in a process of its own."""
    command = [sys.executable, __file__, "--child", str(voxels), *(["--model", path] if path else [])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child(path: str | None, voxels: int) -> None:
    """One fit; its time, and the peak memory of this process."""
    fit = model(path)
    X, Y = make_context(voxels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    fit(X, Y)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak_gb": peak / 2**20, "peak_gb_before_fit": before / 2**20}))


def main() -> None:
    """Run all, print the table, write the JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model folder, embedded name (default: the embedded weights), or: population")
    parser.add_argument(
        "--voxels", type=int, default=VOXELS, help="of the comparison; memory is also taken of ten times"
    )
    parser.add_argument("--json", metavar="OUT.json")
    parser.add_argument("--child", type=int, metavar="VOXELS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.model, args.child)
        return
    X, Y = make_context(args.voxels)
    contenders = {
        "in-context encoder": model(args.model),
        "braincl RidgeCV": ridge,
        "himalaya KernelRidgeCV (numpy)": himalaya("numpy"),
        "himalaya KernelRidgeCV (torch)": himalaya("torch"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(REPEATS + 1):
        for name, fit in contenders.items():
            start = time.perf_counter()
            fit(X, Y)
            if repeat:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    reference = medians["himalaya KernelRidgeCV (numpy)"]
    print(
        f"{args.voxels} voxels, {IMAGES} images, {FEATURES} features, {torch.get_num_threads()} threads, "
        f"median of {REPEATS}"
    )
    for name, median in medians.items():
        print(f"  {name:32}{median:8.2f} s   {median / reference:6.2f} x himalaya (numpy)")
    published = published_seconds_per_voxel(X, Y)
    print(
        f"  published network               {published:8.2f} s a voxel, {published * args.voxels / 3600:.1f} h in all"
    )
    memory = {}
    for voxels in (args.voxels, 10 * args.voxels):
        memory[str(voxels)] = found = measure_memory(args.model, voxels)
        print(
            f"  in-context encoder, {voxels:>7} voxels: {found['seconds']:.2f} s, peak {found['peak_gb']:.2f} GB "
            f"({found['peak_gb_before_fit']:.2f} GB before the fit)"
        )
    if args.json:
        result = {
            "seconds": seconds,
            "median": medians,
            "ratio_to_himalaya_numpy": medians["in-context encoder"] / reference,
            "published_seconds_per_voxel": published,
            "memory": memory,
        }
        write_json(args.json, result)


if __name__ == "__main__":
    main()
