"""Time and memory to the primal weights of 20,000 voxels: the in-context encoder beside ridge and himalaya.

All contenders take turns in one process on the same data, with one thread and with two; memory is measured in processes
of their own. What counts is CPU time with one thread: wall time depends on who else works on the machine.

    python benchmarks/braincl/speed.py [--model MODEL_DIR ...] [--json OUT.json]

`--model population` is the network of `--preset small` with a random population prior of full rank: how long a fit
takes does not depend on what was learned.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from braincl import InContextEncoder, RidgeCV
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.models.prior import Prior
from braincl.models.shared_context import SharedContextNetwork
from braincl.training.config import PRESETS
from setcore.files import write_json

IMAGES, FEATURES, VOXELS = 100, 512, 20_000
REPEATS = 5
QUERIES = 300
REFERENCE = "himalaya KernelRidgeCV (numpy)"
ALPHAS = np.logspace(-3, 4, 15)
PUBLISHED_VOXELS = 4  # enough for a time per voxel


def make_context(voxels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit-norm embeddings (100, 512) and responses (100, voxels) with a third of their variance explainable."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((IMAGES, FEATURES), dtype=np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    signal = X @ rng.standard_normal((FEATURES, voxels), dtype=np.float32)
    return X, signal + np.float32(1.4) * rng.standard_normal((IMAGES, voxels), dtype=np.float32)


def encoder_of(path: str | None) -> InContextEncoder:
    """The in-context encoder of a model, on the CPU."""
    return with_prior() if path == "population" else InContextEncoder.from_pretrained(path)


def model(path: str | None) -> Callable[..., NDArray[np.float32]]:
    """The in-context encoder."""
    encoder = encoder_of(path)
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


def standard_deviation(path: str | None, X: NDArray[np.float32], Y: NDArray[np.float32]) -> float:
    """CPU time of `predict(return_std=True)` of 300 pictures over that of the mean alone."""
    encoder = encoder_of(path).fit(X, Y)
    queries = np.random.default_rng(2).standard_normal((QUERIES, FEATURES), dtype=np.float32)
    ways = {"mean": lambda: encoder.predict(queries), "std": lambda: encoder.predict(queries, return_std=True)}
    found = {name: statistics(times) for name, times in take_turns(ways).items()}
    return found["std"]["cpu"] / found["mean"]["cpu"]


def take_turns(contenders: dict[str, Callable[[], object]]) -> dict[str, list[tuple[float, float]]]:
    """(CPU, wall) seconds of every turn but the first, which warms up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for repeat in range(REPEATS + 1):
        for name, run in contenders.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            if repeat:
                times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return times


def statistics(times: list[tuple[float, float]]) -> dict[str, float]:
    """Medians."""
    cpu, wall = np.median(times, axis=0)
    return {"cpu": float(cpu), "wall": float(wall)}


def machine() -> dict[str, Any]:
    """Processor and kernels of matrix products."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    kernels = [f"{found['internal_api']} {found.get('architecture', '')}".strip() for found in threadpool_info()]
    return {
        "processor": named[0] if named else platform.processor(),
        "kernels": [*kernels, f"torch {torch.__version__}: {torch.backends.cpu.get_cpu_capability()}"],
    }


def main() -> None:
    """Run all, print the table, write the JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", nargs="+", default=["agnostic", "population"], help="model folders, embedded names, or: population"
    )
    parser.add_argument(
        "--voxels", type=int, default=VOXELS, help="of the comparison; memory is also taken of ten times"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to compare with")
    parser.add_argument("--json", metavar="OUT.json")
    parser.add_argument("--child", type=int, metavar="VOXELS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.model[0], args.child)
        return
    X, Y = make_context(args.voxels)
    fits = {
        **{f"in-context encoder, {name}": model(name) for name in args.model},
        "braincl RidgeCV": ridge,
        REFERENCE: himalaya("numpy"),
        "himalaya KernelRidgeCV (torch)": himalaya("torch"),
    }
    result: dict[str, Any] = {**machine(), "voxels": args.voxels, "threads": {}}
    print(f"{result['processor']}; {'; '.join(result['kernels'])}")
    for threads in args.threads:
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            turns = take_turns({name: functools.partial(fit, X, Y) for name, fit in fits.items()})
        found = {name: statistics(times) for name, times in turns.items()}
        result["threads"][threads] = found
        print(f"{args.voxels} voxels, {IMAGES} images, {FEATURES} features, {threads} threads, median of {REPEATS}")
        for name, of_fit in found.items():
            ratios = {kind: seconds / found[REFERENCE][kind] for kind, seconds in of_fit.items()}
            print(
                f"  {name:34} CPU {of_fit['cpu']:6.3f} s, {ratios['cpu']:5.2f} x himalaya (numpy)   "
                f"wall {of_fit['wall']:6.3f} s, {ratios['wall']:5.2f} x"
            )
    torch.set_num_threads(1)
    for name in args.model:
        with threadpool_limits(1):
            result.setdefault("std_over_mean", {})[name] = ratio = standard_deviation(name, X, Y)
        print(f"  {name}: mean and standard deviation of {QUERIES} pictures take {ratio:.2f} x the mean (CPU)")
    result["published_seconds_per_voxel"] = published = published_seconds_per_voxel(X, Y)
    print(f"  published network {published:.2f} s a voxel, {published * args.voxels / 3600:.1f} h in all")
    for voxels in (args.voxels, 10 * args.voxels):
        result.setdefault("memory", {})[str(voxels)] = memory = measure_memory(args.model[0], voxels)
        print(
            f"  {args.model[0]}, {voxels:>7} voxels: {memory['seconds']:.2f} s, peak {memory['peak_gb']:.2f} GB "
            f"({memory['peak_gb_before_fit']:.2f} GB before the fit)"
        )
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
