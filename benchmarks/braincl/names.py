"""Text to human voxels through a map to names: responses to categories that nobody was trained on, from their names.

    python benchmarks/braincl/names.py [--human OBJECT2VEC] [--seeds 3] [--json OUT.json]

Human objects (object2vec, three people, 200 voxels of PPA and LOC, 81 categories). One person is left out, and a
quarter of the categories from everybody: the population prior, the context (n = 60) and the map from CLIP text vectors
to the pictures' embedding have seen neither. The encoder is population-prior ridge. Of the left-out categories those
count whose name the bank has. r: over categories, mean over voxels. 2AFC: of two categories, which response pattern
goes with which prediction (Mitchell et al. 2008: the sum of the right correlations exceeds that of the wrong).
"pictures" predicts the same responses from the pictures' embeddings. Mean and standard deviation over splits (person
and fold).

Then a voxel that responds to armchairs and swivel chairs, with noise, on the pictures of person 1: its ten top names.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from closed_forms import human_tasks
from numpy.typing import NDArray
from tqdm import tqdm

from braincl import InContextEncoder, PriorRidge, fit_name_map, open_responses, top_names
from braincl.analysis.names import picture_names
from braincl.estimators.identification import correlation_scores
from setcore.evaluation.metrics import pearson_r
from setcore.files import write_json
from setcore.name_bank import load_name_bank
from setcore.seeding import numpy_generator

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import shared, skip

CONTEXT = 60
CHAIRS = ("armchair", "swivel_chair")


def pairs_told_apart(observed: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mitchell et al. 2008: share of pairs whose patterns go better with their own predictions than exchanged."""
    r = correlation_scores(observed, predicted)
    own = np.diagonal(r)
    right = own[:, None] + own > r + r.T
    return float(right[~np.eye(len(r), dtype=bool)].mean())


def scores(context: NDArray[Any], observed: NDArray[Any], predicted: NDArray[Any]) -> list[float]:
    """r and 2AFC of predictions, patterns standardised on the context."""
    shift, scale = context.mean(axis=0), context.std(axis=0)
    patterns = [(values - shift) / scale for values in (observed, predicted)]
    return [float(np.nanmean(pearson_r(observed, predicted))), pairs_told_apart(*patterns)]


def measure(folder: Path, seeds: int) -> dict[str, Any]:
    """Scores of both ways to predict, and of the map itself."""
    bank, person = load_name_bank(), open_responses(folder / "o2v_1.nc")
    names = np.array(picture_names(person))
    found: dict[str, list[list[float]]] = {"names": [], "pictures": [], "map": []}
    for task in tqdm(human_tasks(folder, seeds), desc="human objects"):
        if task.n != CONTEXT:
            continue
        X, Y, test = task.X, task.Y, task.test[names[task.test] != ""]
        encoder = PriorRidge(task.population.prior).fit(X[task.context], Y[task.context])
        name_map = fit_name_map(person.isel(image=task.context))
        vectors = bank.vectors[[bank.find(name) for name in names[test]]].astype(float)
        mapped = (name_map.directions(vectors) + name_map.embedding_mean).astype(np.float32)
        found["names"].append(scores(Y[task.context], Y[test], encoder.predict(mapped)))
        found["pictures"].append(scores(Y[task.context], Y[test], encoder.predict(X[test])))
        found["map"].append([name_map.explained_variance, name_map.two_alternative])
    result = {}
    for method, rows in found.items():
        mean, std = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
        first, second = ("explained variance" if method == "map" else "r"), "2AFC"
        print(
            f"{method}: {first} {mean[0]:.3f} ± {std[0]:.3f}, {second} {mean[1]:.3f} ± {std[1]:.3f}, {len(rows)} splits"
        )
        result[method] = {"mean": mean.tolist(), "std": std.tolist(), "splits": len(rows), "scores": [first, second]}
    return result


def chair_voxel(folder: Path) -> list[str]:
    """Top names of a simulated voxel."""
    person = open_responses(folder / "o2v_1.nc")
    files = person["image_file"].values.astype(str)
    tuned = np.isin(files, CHAIRS).astype(float) + 0.1 * numpy_generator(0, "chair voxel").standard_normal(len(files))
    context = person.isel(voxel=[0]).assign(response=xr.DataArray(tuned[:, None].astype("f4"), dims=("image", "voxel")))
    encoder = InContextEncoder().fit(context["embedding"].values, context["response"].values)
    return top_names(encoder.coef_, name_map=fit_name_map(context))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--human", type=Path, default=shared("human_object2vec"), help="folder of the human set")
    parser.add_argument("--seeds", type=int, default=3, help="splits of the categories into quarters")
    parser.add_argument("--json", type=Path, metavar="OUT.json")
    args = parser.parse_args()
    if args.human is None:
        skip("needs the human set; name its folder (--human)")
    result: dict[str, Any] = measure(args.human, args.seeds)
    result["chair_voxel"] = chair_voxel(args.human)
    print("a voxel of chairs prefers: " + ", ".join(result["chair_voxel"]))
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
