"""Decoding: from a stream's tokens to a signed distance, from there to the surface that users get."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from vat3d.bitstream.header import LEVEL_STEP
from vat3d.bitstream.residual import STEPS
from vat3d.bitstream.stream import TokenStream
from vat3d.mesh.canonical import HALF_DOMAIN
from vat3d.mesh.isosurface import Field, GridField, extract_surface
from vat3d.mesh.thin_parts import with_thickness
from vat3d.mesh.triangles import face_components
from vat3d.network.codec_network import CodecNetwork
from vat3d.placement.mirrored_view import MirroredView

LOST_TIP = 0.035
"""What a decoded side may lack of its box, in half-sides, and still count as error rather than as a lost part."""
SMALL_PART, ALONE = 0.06, 0.1
"""In half-sides: smaller parts that lie farther than this from all larger ones are taken for errors of the network."""
POINTS_AT_ONCE = 8192


class StreamDecoder:
    """Decodes the streams of one frame, step by step; every step is in the file's frame.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    view : MirroredView
        Of the frame.
    """

    def __init__(self, network: CodecNetwork, view: MirroredView) -> None:
        self._network, self._view = network, view
        self._fields: dict[tuple[int | None, bytes], GridField] = {}

    @torch.no_grad()
    def signed_distance(self, stream: TokenStream) -> Field:
        """The signed distance that tokens and residual of a stream decode to.

        Parameters
        ----------
        stream : TokenStream

        Returns
        -------
        callable
            Takes float32 points (n, 3), returns distances (n,), negative inside, in half-sides.
        """
        view, network, residual = self._view, self._network, None
        device = network.device
        if stream.residual is not None and stream.residual_step is not None:
            numbers = torch.from_numpy(stream.residual.astype(np.float32)).to(device)
            residual = numbers[None] * STEPS[stream.residual_step]
        box = view.box.to(device)
        planes = network.decode([torch.from_numpy(part).to(device)[None] for part in stream.tokens], box, residual)

        @torch.no_grad()
        def distance(points: NDArray[np.float32]) -> NDArray[np.float32]:
            seen = np.ascontiguousarray(view.seen(view.folded(points)), np.float32)
            chunks = torch.from_numpy(seen).to(device).split(POINTS_AT_ONCE)
            found = [network.signed_distance(planes, chunk[None], box)[0] for chunk in chunks]
            return np.asarray(torch.cat(found).cpu().numpy() * np.float32(view.scale))

        return distance

    def field(self, stream: TokenStream) -> GridField:
        """The signed distance of a stream, remembered, with its values at grid points.

        Parameters
        ----------
        stream : TokenStream

        Returns
        -------
        GridField
        """
        key = stream.residual_step, np.concatenate(stream.ids).tobytes()
        if key not in self._fields:
            self._fields[key] = GridField(self.signed_distance(stream))
        return self._fields[key]

    def surface(
        self, field: Field | GridField, level: int, resolution: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The surface at a level of a decoded signed distance, as it is extracted.

        Parameters
        ----------
        field : callable
        level : int
            In steps of `LEVEL_STEP`.
        resolution : int
            Cells along a side of the grid.

        Returns
        -------
        vertices : array of shape (n, 3)
        faces : array of shape (m, 3)
        """
        saturation = 3 * self._network.config.sharpness
        return extract_surface(field, resolution=resolution, iso=level * LEVEL_STEP, saturation=saturation)

    def finish(self, vertices: NDArray[np.float64], faces: NDArray[np.int64], thickness: int) -> NDArray[np.float64]:
        """Give the thin parts of an extracted surface a file's thickness, and fit it to the frame's box.

        Parameters
        ----------
        vertices : array of shape (n, 3)
        faces : array of shape (m, 3)
        thickness : int
            See `TokenStream`.

        Returns
        -------
        array of shape (n, 3)
        """
        extents = self._view.whole_extents.astype(np.float32).astype(np.float64)
        return fit_box(with_thickness(vertices, faces, thickness), extents)


def decode_stream(
    network: CodecNetwork, stream: TokenStream, resolution: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The mesh of a stream, in the axes and units of the mesh that was encoded.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    stream : TokenStream
    resolution : int
        Cells along the longest side of the grid, up to 512.

    Returns
    -------
    vertices : array of shape (n, 3)
    faces : array of shape (m, 3)

    Raises
    ------
    CodecError
        The resolution is out of range.
    """
    decoder = StreamDecoder(network, MirroredView(stream.frame))
    vertices, faces = decoder.surface(decoder.signed_distance(stream), stream.level, resolution)
    vertices = decoder.finish(vertices, faces, stream.thickness)  # first: a speck may be the tip that meets the box
    vertices, faces = without_specks(vertices, faces, 2 * HALF_DOMAIN / resolution)
    return stream.frame.to_mesh(vertices), faces


def without_specks(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], size: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A surface without its specks: parts that the grid is too rough for, and small ones that lie alone.

    What the grid leaves of a thin tip may be the outermost part; without it the bounding box would shrink.

    Parameters
    ----------
    vertices : array of shape (n, 3)
        In half-sides.
    faces : array of shape (m, 3)
    size : float
        Parts smaller than this along every axis are left out, but for those that reach a side of the bounding box; so
        are those smaller than `SMALL_PART` that are farther than `ALONE` from all that are not. Unless this is true of
        all.

    Returns
    -------
    vertices : array of shape (k, 3)
    faces : array of shape (l, 3)
    """
    part = np.empty(len(vertices), np.int64)
    part[faces] = face_components(faces, len(vertices))[:, None]
    order = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[order], prepend=-1))
    highest, lowest = np.maximum.reduceat(vertices[order], starts), np.minimum.reduceat(vertices[order], starts)
    extents = (highest - lowest).max(1)
    outermost = (highest == vertices.max(0)).any(1) | (lowest == vertices.min(0)).any(1)
    kept, large = (extents >= size) | outermost, extents >= SMALL_PART
    small = kept & ~large
    if small.any() and large.any():
        gap, seen = np.zeros(len(vertices)), small[part]
        gap[seen] = cKDTree(vertices[large[part]]).query(vertices[seen], distance_upper_bound=ALONE)[0]
        kept &= np.minimum.reduceat(gap[order], starts) <= ALONE
    if kept.all() or not kept.any():
        return vertices, faces
    of_kept = kept[part]
    return vertices[of_kept], (np.cumsum(of_kept) - 1)[faces[of_kept[faces[:, 0]]]]


def fit_box(vertices: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move vertices so that their bounding box is a given one.

    A side that is off by `LOST_TIP` or less, or that sticks out, is brought there by stretching or pressing the layer
    below it, three times as thick at most as the side is off; the rest of the surface is not moved. A side that lacks
    more has lost a part whose place is unknown, and is not moved either.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    half : array of shape (3,)
        Half-extents of the box, which is centred.

    Returns
    -------
    array of shape (n, 3)
    """
    fitted = np.array(vertices, np.float64)
    for axis in range(3):
        for side in (-1.0, 1.0):
            x = side * fitted[:, axis]
            tip = float(x.max())
            missing = half[axis] - tip
            start = max(0.0, min(tip, half[axis]) - 2 * abs(missing))
            if missing <= LOST_TIP and tip > start:
                outer = x > start
                moved = start + (x[outer] - start) * ((half[axis] - start) / (tip - start))
                fitted[outer, axis] = side * np.minimum(moved, half[axis])
    return fitted
