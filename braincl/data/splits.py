"""Which pictures are kept for testing: the column or coordinate `split`, and lists of pictures in files."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from braincl.errors import ResponseError

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
