"""Picture files: which ones there are, their ids and their pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from braincl.errors import ImageError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}  # looked for in folders


def list_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """The picture files that `paths` name, folders searched in depth and in the order of names; each file once.

    Parameters
    ----------
    paths : sequence of path

    Returns
    -------
    list of Path

    Raises
    ------
    ImageError
        A path does not exist, or a folder holds no pictures.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            inside = [file for file in inside if not file.name.startswith(".")]
            if not inside:
                raise ImageError(f"folder {path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
        elif path.is_file():
            inside = [path]
        else:
            raise ImageError(f"{path} does not exist; name picture files or folders of them")
        for file in inside:
            found.setdefault(file.resolve(), file)
    if not found:
        raise ImageError("there are no pictures to embed; name picture files or folders of them")
    return list(found.values())


def read_picture(path: str | Path) -> tuple[str, Image.Image]:
    """Id and RGB pixels of a picture file: upright, first frame, composited on white where it is transparent.

    Parameters
    ----------
    path : path

    Returns
    -------
    image_id : str
        First 16 hex digits of the SHA-1 of the file.
    image : PIL image
        In mode RGB.

    Raises
    ------
    ImageError
        The file cannot be read or decoded to its end.
    """
    try:
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content)) as stored:
            stored.load()  # a truncated file opens, and fails here
            image = ImageOps.exif_transpose(stored)
        if image.mode.startswith("I;16"):  # Pillow would clip at 255
            image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode} have no known range")
        image = image.convert("RGBA")
    except Exception as error:  # what Pillow raises on damaged files is not documented
        what = getattr(error, "strerror", None) or str(error).replace(repr(path), "").strip() or type(error).__name__
        raise ImageError(f"{path} cannot be read as a picture ({what}); repair it, or leave it out") from error
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return hashlib.sha1(content).hexdigest()[:16], white.convert("RGB")
