"""Are generated shapes what they are called, new, and like real ones? And does a picture say more than retrieval?

    python benchmarks/vat3d/generation.py DATASET... --run RUN [--count 192] [--cache CACHE] --out REPORT_DIR

RUN is the folder of `vat3d train-generator DATASET... --out RUN`. Held-out shapes are every second new model of known
names, those that its checkpoint was not chosen on, and the shapes of held-out names. Prints and writes to
`generation.json`:

- nats a token by scale, beside the unigram coder;
- for as many samples as held-out shapes, asked for by their names: coverage, minimum matching distance (Achlioptas et
  al., arXiv 1707.02392) and the accuracy of a nearest neighbour that tells samples from held-out shapes (1-NNA, .5 is
  best; Yang et al., arXiv 1906.12320), by chamfer distance, of some points of each to all of the other;
  the same of training shapes of other names, which are to be beaten, and of the same names, which are the ceiling;
- how near samples and held-out shapes lie to the nearest training shape: much nearer would be memory;
- the share of samples in one piece;
- how often a classifier, fitted to pictures of training shapes, calls samples and held-out shapes by their names, each
  by as many rendered views;
- from a picture of each held-out shape: chamfer distance and F-score at .05 of the sample, of the training shape whose
  pictures are nearest by the same features, and the paired difference with a bootstrap interval.

`generation.png` shows samples of twelve names, seeds 0 to 5, none chosen; `from_pictures_models.png` and
`from_pictures_validation.png` the first held-out shapes, each beside the sample from its picture and what retrieval
finds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from setcore.checkpoint import load_tensors
from setcore.evaluation.bootstrap import bootstrap_mean
from setcore.evaluation.mesh_metrics import sample_surface
from setcore.files import read_json, write_json
from vat3d.data.corpus import CACHE
from vat3d.data.dataset import Dataset
from vat3d.generation.generator import MeshGenerator
from vat3d.generation.picture_encoder import load_picture_encoder, read_pictures
from vat3d.generation.pictures import render_views
from vat3d.generation.shape_tokens import PICTURES_FILE, NamedMesh, load_shapes, named_meshes
from vat3d.generation.training_pictures import training_mesh
from vat3d.mesh.render import save_gallery

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import OUTPUT, skip

DRAWS, RESOLUTION, VIEWS, THRESHOLD = 2, 64, 4, 0.05
SHEET = ("chair", "table", "couch", "bed", "lamp", "car", "tree", "sword", "fish", "house", "ship", "mushroom")
SEEDS, SHOWN = 6, 12
QUERIED = 512
"""Points of a cloud whose distances to all points of another are averaged."""
COMPARED = 200
"""Training shapes among which the nearest one is looked for."""

Cloud = NDArray[np.float64]


def stored_cloud(mesh: NamedMesh, count: int) -> Cloud:
    """Surface points of a data set's shape, turned as the catalogue says, in the evaluation frame."""
    points = mesh.dataset.batch([mesh.row])["surface"][0, :: 8192 // count, :3].double().numpy()
    return mesh.moved_vertices(points, 0, 0)


def framed(points: Cloud) -> Cloud:
    """Centred on the box, with a longest half-side of 1."""
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) / ((high - low).max() / 2)


def whole_mesh(mesh: NamedMesh, cache: Path) -> trimesh.Trimesh | None:
    """A data set's mesh, turned as the catalogue says; None where the cache lacks it."""
    file = training_mesh(mesh.line, cache)
    return file and trimesh.Trimesh(mesh.moved_vertices(file[0], 0, 0), file[1], process=False)


def mesh_cloud(mesh: trimesh.Trimesh, count: int) -> Cloud:
    return framed(sample_surface(mesh.vertices, mesh.faces, count, 0).points)


def chamfer_matrix(one: list[Cloud], other: list[Cloud]) -> NDArray[np.float64]:
    """Chamfer distance, the mean of both directions, of every pair, shape (len(one), len(other))."""
    there = _one_way(one, other)
    back = there if one is other else _one_way(other, one)
    return (there + back.T) / 2


def _one_way(one: list[Cloud], other: list[Cloud]) -> NDArray[np.float64]:
    """Mean distance from some points of each of some clouds to each of others."""
    asked = np.concatenate([cloud[:: max(1, len(cloud) // QUERIED)] for cloud in one])
    found = [
        cKDTree(cloud).query(asked)[0].reshape(len(one), -1).mean(1) for cloud in tqdm(other, "compare", leave=False)
    ]
    return np.stack(found, axis=1)


def set_figures(made: list[Cloud], held: list[Cloud], among_held: NDArray[np.float64]) -> dict[str, float]:
    """Coverage, minimum matching distance and 1-NNA of made shapes."""
    across, among = chamfer_matrix(made, held), chamfer_matrix(made, made)
    whole = np.block([[among, across], [across.T, among_held]])
    np.fill_diagonal(whole, np.inf)
    label = np.arange(len(whole)) < len(made)
    return {
        "coverage": len(set(across.argmin(1).tolist())) / len(held),
        "matching_distance": float(across.min(0).mean()),
        "nearest_neighbour_accuracy": float((label[whole.argmin(1)] == label).mean()),
    }


def f_score(one: Cloud, other: Cloud) -> float:
    """F-score at `THRESHOLD` between points."""
    shares = [(cKDTree(b).query(a)[0] <= THRESHOLD).mean() for a, b in ((one, other), (other, one))]
    return float(2 * shares[0] * shares[1] / max(sum(shares), 1e-9))


def interval(differences: NDArray[np.float64]) -> dict[str, Any]:
    """Mean of paired differences with a bootstrap interval of 95 %."""
    return {"mean": float(differences.mean()), "interval": list(bootstrap_mean(differences, 2000))}


def from_pictures(
    generator: MeshGenerator, held: list[NamedMesh], cache: Path, train: list[NamedMesh], bank: torch.Tensor, count: int
) -> tuple[dict[str, Any], list[list[Any]]]:
    """Samples from one picture of each shape beside the training shape whose pictures are nearest; what to show."""
    found, rows = [], []
    for number, mesh in enumerate(tqdm(held, desc="from pictures")):
        whole = whole_mesh(mesh, cache)
        if whole is None:
            continue
        picture = render_views(whole.vertices, whole.faces, 1, seed=10_000 + number)[0]
        sample = generator.tokenizer.decode(generator.sample(1, image=picture)[0], RESOLUTION)
        features = load_picture_encoder()(torch.from_numpy(read_pictures([picture])[0])).mean(1)
        near = train[int((bank - features).square().sum(-1).amin(1).argmin())]
        cloud, pair = stored_cloud(mesh, count), (mesh_cloud(sample, count), stored_cloud(near, count))
        found.append([*(chamfer_matrix([part], [cloud])[0, 0] for part in pair), *(f_score(p, cloud) for p in pair)])
        if len(rows) < SHOWN and (other := whole_mesh(near, cache)):
            rows.append([whole, sample, other])
    table = np.array(found)
    return {
        "shapes": len(table),
        "chamfer": dict(zip(("sample", "retrieval"), table[:, :2].mean(0).tolist(), strict=True)),
        "f_score@0.05": dict(zip(("sample", "retrieval"), table[:, 2:].mean(0).tolist(), strict=True)),
        "chamfer_difference": interval(table[:, 0] - table[:, 1]),
        "f_score_difference": interval(table[:, 2] - table[:, 3]),
    }, rows


def view_features(mesh: trimesh.Trimesh, seed: int) -> NDArray[np.float32]:
    """Features of rendered views of a shape, means over patches, shape (views, c)."""
    pictures = render_views(mesh.vertices, mesh.faces, VIEWS, seed=seed)
    return np.asarray(load_picture_encoder()(torch.from_numpy(pictures)).mean(1).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", type=Path)
    parser.add_argument("--run", type=Path, help="folder of `vat3d train-generator`")
    parser.add_argument("--out", type=Path, default=OUTPUT / "vat3d_generation")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where `vat3d corpus` left the meshes")
    parser.add_argument("--count", type=int, default=192, help="samples and held-out shapes, at most")
    parser.add_argument("--points", type=int, default=2048, help="on each surface")
    args = parser.parse_args()
    if not args.datasets or args.run is None:
        skip("needs data sets (vat3d corpus) and a generator trained on them (--run)")
    args.out.mkdir(parents=True, exist_ok=True)
    generator = MeshGenerator.from_pretrained(args.run)
    names, (_, facts), rng = generator.categories, load_shapes(args.run), np.random.default_rng(0)
    parts = named_meshes([Dataset(folder) for folder in args.datasets])
    listed = {part: set(facts["meshes"][part]) for part in parts}
    meshes = {part: [mesh for mesh in parts[part] if mesh.line["name"] in listed[part]] for part in parts}
    result: dict[str, Any] = {}

    def note(key: str, value: Any) -> None:
        """Keep and show what is known so far."""
        result[key] = value
        print(key, value, flush=True)
        write_json(args.out / "generation.json", result)

    note("nats", read_json(args.run / "config.json")["facts"])

    def name_of(mesh: NamedMesh) -> str:
        return next((name for name in mesh.names if name in names), "")

    meshes["models"] = meshes["models"][1::2]
    held = [mesh for mesh in (*meshes["models"], *meshes["validation"]) if name_of(mesh)]
    held = [held[i] for i in rng.permutation(len(held))[: args.count]]
    asked = [name_of(held[i % len(held)]) for i in range(args.count)]
    samples = []
    for number, name in enumerate(tqdm(asked, desc="sample")):
        stream = generator.sample(1, name, seed=1000 + number)[0]
        samples.append(generator.tokenizer.decode(stream, RESOLUTION))
    clouds = [mesh_cloud(mesh, args.points) for mesh in samples]
    held_clouds = [stored_cloud(mesh, args.points) for mesh in held]
    among = chamfer_matrix(held_clouds, held_clouds)
    matched = clouds[: len(held)]
    note("shapes", {"samples": len(samples), "held_out": len(held), "points": args.points, "names": len(set(asked))})
    note("samples", set_figures(matched, held_clouds, among))
    note("one_piece", float(np.mean([mesh.body_count == 1 for mesh in samples])))
    note("watertight", float(np.mean([mesh.is_watertight for mesh in samples])))
    train = meshes["train"]
    by_name = {name: [mesh for mesh in train if name in mesh.names] for name in set(asked)}
    for kind in ("other_names", "same_names"):
        rows = []
        for _ in range(DRAWS):
            drawn = []
            for name in asked[: len(held)]:
                pool = by_name[name] if kind == "same_names" else [mesh for mesh in train if name not in mesh.names]
                drawn.append(stored_cloud(pool[rng.integers(len(pool))], args.points))
            rows.append(set_figures(drawn, held_clouds, among))
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        note(kind, {key: {"mean": float(np.mean(v)), "sd": float(np.std(v))} for key, v in columns.items()})
    some = [train[i] for i in rng.permutation(len(train))[:COMPARED]]
    train_clouds = [stored_cloud(mesh, args.points) for mesh in some]
    asking = {"samples": matched, "held_out": held_clouds}
    nearest = {key: float(chamfer_matrix(part, train_clouds).min(1).mean()) for key, part in asking.items()}
    note("nearest_training_shape", nearest)
    pictures = load_tensors(args.run / PICTURES_FILE)
    table = pictures["train"].float().mean(-2).flatten(1, 2)
    labels = np.array([name_of(mesh) for mesh in train])
    keep = table.any(-1).all(-1).numpy() & (labels != "")
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, C=0.03)).fit(
        table.numpy()[keep].reshape(-1, table.shape[-1]), np.repeat(labels[keep], table.shape[1])
    )

    def right(features: NDArray[np.float32], name: str) -> bool:
        return str(fitted.classes_[fitted.predict_log_proba(features).sum(0).argmax()]) == name

    real = [
        right(view_features(whole, seed), name_of(mesh))
        for seed, mesh in enumerate(held)
        if (whole := whole_mesh(mesh, args.cache))
    ]
    made = [
        right(view_features(mesh, seed), name) for seed, (mesh, name) in enumerate(zip(samples, asked, strict=True))
    ]
    note("class_accuracy", {"samples": float(np.mean(made)), "held_out": float(np.mean(real))})
    for part in ("models", "validation"):
        found, shown = from_pictures(generator, meshes[part][: args.count], args.cache, train, table, args.points)
        note(f"from_pictures_{part}", found)
        if shown:
            captions = [["true", "sample", "retrieval"] for _ in shown]
            save_gallery(args.out / f"from_pictures_{part}.png", shown, captions, size=160, together=False)
    known = [name for name in SHEET if name in names]
    streams = [[generator.sample(1, name, seed=seed)[0] for seed in range(SEEDS)] for name in known]
    sheet = [[generator.tokenizer.decode(stream, RESOLUTION) for stream in row] for row in streams]
    captions = [[f"{name} {seed}" for seed in range(SEEDS)] for name in known]
    save_gallery(args.out / "generation.png", sheet, captions, size=160, together=False)


if __name__ == "__main__":
    main()
