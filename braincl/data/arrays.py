"""Arrays as people hand them over: tensors, masked arrays, labelled sets, checked with messages that say where.

Two of them make a response set.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy import sparse

from braincl.data.responses import open_responses
from braincl.errors import ResponseError


def from_arrays(
    responses: Any,
    embeddings: Any,
    *,
    image_ids: Any = None,
    voxel_ids: Any = None,
    subject: str = "",
    backbone: str = "",
) -> xr.Dataset:
    """A response set of an array of responses and one of embeddings.

    Further coordinates, such as `roi` or `noise_ceiling (voxel)`, can be added by `xarray.Dataset.assign_coords`.

    Parameters
    ----------
    responses : array of shape (n_images, n_voxels) or (n_images,)
    embeddings : array of shape (n_images, n_features)
        Row by row of the same images.
    image_ids : sequence of str, optional
        Names of the pictures, best the hashes of their files that `braincl embed` writes. None: hashes of the
        embeddings, so that rows with one embedding are one picture.
    voxel_ids : sequence of str, optional
        None: "voxel-0" and so on.
    subject, backbone : str
        Attributes: whose responses, and which image encoder's embeddings they are; left out where empty.

    Returns
    -------
    Dataset
        A valid response set, float32. Where ids were made up, its attribute `generated_ids` says which and how.

    Raises
    ------
    ResponseError
        The arrays have not one row for each image, hold NaN or inf, or are transposed; or ids are not as many.

    Examples
    --------
    >>> import numpy as np
    >>> from braincl import from_arrays
    >>> rng = np.random.default_rng(0)
    >>> subject = from_arrays(rng.normal(size=(30, 5)), rng.normal(size=(30, 8)), subject="S1")
    >>> dict(subject.sizes)
    {'image': 30, 'voxel': 5, 'feature': 8}
    """
    Y, X = (_float32(values, name) for values, name in ((responses, "responses"), (embeddings, "embeddings")))
    check_same_images(X, Y, ("embeddings", "responses"))
    Y = Y.reshape(len(Y), -1)
    if X.ndim != 2 or 0 in (*X.shape, *Y.shape):
        raise ResponseError(
            f"embeddings have shape {X.shape}, responses {Y.shape}; (image, feature) and (image, voxel)"
        )
    check_finite(X, "embeddings")
    check_finite(Y, "responses", axis=1)
    generated = []
    if image_ids is None:
        generated.append("image_id: hashes of the embeddings, not of picture files")
        image_ids = [hashlib.sha1(row.tobytes()).hexdigest()[:16] for row in X]
    if voxel_ids is None:
        generated.append("voxel_id: numbers of the columns, from 0")
        voxel_ids = [f"voxel-{number}" for number in range(Y.shape[1])]
    for name, ids, count in (("image_ids", image_ids, len(Y)), ("voxel_ids", voxel_ids, Y.shape[1])):
        if len(ids) != count:
            raise ResponseError(f"{name} are {len(ids)}, the responses have shape {Y.shape}; give one for each")
    attributes = {"subject": subject, "backbone": backbone, "generated_ids": "; ".join(generated)}
    return open_responses(
        xr.Dataset(
            {"response": (("image", "voxel"), Y), "embedding": (("image", "feature"), X)},
            coords={
                "image_id": ("image", np.asarray(image_ids, str)),
                "voxel_id": ("voxel", np.asarray(voxel_ids, str)),
            },
            attrs={name: value for name, value in attributes.items() if value},
        )
    )


def _float32(values: Any, name: str) -> NDArray[np.float32]:
    try:
        array = np.array(plain_array(values, name))
        with np.errstate(over="ignore"):
            made = array.astype(np.float32, order="C")
    except (ValueError, TypeError) as error:
        raise ResponseError(f"{name} are no array of real numbers ({error})") from error
    if array.dtype.kind not in "iufb" or made.ndim not in (1, 2):
        raise ResponseError(f"{name} are of type {array.dtype} and shape {array.shape}; numbers in 2 axes are expected")
    return made


def plain_array(values: Any, name: str) -> Any:
    """What stands for an array as one that NumPy reads; anything else is returned as it is.

    Parameters
    ----------
    values : object
        Tensors come to the CPU, masked arrays in which nothing is masked lose their mask.
    name : str
        For messages.

    Returns
    -------
    object

    Raises
    ------
    ResponseError
        It is a whole Dataset, a tensor that requires grad, not dense, or an array with masked values.
    """
    if isinstance(values, xr.Dataset):
        names = ", ".join(f"{name}.{variable}.values" for variable in values.data_vars)
        raise ResponseError(f"{name} is a whole Dataset; hand over one of its arrays: {names or 'it has none'}")
    if isinstance(values, torch.Tensor):
        if values.requires_grad:
            raise ResponseError(
                f"{name} is a tensor that requires grad, and nothing here has one; give {name}.detach()"
            )
        if values.layout != torch.strided or values.is_quantized or values.device.type == "meta":
            raise ResponseError(f"{name} is a tensor of layout {values.layout} on {values.device}; give a dense one")
        values = values.cpu().resolve_conj().resolve_neg()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if sparse.issparse(values):
        raise ResponseError(f"{name} is a sparse matrix; give a dense array: {name}.toarray()")
    if isinstance(values, np.ma.MaskedArray):
        if (masked := np.asarray(values.mask)).any():
            rows = masked.reshape(len(values), -1).any(axis=1)
            raise ResponseError(
                f"{name} is a masked array with {masked.sum()} masked values, in {rows.sum()} of {len(values)} rows; "
                "leave these images out of X and y, and hand over the rest without a mask (.data)"
            )
        return values.data
    return values


def check_same_images(X: Any, Y: Any, names: tuple[str, str] = ("X", "y")) -> None:
    """Refuse embeddings and responses of different numbers of images.

    Parameters
    ----------
    X, Y : array
        With the image as the first axis.
    names : (str, str)
        Of the arrays, for messages.

    Raises
    ------
    ResponseError
        Where Y has the images as its second axis, it says so.
    """
    if len(X) == len(Y):
        return
    x, y = names
    message = f"{x} and {y} are inconsistent: {len(X)} images in {x}, {len(Y)} in {y}"
    if np.ndim(Y) == 2 and Y.shape[1] == len(X):
        raise ResponseError(f"{message}; {y} of shape {Y.shape} is transposed, (image, voxel) is expected: give {y}.T")
    raise ResponseError(f"{message}; give one row for each image in both")


def check_finite(values: NDArray[Any], name: str, axis: int = 0) -> None:
    """Refuse NaN and infinity, saying where they are.

    Parameters
    ----------
    values : array of shape (n_images,) or (n_images, n_columns)
    name : str
        Of the array, for messages.
    axis : 0 or 1
        What the message counts by: images, or the voxels that are the columns.

    Raises
    ------
    ResponseError
    """
    for kind, found in (("NaN", np.isnan), ("inf (infinity)", np.isinf)):
        spoilt = found(values.reshape(len(values), -1))
        if not spoilt.any():
            continue
        what = ("image", "voxel")[axis]
        counts = spoilt.sum(axis=1 - axis)
        first, others = int(np.flatnonzero(counts)[0]), int((counts > 0).sum()) - 1
        raise ResponseError(
            f"{name}: {what} {first} of {len(counts)} holds {counts[first]} {kind}"
            + f", {others} other {what}s hold some" * (others > 0)
            + f": leave out {'such images' if axis == 0 else 'such voxels, or the images where they are missing'}"
        )
