"""The codec at each effort, decimation + Draco and the bare polygon coder, compared at the same bytes.

    python benchmarks/vat3d/rivals.py [FOLDER] [--every 6] [--methods fast,draco,polygons] [--budgets 256,512]
        [--json OUT.json] [--jobs 1]

Every mesh is encoded by every method within every budget, and what the file decodes to is measured: by `vat3d.evaluate`
(as by `vat3d bench`, which gives the same figures for one effort and Draco), and in the older measure, from samples to
samples, by which earlier tables were made. Prints tables in both, and paired differences of each effort to each rival
with bootstrap intervals of 95 % over meshes; draws means against bytes, and every mesh at 256 bytes, next to OUT.json.
A mesh that fits nothing counts 0. Three efforts and both rivals at five budgets take some three hours of one core for
19 meshes; what is there is kept after each method of each mesh, and the same command goes on from it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from setcore.evaluation.bootstrap import bootstrap_mean
from setcore.files import atomic_path, read_json, write_json
from setcore.parallel.jobs import Parallel, run_tasks
from vat3d import MeshTokenizer
from vat3d.codec.effort import EFFORTS
from vat3d.evaluation.draco import best_at_budgets, draco_mesh, without_file
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.compare import Reference
from vat3d.mesh.solid import Solid
from vat3d.mesh_io.load import load_mesh

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import EMBEDDED_MESHES, commit, mesh_files, output, shared
from polygon_rival import Search
from sample_distances import f_score_of_samples

Record = dict[str, Any]
RIVALS = {"draco": "decimation + Draco", "polygons": "polygon coder"}
NEAR, FINE, NORMALS = "f_score@0.02", "f_score@0.01", "normal_consistency"
OLDER = "older_"
"""Before the names of scores in the older measure."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7")  # Okabe & Ito, for any colour vision
FIRST = 256
"""Bytes at which every mesh is drawn."""


def measure(path: Path, method: str, budgets: list[int]) -> Record:
    """Scores of what one method decodes of one mesh at each budget, None where nothing fits, and seconds."""
    source = load_mesh(path)[:2]
    reference, start = Reference(source), time.perf_counter()

    def older(mesh: Any) -> Record:
        vertices, faces, _ = load_mesh(mesh)
        return {
            f"{OLDER}{score}": f_score_of_samples(reference, vertices, faces, threshold)
            for score, threshold in ((NEAR, 0.02), (FINE, 0.01))
        }

    found: Record = {}
    if method == "draco":
        for budget, best in best_at_budgets(source, budgets).items():
            found[str(budget)] = best and without_file(best) | older(draco_mesh(source, best))
    elif method == "polygons":
        search = Search(source)
        for budget in budgets:
            mesh, facts = search.best(budget) or (None, {})
            found[str(budget)] = mesh and reference.compare(mesh) | older(mesh) | facts
    else:
        tokenizer = MeshTokenizer.from_pretrained()
        for budget in budgets:
            begun = time.perf_counter()
            stream = tokenizer.encode(source, budget, method)
            facts = {"bytes": stream.sizes["bytes"], "reported": stream.report[NEAR], "fill": stream.report["fill"]}
            facts["encode_seconds"] = round(time.perf_counter() - begun, 2)
            mesh = tokenizer.decode(stream.to_bytes())
            found[str(budget)] = reference.compare(mesh) | older(mesh) | facts
    return {"scores": found, "seconds": round(time.perf_counter() - start, 1)}


def kind(path: Path) -> Record:
    """What a mesh is."""
    vertices, faces, _ = load_mesh(path)
    mesh = canonical_mesh(vertices, faces)
    closed = bool(Solid(mesh).report["closed"])
    return {"faces": len(faces), "closed": closed, "components": int(mesh.report["components"])}


def run(files: list[Path], methods: list[str], budgets: list[int], out: Path, jobs: int) -> Record:
    """Measure what `out` does not hold yet, and keep it there."""
    settings = {"budgets": budgets, "model_id": MeshTokenizer.from_pretrained().model.model_id}
    result: Record = read_json(out) if out.exists() else {"commit": commit(), "settings": settings, "meshes": {}}
    if result["settings"] != settings:
        raise SystemExit(f"{out} was measured with {result['settings']}; name another --json")
    meshes = result["meshes"]
    for path in files:
        if path.name not in meshes:
            meshes[path.name] = kind(path) | {"methods": {}}
    left = [(path, method) for method in methods for path in files if method not in meshes[path.name]["methods"]]
    tasks = [(path.resolve(), method, budgets) for path, method in left]
    for index, found in tqdm(run_tasks(measure, tasks, Parallel(jobs)), total=len(tasks), unit="mesh and method"):
        path, method = left[index]
        if isinstance(found, Exception):
            raise found
        meshes[path.name]["methods"][method] = found
        write_json(out, result)
    return result


def scores(meshes: list[Record], method: str, budget: int, score: str) -> NDArray[np.float64]:
    """A score of each mesh; 0 where nothing fits."""
    found = (mesh["methods"][method]["scores"][str(budget)] for mesh in meshes)
    return np.array([entry[score] if entry else 0.0 for entry in found])


def measured(result: Record) -> tuple[list[Record], list[str]]:
    """The meshes, and the methods that have measured all of them: efforts, then rivals."""
    meshes = list(result["meshes"].values())
    whole = set.intersection(*({*mesh["methods"]} for mesh in meshes))
    return meshes, [method for method in (*EFFORTS, *RIVALS) if method in whole]


def label(method: str) -> str:
    """A method in a table or figure."""
    return RIVALS.get(method, f"`{method}`")


def interval(differences: NDArray[np.float64]) -> str:
    """Mean of paired differences with a bootstrap interval of 95 %."""
    low, high = bootstrap_mean(differences, 10_000)
    return f"{differences.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def rows(head: str, budgets: list[int], lines: list[tuple[str, Callable[[int], str]]]) -> str:
    """A table with a column for each budget, as Markdown."""
    table = [[head, *map(str, budgets)], ["---"] * (1 + len(budgets))]
    table += [[name, *map(cell, budgets)] for name, cell in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def tables(result: Record) -> str:
    """Means in both measures, of all meshes and of closed ones, and paired differences, as Markdown."""
    every, methods = measured(result)
    budgets, parts = result["settings"]["budgets"], []
    closed = [mesh for mesh in every if mesh["closed"]]
    groups = [(f"all {len(every)}", every), (f"closed {len(closed)} of these", closed)]

    def mean(meshes: list[Record], method: str, pair: tuple[str, str], budget: int) -> str:
        near, fine = (scores(meshes, method, budget, score).mean() for score in pair)
        return f"{near:.3f} ({fine:.3f})"

    for name, meshes in groups if closed else groups[:1]:
        for head, pair in (
            ("F@.02 (F@.01)", (NEAR, FINE)),
            ("F@.02 (F@.01), older measure", (OLDER + NEAR, OLDER + FINE)),
        ):
            lines = [(label(method), partial(mean, meshes, method, pair)) for method in methods]
            parts.append(rows(f"{head}, {name}", budgets, lines))

    def normals(method: str, budget: int) -> str:
        return f"{scores(every, method, budget, NORMALS).mean():.3f}"

    parts.append(rows("normal consistency", budgets, [(label(m), partial(normals, m)) for m in methods]))

    def difference(one: str, other: str, score: str, budget: int) -> str:
        apart = scores(every, one, budget, score) - scores(every, other, budget, score)
        return f"{interval(apart)}, {(apart > 0).sum()}"

    for score, head in ((NEAR, "F@.02"), (FINE, "F@.01")):
        lines = [
            (f"`{effort}` minus {label(rival)}", partial(difference, effort, rival, score))
            for rival in RIVALS if rival in methods for effort in EFFORTS if effort in methods
        ]  # fmt: skip
        if lines:
            parts.append(rows(f"{head}, and on how many it is better", budgets, lines))
    apart = [
        entry["reported"] - entry[NEAR]
        for mesh in every
        for method in methods
        for entry in mesh["methods"][method]["scores"].values()
        if entry and "reported" in entry
    ]
    if apart:
        away = np.abs(apart)
        parts.append(
            f"F@.02 that `encode` reports less what is measured, of {len(apart)} files: {np.mean(apart):+.4f} in the "
            f"mean, {away.max():.3f} at most."
        )
    seconds = [f"{label(m)} {np.mean([mesh['methods'][m]['seconds'] for mesh in every]):.0f}" for m in methods]
    parts.append("Seconds a mesh, all budgets together, measuring included: " + ", ".join(seconds) + ".")
    return "\n\n".join(parts)


def save_plot(result: Record, path: Path) -> None:
    """Mean F-scores against bytes: at .02 and at .01, and at .02 in the older measure."""
    meshes, methods = measured(result)
    budgets = result["settings"]["budgets"]
    titles = {NEAR: "F-score at .02", FINE: "F-score at .01", OLDER + NEAR: "F-score at .02, older measure"}
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (score, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        for method, colour, marker in zip(methods, COLOURS, "o^Dsv", strict=False):
            values = [scores(meshes, method, budget, score).mean() for budget in budgets]
            name = RIVALS.get(method, f"vat3d, {method}")
            style = "--" if method in RIVALS else "-"
            axes.plot(budgets, values, marker=marker, color=colour, label=name, ls=style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(budgets, [str(budget) for budget in budgets])
        axes.set(xlabel="bytes of file", title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"mean of {len(meshes)} meshes")
    figure.axes[0].legend(loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def save_scatter(result: Record, path: Path, effort: str = "fast", rival: str = "draco") -> None:
    """F@.02 of each mesh at 256 bytes, an effort against a rival."""
    meshes, _ = measured(result)
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    lowest = min(scores(meshes, method, FIRST, NEAR).min() for method in (effort, rival))
    ends = np.floor(10 * lowest) / 10, 1.01
    for number, closed in enumerate((True, False)):
        chosen = [mesh for mesh in meshes if mesh["closed"] == closed]
        if not chosen:
            continue
        ours, theirs = (scores(chosen, method, FIRST, NEAR) for method in (effort, rival))
        name = f"{'closed' if closed else 'open'}: {len(chosen)} meshes, {(ours > theirs).sum()} above"
        axes.scatter(theirs, ours, s=26, color=COLOURS[number], marker="os"[number], alpha=0.8, label=name)
    axes.plot(ends, ends, color="grey", lw=1)
    axes.set(xlabel=f"F-score at .02, {RIVALS[rival]}", ylabel=f"F-score at .02, vat3d, {effort}")
    axes.set(title=f"at most {FIRST} bytes", xlim=ends, ylim=ends, aspect="equal")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    meshes = shared("meshes_dev") or EMBEDDED_MESHES
    parser.add_argument("folder", nargs="?", type=Path, default=meshes, help="of meshes")
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--methods", default="fast,draco,polygons", help=", ".join((*EFFORTS, *RIVALS)))
    parser.add_argument("--budgets", default="256,512", help="bytes")
    parser.add_argument("--json", type=Path, default=output("rivals.json"))
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    args = parser.parse_args()
    budgets, methods = [int(budget) for budget in args.budgets.split(",")], args.methods.split(",")
    result = run(mesh_files(args.folder, args.every), methods, budgets, args.json, args.jobs)
    print(tables(result))
    save_plot(result, args.json.with_suffix(".png"))
    if {"fast", "draco"} <= {*measured(result)[1]} and FIRST in budgets:
        save_scatter(result, args.json.with_name(f"{args.json.stem}_meshes.png"))


if __name__ == "__main__":
    main()
