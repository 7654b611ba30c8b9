"""Closed forms under a population prior on new subjects, over many splits: what a trained network has to beat.

    python benchmarks/braincl/closed_forms.py [--v4 V4] [--human OBJECT2VEC] [--seeds 10] [--steps N] [--json OUT.json]

Macaque V4: the prior is that of all sessions of one animal, and a session of the other is predicted; a split draws 300
test pictures and a context of every size. Human objects (object2vec): one person is left out, and with every fold of 20
or 21 test categories these too, so that the prior has seen neither. Mean Pearson r over splits, with the standard
deviation of a single one; below it the mean paired difference to population-prior ridge, likewise. `--steps` trains a
network on the same subjects and pictures for every prior and puts it beside them: 400 steps take about a minute, and
the human set takes twelve networks for every split.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from braincl import InContextEncoder, RidgeCV, meta_train, open_responses
from braincl.data.responses import average_duplicates
from braincl.evaluation.scores import CLOSED_FORMS
from braincl.evaluation.splits import context_draws
from braincl.models.prior import Prior
from braincl.training.population_prior import Subject, fit_population
from setcore.evaluation.metrics import pearson_r
from setcore.files import write_json
from setcore.seeding import numpy_generator
from setcore.training import Budget

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import shared, skip

V4_SESSIONS = {"PE_201025": "v4_WE_*.nc", "WE_190927": "v4_PE_*.nc"}
V4_CONTEXTS, V4_TEST_IMAGES = (20, 50, 100, 200, 400), 300
HUMAN_CONTEXTS, FOLDS = (10, 20, 40, 60), 4


class Population(NamedTuple):
    """What a prior is made of, and a network is trained on."""

    prior: Prior
    sets: list[xr.Dataset]


class Task(NamedTuple):
    """One prediction: contexts and test pictures of a subject, and the population of others."""

    split: int
    n: int
    population: Population
    X: NDArray[np.float32]
    Y: NDArray[np.float32]
    context: NDArray[np.int64]
    test: NDArray[np.int64]


def population(sets: list[xr.Dataset], rows: NDArray[np.int64] | slice = slice(None)) -> Population:
    """Some subjects, on some of their pictures."""
    sets = [s.isel(image=rows) for s in sets]
    subjects = [Subject(str(s.attrs["subject"]), s["embedding"].values, s["response"].values) for s in sets]
    return Population(fit_population(subjects, mixtures=False).gaussian, sets)


def trained(sets: list[xr.Dataset], steps: int) -> InContextEncoder:
    """A network that has been trained on some subjects."""
    with tempfile.TemporaryDirectory() as folder:
        budget = Budget(steps=steps)
        return InContextEncoder(meta_train(sets, out=Path(folder) / "model", budget=budget, progress=False))


def v4_tasks(folder: Path, session: str, seeds: int) -> Iterator[Task]:
    """A session of one animal under the prior of the other."""
    pattern = V4_SESSIONS[session]
    others = population([average_duplicates(open_responses(path)) for path in sorted(folder.glob(pattern))])
    test = average_duplicates(open_responses(folder / f"v4_{session}.nc"))
    X, Y, ids = test["embedding"].values, test["response"].values, test["image_id"].values
    for seed in range(seeds):
        splits = context_draws(ids, V4_CONTEXTS, 1, V4_TEST_IMAGES, seed)
        for n in V4_CONTEXTS:
            yield Task(seed, n, others, X, Y, splits.contexts[n][0], splits.test)


def human_tasks(folder: Path, seeds: int) -> Iterator[Task]:
    """Every person under the prior of the others, which has not seen the test categories."""
    people = [average_duplicates(open_responses(folder / f"o2v_{number}.nc")) for number in (1, 2, 3)]
    assert all(np.array_equal(person["image_id"], people[0]["image_id"]) for person in people)
    for seed in range(seeds):
        order = numpy_generator(seed, "categories").permutation(people[0].sizes["image"])
        for fold, test in enumerate(np.array_split(order, FOLDS)):
            others = np.setdiff1d(order, test)
            for number, person in enumerate(people):
                known = population([other for other in people if other is not person], others)
                X, Y = person["embedding"].values, person["response"].values
                for n in HUMAN_CONTEXTS:
                    context = numpy_generator(seed, "contexts", fold, number, n).permutation(others)[:n]
                    yield Task(seed, n, known, X, Y, context, test)


def measure(name: str, tasks: Iterator[Task], contexts: tuple[int, ...], seeds: int, steps: int) -> dict[str, Any]:
    """Mean r of every method, size and split, printed as a table."""
    found: dict[str, dict[int, list[list[float]]]] = {}
    known, network = None, {}
    for task in tqdm(tasks, desc=name):
        if steps and known is not task.population:
            known, network = task.population, {"network": trained(task.population.sets, steps)}
        methods = {method: kind(task.population.prior) for method, kind in CLOSED_FORMS.items()}
        methods |= {"ridge": RidgeCV()} | network
        for method, estimator in methods.items():
            predicted = estimator.fit(task.X[task.context], task.Y[task.context]).predict(task.X[task.test])
            r = float(np.nanmean(pearson_r(task.Y[task.test], predicted)))
            found.setdefault(method, {n: [[] for _ in range(seeds)] for n in contexts})[task.n][task.split].append(r)
    means = {
        method: np.array([[np.mean(split) for split in sizes[n]] for n in contexts]) for method, sizes in found.items()
    }
    print(f"\n{name}, {seeds} splits\n\n| method | " + " | ".join(map(str, contexts)) + " |")
    print("|---" * (1 + len(contexts)) + "|")
    for method, values in means.items():
        print(f"| {method} | " + " | ".join(_cell(row) for row in values) + " |")
    for method, values in means.items():
        if method != "prior_ridge":
            rows = values - means["prior_ridge"]
            print(f"| {method} - prior_ridge | " + " | ".join(_cell(row, "+") for row in rows) + " |", flush=True)
    return {"contexts": contexts, **{method: values.tolist() for method, values in means.items()}}


def _cell(values: NDArray[np.float64], sign: str = "") -> str:
    return f"{values.mean():{sign}.3f} ± {values.std(ddof=1):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--v4", type=Path, default=shared("v4_macaque"), help="folder of the V4 recordings")
    parser.add_argument("--human", type=Path, default=shared("human_object2vec"), help="folder of the human set")
    parser.add_argument("--seeds", type=int, default=10, help="splits, 2 or more")
    parser.add_argument("--steps", type=int, default=0, help="of training a network, too (default: none)")
    parser.add_argument("--json", type=Path, metavar="OUT.json")
    args = parser.parse_args()
    if args.v4 is None or args.human is None:
        skip("needs the V4 recordings and the human set; name their folders")
    result = {
        session: measure(f"V4 {session}", v4_tasks(args.v4, session, args.seeds), V4_CONTEXTS, args.seeds, args.steps)
        for session in V4_SESSIONS
    }
    result["human"] = measure("human", human_tasks(args.human, args.seeds), HUMAN_CONTEXTS, args.seeds, args.steps)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
