"""How far scores depend on the split: ridge and population-prior ridge on the V4 recordings over many split seeds.

    python benchmarks/braincl/splits.py ../shared/data/v4_macaque --seeds 16

For each direction (trained on one animal, tested on a session of the other) it prints mean Pearson r over seeds, with
the standard deviation of a single seed, as `braincl evaluate` would report it with that `--seed`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from braincl import PriorRidge, RidgeCV, open_responses
from braincl.data.responses import average_duplicates
from braincl.evaluation.splits import context_draws
from braincl.training.population_prior import Subject, fit_population
from setcore.evaluation.metrics import pearson_r

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import shared, skip

TRAIN = {"PE_201025": "v4_WE_*.nc", "WE_190927": "v4_PE_*.nc"}
CONTEXTS = (20, 50, 100, 200, 400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=shared("v4_macaque"), help="the V4 response sets")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--draws", type=int, default=10)
    args = parser.parse_args()
    if args.folder is None:
        skip("needs the V4 response sets; name their folder")
    for session, pattern in TRAIN.items():
        subjects = [average_duplicates(open_responses(path)) for path in sorted(args.folder.glob(pattern))]
        population = fit_population(
            [Subject(str(s.attrs["subject"]), s["embedding"].values, s["response"].values) for s in subjects],
            mixtures=False,
        )
        print(f"trained on {pattern}: {population.report['iterations']} iterations, "
              f"shrinkage {population.report['shrinkage']}")  # fmt: skip
        test = average_duplicates(open_responses(args.folder / f"v4_{session}.nc"))
        X, Y = test["embedding"].values, test["response"].values
        methods = {"prior_ridge": PriorRidge(population.gaussian), "ridge": RidgeCV()}
        scores = np.empty((args.seeds, len(methods), len(CONTEXTS)))
        for seed in tqdm(range(args.seeds), desc=session):
            splits = context_draws(test["image_id"].values, CONTEXTS, args.draws, 300, seed)
            for row, method in enumerate(methods.values()):
                for column, n in enumerate(CONTEXTS):
                    scores[seed, row, column] = np.mean(
                        [
                            np.nanmean(pearson_r(Y[splits.test], method.fit(X[c], Y[c]).predict(X[splits.test])))
                            for c in splits.contexts[n]
                        ]
                    )
        for row, name in enumerate(methods):
            cells = [
                f"{m:.3f} ± {s:.3f}" for m, s in zip(scores[:, row].mean(0), scores[:, row].std(0, ddof=1), strict=True)
            ]
            print(f"| {session} | {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
