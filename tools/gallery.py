"""Every figure of `braincl.plot` on the embedded demo subject, as PNG: ``python tools/gallery.py [--out FOLDER]``.

The subject is simulated (`braincl/embedded/demo/README.md`): the figures show what the functions draw, nothing about
brains. The curves are drawn from `benchmarks/results/braincl/demo.json`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import braincl
from braincl import plot
from braincl.analysis.attribution import context_shares
from braincl.analysis.predict import predict_responses
from braincl.demo import MODEL, SUBJECT, demo_pictures
from braincl.evaluation.splits import context_draws
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.plot.brain import DIVERGING
from setcore.files import atomic_path, read_json

ROOT = Path(__file__).resolve().parents[1]
CONTEXT, TEST_IMAGES = 100, 200
CUTS = (-4, 6, 16, 26)  # mm
LIMIT = 0.8  # of colours for Pearson r
LARGEST = 300_000  # bytes of a picture in git


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gallery")
    parser.add_argument("--only", nargs="*", help="names of figures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    gallery = Gallery()
    for name, draw in gallery.figures().items():
        if not args.only or name in args.only:
            size = save(draw(), args.out / f"{name}.png")
            print(f"{args.out / name}.png: {size} bytes", flush=True)


def save(drawn: Any, path: Path) -> int:
    """Write the figure that axes belong to; returns the size of the file."""
    axes = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
    figure = axes if isinstance(axes, Figure) else axes.figure
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, bbox_inches="tight", facecolor="white")
    size = path.stat().st_size
    if size > LARGEST:
        raise RuntimeError(f"{path} has {size} bytes, more than {LARGEST}")
    return size


class Gallery:
    """The demo subject, read and predicted once."""

    def __init__(self) -> None:
        self.subject = braincl.open_responses(SUBJECT)
        splits = context_draws(self.subject["image_id"].values, (CONTEXT,), 1, TEST_IMAGES, 0)
        self.context = self.subject.isel(image=splits.contexts[CONTEXT][0])
        self.test = self.subject.isel(image=splits.test)
        self.encoder = braincl.InContextEncoder.from_pretrained(MODEL)
        self.predicted = predict_responses(self.encoder, self.context, self.test)
        self.maps = braincl.voxel_maps(self.predicted, self.test)
        self.roi = self.subject["roi"].values
        with open(SUBJECT.parent / "CREDITS.tsv", encoding="utf-8") as file:
            self.names = {row["image_id"]: row["name"] for row in csv.DictReader(file, delimiter="\t")}
        self.best = int(np.nanargmax(np.where(self.roi == "LOC", self.maps["pearson_r"], -1)))

    def figures(self) -> dict[str, Callable[[], Any]]:
        """What is drawn, by the name of the file."""
        return {
            "roi_bars": lambda: plot.draw_roi_bars(
                {"raw": self.maps["explained_variance"], "as a share of the noise ceiling":
                 self.maps["normalized_explained_variance"]}, self.roi, label="explained variance",
            ),
            "reliability": self.reliability,
            "slices": lambda: plot.draw_slices(
                self.maps["pearson_r"], self.subject, label="Pearson r of new pictures", vmax=LIMIT, cuts=CUTS
            ),
            "glass_brain": lambda: plot.draw_glass_brain(
                self.maps["pearson_r"], self.subject, label="Pearson r of new pictures", vmax=LIMIT
            ),
            "surface": self.surface,
            "selectivity": self.selectivity,
            "tuning_pca": lambda: plot.draw_tuning(self.encoder.coef_, self.roi),
            "top_pictures_voxel": lambda: plot.draw_pictures(
                self.predicted["prediction"].values[:, self.best], self.shown(self.test),
                label=f"voxel {self.subject['voxel_id'].values[self.best]} (LOC), predicted responses to new pictures",
            ),
            "top_pictures_roi": lambda: plot.draw_pictures(
                standardised(self.predicted["prediction"].values)[:, self.roi == "PPA"].mean(axis=1),
                self.shown(self.test), label="PPA: predicted responses to new pictures, z-scored per voxel, mean",
            ),
            "context_shares": lambda: plot.draw_context(
                context_shares(self.encoder)[self.best], self.shown(self.context),
                label=f"what the weights of voxel {self.subject['voxel_id'].values[self.best]} rest on",
            ),
            "context_attention_per_voxel": self.attention,
            "curves_r": lambda: plot.draw_scores(read_json(ROOT / "benchmarks/results/braincl/demo.json")),
        }  # fmt: skip

    def reliability(self) -> Any:
        """The model's intervals beside those of ridge."""
        X, Y = self.context["embedding"].values, self.context["response"].values
        axes = None
        for label, encoder in (("model", self.encoder), ("ridge", braincl.RidgeCV())):
            mean, std = encoder.fit(X, Y).predict(self.test["embedding"].values, return_std=True)
            axes = plot.draw_reliability(self.test["response"].values, mean, std, axes, label=label)
        return axes

    def surface(self) -> Any:
        """Both hemispheres from three sides, with one scale of colours."""
        figure = Figure(figsize=(8, 9))
        grid = figure.subplots(3, 2, subplot_kw={"projection": "3d"})
        for column, side in zip(grid.T, ("left", "right"), strict=True):
            values = plot.project_to_surface(self.maps["pearson_r"], self.subject, side, radius=6)
            for axes, view in zip(column, ("lateral", "medial", "ventral"), strict=True):
                plot.draw_surface(values, side, axes, view=view, vmax=LIMIT, colorbar=False)
        figure.subplots_adjust(left=0, right=0.86, top=0.92, bottom=0, wspace=0, hspace=0.05)
        scale = ScalarMappable(Normalize(-LIMIT, LIMIT), DIVERGING)
        figure.colorbar(scale, cax=figure.add_axes((0.88, 0.3, 0.025, 0.4)), label="Pearson r of new pictures")
        figure.suptitle("fsaverage5; the demo subject's space is another, so that positions are approximate")
        return figure

    def selectivity(self) -> Any:
        """Voxels that are predicted to prefer chairs to other furniture."""
        chairs = np.array(["chair" in self.names[image_id].lower() for image_id in self.test["image_id"].values])
        found = braincl.picture_selectivity(self.predicted, chairs)["selectivity"]
        label = f"selectivity d', {chairs.sum()} chairs against {(~chairs).sum()} other pictures"
        return plot.draw_slices(found, self.subject, label=label, cuts=CUTS)

    def attention(self) -> Any:
        """The published network at random weights: it shows the function, and that nothing has been learned."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = PerVoxelConfig(self.context.sizes["feature"], width=80, layers=2, hidden=64)
            network = PerVoxelNetwork(config).eval()
        few = self.context.isel(voxel=[self.best])
        encoder = braincl.InContextEncoder(network).fit(few["embedding"].values, few["response"].values)
        label = "per_voxel network at RANDOM weights: attention of its read-out token, last layer"
        return plot.draw_context(context_shares(encoder)[0], self.shown(self.context), label=label)

    def shown(self, dataset: xr.Dataset) -> list[Any]:
        """The pictures of a response set."""
        return list(demo_pictures(dataset["image_id"].values.tolist()))


def standardised(values: Any) -> Any:
    """Zero mean and unit variance per voxel; constant ones stay 0."""
    spread = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)


if __name__ == "__main__":
    main()
