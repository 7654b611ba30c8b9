"""Errors that a user's data or model can cause; all of them are ValueErrors."""

from __future__ import annotations

from setcore.errors import CheckpointError, InputError

__all__ = ["CheckpointError", "ImageError", "ModelError", "OutOfMemory", "ResponseError", "ResponseTypeError"]


class ResponseError(InputError):
    """Responses, embeddings or voxels that cannot be used.

    Examples
    --------
    >>> import braincl
    >>> braincl.open_responses("none.nc")
    Traceback (most recent call last):
    braincl.errors.ResponseError: none.nc does not exist; name a NetCDF-4 file or a Zarr store
    """


class ResponseTypeError(ResponseError, TypeError):
    """Something that is no array of numbers; scikit-learn's conventions ask for a TypeError there."""


class OutOfMemory(InputError, MemoryError):
    """What was asked for does not fit into memory; the message says what to set."""


class ModelError(InputError):
    """A model that does not fit the data it was given.

    Examples
    --------
    >>> import braincl
    >>> braincl.InContextEncoder.from_pretrained("none")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    braincl.errors.ModelError: ...
    """


class ImageError(InputError):
    """Picture files that cannot be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> from braincl.data.pictures import read_picture
    >>> _ = Path("no_picture.png").write_text("text")
    >>> read_picture(Path("no_picture.png"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    braincl.errors.ImageError: ...
    """
