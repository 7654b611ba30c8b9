"""How close to the Bayes optimum: the model on simulated populations whose optimum is known.

    python tools/make_demo_data.py --embeddings EMBEDDINGS
    python benchmarks/braincl/optimum.py EMBEDDINGS --out OUT [--minutes 15 | --steps 1400]

Three subjects of 1,500 voxels, on pictures of furniture through MobileNetV2, meta-train `--preset small`; a fourth is
tested on other pictures (drawings) through another encoder (EfficientNet-Lite2), both reduced to 64 axes whose place in
the population is the same. Populations: (a) one Gaussian, (b) eight groups with means and covariances of their own.
Explained variance of new stored responses beside: the optimum that knows the population only and integrates over each
voxel's offset, scale and noise (the one that counts), the one that knows these too, population-prior ridge, the
ensemble of such ridges, ridge; and the mean difference in Pearson r between the model and the better of the two closed
forms that know the population, with its 95 % interval over draws. Writes OUT.json and OUT.png.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from closed_forms import LINEAR, interval
from numpy.typing import NDArray

from braincl import InContextEncoder, RidgeCV, meta_train
from braincl.data.responses import open_embeddings
from braincl.evaluation.scores import CLOSED_FORMS
from braincl.models.prior import Prior
from braincl.simulation.bayes_optimum import integrating_optimum, knowing_optimum
from braincl.simulation.subjects import gaussian_prior, simulate_subject
from setcore.evaluation.bootstrap import bootstrap_mean
from setcore.evaluation.metrics import explained_variance, pearson_r
from setcore.files import write_json
from setcore.seeding import numpy_generator
from setcore.training import Budget

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import OUTPUT, commit, skip

FEATURES, GROUPS, VOXELS, TEST_VOXELS = 64, 8, 1500, 200
CONTEXTS, DRAWS, TEST_IMAGES = (10, 30, 100, 300), 10, 150
SHARES = (0.05, 0.6)
METHODS = ("knowing optimum", "integrating optimum", "model", *LINEAR, "ridge")


def reduced(path: Path) -> NDArray[np.float32]:
    """Embeddings on their 64 leading axes, the spectrum square-rooted so that trailing axes count."""
    X = open_embeddings(path)["embedding"].values.astype(np.float64)
    left, singular, _ = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    X = left[:, :FEATURES] * np.sqrt(singular[:FEATURES])
    return (X / X.std()).astype(np.float32)


def groups_prior(X: NDArray[Any], seed: int) -> Prior:
    """Eight groups of voxels, each with a mean and a full covariance of its own."""
    rng = numpy_generator(seed, "groups")
    means = rng.standard_normal((GROUPS, FEATURES))
    turns = [np.linalg.qr(rng.standard_normal((FEATURES, FEATURES)))[0] for _ in range(GROUPS)]
    covariances = np.stack([turn * (3 * np.geomspace(1, 0.01, FEATURES)) @ turn.T for turn in turns])
    return Prior(np.full(GROUPS, -np.log(GROUPS)), means, covariances).normalised(X.T @ X / len(X))


def run(prior: Prior, train: NDArray[Any], test: NDArray[Any], budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Meta-train on three subjects, score a fourth; one row a method and context size."""
    ids = np.array([f"{k:016x}" for k in range(len(train))])
    subjects = [
        simulate_subject(train, prior, VOXELS, seed=seed + i, name=f"simulated {i}", image_id=ids, signal_shares=SHARES)
        for i in range(3)
    ]
    with tempfile.TemporaryDirectory() as folder:
        meta_train([s.dataset for s in subjects], out=folder, budget=budget, seed=seed)
        encoder = InContextEncoder.from_pretrained(folder)
    held = encoder.population_prior().prior
    new = simulate_subject(test, prior, TEST_VOXELS, seed=seed + 99, name="simulated new", signal_shares=SHARES)
    Y = new.dataset["response"].values
    known = {"offset": new.offset, "scale": new.scale, "share": new.share}
    rows = []
    for n in CONTEXTS:
        values: dict[str, list[NDArray[Any]]] = {method: [] for method in METHODS}
        r: dict[str, list[float]] = {method: [] for method in METHODS}
        for draw in range(DRAWS):
            order = numpy_generator(seed, "draw", n, draw).permutation(len(test))
            query, context = order[:TEST_IMAGES], order[TEST_IMAGES : TEST_IMAGES + n]
            X, y, Q = test[context], Y[context], test[query]
            predictions = {
                "knowing optimum": knowing_optimum(X - new.centre, y, Q - new.centre, prior, **known).mean,
                "integrating optimum": integrating_optimum(X, y, Q, prior, signal_shares=SHARES).mean,
                "model": encoder.fit(X, y).predict(Q),
                **{name: CLOSED_FORMS[name](held).fit(X, y).predict(Q) for name in LINEAR},
                "ridge": RidgeCV().fit(X, y).predict(Q),
            }
            for method, mean in predictions.items():
                values[method].append(explained_variance(Y[query], mean))
                r[method].append(float(np.nanmean(pearson_r(Y[query], mean))))
        best = max(LINEAR, key=lambda method: np.mean(r[method]))
        less = interval(np.subtract(r["model"], r[best]))
        print(f"n = {n:3} model - {best}: r {less[0]:+.4f} ({less[1]:+.4f} to {less[2]:+.4f})", flush=True)
        most = np.mean(values["integrating optimum"])
        for method in METHODS:
            of_voxels = np.mean(values[method], axis=0)
            low, high = bootstrap_mean(of_voxels)
            rows.append({
                "method": method, "n": n, "explained_variance": float(of_voxels.mean()), "interval_low": low,
                "interval_high": high, "share_of_optimum": float(of_voxels.mean() / most),
                **({"closed_form": best, "r_less_closed_form": less} if method == "model" else {}),
            })  # fmt: skip
            print(f"n = {n:3} {method:20} EV {of_voxels.mean():.4f} ({low:.4f}..{high:.4f}), "
                  f"{of_voxels.mean() / most:.1%} of the optimum that counts", flush=True)  # fmt: skip
    return rows


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Explained variance against context size, one panel a population."""
    from matplotlib.figure import Figure

    looks = dict(
        zip(METHODS, ("#999999 D", "#000000 d", "#0072B2 o", "#D55E00 s", "#CC79A7 v", "#009E73 ^"), strict=True)
    )
    names = {"knowing optimum": "optimum that knows each voxel's offset, scale, noise", "model": "braincl",
             "integrating optimum": "optimum that knows the population",
             "prior_ridge": "population-prior ridge", "prior_ensemble": "population-prior ensemble"}  # fmt: skip
    figure = Figure(figsize=(9, 4.3), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (name, rows) in zip(panels, results.items(), strict=True):
        for method in METHODS:
            own = [row for row in rows if row["method"] == method]
            style = "--" if "optimum" in method else "-"
            colour, marker = looks[method].split()
            axes.plot([r["n"] for r in own], [r["explained_variance"] for r in own], style, marker=marker, ms=5,
                      color=colour, label=names.get(method, method))  # fmt: skip
        axes.set(xscale="log", xlabel="context images", title=name)
        axes.set_xticks(CONTEXTS, [str(n) for n in CONTEXTS])
        axes.minorticks_off()
        axes.axhline(0, color="black", lw=0.5)
    panels[0].set_ylabel("explained variance, mean over voxels")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Both populations; OUT.json and OUT.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", nargs="?", type=Path, help="folder made by make_demo_data.py --embeddings")
    parser.add_argument("--out", type=Path, default=OUTPUT / "braincl_optimum")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=15.0)
    budget.add_argument("--steps", type=int, help="the same weights on every machine")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.embeddings is None:
        skip("needs image embeddings, which tools/make_demo_data.py --embeddings FOLDER makes of downloaded pictures")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    train = reduced(args.embeddings / "mobilenetv2_sweethome.nc")
    test = reduced(args.embeddings / "efficientnet_lite2_tuxpaint.nc")
    populations = {
        "(a) one Gaussian": gaussian_prior(train, seed=args.seed),
        "(b) eight groups": groups_prior(train, args.seed),
    }
    allowed = Budget(steps=args.steps) if args.steps else Budget(minutes=args.minutes)
    results = {}
    for name, prior in populations.items():
        print(name, flush=True)
        results[name] = run(prior, train, test, allowed, args.seed)
    stored = {"commit": commit(), "command": "python " + " ".join(sys.argv), "populations": results}
    write_json(args.out.with_suffix(".json"), stored)
    plot(results, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
