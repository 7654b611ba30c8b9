"""Any lab's data: NIfTI betas with one volume a trial, a table of the pictures, and a mask."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.nifti import count_volumes, read_map, read_voxels, voxel_table, with_notes
from braincl.data.splits import pictures_for_testing
from braincl.datasets.files import file_ids, need_file, read_table, shows_picture, with_rois
from braincl.datasets.layout import DataSet, Part, check_folder
from braincl.datasets.trials import Session, assemble
from braincl.errors import ResponseError

LAYOUT = DataSet(
    name="generic",
    title="NIfTI betas (4-D, one volume a trial) + CSV of pictures + mask",
    licence="that of your data",
    source="your own analysis, for example GLMsingle",
    reader="braincl.datasets.read_nifti",
    parts=(
        Part("betas", tuple(folder + name for folder in ("", "ses*/") for name in ("*betas*.nii.gz", "*betas*.nii")),
             "responses, (i, j, k, trial), in the folder or in folders of sessions", "write them with your GLM"),
        Part("pictures of the trials", ("*.csv",),
             "a row for each trial: image (a file) or image_id; session, run, split",
             "write it from your presentation log"),
        Part("mask", ("*mask*.nii.gz", "*mask*.nii", "*mask*.mgz"), "3-D, on the grid of the betas",
             "write it with your GLM"),
    ),
)  # fmt: skip

NUMBERED = {"session": r"(?<![a-z])ses(?:sion)?[-_]?(\d+)", "run": r"(?<![a-z])run[-_]?(\d+)"}  # in names of files


def read_nifti(
    betas: str | Path | Sequence[str | Path],
    images: str | Path,
    mask: str | Path,
    *,
    subject: str = "",
    pictures: str | Path | None = None,
    rois: Mapping[str, str | Path] | None = None,
    scale: float = 1.0,
    zscore: str | None = None,
    trials: bool = False,
    noise_ceiling: str | None = None,
) -> xr.Dataset:
    """Response set of NIfTI betas, a table of pictures and a mask.

    Parameters
    ----------
    betas : path or sequence of paths
        4-D images, a volume for each trial; several are taken one after another, each as a session unless the table
        has a column `session`. Sessions and runs that their names number must come in that order, or in that of the
        columns `session` and `run`.
    images : path
        CSV (or TSV) with a row for each volume, in order. Columns: `image`, a picture file, relative to `pictures` or
        to the folder of the table, or `image_id`; optional `session` (z-scores, `zscore`), `run`, `split` ("test" or
        "context"). Case and blanks around heads and splits do not count; other columns do no harm. Rows whose picture
        is empty, n/a, NA or NaN showed none: their volumes are left out.
    mask : path
        3-D image on the grid of the betas; voxels above 0 are read.
    subject : str
    pictures : folder, optional
    rois : mapping of names to masks, optional
        A voxel in several of them takes the first name, one in none "other".
    scale : float
        What stored values are divided by, such as 300 for NSD.
    zscore, trials, noise_ceiling
        See `braincl.datasets.assemble`. Repeats are averaged.

    Returns
    -------
    Dataset
        ``response (image, voxel)`` with `image_id` (hash of the picture file, or the column), `i`, `j`, `k`,
        attributes `affine`, `grid_shape`, `space`, and `notes` where something had to be assumed or left out.

    Raises
    ------
    ResponseError
        The numbers of trials differ, the betas come in another order than the rows, the mask has another grid or
        affine than the betas, or a split is unknown.
    ImageError
        A picture cannot be opened.
    """
    files = [Path(path) for path in ([betas] if isinstance(betas, str | Path) else betas)]
    counts = [count_volumes(file) for file in files]
    table = Path(images)
    rows = read_table(table, optional=("image", "image_id", "session", "run", "split"))
    if sum(counts) != len(rows):
        raise ResponseError(
            f"{images} lists {len(rows)} trials, the betas hold {sum(counts)} volumes ({', '.join(map(str, counts))}); "
            "there must be one row for each volume, in order"
        )
    column = _picture_column(rows, table)
    parts = [rows[end - count : end] for count, end in zip(counts, np.cumsum(counts), strict=True)]
    _check_order(files, parts, table)
    shown = [row for row in rows if shows_picture(row[column])]
    ids = _image_ids([row[column] for row in shown], column, table, pictures)
    voxels = voxel_table(mask)
    if rois:
        labels = np.full(voxels.sizes["voxel"], "", dtype=object)
        for name, path in rois.items():
            labels[(labels == "") & (read_map(path, voxels) > 0)] = name
        voxels = with_rois(voxels, {"roi": labels.astype(str)})
    test_ids = None
    if "split" in rows[0]:
        test_ids = pictures_for_testing(
            [ids[row[column]] for row in shown], [row["split"] for row in shown], str(table)
        )
    result = assemble(
        _sessions(files, [[(row, ids.get(row[column])) for row in part] for part in parts], voxels, scale),
        voxels.assign_attrs(subject=subject, dataset="generic", scale=scale),
        zscore=zscore,
        test_ids=test_ids,
        trials=trials,
        noise_ceiling=noise_ceiling,
    )
    if column == "image":
        result = with_image_files(result, {image_id: name for name, image_id in ids.items()})
    blank = len(rows) - len(shown)
    return with_notes(result, [f"{blank} trials of {table.name} name no picture and were left out"] if blank else [])


def read_folder(folder: str | Path, subject: str = "", **options: Any) -> xr.Dataset:
    """`read_nifti` of a folder that holds betas, one ``*.csv`` and one ``*mask*.nii.gz``.

    Betas are all ``*betas*.nii.gz`` in the folder or, where it holds none, in its folders ``ses*``; session 2 comes
    before session 10.

    Parameters
    ----------
    folder : path
    subject : str
    **options
        Those of `read_nifti`; `betas` is a pattern of names here, such as ``"*betas_cleaned*"``.

    Returns
    -------
    response set

    Raises
    ------
    ResponseError
        A file is missing, it is not clear which one is meant, or `read_nifti` cannot use it.
    """
    betas, tables, masks = (found.files for found in check_folder(LAYOUT, folder))
    if (pattern := options.pop("betas", None)) is not None:
        betas = [file for file in betas if fnmatch(file.name, pattern)]
    betas = [file for file in betas if file.parent == Path(folder)] or betas
    given = [[options.pop(name)] if options.get(name) is not None else None for name in ("images", "mask")]
    tables, masks = (named or found for named, found in zip(given, (tables, masks), strict=True))
    for what, option, files in (("*.csv", "images", tables), ("*mask*.nii.gz", "mask", masks)):
        if len(files) != 1:
            raise ResponseError(f"{folder} holds {len(files)} files {what}; there must be one, or name it (--{option})")
    if not betas:
        raise ResponseError(f"{folder} holds no {pattern or '*betas*.nii.gz'}")
    return read_nifti(betas, tables[0], masks[0], subject=subject, **options)


def with_image_files(dataset: xr.Dataset, files: Mapping[str, str]) -> xr.Dataset:
    """The set with the coordinate `image_file (image)`.

    Parameters
    ----------
    dataset : response set
    files : mapping of image_id to name of the file

    Returns
    -------
    Dataset
    """
    return dataset.assign_coords(image_file=("image", np.array([files[i] for i in dataset["image_id"].values], str)))


def _picture_column(rows: Sequence[Mapping[str, str]], table: Path) -> str:
    if not rows:
        raise ResponseError(f"{table} lists no trial")
    for column in ("image", "image_id"):
        if column in rows[0]:
            return column
    raise ResponseError(f"{table}: neither column 'image' nor 'image_id' is there; it has {', '.join(rows[0])}")


def _image_ids(names: Iterable[str], column: str, table: Path, pictures: str | Path | None) -> dict[str, str]:
    """`image_id` by what the column says: the hash of the file where it names files."""
    if column == "image_id":
        return {name: name for name in names}
    folder = table.parent if pictures is None else Path(pictures)
    files = {name: need_file(folder / name, f"{table} names it as a picture") for name in names}
    hashes = file_ids(files.values())
    return {name: hashes[file] for name, file in files.items()}


def _check_order(files: Sequence[Path], parts: Sequence[Sequence[Mapping[str, str]]], table: Path) -> None:
    """Refuse files whose names number sessions or runs in another order than their rows in the table do.

    What the table does not number in the same way must ascend from file to file.
    """
    agreed: list[list[int | None]] = []
    others: list[list[int | None]] = []
    for name, pattern in NUMBERED.items():
        stated = [_last_number(pattern, str(file)) for file in files]
        labels = [{row.get(name, "") for row in part} for part in parts]
        listed = [_last_number(r"(\d+)(?:\.0)?\D*$", min(of_file)) if len(of_file) == 1 else None for of_file in labels]
        if None in stated:
            continue
        if set(stated) != set(listed):
            others.append(stated)
            continue
        agreed.append(stated)
        for file, number, other in zip(files, stated, listed, strict=True):
            if number != other:
                raise ResponseError(
                    f"{file} would get the rows of {name} {other} in {table}; bring files and rows into one order"
                )
    for one, two in pairwise(range(len(files))):
        alike = all(numbers[one] == numbers[two] for numbers in agreed)
        if alike and [numbers[one] or 0 for numbers in others] > [numbers[two] or 0 for numbers in others]:
            raise ResponseError(
                f"{files[two]} comes after {files[one]}; give betas in the order of their sessions and runs, or number "
                f"these in columns session and run of {table}"
            )


def _last_number(pattern: str, text: str) -> int | None:
    found = re.findall(pattern, text, re.IGNORECASE)
    return int(found[-1]) if found else None


def _sessions(
    files: Sequence[Path],
    parts: Sequence[Sequence[tuple[Mapping[str, str], str | None]]],
    voxels: xr.Dataset,
    scale: float,
) -> list[Session]:
    """Sessions as the table says, else one for each file; a file may hold several, but none may span two files.

    `parts`: for each file its rows, each with an `image_id`, or None where no picture was shown.
    """
    if not np.isfinite(scale) or scale == 0:
        raise ResponseError(f"scale is {scale}; stored values are divided by it, so it must be a number other than 0")
    sessions: list[Session] = []
    top = os.path.commonpath([file.absolute().parent for file in files])
    for file, part in zip(files, parts, strict=True):
        own = str(file.absolute().relative_to(top))  # files of several sessions may have one name, in folders
        labels = [row.get("session", own) if image_id else None for row, image_id in part]
        for label in [label for label in dict.fromkeys(labels) if label is not None]:
            if any(session.name == label for session in sessions):
                raise ResponseError(
                    f"session {label!r} is in more than one file of betas; give sessions different names"
                )
            chosen = np.array([other == label for other in labels])

            def read(file: Path = file, chosen: NDArray[np.bool_] = chosen) -> NDArray[Any]:
                return read_voxels(file, voxels, chosen) / np.float32(scale)

            sessions.append(Session(label, [i for (_, i), kept in zip(part, chosen, strict=True) if kept and i], read))
    return sessions
