"""The embedding-agnostic model: the subjects that it is trained on, and its scores where encoder and pictures are new.

    python benchmarks/braincl/agnostic.py --training OUT
    braincl train OUT/*.nc --preset agnostic --out MODEL --steps 3000
    python benchmarks/braincl/agnostic.py --models MODEL agnostic --v4 V4 --json OUT.json

Training: simulated subjects over the renders of sweethome3d-furniture (CC0, CC BY) through three image encoders
(EfficientNet-Lite0, 1, 2), in three views each: all features on random axes, 256 standardised principal axes of unit
norm, 64 axes with a flattened spectrum. Two subjects a view: voxels with the tuning of BOLD5000's CSI1 carried over and
noise that they share, and voxels of eight groups beside a bulk. The network sees inner products only, so that a
rotation of any of these is the same to it.

Scores: against per-voxel cross-validated ridge, on simulated subjects over another encoder (MobileNetV2) and other
pictures (Tux Paint), and on the V4 recordings, whose features are MobileNetV2's, too; `braincl evaluate` says how.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl import evaluate
from braincl.data.responses import average_duplicates, open_responses, save_responses
from braincl.estimators.in_context import InContextEncoder
from braincl.models.prior import Prior
from braincl.simulation.subjects import (
    category_prior,
    gaussian_prior,
    simulate_responses,
    simulate_subject,
    transplant_map,
    transplant_weights,
)
from setcore.files import write_json
from setcore.seeding import numpy_generator

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tools")]
import demo_sources as sources
import make_demo_data as demo
from bench_common import skip

TRAINED_ON = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
PROJECTED, FLAT, GROUPS = 320, 64, 8
VOXELS, TEST_VOXELS = 300, 200
SHARES = (0.02, 0.7)
CONTEXTS, V4_CONTEXTS = (20, 50, 100, 200), (20, 50, 100, 200, 400)
SESSIONS = ("WE_190925", "WE_190927", "WE_190928", "WE_190929", "PE_201025", "PE_210224", "PE_210225")


def views(features: xr.Dataset, *, project: bool, seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The same features as three kinds of embedding, (i, 320), or all features without `project`, (i, 256), (i, 64)."""
    raw = features["embedding"].values.astype(np.float64)
    if project:
        normal = numpy_generator(seed, "projection").standard_normal((raw.shape[1], PROJECTED))
        raw = raw @ np.linalg.qr(normal)[0]
    yield "raw", raw.astype(np.float32)
    yield "standardised", demo.reduced(features)["embedding"].values
    left, singular, _ = np.linalg.svd(raw - raw.mean(axis=0), full_matrices=False)
    yield "flattened", (left[:, :FLAT] * np.sqrt(singular[:FLAT])).astype(np.float32)


def training(cache: Path) -> Iterator[tuple[str, xr.Dataset]]:
    """File names and response sets of the training subjects."""
    tuning = sources.bold5000(sources.fetch("img2fmri", cache / "downloads"), "CSI1").coef
    for number, encoder in enumerate(TRAINED_ON):
        features = demo.embeddings(encoder, "sweethome", cache)
        for view, (kind, X) in enumerate(views(features, project=True, seed=number)):
            seed = 10 * number + view
            chosen = tuning[numpy_generator(seed, "voxels of CSI1").permutation(len(tuning))[:VOXELS]]
            carried = transplant_weights(chosen, transplant_map(tuning, X, seed=seed), X)
            named = {"image_id": features["image_id"].values, "backbone": f"{encoder} {kind}", "signal_shares": SHARES}
            real = simulate_responses(X, carried, seed=seed, noise_rank=5, name=f"CSI1 {encoder} {kind}", **named)
            yield f"{encoder}_{kind}_csi1.nc", real.dataset
            prior = category_prior(X, GROUPS, decay=(0.5, 1.0, 1.5)[(number + view) % 3], seed=seed)
            groups = simulate_subject(X, prior, VOXELS, seed=seed, name=f"groups {encoder} {kind}", **named)
            yield f"{encoder}_{kind}_groups.nc", groups.dataset


def new_subjects(encoder: str, cache: Path, seed: int) -> Iterator[tuple[str, xr.Dataset]]:
    """Simulated subjects over an encoder, and pictures that were not in training."""
    features = demo.embeddings(encoder, "tuxpaint", cache)
    ids = features["image_id"].values
    for kind, X in views(features, project=False, seed=seed):
        priors: dict[str, Prior] = {
            "Gaussian": gaussian_prior(X, seed=seed), "groups": category_prior(X, GROUPS, seed=seed)
        }  # fmt: skip
        for population, prior in priors.items():
            made = simulate_subject(X, prior, TEST_VOXELS, seed=seed, image_id=ids, signal_shares=SHARES)
            yield f"{kind} ({X.shape[1]}), {population}", made.dataset


def score(models: dict[str, Any], name: str, subject: xr.Dataset, contexts: tuple[int, ...], draws: int,
          test_images: int) -> list[dict[str, Any]]:  # fmt: skip
    """One row a model and context size: r of the model and of ridge, their difference, coverage, likelihoods."""
    rows = []
    for label, model in models.items():
        report = evaluate(model, subject, contexts, draws, test_images).report
        found = {(row["method"], row["n"]): row for row in report["results"]}
        for difference in (row for row in report["differences"] if row["baseline"] == "ridge"):
            own, ridge = (found[method, difference["n"]] for method in ("model", "ridge"))
            rows.append({
                "subject": name, "model": label, "n": own["n"], "r": own["pearson_r"], "ridge_r": ridge["pearson_r"],
                "difference": difference["pearson_r"], "low": difference["interval_low"],
                "high": difference["interval_high"], "coverage_90": own["coverage_90"], "nll": own["nll"],
                "ridge_nll": ridge["nll"],
            })  # fmt: skip
            row = rows[-1]
            print(
                f"{name:28} {label:12} n = {row['n']:3}: r {row['r']:.3f}, ridge {row['ridge_r']:.3f}, difference "
                f"{row['difference']:+.3f} ({row['low']:+.3f}..{row['high']:+.3f}), coverage "
                f"{row['coverage_90']:.3f}, nll {row['nll']:.3f} (ridge {row['ridge_nll']:.3f})",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=Path, metavar="OUT", help="write the training subjects here, and end")
    parser.add_argument("--models", nargs="+", default=["agnostic"], help="model folders or names of embedded weights")
    parser.add_argument("--encoder", default="mobilenetv2", choices=demo.ENCODERS, help="of simulated subjects")
    parser.add_argument("--v4", type=Path, help="folder of the V4 recordings")
    parser.add_argument("--sessions", nargs="+", default=SESSIONS, help="of the V4 recordings (default: all)")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the simulated populations that are scored")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "braincl", help="downloads and features")
    args = parser.parse_args()
    if not args.cache.is_dir() and not args.v4:
        skip("downloads pictures and image encoders into --cache, a folder that is not here: make it to allow that")
    if args.training:
        args.training.mkdir(parents=True, exist_ok=True)
        for name, dataset in training(args.cache):
            save_responses(dataset, args.training / name)
        return
    models = {Path(path).name: InContextEncoder.from_pretrained(path) for path in args.models}
    rows = []
    for name, subject in new_subjects(args.encoder, args.cache, args.seed):
        rows += score(models, name, subject, CONTEXTS, args.draws, 130)
    for session in args.sessions if args.v4 else ():
        subject = average_duplicates(open_responses(args.v4 / f"v4_{session}.nc"))
        rows += score(models, f"V4 {session}", subject, V4_CONTEXTS, args.draws, 300)
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
