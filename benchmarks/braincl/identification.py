"""Which picture was seen: Gaussian likelihood beside correlation, and retrieval by the decoded embedding.

    braincl train V4/v4_WE_1909*.nc --out WE --steps 700
    python benchmarks/braincl/identification.py --model WE [--v4 V4] [--human OBJECT2VEC] [--seeds 10] [--json OUT.json]

Macaque V4: a model of one animal, a session of the other (PE 201025); a split draws 300 test pictures, which are the
candidates, and a context of every size. Human objects (object2vec): one person is left out, and a network is trained on
the others for `--steps` (0: no human objects); a quarter of the categories are the candidates, which the others saw,
too, or which nobody did in training ("unseen"). A split is the mean of all people and quarters. Figures are means over
splits, with the 95 % interval of that mean over splits (Student's t). "decode" retrieves by the cosine of what is
decoded with the embeddings of the bank, both less the bank's mean: with the bank as its prior, and without. "std" is
the likelihood of independent voxels with the standard deviations that the encoder predicts for each picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from closed_forms import HUMAN_CONTEXTS, human_tasks, interval, trained
from numpy.typing import NDArray
from tqdm import tqdm

from braincl import InContextEncoder, open_responses
from braincl.data.responses import average_duplicates
from braincl.estimators.decoding import Decoder
from braincl.estimators.identification import above_others, better_method, in_top
from braincl.evaluation.splits import context_draws
from setcore.files import write_json

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import shared, skip

CONTEXTS, TEST_IMAGES = (100, 200, 400), 300
SCORES = ("top_1", "top_5", "two_alternative")


def cosines(decoded: NDArray[Any], bank: NDArray[Any]) -> NDArray[Any]:
    """Of every decoded embedding with every one of the bank, both less the bank's mean."""
    rows = [values - bank.mean(axis=0) for values in (decoded, bank)]
    decoded, bank = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in rows)
    return decoded @ bank.T


def one_split(
    encoder: Any, X: NDArray[Any], Y: NDArray[Any], context: NDArray[Any], test: NDArray[Any]
) -> dict[str, list[float]]:
    """Scores of every method on one context."""
    decoder = Decoder(encoder.fit(X[context], Y[context]), X[context], Y[context])
    seen, bank = Y[test], X[test]
    mean, std = (values[:, decoder.varying].astype(float) for values in encoder.predict(bank, return_std=True))
    squares = ((seen[:, None, decoder.varying] - mean) / std) ** 2
    scores = {method: decoder.identify(seen, bank, method) for method in ("gaussian", "correlation")}
    scores["auto"] = scores[better_method(decoder.left_out)]
    scores["std"] = -0.5 * squares.sum(axis=2) - np.log(std).sum(axis=1)
    scores["decode, bank"] = cosines(decoder.decode(seen, bank), bank)
    scores["decode"] = cosines(decoder.decode(seen), bank)
    right = np.arange(len(test))
    return {
        method: [*(float(in_top(values, right, k).mean()) for k in (1, 5)), float(above_others(values, right).mean())]
        for method, values in scores.items()
    }


def v4_splits(model: Path, folder: Path, session: str, seeds: int) -> Iterator[tuple[int, int, dict[str, list[float]]]]:
    """Split, context size and scores."""
    encoder = InContextEncoder.from_pretrained(model)
    test = average_duplicates(open_responses(folder / f"v4_{session}.nc"))
    X, Y, ids = test["embedding"].values, test["response"].values, test["image_id"].values
    for seed in range(seeds):
        splits = context_draws(ids, CONTEXTS, 1, TEST_IMAGES, seed)
        for n in CONTEXTS:
            yield seed, n, one_split(encoder, X, Y, splits.contexts[n][0], splits.test)


def human_splits(
    folder: Path, seeds: int, steps: int, *, seen: bool
) -> Iterator[tuple[int, int, dict[str, list[float]]]]:
    """Split, context size and scores, means of every person and quarter of the categories."""
    networks: list[tuple[Any, InContextEncoder]] = []
    found: dict[int, list[dict[str, list[float]]]] = {}
    for task in tqdm(human_tasks(folder, seeds, seen=seen), desc="people"):
        if task.n != max(HUMAN_CONTEXTS):
            continue
        network = next((network for known, network in networks if known is task.population), None)
        if network is None:
            network = trained(task.population.sets, steps)
            networks = [*(networks if seen else []), (task.population, network)]
        found.setdefault(task.split, []).append(one_split(network, task.X, task.Y, task.context, task.test))
    for split, rows in found.items():
        means = {method: np.mean([row[method] for row in rows], axis=0).tolist() for method in rows[0]}
        yield split, max(HUMAN_CONTEXTS), means


def measure(name: str, splits: Iterator[tuple[int, int, dict[str, list[float]]]]) -> dict[str, Any]:
    """Means over splits with intervals, printed as a table; differences to correlation are paired."""
    found: dict[int, dict[str, list[list[float]]]] = {}
    for _, n, scores in tqdm(splits, desc=name):
        for method, values in scores.items():
            found.setdefault(n, {}).setdefault(method, []).append(values)
    print(f"\n{name}\n\n| n | method | " + " | ".join(SCORES) + " | top_1 - correlation |")
    print("|---" * (3 + len(SCORES)) + "|")
    result: dict[str, Any] = {}
    for n, methods in found.items():
        result[str(n)] = {}
        for method, rows in methods.items():
            values, reference = np.array(rows), np.array(methods["correlation"])
            row = {score: interval(values[:, k]) for k, score in enumerate(SCORES)}
            row |= {f"{score}_less_correlation": interval((values - reference)[:, k]) for k, score in enumerate(SCORES)}
            result[str(n)][method] = row | {"splits": len(rows)}
            cells = " | ".join(f"{mean:.3f} ({low:.3f}..{high:.3f})" for mean, low, high in (row[s] for s in SCORES))
            less = "{:+.3f} ({:+.3f}..{:+.3f})".format(*row["top_1_less_correlation"])
            print(f"| {n} | {method} | {cells} | {less} |", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder, trained on animal WE")
    parser.add_argument("--v4", type=Path, default=shared("v4_macaque"), help="folder of the V4 recordings")
    parser.add_argument("--session", default="PE_201025")
    parser.add_argument("--human", type=Path, default=shared("human_object2vec"), help="folder of the human set")
    parser.add_argument("--seeds", type=int, default=10, help="splits")
    parser.add_argument("--steps", type=int, default=200, help="of training on people; 0: no human objects")
    parser.add_argument("--json", type=Path, metavar="OUT.json")
    args = parser.parse_args()
    if args.v4 is None or args.model is None:
        skip("needs the V4 recordings (--v4) and a model that was trained on animal WE (--model)")
    result: dict[str, Any] = {"candidates": TEST_IMAGES, "session": args.session}
    result["v4"] = measure(args.session, v4_splits(args.model, args.v4, args.session, args.seeds))
    if args.human and args.steps:
        for name, seen in (("human", True), ("human, unseen", False)):
            result[name] = measure(name, human_splits(args.human, args.seeds, args.steps, seen=seen))
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
