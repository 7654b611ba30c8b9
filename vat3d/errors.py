"""What can be wrong with meshes, token files and data sets."""

from __future__ import annotations

from setcore.errors import InputError


class MeshError(InputError):
    """A mesh or mesh file that cannot be used."""


class CodecError(InputError):
    """A token file that is damaged, foreign, or needs a model that is absent; or a budget that nothing fits."""


class DatasetError(InputError):
    """A data set folder that is damaged, incomplete, or made with other settings."""
