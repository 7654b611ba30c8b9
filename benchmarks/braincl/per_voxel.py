"""Whether the recipe of the published network works at small size: a `per_voxel` network beside its rivals.

    braincl train V4/v4_WE_1909*.nc --preset per_voxel --minutes 30 --out PER_VOXEL
    python benchmarks/braincl/per_voxel.py PER_VOXEL [--v4 V4] [--json OUT.json]

Two subjects that training has not seen: a simulated one, whose 200 voxels are drawn from the population prior of
animal WE and seen through the pictures of PE 201025; and PE 201025 itself. Mean Pearson r on 300 test pictures, 10
context draws, and the difference to cross-validated ridge with its 95 % interval (`braincl.evaluate`). Population-prior
ridge has the prior that training fitted to WE for the simulated stages.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from braincl import PriorRidge, evaluate
from braincl.data.responses import average_duplicates, open_responses
from braincl.evaluation.splits import context_draws
from braincl.models.prior import Prior
from braincl.simulation.subjects import simulate_subject
from braincl.training.population_prior import load_or_fit
from braincl.training.tasks import read_subjects
from braincl.training.train import POPULATION_FILE
from setcore.evaluation.metrics import pearson_r
from setcore.files import write_json

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import shared, skip

CONTEXTS, DRAWS, TEST_IMAGES = (20, 50, 100, 200, 400), 10, 300
VOXELS, SHARES = 200, (0.05, 0.6)


def population_ridge(prior: Prior, subject: xr.Dataset) -> dict[int, float]:
    """Mean r of population-prior ridge at every context size, on the split of `evaluate`."""
    X, Y = subject["embedding"].values, subject["response"].values
    splits = context_draws(subject["image_id"].values, CONTEXTS, DRAWS, TEST_IMAGES, 0)
    ridge, targets = PriorRidge(prior), Y[splits.test]
    return {
        n: float(np.mean([
            np.nanmean(pearson_r(targets, ridge.fit(X[rows], Y[rows]).predict(X[splits.test])))
            for rows in splits.contexts[n]
        ]))
        for n in CONTEXTS
    }  # fmt: skip


def score(models: list[str], prior: Prior, name: str, subject: xr.Dataset) -> list[dict[str, Any]]:
    """One row a method and context size, printed as a table."""
    rows = [{"subject": name, "method": "prior_ridge", "n": n, "r": r}
            for n, r in population_ridge(prior, subject).items()]  # fmt: skip
    for model in models:
        report = evaluate(model, subject, CONTEXTS, DRAWS, TEST_IMAGES, device="cpu").report
        to_ridge = {row["n"]: row for row in report["differences"] if row["baseline"] == "ridge"}
        for row in report["results"]:
            if row["method"] == "model":
                other = to_ridge[row["n"]]
                rows.append({
                    "subject": name, "method": Path(model).name, "n": row["n"], "r": row["pearson_r"],
                    "to_ridge": other["pearson_r"], "low": other["interval_low"], "high": other["interval_high"],
                })  # fmt: skip
            elif model == models[0] and row["method"] == "ridge":
                rows.append({"subject": name, "method": row["method"], "n": row["n"], "r": row["pearson_r"]})
    print(f"{name:24}" + "".join(f"{n:>26}" for n in CONTEXTS))
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        cells = [f"{row['r']:.3f}" for row in of_method]
        if "low" in of_method[0]:
            beside = [f" {row['to_ridge']:+.3f} ({row['low']:+.3f}..{row['high']:+.3f})" for row in of_method]
            cells = [cell + more for cell, more in zip(cells, beside, strict=True)]
        print(f"  {method:22}" + "".join(f"{cell:>26}" for cell in cells), flush=True)
    return rows


def main() -> None:
    """Both subjects; the table, and OUT.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="folder that `braincl train --preset per_voxel` made")
    parser.add_argument("--v4", type=Path, default=shared("v4_macaque"), help="folder of the V4 recordings")
    parser.add_argument("--seed", type=int, default=1_000, help="of the simulated subject")
    parser.add_argument("--json", type=Path, metavar="OUT.json")
    args = parser.parse_args()
    if args.model is None or args.v4 is None:
        skip("needs the V4 recordings and a per_voxel model trained on those of animal WE; the script says how")
    (trained,) = read_subjects(sorted(args.v4.glob("v4_WE_*.nc")), agnostic=False).groups
    prior = load_or_fit(Path(args.model) / POPULATION_FILE, trained, seed=0).gaussian
    real = average_duplicates(open_responses(args.v4 / "v4_PE_201025.nc"))
    simulated = simulate_subject(
        real["embedding"].values, prior, VOXELS, seed=args.seed, signal_shares=SHARES, name="simulated",
        image_id=real["image_id"].values, backbone=real.attrs["backbone"],
    ).dataset  # fmt: skip
    models = [args.model, "agnostic"]
    rows = score(models, prior, "simulated from WE", simulated) + score(models, prior, "V4 PE 201025", real)
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
