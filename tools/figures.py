"""Redraw every static figure of README and docs from what is stored: ``python tools/figures.py [NAMES...]``.

Measurements lie in `benchmarks/results/`, each with the command that made it and the commit that was measured;
figures of `braincl.plot` are drawn of the embedded demo subject (`tools/gallery.py`), samples of the generator of its
embedded weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in (".", "tools", "benchmarks", "benchmarks/braincl", "benchmarks/vat3d"):  # "." first: two are namesakes
    sys.path.append(str(ROOT / folder))

import designs
import held_out
import optimum
import rivals

from setcore.files import read_json
from vat3d.generation.generator import MeshGenerator
from vat3d.mesh.render import save_gallery

OUT, RESULTS = ROOT / "docs" / "figures", ROOT / "benchmarks" / "results"
DRAWS = 6
NAMES = ("chair", "table", "couch", "bed", "lamp", "car", "tree", "sword", "fish", "house", "ship", "mushroom")


def draw_optimum(path: Path) -> None:
    """Explained variance against the Bayes optimum of simulated populations."""
    optimum.plot(read_json(RESULTS / "braincl" / "optimum.json")["populations"], path)


def draw_efforts(path: Path) -> None:
    """F-score against bytes of every effort and its rivals, on every sixth development mesh."""
    rivals.save_plot(read_json(RESULTS / "vat3d" / "rivals.json"), path)


def draw_meshes(path: Path) -> None:
    """Each mesh at 256 bytes."""
    rivals.save_scatter(read_json(RESULTS / "vat3d" / "rivals.json"), path)


def draw_held_out(path: Path) -> None:
    """Held-out meshes and what Draco makes of them."""
    held_out.draw(read_json(RESULTS / "vat3d" / "held_out.json"), path)


def draw_samples(path: Path) -> None:
    """The first draws of the generator for twelve names, seeds 0 to 5, none chosen."""
    generator = MeshGenerator.from_pretrained()
    streams = [[generator.sample(1, name, seed=seed)[0] for seed in range(DRAWS)] for name in NAMES]
    rows = [[generator.tokenizer.decode(stream, 64) for stream in row] for row in streams]
    save_gallery(path, rows, [[f"{name} {n}" for n in range(DRAWS)] for name in NAMES], size=120, together=False)


def draw_braincl_design(path: Path) -> None:
    """How braincl works."""
    designs.draw(designs.BRAINCL, designs.BRAINCL_ARROWS, path)


def draw_vat3d_design(path: Path) -> None:
    """How vat3d works."""
    designs.draw(designs.VAT3D, designs.VAT3D_ARROWS, path, designs.REFINEMENT)


FIGURES = {
    "braincl_design": draw_braincl_design,
    "vat3d_design": draw_vat3d_design,
    "braincl_optimum": draw_optimum,
    "vat3d_efforts": draw_efforts,
    "vat3d_meshes_256": draw_meshes,
    "vat3d_gallery": draw_held_out,
    "vat3d_generation": draw_samples,
}


def main() -> None:
    """Draw all figures, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of files in docs/figures, without .png: {', '.join(FIGURES)}")
    names = parser.parse_args().names or list(FIGURES)
    if unknown := sorted(set(names) - set(FIGURES)):
        parser.error(f"there is no figure {unknown[0]}")
    for name in names:
        path = OUT / f"{name}.png"
        FIGURES[name](path)
        print(f"{path}: {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
