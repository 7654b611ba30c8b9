"""The column or coordinate `split`: which pictures are kept for testing."""

from __future__ import annotations

from collections.abc import Iterable

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
