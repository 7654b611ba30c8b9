"""Pages to look at in a browser or a notebook: voxels with their preferred pictures, and maps on a surface to turn."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from braincl.analysis.maps import voxel_maps
from braincl.errors import ResponseError
from braincl.plot.axes import COLOURS
from braincl.plot.brain import DIVERGING, fsaverage5, nilearn, vertex_values
from braincl.plot.pictures import picture_pixels
from braincl.plot.tuning import principal_components
from setcore.files import write_bytes
from setcore.package import need_plotly
from setcore.seeding import numpy_generator

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_VOXELS = 5000  # that a browser still moves about with ease
TILE, TILES = 64, 20  # pixels of a picture on the page, and pictures of a row of the sheet that holds them
HEIGHT = 720  # of a page in a notebook


@dataclass(frozen=True, repr=False)
class Page:
    """A page that needs no network: a notebook shows it, `save` writes it.

    Parameters
    ----------
    html : str
    """

    html: str

    def save(self, path: str | Path) -> None:
        """Write the page.

        Parameters
        ----------
        path : path

        Raises
        ------
        InputError
            It cannot be written.
        """
        write_bytes(path, self.html.encode())

    def __repr__(self) -> str:
        return f"Page({len(self.html) / 1e6:.1f} MB of HTML; save it with .save(path))"

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.html)}" width="100%" height="{HEIGHT}" style="border:0"></iframe>'


def view_voxels(
    predicted: xr.Dataset,
    observed: xr.Dataset | None = None,
    pictures: Sequence[Any] | None = None,
    *,
    count: int = 5,
    seed: int = 0,
) -> Page:
    """Voxels as points: r against noise ceiling, and what they are tuned to; a voxel's pictures appear on hover.

    Parameters
    ----------
    predicted : Dataset
        As from `braincl.analysis.predict.predict_responses` or in a file of `braincl predict`: ``prediction
        (image, voxel)``, ``prediction_std``, ``weights (voxel, feature)``, and `roi` (voxel) where areas are known.
    observed : response set, optional
        Measured responses to the same pictures. Where a noise ceiling is known too, r is drawn against it.
    pictures : sequence of length m, optional
        For each predicted picture a path, an image or its name. None: their `image_id`.
    count : int
        Pictures of the highest and of the lowest predicted responses that are shown of each voxel.
    seed : int
        Which voxels are drawn where there are more than `MOST_VOXELS`.

    Returns
    -------
    Page

    Raises
    ------
    InputError
        plotly is not installed.
    ResponseError
        There are fewer than ``2 * count`` pictures or fewer than 3 voxels with weights, or something is missing.
    """
    if missing := [name for name in ("prediction", "prediction_std", "weights") if name not in predicted]:
        raise ResponseError(f"the set has no {missing[0]!r}; give what `braincl predict` wrote")
    shown = [str(name) for name in _image_ids(predicted)] if pictures is None else list(pictures)
    if len(shown) != predicted.sizes["image"] or len(shown) < 2 * count:
        raise ResponseError(
            f"{len(shown)} pictures for {predicted.sizes['image']} predictions; give one for each, {2 * count} or more"
        )
    lengths = np.linalg.norm(predicted["weights"].values.astype(float), axis=1)
    usable = np.flatnonzero(np.isfinite(lengths) & (lengths > 0))
    if len(usable) < 3:
        raise ResponseError(f"{len(usable)} voxels have weights; a picture of tuning needs at least 3")
    if len(usable) > MOST_VOXELS:
        usable = np.sort(numpy_generator(seed, "view_voxels").choice(usable, MOST_VOXELS, replace=False))
    part = predicted.isel(voxel=usable)
    maps = voxel_maps(part, None if observed is None else observed.isel(voxel=usable))
    r = maps["pearson_r"].values if "pearson_r" in maps else None
    ceiling = maps["noise_ceiling"].values if "noise_ceiling" in maps.coords else None
    places, shares = principal_components(part["weights"].values / lengths[usable, None])
    panels = [("tuning", places, [f"component {n} ({share:.0%} of variance)" for n, share in enumerate(shares, 1)])]
    if r is not None and ceiling is not None:
        panels.insert(0, ("prediction", np.stack([ceiling, r], axis=1), ["noise ceiling", "Pearson r"]))
    roi = part["roi"].values.astype(str) if "roi" in part.coords else np.full(len(usable), "voxels")
    order = np.argsort(-part["prediction"].values, axis=0, kind="stable")
    facts = {
        "names": [
            _caption(str(name), area, *(None if of is None else float(of[v]) for of in (r, ceiling)))
            for v, (name, area) in enumerate(zip(part["voxel_id"].values, roi, strict=True))
        ],
        "highest": order[:count].T.tolist(),
        "lowest": order[::-1][:count].T.tolist(),
        "first": int(np.nanargmax(lengths[usable] if r is None else np.nan_to_num(r, nan=-1.0))),
        **_sheet(shown),
    }
    drawn = f"{len(usable):,} of {predicted.sizes['voxel']:,} voxels; move over one to see its pictures"
    figure = _points(panels, roi, drawn).to_html(include_plotlyjs=True, full_html=False, div_id="voxels")
    return Page(_PAGE.replace("FIGURE", figure).replace("FACTS", json.dumps(facts).replace("</", "<\\/")))


def view_surface(values: Any, hemisphere: str = "left", *, label: str = "", vmax: float | None = None) -> Page:
    """Values of vertices on the inflated surface of fsaverage5, to turn with the mouse.

    Parameters
    ----------
    values : array of shape (10242,)
        NaN stays bare. See `project_to_surface` for data of a volume.
    hemisphere : {"left", "right"}
    label : str
        What the values are.
    vmax : float, optional
        Colours go from -vmax to vmax; None: to the value farthest from 0.

    Returns
    -------
    Page

    Raises
    ------
    InputError
        nilearn is not installed.
    ResponseError
        The hemisphere is unknown, or there is not one value for each vertex.
    """
    plotting, mesh = nilearn("plotting"), fsaverage5(hemisphere)
    values = vertex_values(values)
    largest = float(np.nanmax(np.abs(values), initial=0, where=np.isfinite(values))) or 1.0
    view = plotting.view_surf(
        mesh[f"infl_{hemisphere}"], np.nan_to_num(values), bg_map=mesh[f"sulc_{hemisphere}"], threshold=1e-12,
        cmap=DIVERGING, symmetric_cmap=True, vmax=vmax or largest, title=label or None,
    )  # fmt: skip
    return Page(view.html)


def _points(panels: Sequence[tuple[str, NDArray[Any], Sequence[str]]], roi: NDArray[Any], title: str) -> Figure:
    """A figure with a panel for each kind of places, and areas in colours that the legend turns on and off."""
    need_plotly()
    from plotly.graph_objects import Scattergl
    from plotly.subplots import make_subplots

    figure = make_subplots(cols=len(panels), horizontal_spacing=0.1)
    for column, (_, places, labels) in enumerate(panels, start=1):
        for number, area in enumerate(sorted(set(roi.tolist()))):
            inside = np.flatnonzero(roi == area)
            figure.add_trace(
                Scattergl(
                    x=places[inside, 0].astype(np.float32), y=places[inside, 1].astype(np.float32), mode="markers",
                    marker={"size": 5, "opacity": 0.6, "color": COLOURS[number % len(COLOURS)]}, name=area,
                    legendgroup=area, showlegend=column == 1, customdata=inside, hoverinfo="none",
                ), 1, column,
            )  # fmt: skip
        figure.update_xaxes(title_text=labels[0], row=1, col=column)
        figure.update_yaxes(title_text=labels[1], row=1, col=column)
    margin = {"l": 60, "r": 20, "t": 50, "b": 50}
    figure.update_layout(title=title, height=420, margin=margin, template="plotly_white", hovermode="closest")
    return figure


def _caption(name: str, area: str, r: float | None, ceiling: float | None) -> str:
    known = {"r": r, "noise ceiling": ceiling}
    said = [f"{what} {value:.2f}" for what, value in known.items() if value is not None and np.isfinite(value)]
    return ", ".join([f"voxel {name}", area, *said])


def _image_ids(dataset: xr.Dataset) -> Sequence[Any]:
    names = dataset["image_id"].values if "image_id" in dataset.coords else range(dataset.sizes["image"])
    return list(names)


def _sheet(pictures: Sequence[Any]) -> dict[str, Any]:
    """The pictures as one image (data URI), and the names of those that are names; the others have ""."""
    sheet = Image.new("RGB", (TILES * TILE, -(-len(pictures) // TILES) * TILE), "white")
    names = []
    for number, picture in enumerate(pictures):
        pixels = picture_pixels(picture)
        names.append(str(picture) if pixels is None else "")
        if pixels is not None:
            image = Image.fromarray(pixels)
            image.thumbnail((TILE, TILE))
            row, column = divmod(number, TILES)
            sheet.paste(image, (column * TILE + (TILE - image.width) // 2, row * TILE + (TILE - image.height) // 2))
    if all(names):
        return {"sheet": "", "texts": names}
    stored = io.BytesIO()
    sheet.save(stored, "JPEG", quality=80)
    return {"sheet": "data:image/jpeg;base64," + base64.b64encode(stored.getvalue()).decode(), "texts": names}


_PAGE = """<!doctype html>
<html><head><meta charset="utf-8"><title>voxels</title><style>
body { font-family: sans-serif; margin: 8px }
.row { display: flex; flex-wrap: wrap; align-items: center; margin: 6px 0 }
.row b { width: 70px; font-weight: normal }
.tile { width: 64px; height: 64px; margin: 3px; border: 1px solid #ccc; font-size: 10px; overflow: hidden;
        display: flex; align-items: center; justify-content: center; text-align: center; overflow-wrap: anywhere }
</style></head><body>
FIGURE
<div id="name"></div><div class="row" id="highest"></div><div class="row" id="lowest"></div>
<script>
const facts = FACTS;
function tile(number) {
  const made = document.createElement("div");
  made.className = "tile";
  if (facts.texts[number]) made.textContent = facts.texts[number];
  else {
    made.style.backgroundImage = "url(" + facts.sheet + ")";
    made.style.backgroundPosition = `-${64 * (number % 20)}px -${64 * Math.floor(number / 20)}px`;
  }
  return made;
}
function show(voxel) {
  document.getElementById("name").textContent = facts.names[voxel] + ": predicted responses";
  for (const row of ["highest", "lowest"]) {
    const heading = document.createElement("b");
    heading.textContent = row;
    document.getElementById(row).replaceChildren(heading, ...facts[row][voxel].map(tile));
  }
}
document.getElementById("voxels").on("plotly_hover", event => show(event.points[0].customdata));
show(facts.first);
</script></body></html>
"""
