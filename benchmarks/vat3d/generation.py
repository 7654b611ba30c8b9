"""Are generated shapes new and like real ones? Cross-entropy, coverage, matching distance, and a gallery.

    python benchmarks/vat3d/generation.py DATASET... --run RUN [--count 96] --out REPORT_DIR

RUN is the folder of `vat3d train-generator DATASET... --out RUN`. Prints nats a token on validation
shapes beside the unigram and the uniform coder; coverage (share of validation shapes that are the nearest one of some
sample) and minimum matching distance (mean over validation shapes of the chamfer distance to the nearest sample;
Achlioptas et al., arXiv 1707.02392) of samples, beside as many training shapes drawn at random, with the spread over
draws. Writes `generation.json` and `generation.png`: samples, each beside the training shape nearest to it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.spatial import cKDTree
from tqdm import tqdm

from setcore.evaluation.mesh_metrics import sample_surface
from setcore.files import read_json, write_json
from vat3d.bitstream.coordinate_frame import Frame
from vat3d.bitstream.stream import TokenStream
from vat3d.data.dataset import Dataset
from vat3d.generation.generator import MeshGenerator, class_box
from vat3d.generation.train import SHAPES_FILE
from vat3d.mesh.render import save_gallery

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import OUTPUT, skip

POINTS, DRAWS, RESOLUTION = 1024, 5, 64
SHOWN = 12

Cloud = NDArray[np.float64]


def stored_clouds(datasets: list[Dataset], split: str, count: int, seed: int) -> tuple[list[Cloud], list[int]]:
    """Surface points of shapes drawn from a split, and their places among all shapes of the split."""
    places = [(dataset, row) for dataset in datasets for row in dataset.split(split)]
    chosen = np.random.default_rng(seed).permutation(len(places))[:count]
    clouds = []
    for place in chosen:
        dataset, row = places[place]
        points = dataset.batch([row])["surface"][0, :: 8192 // POINTS, :3].double().numpy()
        clouds.append(points)
    return clouds, chosen.tolist()


def chamfer_matrix(one: list[Cloud], other: list[Cloud]) -> NDArray[np.float64]:
    """Chamfer distance, both directions summed, of every pair, shape (len(one), len(other))."""
    trees = [cKDTree(cloud) for cloud in other]
    result = np.empty((len(one), len(other)))
    for i, cloud in enumerate(tqdm(one, desc="compare")):
        tree = cKDTree(cloud)
        result[i] = [
            t.query(cloud)[0].mean() + tree.query(points)[0].mean() for t, points in zip(trees, other, strict=True)
        ]
    return result


def figures(distances: NDArray[np.float64]) -> dict[str, float]:
    """Coverage and minimum matching distance from distances (samples, held-out shapes)."""
    return {
        "coverage": len(set(distances.argmin(1).tolist())) / distances.shape[1],
        "matching_distance": float(distances.min(0).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", type=Path)
    parser.add_argument("--run", type=Path, help="folder of `vat3d train-generator`")
    parser.add_argument("--out", type=Path, default=OUTPUT / "vat3d_generation")
    parser.add_argument("--count", type=int, default=96)
    args = parser.parse_args()
    if not args.datasets or args.run is None:
        skip("needs data sets (vat3d corpus) and a generator trained on them (--run)")
    args.out.mkdir(parents=True, exist_ok=True)
    datasets = [Dataset(folder) for folder in args.datasets]
    generator = MeshGenerator.from_pretrained(args.run)
    tokenizer = generator.tokenizer
    held, _ = stored_clouds(datasets, "validation", args.count, 0)
    streams = [generator.sample(1, seed=seed)[0] for seed in range(len(held))]
    meshes = [tokenizer.decode(stream, RESOLUTION) for stream in tqdm(streams, desc="decode")]
    clouds = [_points(mesh.vertices, mesh.faces) for mesh in meshes]
    result = {
        "nats": read_json(args.run / "config.json")["facts"],
        "count": len(held),
        "watertight": sum(bool(mesh.is_watertight) for mesh in meshes),
        "samples": figures(chamfer_matrix(clouds, held)),
        "training_shapes": [],
    }
    for draw in range(DRAWS):
        drawn, _ = stored_clouds(datasets, "train", len(held), 1 + draw)
        result["training_shapes"].append(figures(chamfer_matrix(drawn, held)))
    print(result["nats"])
    print(f"{len(held)} samples, {result['watertight']} watertight:", result["samples"])
    for name in ("coverage", "matching_distance"):
        values = [draw[name] for draw in result["training_shapes"]]
        print(f"random training shapes, {DRAWS} draws, {name}: mean {np.mean(values):.4f}, sd {np.std(values):.4f}")
    stored = load_file(args.run / SHAPES_FILE)
    train, places = stored_clouds(datasets, "train", 1000, 9)
    distances = chamfer_matrix(clouds[:SHOWN], train)
    rows, captions = [], []
    for sample in range(0, SHOWN, 3):
        row, texts = [], []
        for number in range(sample, sample + 3):
            nearest = int(distances[number].argmin())
            row += [meshes[number], tokenizer.decode(_stored(stored, datasets, places[nearest], generator), RESOLUTION)]
            texts += [f"sample {number}", f"nearest of {len(train)}, {distances[number, nearest]:.3f}"]
        rows.append(row)
        captions.append(texts)
    save_gallery(args.out / "generation.png", rows, captions, size=200)
    write_json(args.out / "generation.json", result)


def _points(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> Cloud:
    """Surface points in the evaluation frame."""
    low, high = vertices.min(0), vertices.max(0)
    return sample_surface((vertices - (low + high) / 2) / ((high - low).max() / 2), faces, POINTS, 0).points


def _stored(stored: dict, datasets: list[Dataset], place: int, generator: MeshGenerator) -> TokenStream:
    """The tokens of a training shape as it is: the first round of `shape_tokens`, which goes data set by data set."""
    rounds = len(stored["train.ids"]) // sum(len(dataset.split("train")) for dataset in datasets)
    row = 0
    for dataset in datasets:
        count = len(dataset.split("train"))
        if place < count:
            break
        place -= count
        row += rounds * count
    half = class_box(int(stored["train.box"][row + place]))
    model = generator.tokenizer.model
    return TokenStream(model.split(stored["train.ids"][row + place].numpy()), Frame.from_corners(-half, half), model)


if __name__ == "__main__":
    main()
