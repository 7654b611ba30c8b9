"""Picture files: which ones there are, their ids and their pixels."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from braincl.data.folders import find_files
from braincl.errors import ImageError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # looked for in folders, where Pillow has them


@cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes of the picture files that are looked for in folders.

    Returns
    -------
    frozenset of str
        In lower case; those of `FORMATS` that this installation of Pillow can open.
    """
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in FORMATS and kind in Image.OPEN)


def list_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """The picture files that `paths` name, each once.

    Folders are searched in depth, links to folders followed and hidden ones left out; 2.png comes before 10.png.

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
            inside = [file for file in find_files(path, "**/*") if file.suffix.lower() in picture_suffixes()]
            if not inside:
                raise ImageError(f"folder {path} holds no pictures ({', '.join(sorted(picture_suffixes()))})")
        elif path.is_file():
            inside = [path]
        else:
            raise ImageError(f"{path} does not exist; name picture files or folders of them")
        for file in inside:
            found.setdefault(file.resolve(), file)
    if not found:
        raise ImageError("there are no pictures to embed; name picture files or folders of them")
    return list(found.values())


def pictures_by_id(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Picture files by their `image_id`; no picture is decoded.

    Parameters
    ----------
    paths : sequence of path
        Files, or folders to search.

    Returns
    -------
    dict of str to Path

    Raises
    ------
    ImageError
        As `list_pictures`.
    """
    return {hashlib.sha1(path.read_bytes()).hexdigest()[:16]: path for path in list_pictures(paths)}


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
            if Image.MAX_IMAGE_PIXELS is not None and stored.width * stored.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"its {stored.width} x {stored.height} pixels are more than Pillow's limit")
            stored.load()  # a truncated file opens, and fails here
            image = ImageOps.exif_transpose(stored)
        if image.mode.startswith("I;16"):  # Pillow would clip at 255
            image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
        if image.mode in ("I", "F"):
            raise ValueError(f"pixels of mode {image.mode} have no known range")
        image = image.convert("RGBA")
    except Exception as error:  # what Pillow raises on damaged files is not documented
        what = getattr(error, "strerror", None) or re.sub(" ?<_io[^>]*>", "", str(error)) or type(error).__name__
        raise ImageError(f"{path} cannot be read as a picture ({what}); repair it, or leave it out") from error
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return hashlib.sha1(content).hexdigest()[:16], white.convert("RGB")
