"""Seconds and memory of the codec on two cores: encoding at each effort, decoding, and extraction against a dense grid.

    python benchmarks/vat3d/speed.py [--model MODEL_DIR] [--threads 1,2] [--json OUT.json]

The mesh is a closed shape of about 20,000 faces made here. Times are medians of a few repeats in one process, the first
call aside; CPU seconds of each stage of `encode` are those of the last repeat, a stage within another counted once.
Peak memory is that of a process of its own which imports, encodes (`fast`) and decodes. In a checkout of an older
version the same command measures that one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from setcore.files import write_json
from vat3d import MeshTokenizer
from vat3d.codec import encode as encoding
from vat3d.mesh.isosurface import extract_surface

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import commit, output

FAST_REPEATS, EXTRACTION = 5, (128, 256)
STAGES = {
    "read": "load_mesh",
    "clean": "canonical_mesh",
    "place": "place_shape",
    "first tokens, frame and fill rule": "choose_start",
    "steps on tokens": "refine",
    "residual": "add_residual",
    "levels": "with_levels",
    "reported F-score": "fewest_scales",
}
"""Functions that `vat3d.codec.encode` calls, by what they do."""


def shape() -> trimesh.Trimesh:
    """A sphere of 20,480 faces with bumps."""
    mesh = trimesh.creation.icosphere(subdivisions=5)
    x, y, z = mesh.vertices.T
    mesh.vertices *= (1 + 0.15 * np.sin(5 * x) * np.cos(4 * y) + 0.1 * np.sin(7 * z))[:, None] * [1.0, 0.8, 0.6]
    return mesh


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median time of `work`, after one call that is not counted where there are several."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(float(np.median(times[repeats > 1 :])), 3)


class StageClock:
    """CPU seconds of the stages of `encode_mesh`, each without the stages that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]
        for stage, name in STAGES.items():
            setattr(encoding, name, self._timed(stage, getattr(encoding, name)))

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.process_time() - start
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent - self._inner.pop()
                self._inner[-1] += spent

        return timed


def round_trip(model: str | None) -> None:
    """What a user's first call does."""
    tokenizer = MeshTokenizer.from_pretrained(model)
    tokenizer.decode(tokenizer.encode(shape(), 512, "fast"), 128)


def peak_megabytes(model: str | None) -> int:
    """Peak memory of `round_trip` in a process of its own."""
    code = f"import sys; sys.path.insert(0, {sys.path[0]!r}); import speed as s; s.round_trip({model!r}); s.report()"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def report() -> None:
    """Print this process's peak memory in MB."""
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def extraction(tokenizer: MeshTokenizer) -> dict[str, Any]:
    """Hierarchical against dense extraction of one decoded field."""
    stream = tokenizer.encode(shape(), 1024, "fast")
    field = tokenizer.field(stream)
    result: dict[str, Any] = {}
    for resolution in EXTRACTION:
        found: dict[str, Any] = {}

        def hierarchical(resolution: int = resolution, found: dict[str, Any] = found) -> None:
            found["hierarchical"] = extract_surface(
                field, resolution=resolution, saturation=3 * tokenizer.network.config.sharpness
            )

        def dense(resolution: int = resolution, found: dict[str, Any] = found) -> None:
            found["dense"] = extract_surface(field, resolution=resolution, coarse=resolution)

        ours, whole = seconds(hierarchical, 3), seconds(dense, 1)
        (vertices, faces), (others, triangles) = found["hierarchical"], found["dense"]
        same = np.array_equal(faces, triangles) and np.allclose(vertices, others, rtol=0, atol=1e-6)  # but for rounding
        result[str(resolution)] = {
            "hierarchical_seconds": ours, "dense_seconds": whole, "ratio": round(whole / ours, 1), "same_surface": same,
        }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, comma-separated")
    parser.add_argument("--json", type=Path, default=output("vat3d_speed.json"))
    args = parser.parse_args()
    tokenizer, mesh, clock = MeshTokenizer.from_pretrained(args.model), shape(), StageClock()
    result: dict[str, Any] = {"commit": commit(), "faces": len(mesh.faces), "threads": {}}
    # First: Linux counts the peak of the parent, as it was when the process began, as the child's.
    result["peak_megabytes"] = peak_megabytes(args.model)
    for threads in map(int, args.threads.split(",")):
        torch.set_num_threads(threads)
        row: dict[str, Any] = {}
        for effort, repeats in (("fast", FAST_REPEATS), ("normal", 1), ("best", 1)):

            def encode(effort: str = effort) -> Any:
                clock.seconds.clear()
                return tokenizer.encode(mesh, 512, effort, progress=False)

            row[effort] = {"seconds": seconds(encode, repeats)}
            row[effort]["cpu_seconds"] = {stage: round(spent, 3) for stage, spent in clock.seconds.items()}
        stream = tokenizer.encode(mesh, 512, "fast")
        row["decode_128_seconds"] = seconds(lambda stream=stream: tokenizer.decode(stream, 128), FAST_REPEATS)
        result["threads"][str(threads)] = row
    result["extraction"] = extraction(tokenizer)
    write_json(args.json, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
