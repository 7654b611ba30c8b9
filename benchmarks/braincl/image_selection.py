"""Are the pictures that `select` picks worth more than pictures drawn at random? r at equal numbers of pictures.

    braincl train V4/v4_WE_*.nc --out we --minutes 3; braincl train V4/v4_PE_*.nc --out pe --minutes 3
    python benchmarks/braincl/image_selection.py --v4 V4 --models we pe --out OUT

Three series: two monkeys, each with the model of the other (V4, real responses), and a simulated subject of a Gaussian
population on the V4 pictures' embeddings with the population's own prior (what selection can win where all it assumes
is true). In each draw half of the pictures are the pool and 300 others are the test. Pictures are picked from the pool
without any context (`empty`), or half of them at random and the rest by what these taught (`half`); beside both stand
`random` pictures of the pool. All three are fitted by the same model. Differences are paired by draw and test pictures;
their intervals are over draws and voxels, resampled together. Writes OUT.json and OUT.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl import InContextEncoder
from braincl.analysis.image_selection import select_images
from braincl.data.responses import average_duplicates, open_responses
from braincl.models.config import SharedContextConfig
from braincl.models.shared_context import SharedContextNetwork
from braincl.simulation.subjects import gaussian_prior, simulate_subject
from setcore.evaluation.metrics import pearson_r
from setcore.files import write_json
from setcore.seeding import numpy_generator

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import OUTPUT, shared, skip

CONTEXTS, TEST_IMAGES, SIMULATED_VOXELS = (10, 20, 50, 100, 200), 300, 100
METHODS = ("random", "empty", "half")


def scores(encoder: InContextEncoder, subject: xr.Dataset, draws: int, seed: int) -> dict[str, NDArray[Any]]:
    """Pearson r of every method (n, draw, voxel)."""
    subject = average_duplicates(subject)
    pictures, voxels = subject.sizes["image"], subject.sizes["voxel"]
    found = {method: np.full((len(CONTEXTS), draws, voxels), np.nan) for method in METHODS}
    X, Y = subject["embedding"].values, subject["response"].values
    for draw in range(draws):
        order = numpy_generator(seed, "draw", draw).permutation(pictures)
        test, pool = order[:TEST_IMAGES], order[TEST_IMAGES : TEST_IMAGES + pictures // 2]
        ranked = pool[select_images(encoder, subject.isel(image=pool), max(CONTEXTS)).rows]
        for index, n in enumerate(CONTEXTS):
            shown = subject.isel(image=pool[: n // 2])
            rest = select_images(encoder, subject.isel(image=pool), n - n // 2, context=shown).rows
            rows = {"random": pool[:n], "empty": ranked[:n], "half": np.concatenate([pool[: n // 2], pool[rest]])}
            for method, context in rows.items():
                predicted = encoder.fit(X[context], Y[context]).predict(X[test])
                found[method][index, draw] = pearson_r(Y[test], predicted)
        print(f"  draw {draw}: " + "  ".join(
            f"{method} " + " ".join(f"{np.nanmean(found[method][i, draw]):.3f}" for i in range(len(CONTEXTS)))
            for method in METHODS
        ), flush=True)  # fmt: skip
    return found


def summary(found: dict[str, NDArray[Any]], seed: int, resamples: int = 2000) -> list[dict[str, Any]]:
    """A row for each method and n: mean r, and its difference to random with a 95 % interval."""
    rows = []
    for index, n in enumerate(CONTEXTS):
        for method in METHODS:
            r, row = found[method][index], {"method": method, "n": n}
            row["pearson_r"] = float(np.nanmean(r))
            if method != "random":
                difference = r - found["random"][index]
                rng = numpy_generator(seed, "bootstrap", method, n)
                draws, voxels = difference.shape
                means = [
                    np.nanmean(difference[rng.integers(draws, size=draws)][:, rng.integers(voxels, size=voxels)])
                    for _ in range(resamples)
                ]
                low, high = np.quantile(means, [0.025, 0.975])
                row |= {"difference": float(np.nanmean(difference)), "low": float(low), "high": float(high)}
                print(f"  n = {n:3} {method:6} r {row['pearson_r']:.3f}, over random {row['difference']:+.4f} "
                      f"({low:+.4f}..{high:+.4f})", flush=True)  # fmt: skip
            rows.append(row)
    return rows


def simulated(pictures: xr.Dataset, seed: int) -> tuple[InContextEncoder, xr.Dataset]:
    """A subject of a Gaussian population, and the untrained network that holds the population's prior."""
    X = pictures["embedding"].values
    prior = gaussian_prior(X, seed=seed)
    made = simulate_subject(X, prior, SIMULATED_VOXELS, seed=seed + 1, image_id=pictures["image_id"].values)
    network = SharedContextNetwork(SharedContextConfig(features=X.shape[1]))
    network.set_prior(prior)
    return InContextEncoder(network.eval()), made.dataset


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Difference to random choice against the number of pictures, a panel for each series."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(results), 3.4), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    labels = {"empty": "all picked before the first response", "half": "half at random, the rest picked after it"}
    for axes, (name, rows) in zip(panels, results.items(), strict=True):
        for (method, label), colour in zip(labels.items(), ("#0072B2", "#D55E00"), strict=True):
            own = [row for row in rows if row["method"] == method]
            n = [row["n"] for row in own]
            axes.plot(n, [row["difference"] for row in own], marker="o", ms=4, color=colour, label=label)
            axes.fill_between(n, [r["low"] for r in own], [r["high"] for r in own], color=colour, alpha=0.15, lw=0)
        axes.set(xscale="log", xlabel="context pictures", title=name)
        axes.set_xticks(CONTEXTS, [str(n) for n in CONTEXTS])
        axes.minorticks_off()
        axes.axhline(0, color="black", lw=0.5)
    panels[0].set_ylabel("Pearson r, picked less random")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, ncols=2, loc="outside lower center")
    figure.savefig(path, dpi=150)


def main() -> None:
    """All series; OUT.json and OUT.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--v4", type=Path, default=shared("v4_macaque"), help="folder of the V4 response sets")
    parser.add_argument("--models", nargs=2, metavar=("WE", "PE"), help="trained on all sessions of each")
    parser.add_argument("--out", type=Path, default=OUTPUT / "braincl_select")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.v4 is None or args.models is None:
        skip("needs the V4 response sets (--v4) and a model trained on each animal (--models WE PE)")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pe, we = (open_responses(args.v4 / f"v4_{name}.nc") for name in ("PE_201025", "WE_190927"))
    series = {
        "V4, trained on WE, tested on PE": (InContextEncoder.from_pretrained(args.models[0]), pe),
        "V4, trained on PE, tested on WE": (InContextEncoder.from_pretrained(args.models[1]), we),
        "simulated, population known": simulated(pe, args.seed),
    }
    results = {}
    for name, (encoder, subject) in series.items():
        print(name, flush=True)
        results[name] = summary(scores(encoder, subject, args.draws, args.seed), args.seed)
        write_json(args.out.with_suffix(".json"), results)
    plot(results, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
