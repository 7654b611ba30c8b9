"""BIDS derivatives: single-trial betas beside a raw data set whose events say which picture each trial showed.

BIDS has no name for single-trial betas, so this reader takes what laboratories write: a 4-D NIfTI image for each run or
session whose name holds "beta", or the HDF5 file of GLMsingle for each session.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.nifti import grid_of, read_voxels, voxel_table
from braincl.datasets.files import file_ids, need_folder, open_hdf5, read_table
from braincl.datasets.generic import count_volumes, with_image_files
from braincl.datasets.layout import DataSet, Part
from braincl.datasets.trials import Session, assemble
from braincl.errors import ResponseError

GLMSINGLE = "TYPED_FITHRF_GLMDENOISE_RR.hdf5"

LAYOUT = DataSet(
    name="bids",
    title="BIDS derivatives: single-trial betas (NIfTI or GLMsingle's HDF5) + events with stim_file",
    licence="that of the data set",
    source="your own analysis, or OpenNeuro",
    reader="braincl.datasets.read_bids",
    parts=(
        Part("events", ("sub-{subject}/**/*_events.tsv",), "onset and stim_file of each trial",
             "they are part of the raw data set; stim_file is relative to its folder stimuli"),
        Part("betas", ("derivatives/*/sub-{subject}/**/*beta*.nii.gz", f"derivatives/*/sub-{{subject}}/**/{GLMSINGLE}"),
             "a volume for each trial, for each run or session", "write them with your GLM (GLMsingle: wanthdf5=1)"),
        Part("mask", ("derivatives/*/sub-{subject}/**/*_mask.nii.gz",), "3-D, on the grid of the betas",
             "fMRIPrep writes it as desc-brain_mask"),
        Part("pictures", ("stimuli/**/*.*",), "picture files, for embeddings", "they are part of the raw data set",
             needed=False),
    ),
)  # fmt: skip


def read_bids(
    folder: str | Path,
    subject: str,
    *,
    derivatives: str | Path | None = None,
    mask: str | Path | None = None,
    task: str | None = None,
    pictures: str | Path | None = None,
    zscore: str | None = None,
    trials: bool = False,
    noise_ceiling: str | None = None,
) -> xr.Dataset:
    """Response set of one subject of a BIDS data set with single-trial betas.

    The trials of a run are the rows of its events with a `stim_file`, by onset. A betas file with a run in its name
    holds the trials of that run; one without, and GLMsingle's, those of all runs of the session in order.

    Parameters
    ----------
    folder : path
        The raw data set.
    subject : str
        With or without "sub-".
    derivatives : folder, optional
        Of the pipeline that wrote the betas. None: the only one in ``derivatives/`` that has betas of the subject.
    mask : path, optional
        None: the only ``*_mask.nii.gz`` of the subject in `derivatives`.
    task : str, optional
        Where there are several.
    pictures : folder, optional
        What `stim_file` is relative to; None: `stimuli` of the data set. `image_id` is the hash of the file where all
        files are there, else `stim_file` itself.
    zscore, trials, noise_ceiling
        See `braincl.datasets.assemble`; a column `split` ("test" or "context") of the events is used where
        there is one.

    Returns
    -------
    Dataset
        ``response (image, voxel)`` with `image_id`, `image_file`, `repeats`, `i`, `j`, `k`.

    Raises
    ------
    ResponseError
        Files are missing, it is not clear which are meant, or betas and events do not hold the same number of trials.
    """
    root = need_folder(folder)
    subject = f"sub-{subject.removeprefix('sub-')}"
    events = _events(root, subject, task)
    found = _betas(root, subject, derivatives, task)
    own = next(parent for parent in found[0].parents if parent.name == subject)
    voxels = voxel_table(_only(own.rglob("*_mask.nii.gz"), f"mask of {subject} in {own}") if mask is None else mask)
    planned: list[tuple[str, Path, list[dict[str, str]]]] = []
    for path in found:
        session, run = _entities(path.relative_to(own.parent))
        rows = [row for key, part in events.items() if key[0] == session and run in ("", key[1]) for row in part]
        if not rows:
            raise ResponseError(f"{path}: the data set has no events with stim_file of {subject} {session} {run}")
        if (count := _count(path, voxels)) != len(rows):
            raise ResponseError(
                f"{path} holds {count} trials, the events of {session or subject} {run} list {len(rows)} with a "
                "stim_file; were trials left out of the GLM, or is a run missing?"
            )
        planned.append((session, path, rows))
    names = list(dict.fromkeys(row["stim_file"] for _, _, rows in planned for row in rows))
    hashes = _hashes(names, root / "stimuli" if pictures is None else Path(pictures), required=pictures is not None)
    result = assemble(
        _join_runs(planned, hashes, voxels),
        voxels.assign_attrs(subject=subject, dataset="bids"),
        zscore=zscore,
        test_ids=_test_ids(planned, hashes),
        trials=trials,
        noise_ceiling=noise_ceiling,
    )
    return with_image_files(result, {image_id: name for name, image_id in hashes.items()})


def _entities(path: Path) -> tuple[str, str]:
    """Session and run, such as ("ses-01", "run-2"), as the path says; "" where it does not. Runs lose leading zeros."""
    session = re.search(r"ses-[0-9A-Za-z]+", str(path))
    run = re.search(r"_run-(\d+)", path.name)
    return session[0] if session else "", f"run-{int(run[1])}" if run else ""


def _events(root: Path, subject: str, task: str | None) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Rows with a stim_file, by onset, for each session and run in order."""
    files = [file for file in root.glob(f"{subject}/**/*_events.tsv") if task is None or f"_task-{task}_" in file.name]
    events: dict[tuple[str, str], list[dict[str, str]]] = {}
    for file in sorted(files, key=lambda file: _order(file.relative_to(root))):
        rows = read_table(file, ("onset", "stim_file"))
        rows = [row for row in rows if row["stim_file"] not in ("", "n/a")]
        try:
            rows.sort(key=lambda row: float(row["onset"]))
        except ValueError as error:
            raise ResponseError(f"{file}: an onset is not a number of seconds ({error})") from error
        if rows and (key := _entities(file.relative_to(root))) in events:
            raise ResponseError(f"{file}: there is more than one task for {' '.join(key)}; name one with task=")
        elif rows:
            events[key] = rows
    return events


def _order(path: Path) -> tuple[str, int]:
    session, run = _entities(path)
    return session, int(run.removeprefix("run-") or 0)


def _betas(root: Path, subject: str, derivatives: str | Path | None, task: str | None) -> list[Path]:
    pipelines = sorted((root / "derivatives").glob("*")) if derivatives is None else [need_folder(derivatives)]
    candidates: dict[Path, list[Path]] = {}
    for pipeline in pipelines:
        paths = [*pipeline.glob(f"{subject}/**/*beta*.nii.gz"), *pipeline.glob(f"{subject}/**/{GLMSINGLE}")]
        paths = [path for path in paths if task is None or f"_task-{task}_" in path.name or path.name == GLMSINGLE]
        if paths:
            candidates[pipeline] = sorted(paths, key=lambda path: _order(path.relative_to(pipeline)))
    if len(candidates) != 1:
        names = ", ".join(pipeline.name for pipeline in candidates) or "none"
        raise ResponseError(
            f"{root}: betas of {subject} in one pipeline of derivatives are expected, found: {names}; name its folder "
            "with derivatives="
        )
    return next(iter(candidates.values()))


def _only(paths: Iterable[Path], what: str) -> Path:
    found = sorted(paths)
    if len(found) != 1:
        raise ResponseError(f"one {what} is expected, found {len(found)}; name it")
    return found[0]


def _count(path: Path, voxels: xr.Dataset) -> int:
    return len(_glmsingle(path, voxels, read=False)) if path.name == GLMSINGLE else count_volumes(path)


def _glmsingle(path: Path, voxels: xr.Dataset, read: bool = True) -> NDArray[np.float32]:
    """Voxels (trial, voxel) of 'betasmd' (i, j, k, trial); zeros where `read` is False, which only checks."""
    with open_hdf5(path, "is not a readable HDF5 file of GLMsingle", "write it again") as file:
        betas = file["betasmd"]
        if betas.ndim != 4:
            raise ResponseError(f"{path}: 'betasmd' has shape {betas.shape}; (i, j, k, trial) is expected")
        indices, _, shape = grid_of(voxels)
        if betas.shape[:3] != shape:
            swapped = "; its axes are swapped" if betas.shape[::-1][:3] == shape else ""
            raise ResponseError(f"{path}: 'betasmd' has shape {betas.shape}, the mask {shape}{swapped}")
        values = np.zeros((betas.shape[3], len(indices)), dtype=np.float32)
        if not read:
            return values
        for i in np.unique(indices[:, 0]):  # a slice at a time bounds memory
            at = indices[:, 0] == i
            values[:, at] = betas[i][indices[at, 1], indices[at, 2]].T
        return values


def _hashes(names: Sequence[str], folder: Path, required: bool) -> dict[str, str]:
    """`image_id` of each stim_file."""
    files = {name: folder / name for name in names}
    if not required and not all(file.is_file() for file in files.values()):
        return {name: name for name in names}
    if missing := [file for file in files.values() if not file.is_file()]:
        raise ResponseError(f"{missing[0]} is missing: the events name it as a picture")
    ids = file_ids(files.values())
    return {name: ids[file] for name, file in files.items()}


def _test_ids(planned: Sequence[tuple[str, Path, list[dict[str, str]]]], hashes: dict[str, str]) -> set[str] | None:
    rows = [row for _, _, part in planned for row in part]
    if not all("split" in row for row in rows):
        return None
    return {hashes[row["stim_file"]] for row in rows if row["split"] == "test"}


def _join_runs(
    planned: Sequence[tuple[str, Path, list[dict[str, str]]]], hashes: dict[str, str], voxels: xr.Dataset
) -> list[Session]:
    """One `Session` for each session, whose runs are read one after another."""
    sessions = []
    for name in dict.fromkeys(session for session, _, _ in planned):
        parts = [(path, rows) for session, path, rows in planned if session == name]

        def read(parts: Sequence[tuple[Path, Any]] = parts) -> NDArray[np.float32]:
            paths = [path for path, _ in parts]
            return np.concatenate(
                [_glmsingle(p, voxels) if p.name == GLMSINGLE else read_voxels(p, voxels) for p in paths]
            )

        ids = [hashes[row["stim_file"]] for _, rows in parts for row in rows]
        sessions.append(Session(name or "all", ids, read))
    return sessions
