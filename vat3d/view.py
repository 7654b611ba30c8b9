"""Decoded meshes to turn about with the mouse, scale by scale, beside a reference: in a notebook or as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from setcore.files import write_bytes
from setcore.package import need_plotly
from vat3d.mesh.compare import Reference

if TYPE_CHECKING:
    import plotly.graph_objects

FAR = 0.05
"""Distance from the reference, in its half-sides, that has the last colour."""
GREY = "rgb(164,184,208)"


def mesh_figure(
    meshes: Sequence[tuple[str, NDArray[np.float64], NDArray[np.int64]]], reference: Any = None
) -> plotly.graph_objects.Figure:
    """Meshes of which a slider shows one, beside a reference where there is one.

    Parameters
    ----------
    meshes : sequence of (str, array of shape (n, 3), array of shape (m, 3))
        Labels, vertices and faces; the last one is shown first.
    reference : path, trimesh.Trimesh or (vertices, faces), optional
        The meshes then have the colour of their distance from it, in units of half its longest side.

    Returns
    -------
    plotly.graph_objects.Figure
        A notebook shows it; `save_page` writes it.

    Raises
    ------
    InputError
        plotly is not installed.
    """
    need_plotly()
    from plotly.graph_objects import Figure, Mesh3d
    from plotly.subplots import make_subplots

    compared = None if reference is None else Reference(reference, samples=1)
    titles = ["reference", "decoded"] if compared else ["decoded"]
    figure: Figure = make_subplots(cols=len(titles), specs=[[{"type": "scene"}] * len(titles)], subplot_titles=titles)
    if compared:
        placed = compared.vertices * compared.half_side + compared.centre
        figure.add_trace(Mesh3d(**_triangles(placed, compared.faces), color=GREY, hoverinfo="skip"), 1, 1)
    first = len(figure.data)
    for label, vertices, faces in meshes:
        look: dict[str, Any] = {"color": GREY, "hoverinfo": "skip"}
        if compared:
            distance = compared.surface.nearest((vertices - compared.centre) / compared.half_side)[0]
            look = {
                "intensity": distance.astype(np.float32), "cmin": 0, "cmax": FAR, "colorscale": "Viridis",
                "colorbar": {"title": {"text": "distance,<br>half-sides"}, "x": 1, "thickness": 20},
                "hovertemplate": "%{intensity:.3f}<extra></extra>",
            }  # fmt: skip
        last = len(figure.data) == first + len(meshes) - 1
        trace = Mesh3d(**_triangles(vertices, faces), **look, name=label, visible=last)
        figure.add_trace(trace, 1, len(titles))
    steps = [
        {"method": "restyle", "label": label, "args": [{"visible": [k == shown for k in range(len(meshes))]}, chosen]}
        for shown, (label, *_) in enumerate(meshes)
        for chosen in [list(range(first, first + len(meshes)))]
    ]
    slider = {"active": len(meshes) - 1, "steps": steps, "currentvalue": {"prefix": "decoded from "}}
    scene = {"aspectmode": "data", "camera": {"up": {"x": 0, "y": 1, "z": 0}, "eye": {"x": 1.2, "y": 0.8, "z": 1.4}}}
    shown = [meshes[-1][1], *([placed] if compared else [])]  # one size on both sides
    low, high = np.min([part.min(0) for part in shown], axis=0), np.max([part.max(0) for part in shown], axis=0)
    for axis, *ends in zip("xyz", low, high, strict=True):
        scene[f"{axis}axis"] = {"visible": False, "range": ends}
    figure.update_scenes(scene)
    figure.update_layout(sliders=[slider], margin={"l": 40, "r": 40, "t": 60, "b": 10}, height=640)
    return figure


def save_page(figure: plotly.graph_objects.Figure, path: str | Path) -> None:
    """Write a figure as one page of HTML that needs no network.

    Parameters
    ----------
    figure : plotly.graph_objects.Figure
    path : path
    """
    write_bytes(path, figure.to_html(include_plotlyjs=True, full_html=True).encode())


def _triangles(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    corners, ids = np.asarray(vertices, np.float32), np.asarray(faces, np.int32)
    return dict(zip("xyzijk", [*corners.T, *ids.T], strict=True))
