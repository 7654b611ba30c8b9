"""Which pictures are kept for testing, by a split or a list, and which are left out together."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from braincl.errors import ResponseError
from setcore.seeding import numpy_generator

SPLITS = ("test", "context")


def pictures_for_testing(image_ids: Iterable[str], splits: Iterable[str], where: str) -> set[str]:
    """The pictures that a split calls "test"; the others are "context". Case and blanks around a name do not count.

    Parameters
    ----------
    image_ids : iterable of str
        The picture of each row.
    splits : iterable of str
        What each row says.
    where : str
        For messages.

    Returns
    -------
    set of str

    Raises
    ------
    ResponseError
        A name is neither, or a picture is in both splits.
    """
    pictures: dict[str, set[str]] = {name: set() for name in SPLITS}
    for row, (image_id, split) in enumerate(zip(image_ids, splits, strict=True), 1):
        name = str(split).strip().casefold()
        if name not in pictures:
            raise ResponseError(f"{where}: row {row} has split {str(split)!r}; write 'test' or 'context'")
        pictures[name].add(image_id)
    if both := sorted(pictures["test"] & pictures["context"]):
        raise ResponseError(f"{where}: picture {both[0]} is in 'test' and elsewhere; give each picture one split")
    return pictures["test"]


def read_image_ids(path: str | Path) -> list[str]:
    """The pictures that a file lists: one image_id a line, or a CSV file with a column of that name.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of str
        Each once, in the order of the file.

    Raises
    ------
    ResponseError
        The file cannot be read, is a table without that column, or lists nothing.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResponseError(f"{path}: cannot be read as a list of image_id ({error})") from error
    column = 0
    if rows and "image_id" in rows[0]:
        column = rows.pop(0).index("image_id")
    elif any(len(row) > 1 for row in rows):
        raise ResponseError(f"{path}: a table without a column image_id; name it so, or write one image_id a line")
    found = list(dict.fromkeys(row[column] for row in rows if len(row) > column and row[column]))
    if not found:
        raise ResponseError(f"{path}: lists no picture; write one image_id a line")
    return found


def grouped_folds(images: int, folds: int, groups: ArrayLike | None = None, seed: int = 0) -> list[NDArray[np.int64]]:
    """Rows that are left out together, in folds of about equal size; groups, such as runs of a scan, stay whole.

    Responses of a time series resemble their neighbours whatever was shown, so that a fold drawn at random is
    predicted from its own noise. Folds of whole runs or blocks are not.

    Parameters
    ----------
    images : int
    folds : int
        As many as there are images or groups, where these are fewer.
    groups : array of shape (images,), optional
        Which rows stay together. None: each for itself.
    seed : int
        Of the order in which rows or groups are dealt out.

    Returns
    -------
    list of int array
        Every row is in one.

    Raises
    ------
    ResponseError
        There are fewer than two images or folds, groups are of another length or NaN, there is one group only, or each
        has a single member.
    """
    if images < 2 or folds < 2:
        raise ResponseError(f"{images} images in {folds} folds: both must be 2 or more")
    rng = numpy_generator(seed, "folds")
    if groups is None:
        return [np.sort(fold) for fold in np.array_split(rng.permutation(images), min(folds, images))]
    labels = np.asarray(groups)
    if labels.shape != (images,):
        raise ResponseError(f"groups have shape {labels.shape}, there are {images} images; give one group for each")
    if missing := int((labels != labels).sum()):
        raise ResponseError(f"the groups of {missing} of {images} images are NaN; say for each what it belongs to")
    names, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ResponseError(
            f"all {images} images are in the one group {str(names[0])!r}; leaving one out leaves nothing"
        )
    if counts.max() == 1:
        raise ResponseError(
            f"each of the {len(names)} groups has one member, so that they keep nothing together; give runs or blocks"
        )
    order = rng.permutation(len(names))
    sizes = np.zeros(min(folds, len(names)))
    fold_of = np.empty(len(names), dtype=np.int64)
    for name in order[np.argsort(-counts[order], kind="stable")]:  # the largest first, each to the smallest fold so far
        fold_of[name] = sizes.argmin()
        sizes[fold_of[name]] += counts[name]
    return [np.flatnonzero(fold_of[group] == fold) for fold in range(len(sizes))]


def image_groups(dataset: xr.Dataset, name: str | None) -> NDArray[Any] | None:
    """The coordinate of a response set that says which pictures are left out together.

    Parameters
    ----------
    dataset : response set
    name : str or None
        None: no coordinate, every picture is for itself.

    Returns
    -------
    array of shape (image,) or None

    Raises
    ------
    ResponseError
        There is no such coordinate of images.
    """
    if name is None:
        return None
    counted = ("duplicates", "image_id")  # not the user's own
    along = [str(known) for known, c in dataset.coords.items() if c.dims == ("image",) and known not in counted]
    if name not in along:
        raise ResponseError(
            f"there is no coordinate {name!r} (image) to group by; there are {', '.join(along) or 'none'}"
        )
    return np.asarray(dataset[name].values)
