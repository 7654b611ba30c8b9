"""Any lab's data: NIfTI betas with one volume a trial, a table of the pictures, and a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.nifti import open_nifti, read_voxels, voxel_table
from braincl.datasets.files import file_ids, need_file, read_table, with_rois
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
        Part("betas", ("*betas*.nii.gz", "*betas*.nii"), "responses, (i, j, k, trial)", "write them with your GLM"),
        Part("pictures of the trials", ("*.csv",), "a row for each trial: image (a file) or image_id; session, split",
             "write it from your presentation log"),
        Part("mask", ("*mask*.nii.gz", "*mask*.nii"), "3-D, on the grid of the betas", "write it with your GLM"),
    ),
)  # fmt: skip


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
        has a column `session`.
    images : path
        CSV (or TSV) with a row for each volume, in order. Columns: `image`, a picture file, relative to `pictures` or
        to the folder of the table, or `image_id`; optional `session` (z-scores, `zscore`), `split` ("test" or
        "context"). Other columns, such as a run, do no harm.
    mask : path
        3-D image on the grid of the betas; voxels other than 0 are read.
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
        attributes `affine`, `grid_shape`, `space`.

    Raises
    ------
    ResponseError
        The numbers of trials differ, or the mask has another grid or affine than the betas.
    ImageError
        A picture cannot be opened.
    """
    files = [Path(path) for path in ([betas] if isinstance(betas, str | Path) else betas)]
    counts = [count_volumes(file) for file in files]
    rows = read_table(Path(images))
    if sum(counts) != len(rows):
        raise ResponseError(
            f"{images} lists {len(rows)} trials, the betas hold {sum(counts)} volumes ({', '.join(map(str, counts))}); "
            "there must be one row for each volume, in order"
        )
    ids, names = _image_ids(rows, Path(images), pictures)
    voxels = voxel_table(mask)
    if rois:
        labels = np.full(voxels.sizes["voxel"], "", dtype=object)
        for name, path in rois.items():
            labels[(labels == "") & (read_voxels(path, voxels) != 0)] = name
        voxels = with_rois(voxels, {"roi": labels.astype(str)})
    result = assemble(
        _sessions(files, counts, rows, ids, voxels, scale),
        voxels.assign_attrs(subject=subject, dataset="generic", scale=scale),
        zscore=zscore,
        test_ids=_split_ids(rows, ids, str(images)),
        trials=trials,
        noise_ceiling=noise_ceiling,
    )
    return result if names is None else with_image_files(result, dict(zip(ids, names, strict=True)))


def read_folder(folder: str | Path, subject: str = "", **options: Any) -> xr.Dataset:
    """`read_nifti` of a folder that holds ``*betas*.nii.gz`` (taken by name), one ``*.csv`` and one ``*mask*.nii.gz``.

    Parameters
    ----------
    folder : path
    subject : str
    **options
        Those of `read_nifti`.

    Returns
    -------
    response set

    Raises
    ------
    ResponseError
        A file is missing, it is not clear which one is meant, or `read_nifti` cannot use it.
    """
    betas, tables, masks = (found.files for found in check_folder(LAYOUT, folder))
    masks = [options.pop("mask")] if options.get("mask") is not None else masks
    for name, files in (("*.csv", tables), ("*mask*.nii.gz", masks)):
        if len(files) != 1:
            raise ResponseError(f"{folder} holds {len(files)} files {name}; there must be one, or name it")
    if not betas:
        raise ResponseError(f"{folder} holds no *betas*.nii.gz")
    return read_nifti(betas, tables[0], masks[0], subject=subject, **options)


def count_volumes(path: str | Path) -> int:
    """Number of volumes of a 4-D NIfTI image, from its header.

    Parameters
    ----------
    path : path

    Returns
    -------
    int

    Raises
    ------
    ResponseError
        The image is damaged or has no fourth axis.
    """
    shape = open_nifti(path).shape
    if len(shape) != 4:
        raise ResponseError(f"{path}: betas have 4 axes (i, j, k, trial), this image has shape {shape}")
    return int(shape[3])


def _split_ids(rows: Sequence[Mapping[str, str]], ids: Sequence[str], where: str) -> set[str] | None:
    """The pictures whose rows say "test" in the column `split`; None where there is no such column.

    Raises
    ------
    ResponseError
        A picture is in both splits.
    """
    if not rows or "split" not in rows[0]:
        return None
    test = {i for i, row in zip(ids, rows, strict=True) if row["split"] == "test"}
    context = {i for i, row in zip(ids, rows, strict=True) if row["split"] != "test"}
    if both := sorted(test & context):
        raise ResponseError(f"{where}: picture {both[0]} is in 'test' and elsewhere; give each picture one split")
    return test


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


def _image_ids(
    rows: Sequence[Mapping[str, str]], table: Path, pictures: str | Path | None
) -> tuple[list[str], list[str] | None]:
    if not rows:
        raise ResponseError(f"{table} lists no trial")
    if "image" in rows[0]:
        folder = table.parent if pictures is None else Path(pictures)
        files = [need_file(folder / row["image"], f"{table} names it as a picture") for row in rows]
        hashes = file_ids(files)
        return [hashes[file] for file in files], [row["image"] for row in rows]
    if "image_id" in rows[0]:
        return [row["image_id"] for row in rows], None
    raise ResponseError(f"{table}: neither column 'image' nor 'image_id' is there; it has {', '.join(rows[0])}")


def _sessions(
    files: Sequence[Path],
    counts: Sequence[int],
    rows: Sequence[Mapping[str, str]],
    ids: Sequence[str],
    voxels: xr.Dataset,
    scale: float,
) -> list[Session]:
    """Sessions as the table says, else one for each file; a file may hold several, but none may span two files."""
    if not np.isfinite(scale) or scale == 0:
        raise ResponseError(f"scale is {scale}; stored values are divided by it, so it must be a number other than 0")
    sessions: list[Session] = []
    start = 0
    for file, count in zip(files, counts, strict=True):
        part = range(start, start + count)
        start += count
        labels = [rows[row].get("session", file.name) for row in part]
        for label in dict.fromkeys(labels):
            if any(session.name == label for session in sessions):
                raise ResponseError(
                    f"session {label!r} is in more than one file of betas; give sessions different names"
                )
            chosen = np.array([other == label for other in labels])

            def read(file: Path = file, chosen: NDArray[np.bool_] = chosen) -> NDArray[Any]:
                return read_voxels(file, voxels, chosen) / np.float32(scale)

            sessions.append(Session(label, [ids[row] for row, kept in zip(part, chosen, strict=True) if kept], read))
    return sessions
