"""Errors that a user's data or model can cause; all of them are ValueErrors."""

from __future__ import annotations

from setcore.errors import CheckpointError, InputError

__all__ = ["CheckpointError", "ImageError", "ModelError", "ResponseError"]


class ResponseError(InputError):
    """Responses, embeddings or voxels that cannot be used."""


class ModelError(InputError):
    """A model that does not fit the data it was given."""


class ImageError(InputError):
    """Picture files that cannot be read."""
