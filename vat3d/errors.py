"""What can be wrong with meshes, token files and data sets."""

from __future__ import annotations

from setcore.errors import InputError


class MeshError(InputError):
    """A mesh or mesh file that cannot be used.

    Examples
    --------
    >>> import vat3d
    >>> vat3d.evaluate("none.ply", "none.ply")
    Traceback (most recent call last):
    vat3d.errors.MeshError: none.ply: cannot be read: No such file or directory
    """


class CodecError(InputError):
    """A token file that is damaged, foreign, or needs a model that is absent; or a budget that nothing fits.

    Examples
    --------
    >>> import vat3d
    >>> vat3d.TokenStream.from_bytes(b"no token file")
    Traceback (most recent call last):
    vat3d.errors.CodecError: not a vat3d token file (its first two bytes are wrong)
    """


class DatasetError(InputError):
    """A data set folder that is damaged, incomplete, or made with other settings.

    Examples
    --------
    >>> from vat3d.data.dataset import Dataset
    >>> Dataset("none")
    Traceback (most recent call last):
    vat3d.errors.DatasetError: none is not a data set: dataset.json is missing; make one with `vat3d prepare`
    """
