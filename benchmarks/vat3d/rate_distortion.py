"""Rate and distortion of the codec beside decimation + Draco: curves with quartiles, a table by kind.

    vat3d bench FOLDER --budgets 256,512,1024 --effort fast --json fast.json          (and so for other efforts)
    python benchmarks/vat3d/rate_distortion.py fast.json normal.json best.json --out REPORT_DIR [--classes FOLDER]

Compares efforts on the meshes that all of the files hold; several files of one effort (a folder measured in parts)
count as one run. Writes `rate_distortion.png`, `meshes.png` (every mesh at the smallest budget, last effort) and
`table.md`, with `--classes` (the folder that was measured) by class, too.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from setcore.files import atomic_path, read_json
from vat3d import MeshTokenizer
from vat3d.evaluation.bench import bench

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import EMBEDDED_MESHES, OUTPUT

SCORE = "f_score@0.02"
FEW_COMPONENTS = 3
MIDDLE = 512  # bytes, of the table by class
COD_VAE = (
    "cod-vae (MIT; weights not reachable here) publishes a volume IoU of about .90 on ABC at 16 x 16 int8 numbers = "
    "256 bytes, without a file format."
)

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe & Ito, told apart with any colour vision
Record = dict[str, Any]
Kind = Callable[[Record], bool]
KINDS: dict[str, Kind] = {
    "all": lambda mesh: True,
    "closed": lambda mesh: mesh["closed"],
    "open": lambda mesh: not mesh["closed"],
    f"{FEW_COMPONENTS} components or fewer": lambda mesh: mesh["components"] <= FEW_COMPONENTS,
    f"more than {FEW_COMPONENTS} components": lambda mesh: mesh["components"] > FEW_COMPONENTS,
}


def scores(meshes: list[Record], method: str, budget: str) -> np.ndarray:
    """F@.02 of each mesh; 0 where nothing fits."""
    found = (mesh[method].get(budget) for mesh in meshes)
    return np.array([entry[SCORE] if entry else 0.0 for entry in found])


def common_meshes(runs: dict[str, Record]) -> dict[str, Record]:
    """The runs with only those meshes that all of them measured."""
    shared = set.intersection(*({mesh["file"] for mesh in run["meshes"]} for run in runs.values()))
    return {
        effort: run | {"meshes": [mesh for mesh in run["meshes"] if mesh["file"] in shared]}
        for effort, run in runs.items()
    }


def curves(runs: dict[str, Record]) -> list[tuple[str, str, list[Record], list[int]]]:
    """Label, method, meshes and budgets of every curve: ours at each effort, then Draco as in the longest run."""
    lines = [(f"vat3d, {effort}", "ours", run["meshes"], run["settings"]["budgets"]) for effort, run in runs.items()]
    longest = max(runs.values(), key=lambda run: len(run["settings"]["budgets"]))
    return [*lines, ("decimation + Draco", "draco", longest["meshes"], longest["settings"]["budgets"])]


def save_plot(runs: dict[str, Record], path: Path) -> None:
    """Mean F@.02 against bytes with quartiles, for all meshes and, where some are open, for closed ones."""
    kinds = ("closed",) if all(mesh["closed"] for mesh in curves(runs)[0][2]) else ("all", "closed")
    figure = Figure(figsize=(5 * len(kinds), 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds, strict=True):
        for number, (label, method, meshes, budgets) in enumerate(curves(runs)):
            chosen = [mesh for mesh in meshes if KINDS[kind](mesh)]
            values = np.array([scores(chosen, method, str(budget)) for budget in budgets])
            colour, marker = ("black", "s") if method == "draco" else (COLOURS[number], "o^Dv"[number])
            axes.plot(budgets, values.mean(1), marker=marker, color=colour, label=label)
            axes.fill_between(budgets, *np.quantile(values, (0.25, 0.75), axis=1), color=colour, alpha=0.12, lw=0)
        ceiling = np.mean([mesh["ceiling"][SCORE] for mesh in meshes if KINDS[kind](mesh)])
        axes.axhline(ceiling, color="grey", ls="--", label="ceiling")
        axes.set_xscale("log", base=2)
        axes.set_xticks(budgets, [str(budget) for budget in budgets])
        axes.set(xlabel="bytes of file", title=f"{kind}: {len(chosen)} meshes")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("F-score at .02, mean and quartiles")
    figure.axes[0].set_ylim(top=1.005)
    figure.axes[-1].legend(loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def save_scatter(run: Record, path: Path) -> None:
    """F@.02 of each mesh at the smallest budget, ours against Draco's."""
    effort, budget = run["settings"]["effort"], str(min(run["settings"]["budgets"]))
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    lowest = min(scores(run["meshes"], method, budget).min() for method in ("ours", "draco"))
    ends = np.floor(10 * lowest) / 10, 1.01
    for number, kind in enumerate(("closed", "open")):
        chosen = [mesh for mesh in run["meshes"] if KINDS[kind](mesh)]
        ours, draco = (scores(chosen, method, budget) for method in ("ours", "draco"))
        label = f"{kind}: {len(chosen)} meshes, {(ours > draco).sum()} above"
        axes.scatter(draco, ours, s=26, color=COLOURS[number], marker="os"[number], alpha=0.8, label=label)
    axes.plot(ends, ends, color="grey", lw=1)
    axes.set(xlabel="F-score at .02, decimation + Draco", ylabel=f"F-score at .02, vat3d, {effort}")
    axes.set(title=f"at most {budget} bytes", xlim=ends, ylim=ends, aspect="equal")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def joined(found: list[Record]) -> dict[str, Record]:
    """Runs by effort; parts of one run, measured with the same settings, are put together."""
    runs: dict[str, Record] = {}
    for run in found:
        effort = run["settings"]["effort"]
        if effort in runs and runs[effort]["settings"] != run["settings"]:
            raise SystemExit(f"two files of effort {effort} were measured with different settings; name one of them")
        meshes = runs.get(effort, {"meshes": []})["meshes"] + run["meshes"]
        runs[effort] = run | {"meshes": sorted(meshes, key=lambda mesh: mesh["file"])}
    return runs


def table(runs: dict[str, Record], classes: dict[str, str]) -> str:
    """Mean F@.02 by kind of mesh, and by class at the middle budget, as Markdown."""
    lines = ["| meshes | method | " + " | ".join(map(str, curves(runs)[-1][3])) + " |"]
    lines.append("|" + "---|" * lines[0].count("|"))
    lines[1] = lines[1][: -len("---|")]
    for kind, belongs in KINDS.items():
        for label, method, meshes, budgets in curves(runs):
            chosen = [mesh for mesh in meshes if belongs(mesh)]
            if chosen:
                cells = [
                    f"{scores(chosen, method, str(budget)).mean():.3f}" if budget in budgets else ""
                    for budget in curves(runs)[-1][3]
                ]
                lines.append(f"| {kind} ({len(chosen)}) | {label} | " + " | ".join(cells) + " |")
    lines += ["", *sizes_table(runs)]
    if classes:
        middle = str(MIDDLE)
        lines += [
            "",
            f"F@.02 at {middle} bytes by class:",
            "",
            "| class | " + " | ".join(c[0] for c in curves(runs)) + " |",
        ]
        lines.append("|" + "---|" * (1 + len(curves(runs))))
        for name in sorted(set(classes.values())):
            cells = []
            for _, method, meshes, _ in curves(runs):
                chosen = [mesh for mesh in meshes if classes.get(mesh["file"]) == name]
                cells.append(f"{scores(chosen, method, middle).mean():.2f}" if chosen else "-")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", COD_VAE, ""])


def sizes_table(runs: dict[str, Record]) -> list[str]:
    """Mean bytes of header and payload, coded and at whole bits an id, of the last run."""
    effort, run = list(runs.items())[-1]
    lines = [
        f"Mean bytes of a file, `{effort}`:",
        "",
        "| budget | header | ids at 9 bits | ids coded | file |",
        "|" + "---|" * 5,
    ]
    for budget in map(str, run["settings"]["budgets"]):
        found = [mesh["ours"][budget] for mesh in run["meshes"] if mesh["ours"][budget]]
        cells = [
            f"{np.mean([entry[key] for entry in found]):.1f}" for key in ("header", "payload_raw", "payload", "bytes")
        ]
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    return lines


def read_classes(folder: Path | None) -> dict[str, str]:
    """Class of each file by the folder's `index.csv`, where it has one."""
    index = folder / "index.csv" if folder else None
    if index is None or not index.is_file():
        return {}
    with open(index, encoding="utf-8", newline="") as file:
        return {row["file"]: row["class"] for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", nargs="*", type=Path, help="files of `vat3d bench` (default: of the embedded mesh)")
    parser.add_argument("--out", type=Path, default=OUTPUT / "vat3d_rate_distortion")
    parser.add_argument("--classes", type=Path, metavar="FOLDER", help="the meshes that were measured: their index.csv")
    parser.add_argument("--model")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.bench:
        args.bench = [args.out / "fast.json"]
        bench(EMBEDDED_MESHES, MeshTokenizer.from_pretrained(args.model), args.bench[0], (256, 512), "fast")
    runs = common_meshes(joined([read_json(path) for path in args.bench]))
    save_plot(runs, args.out / "rate_distortion.png")
    last = list(runs.values())[-1]
    save_scatter(last, args.out / "meshes.png")
    text = table(runs, read_classes(args.classes))
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
