"""Decoding: a stream's tokens to a field, and a field to the surface that users get."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vat3d.bitstream.frame import Frame
from vat3d.bitstream.residual import STEPS
from vat3d.bitstream.stream import LEVEL_STEP, TokenStream
from vat3d.codec.half import MirroredView, frame_extents
from vat3d.mesh.isosurface import Field, GridField, extract_surface
from vat3d.mesh.thin_parts import with_width
from vat3d.network.codec_network import CodecNetwork

TIP = 0.01
"""What a decoded side may lack of its box, in half-sides, and still count as error rather than as a lost tip."""


@torch.inference_mode()
def decoded_field(network: CodecNetwork, stream: TokenStream) -> Field:
    """The signed distance that a stream's tokens decode to, a function of points (n, 3) in the file's frame."""
    half = MirroredView(stream.frame)
    tokens, residual = [torch.from_numpy(part)[None] for part in stream.tokens], None
    if stream.residual is not None and stream.residual_step is not None:
        residual = torch.from_numpy(stream.residual.astype(np.float32))[None] * STEPS[stream.residual_step]
    planes = network.decode(tokens, half.box, residual)

    @torch.inference_mode()
    def distance(points: NDArray[np.float32]) -> NDArray[np.float32]:
        seen = np.ascontiguousarray(half.seen(half.folded(points)), np.float32)
        chunks = torch.from_numpy(seen).split(8192)
        found = [network.signed_distance(planes, chunk[None], half.box)[0].numpy() for chunk in chunks]
        return np.concatenate(found) * np.float32(half.scale)

    return distance


def raw_surface(
    network: CodecNetwork, field: Field | GridField, level: int, resolution: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices and faces of a decoded field's level, in the evaluation frame."""
    saturation = 3 * network.config.sharpness
    return extract_surface(field, resolution=resolution, iso=level * LEVEL_STEP, saturation=saturation)


def finished(vertices: NDArray[np.float64], faces: NDArray[np.int64], width: int, frame: Frame) -> NDArray[np.float64]:
    """Vertices of a raw surface with parts thinner than a file's width made flat, fitted to its box."""
    return fit_box(with_width(vertices, faces, width), frame_extents(frame).astype(np.float32).astype(np.float64))


def fit_box(vertices: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move vertices so that their bounding box is the one of half-extents `half`, centred.

    What a side lacks by `TIP` or less is made up smoothly (the shift grows with the cube of the distance from the
    middle). More is a lost tip, whose place is unknown: then the side's outermost vertex alone is drawn out to the box,
    which leaves the rest of the surface where it was decoded. What a side has too much is pressed into the layer below,
    so that no two vertices come to lie in one place, as they would if they were clipped.
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
            elif missing <= TIP and x[tip] > 3 * missing:  # the shift keeps the order of points
                outer = x > 0
                fitted[outer, axis] += side * missing * (x[outer] / x[tip]) ** 3
            else:
                fitted[tip, axis] = side * half[axis]
    return fitted
