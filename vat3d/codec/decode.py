"""Decoding: from a stream's tokens to a signed distance, from there to the surface that users get."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vat3d.bitstream.header import LEVEL_STEP
from vat3d.bitstream.residual import STEPS
from vat3d.bitstream.stream import TokenStream
from vat3d.mesh.isosurface import Field, GridField, extract_surface
from vat3d.mesh.thin_parts import with_thickness
from vat3d.network.codec_network import CodecNetwork
from vat3d.placement.mirrored_view import MirroredView

LOST_TIP = 0.01
"""What a decoded side may lack of its box, in half-sides, and still count as error rather than as a lost tip."""
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

    @torch.inference_mode()
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
        if stream.residual is not None and stream.residual_step is not None:
            residual = torch.from_numpy(stream.residual.astype(np.float32))[None] * STEPS[stream.residual_step]
        planes = network.decode([torch.from_numpy(part)[None] for part in stream.tokens], view.box, residual)

        @torch.inference_mode()
        def distance(points: NDArray[np.float32]) -> NDArray[np.float32]:
            seen = np.ascontiguousarray(view.seen(view.folded(points)), np.float32)
            chunks = torch.from_numpy(seen).split(POINTS_AT_ONCE)
            found = [network.signed_distance(planes, chunk[None], view.box)[0].numpy() for chunk in chunks]
            return np.asarray(np.concatenate(found) * np.float32(view.scale))

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
    return stream.frame.to_mesh(decoder.finish(vertices, faces, stream.thickness)), faces


def fit_box(vertices: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move vertices so that their bounding box is a given one.

    What a side lacks by `LOST_TIP` or less is made up smoothly (the shift grows with the cube of the distance from the
    middle). More is a lost tip, whose place is unknown: then the side's outermost vertex alone is drawn out to the box,
    which leaves the rest of the surface where it was decoded. What a side has too much is pressed into the layer below,
    so that no two vertices come to lie in one place, as they would if they were clipped.

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
            tip = int(x.argmax())
            missing = half[axis] - x[tip]
            if missing < 0:
                start = max(0.0, half[axis] + 2 * missing)
                outer = x > start
                pressed = start + (x[outer] - start) * ((half[axis] - start) / (x[tip] - start))
                fitted[outer, axis] = side * np.minimum(pressed, half[axis])
            elif missing <= LOST_TIP and x[tip] > 3 * missing:  # the shift keeps the order of points
                outer = x > 0
                fitted[outer, axis] += side * missing * (x[outer] / x[tip]) ** 3
            else:
                fitted[tip, axis] = side * half[axis]
    return fitted
