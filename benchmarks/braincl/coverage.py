"""Whether error bars hold where predictions are high: coverage by tenth of the predicted mean, and likelihood.

    braincl train V4/v4_WE_1909*.nc --out WE --steps 700
    braincl train V4/v4_PE_2*.nc --out PE --steps 700
    python benchmarks/braincl/coverage.py --we WE --pe PE [--v4 V4] [--human OBJECT2VEC] [--seeds 5] [--json OUT.json]

Macaque V4: a model of one animal on every session of the other; a split draws 300 test pictures and a context of every
size. Human objects (object2vec): one person is left out, and a quarter of the categories; a network is trained on the
others for `--steps` (0: no human objects). For every unit and split the test pictures are cut into tenths by the
predicted mean; the coverage of 90 % intervals is that of all units together in each tenth. "units" is the
share of units whose own coverage, over the test pictures of one split and context, is within .82 and .97. NLL is of
responses standardised on the context; its standard error, and that of the paired difference to the model's, is over
units. "model, variance alike" is the model without what makes its variance depend on the mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from braincl import InContextEncoder, PriorRidge, open_responses
from braincl.data.responses import average_duplicates
from braincl.estimators.base import standardiser
from braincl.estimators.mean_dependent_noise import MeanDependence
from braincl.evaluation.splits import context_draws
from setcore.evaluation.metrics import gaussian_nll, interval_coverage
from setcore.files import write_json

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import shared, skip
from closed_forms import human_tasks, trained

CONTEXTS, TEST_IMAGES, POOLED = (20, 50, 100, 200, 400), 300, 50
TENTHS = 10
UNIT_RANGE = (0.82, 0.97)


class Case(NamedTuple):
    """Contexts and test pictures of a subject, and the model and population-prior ridge that predict it."""

    subject: str
    n: int
    methods: dict[str, Any]
    X: NDArray[np.float32]
    Y: NDArray[np.float32]
    context: NDArray[np.int64]
    test: NDArray[np.int64]


class Found(NamedTuple):
    """What one method did on one case: covered (10, units), mean NLL (units,)."""

    subject: str
    n: int
    covered: NDArray[np.float64]
    nll: NDArray[np.float64]


def v4_cases(model: Path, sessions: Iterable[Path], seeds: int) -> Iterator[Case]:
    """Every session of one animal, predicted by a model of the other."""
    encoder = InContextEncoder.from_pretrained(model)
    methods = {"model": encoder, "prior_ridge": encoder.population_prior()}
    for path in sessions:
        session = average_duplicates(open_responses(path))
        X, Y, ids = session["embedding"].values, session["response"].values, session["image_id"].values
        for seed in range(seeds):
            splits = context_draws(ids, CONTEXTS, 1, TEST_IMAGES, seed)
            for n in CONTEXTS:
                yield Case(path.stem, n, methods, X, Y, splits.contexts[n][0], splits.test)


def human_cases(folder: Path, steps: int) -> Iterator[Case]:
    """Every person and fold of categories, predicted by a network of the other people and categories."""
    known, methods = None, {}
    for task in human_tasks(folder, 1):
        if known is not task.population:
            known = task.population
            methods = {"model": trained(known.sets, steps), "prior_ridge": PriorRidge(known.prior)}
            subject = sorted({"1", "2", "3"} - {str(s.attrs["subject"])[-1] for s in known.sets})[0]
        yield Case(subject, task.n, methods, task.X, task.Y, task.context, task.test)


def score(case: Case, mean: NDArray[Any], std: NDArray[Any]) -> Found:
    """Coverage by tenth of the predicted mean, and NLL, of units that vary in the context."""
    standardise = standardiser(case.Y[case.context])
    units = standardise.varying
    y, mean, std = (values[:, units].astype(np.float64) for values in (case.Y[case.test], mean, std))
    order = np.argsort(mean, axis=0, kind="stable")
    by_mean = (np.array_split(np.take_along_axis(values, order, axis=0), TENTHS) for values in (y, mean, std))
    covered = np.full((TENTHS, case.Y.shape[1]), np.nan)
    covered[:, units] = [interval_coverage(*tenth) for tenth in zip(*by_mean, strict=True)]
    nll = np.full(case.Y.shape[1], np.nan)
    nll[units] = gaussian_nll(y, mean, std) - np.log(standardise.scale[units])
    return Found(case.subject, case.n, covered, nll)


def measure(name: str, cases: Iterable[Case], pooled: int = POOLED) -> dict[str, Any]:
    """Every method on every case, printed as a table."""
    found: dict[str, list[Found]] = {}
    for case in tqdm(cases, desc=name):
        for method, estimator in case.methods.items():
            estimator.fit(case.X[case.context], case.Y[case.context])
            found.setdefault(method, []).append(score(case, *estimator.predict(case.X[case.test], return_std=True)))
            if isinstance(estimator, InContextEncoder):
                estimator.mean_dependence_ = MeanDependence()
                without = score(case, *estimator.predict(case.X[case.test], return_std=True))
                found.setdefault("model, variance alike", []).append(without)
    sizes = sorted({one.n for one in found["model"]})
    choices = {str(n): {n} for n in sizes} | {f">={pooled}": {n for n in sizes if n >= pooled}}
    print(
        f"\n{name}\n\n| n | method | "
        + " | ".join(f"{t + 1}" for t in range(TENTHS))
        + " | all | units | NLL | model - it |"
    )
    print("|---" * (TENTHS + 6) + "|")
    result: dict[str, Any] = {}
    for label, chosen in choices.items():
        rows = {m: summary([one for one in every if one.n in chosen]) for m, every in found.items()}
        by_unit = {method: row.pop("nll_by_unit") for method, row in rows.items()}
        for method in [method for method in rows if method != "model"]:
            paired = by_unit["model"] - by_unit[method]
            rows[method] |= {"model_less_it": float(paired.mean()), "model_less_it_se": standard_error(paired)}
        result[label] = rows
        for method, row in rows.items():
            tenths = " | ".join(f"{value:.3f}" for value in row["coverage_by_tenth"])
            scores = f"{row['coverage']:.3f} | {row['units_within']:.2f} | {row['nll']:.4f} ± {row['nll_se']:.4f}"
            less = f"{row['model_less_it']:+.4f} ± {row['model_less_it_se']:.4f}" if method != "model" else ""
            print(f"| {label} | {method} | {tenths} | {scores} | {less} |", flush=True)
    return result


def summary(found: list[Found]) -> dict[str, Any]:
    """Coverage by tenth over all units, share of units within the range, NLL."""
    of_units, (low, high) = [], UNIT_RANGE
    singles = np.concatenate([one.covered.mean(axis=0) for one in found])
    singles = singles[np.isfinite(singles)]
    for subject in sorted({one.subject for one in found}):
        own = [one for one in found if one.subject == subject]
        of_units.append(
            (np.nanmean([one.covered for one in own], axis=0), np.nanmean([one.nll for one in own], axis=0))
        )
    covered = np.concatenate([tenths for tenths, _ in of_units], axis=1)
    nll = np.concatenate([values for _, values in of_units])
    return {
        "coverage_by_tenth": covered.mean(axis=1).tolist(), "coverage": float(covered.mean()), "units": len(nll),
        "units_within": float(((singles >= low) & (singles <= high)).mean()), "nll": float(nll.mean()),
        "nll_se": standard_error(nll), "nll_by_unit": nll,
    }  # fmt: skip


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--we", type=Path, help="model folder, trained on animal WE")
    parser.add_argument("--pe", type=Path, help="model folder, trained on animal PE")
    parser.add_argument("--v4", type=Path, default=shared("v4_macaque"), help="folder of the V4 recordings")
    parser.add_argument("--human", type=Path, default=shared("human_object2vec"), help="folder of the human set")
    parser.add_argument("--seeds", type=int, default=5, help="splits of V4")
    parser.add_argument("--steps", type=int, default=200, help="of training on people; 0: no human objects")
    parser.add_argument("--json", type=Path, metavar="OUT.json")
    args = parser.parse_args()
    if args.v4 is None or not (args.we or args.pe):
        skip("needs the V4 recordings (--v4) and models that were trained on them (--we, --pe)")
    result: dict[str, Any] = {"contexts": CONTEXTS, "test_images": TEST_IMAGES, "seeds": args.seeds}
    for model, animal, other in ((args.pe, "PE", "WE"), (args.we, "WE", "PE")):
        if model:
            sessions = sorted(args.v4.glob(f"v4_{other}_*.nc"))
            result[f"{animal} to {other}"] = measure(f"{animal} to {other}", v4_cases(model, sessions, args.seeds))
    if args.human and args.steps:
        result["human"] = measure("human", human_cases(args.human, args.steps), pooled=20)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
