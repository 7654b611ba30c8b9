"""Closed forms under a population prior on new subjects, over many splits: what a trained network has to beat.

    python benchmarks/braincl/closed_forms.py [--v4 V4] [--human OBJECT2VEC] [--seeds 10] [--steps N] [--json OUT.json]

Macaque V4: the prior is that of all sessions of one animal, and every session of the other is predicted; a split draws
300 test pictures and a context of every size from each. Human objects (object2vec): one person is left out, and with
every fold of 20 or 21 test categories these too, so that the prior has seen neither. Mean Pearson r over splits (of an
animal's sessions, or of people and folds, alike), with the standard deviation of a single one; below it the mean paired
difference to the best linear closed form at that size, with the 95 % interval of the mean over splits. `--steps` trains
a network on the same subjects and pictures for every prior and puts it beside them: 400 steps take about a minute, and
the human set takes twelve networks for every split. Networks of several subjects leave a share of the weight to
population-prior ridge, and are measured without it, too. The file is written after every split: `--resume` goes on
with it.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import t as student
from tqdm import tqdm

from braincl import InContextEncoder, RidgeCV, meta_train, open_responses
from braincl.data.responses import average_duplicates
from braincl.evaluation.scores import CLOSED_FORMS
from braincl.evaluation.splits import context_draws
from braincl.models.prior import Prior
from braincl.training.population_prior import Subject, fit_population
from setcore.evaluation.metrics import pearson_r
from setcore.files import read_json, write_json
from setcore.seeding import numpy_generator
from setcore.training import Budget

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import commit, shared, skip

ANIMALS = {"PE": "WE", "WE": "PE"}
"""Whose sessions are predicted, and whose prior is used."""
V4_CONTEXTS, V4_TEST_IMAGES = (20, 50, 100, 200, 400), 300
HUMAN_CONTEXTS, FOLDS = (10, 20, 40, 60), 4
LINEAR = ("prior_ridge", "prior_ensemble")
"""Closed forms that emit weights, as the network does."""
ALONE = "network without a share"
Found = dict[str, dict[str, list[list[float]]]]
"""Mean r over units of every task, by method, size of the context, and split."""


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


def with_and_without_share(encoder: InContextEncoder) -> dict[str, InContextEncoder]:
    """A network; and without the share of population-prior ridge, if it has one."""
    if not encoder.network.config.prior_ridge_share:
        return {"network": encoder}
    alone = copy.deepcopy(encoder.network)
    alone.config = replace(alone.config, prior_ridge_share=0.0)
    return {"network": encoder, ALONE: InContextEncoder(alone)}


def v4_tasks(folder: Path, animal: str, seeds: int) -> Iterator[Task]:
    """The sessions of one animal under the prior of the other."""
    others = population(sessions(folder, ANIMALS[animal]))
    own = sessions(folder, animal)
    for seed in range(seeds):
        for test in own:
            X, Y, ids = test["embedding"].values, test["response"].values, test["image_id"].values
            splits = context_draws(ids, V4_CONTEXTS, 1, V4_TEST_IMAGES, seed)
            for n in V4_CONTEXTS:
                yield Task(seed, n, others, X, Y, splits.contexts[n][0], splits.test)


def sessions(folder: Path, animal: str) -> list[xr.Dataset]:
    """All recordings of an animal."""
    return [average_duplicates(open_responses(path)) for path in sorted(folder.glob(f"v4_{animal}_*.nc"))]


def human_tasks(folder: Path, seeds: int, *, seen: bool = False) -> Iterator[Task]:
    """Every person under the prior of the others, which has seen the test categories or not."""
    people = [average_duplicates(open_responses(folder / f"o2v_{number}.nc")) for number in (1, 2, 3)]
    assert all(np.array_equal(person["image_id"], people[0]["image_id"]) for person in people)
    rest = [[other for other in people if other is not person] for person in people]
    whole = [population(sets) for sets in rest] if seen else []
    for seed in range(seeds):
        order = numpy_generator(seed, "categories").permutation(people[0].sizes["image"])
        for fold, test in enumerate(np.array_split(order, FOLDS)):
            others = np.setdiff1d(order, test)
            for number, person in enumerate(people):
                known = whole[number] if seen else population(rest[number], others)
                X, Y = person["embedding"].values, person["response"].values
                for n in HUMAN_CONTEXTS:
                    context = numpy_generator(seed, "contexts", fold, number, n).permutation(others)[:n]
                    yield Task(seed, n, known, X, Y, context, test)


def measure(tasks: Iterator[Task], steps: int, name: str, found: Found, save: Callable[[], None]) -> None:
    """Mean r of every method in every split and size, added to those found so far; saved after every split."""
    first = len(next(iter(next(iter(found.values())).values()))) if found else 0
    known, network, now = None, {}, None
    for task in tqdm(tasks, desc=name):
        if task.split < first:
            continue
        if now is not None and task.split != now:
            save()
        now = task.split
        if steps and known is not task.population:
            known, network = task.population, with_and_without_share(trained(task.population.sets, steps))
        methods = {method: kind(task.population.prior) for method, kind in CLOSED_FORMS.items()}
        methods |= {"ridge": RidgeCV()} | network
        for method, estimator in methods.items():
            predicted = estimator.fit(task.X[task.context], task.Y[task.context]).predict(task.X[task.test])
            splits = found.setdefault(method, {}).setdefault(str(task.n), [])
            if len(splits) == task.split:
                splits.append([])
            splits[task.split].append(float(np.nanmean(pearson_r(task.Y[task.test], predicted))))
    save()


def report(name: str, found: Found) -> None:
    """Print the table of a set: means over splits, and paired differences to the best linear closed form."""
    sizes = list(found["ridge"])
    means = {method: {n: np.mean(rows, axis=1) for n, rows in found[method].items()} for method in found}
    best = {n: max(LINEAR, key=lambda method: means[method][n].mean()) for n in sizes}
    print(f"\n{name}, {len(found['ridge'][sizes[0]])} splits\n\n| n | " + " | ".join(sizes) + " |")
    print("|---" * (1 + len(sizes)) + "|")
    for method, values in means.items():
        cells = [f"{values[n].mean():.3f} ± {values[n].std(ddof=1):.3f}" for n in sizes]
        print(f"| {method} | " + " | ".join(cells) + " |")
    print("| best linear closed form | " + " | ".join(best.values()) + " |")
    for method, values in means.items():
        less = {n: interval(values[n] - means[best[n]][n]) for n in sizes if method != best[n]}
        cells = ["{:+.4f} ({:+.4f} to {:+.4f})".format(*less[n]) if n in less else "" for n in sizes]
        print(f"| {method} - best | " + " | ".join(cells) + " |", flush=True)


def interval(values: NDArray[np.float64]) -> list[float]:
    """Mean over splits and its 95 % interval, by Student's t."""
    width = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [float(values.mean()), float(values.mean() - width), float(values.mean() + width)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--v4", type=Path, default=shared("v4_macaque"), help="folder of the V4 recordings")
    parser.add_argument("--human", type=Path, default=shared("human_object2vec"), help="folder of the human set")
    parser.add_argument("--seeds", type=int, default=10, help="splits, 2 or more")
    parser.add_argument("--steps", type=int, default=0, help="of training a network, too (default: none)")
    parser.add_argument("--json", type=Path, metavar="OUT.json")
    parser.add_argument("--resume", action="store_true", help="go on with OUT.json")
    args = parser.parse_args()
    if args.v4 is None or args.human is None:
        skip("needs the V4 recordings and the human set; name their folders")
    result: dict[str, Any] = {"steps": args.steps, "commit": commit(), "sets": {}}
    if args.resume and args.json and args.json.exists():
        result = read_json(args.json)
    sets = {f"V4 {animal}": (v4_tasks, args.v4, animal) for animal in ANIMALS} | {"human": (human_tasks, args.human)}
    for name, (tasks, *where) in sets.items():
        found = result["sets"].setdefault(name, {})
        measure(
            tasks(*where, args.seeds), result["steps"], name, found,
            lambda: write_json(args.json, result) if args.json else None,
        )  # fmt: skip
        report(name, found)


if __name__ == "__main__":
    main()
