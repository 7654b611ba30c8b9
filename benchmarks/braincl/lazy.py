"""Responses read in blocks of voxels beside the same ones in one block: equal figures, and peak memory of both.

    python benchmarks/braincl/lazy.py

Makes a Zarr set of 20,000 voxels and 1,000 pictures, then runs, each in a process of its own, what these commands run:

    braincl evaluate SET.zarr --contexts 100 --draws 2 --test-images 300
    braincl predict --context SET.zarr --images QUERY.nc --out PREDICTED.zarr
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

from braincl import InContextEncoder, evaluate, from_arrays
from braincl.analysis.predict import write_predictions
from braincl.data.responses import open_responses, save_responses
from braincl.data.stores import blocks
from braincl.data.stores.convert import convert_responses

IMAGES, NEW, VOXELS, FEATURES = 1_000, 100, 20_000, 256
WAYS = {"blocks of 16 MB": blocks.BLOCK_BYTES, "one block": 1 << 40}
PARTS = ("prediction", "prediction_std", "weights", "intercept")


def make_set(folder: Path) -> None:
    """``set.zarr``, responses with 40 % signal, and ``query.nc``, the embeddings of new pictures."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((IMAGES + NEW, FEATURES), dtype=np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    Y = X[:IMAGES] @ rng.standard_normal((FEATURES, VOXELS), dtype=np.float32)
    Y += np.float32(1.2) * rng.standard_normal(Y.shape, dtype=np.float32)
    save_responses(from_arrays(Y, X[:IMAGES], subject="simulated"), folder / "set.nc")
    convert_responses(folder / "set.nc", folder / "set.zarr")
    xr.Dataset({"embedding": (("image", "feature"), X[IMAGES:])}).to_netcdf(folder / "query.nc")


def child(folder: Path, way: str) -> None:
    """Evaluate and predict in one way; seconds, and peak memory of this process after each."""
    blocks.VoxelBlocks.__init__.__defaults__ = (WAYS[way],)
    given, encoder, out = open_responses(folder / "set.zarr", lazy=True), InContextEncoder.from_pretrained(), {}
    if way == "one block":
        given = given.load()
    for name in ("evaluate", "predict"):
        start = time.perf_counter()
        if name == "evaluate":
            found = evaluate(encoder, given, (100,), 2, 300)
            found.voxels.to_netcdf(folder / f"{way} voxels.nc")
            (folder / f"{way}.json").write_text(json.dumps(found.report["results"]))
        else:
            write_predictions(folder / f"{way}.zarr", encoder, given, xr.load_dataset(folder / "query.nc"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        out[name] = {"seconds": time.perf_counter() - start, "peak_gb": peak}
    out["blocks"] = len(blocks.VoxelBlocks(given).slices())
    print(json.dumps(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(Path(args.child[0]), args.child[1])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_set(folder)
        for way in WAYS:
            command = [sys.executable, __file__, "--child", name, way]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            parts = [
                f"{job} {found[job]['seconds']:.0f} s, peak {found[job]['peak_gb']:.2f} GB" for job in list(found)[:2]
            ]
            print(f"{way} ({found['blocks']}): {'; '.join(parts)}", flush=True)
        tables = [json.loads((folder / f"{way}.json").read_text()) for way in WAYS]
        figures = [[v for row in t for k, v in row.items() if k != "seconds" and isinstance(v, float)] for t in tables]
        print(f"evaluate: figures differ by {np.abs(np.subtract(*figures)).max():.1e} at most")
        scores = [xr.load_dataset(folder / f"{way} voxels.nc") for way in WAYS]
        for score in sorted(set(scores[0].data_vars) - {"seconds"}):
            most = float(abs(scores[0][score] - scores[1][score]).max())
            print(f"evaluate: {score} of single voxels differs by {most:.1e} at most")
        predicted = [xr.open_zarr(folder / f"{way}.zarr", consolidated=False).load() for way in WAYS]
        for part in PARTS:
            most = float(abs(predicted[0][part] - predicted[1][part]).max() / abs(predicted[1][part]).max())
            print(f"predict: {part} differs by {most:.1e} of its largest value at most")


if __name__ == "__main__":
    main()
