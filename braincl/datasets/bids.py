"""BIDS derivatives: single-trial betas beside a raw data set whose events say which picture each trial showed.

BIDS has no name for single-trial betas, so this reader takes what laboratories write: a 4-D NIfTI image, or an array in
a .npy or HDF5 file, for each run or session whose name holds "beta", or the HDF5 file of GLMsingle for each session.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.folders import find_files, natural_order
from braincl.data.nifti import count_volumes, grid_of, read_voxels, voxel_table, with_notes
from braincl.data.splits import pictures_for_testing
from braincl.datasets.files import file_ids, need_folder, open_hdf5, read_table, shows_picture
from braincl.datasets.generic import with_image_files
from braincl.datasets.layout import DataSet, Part
from braincl.datasets.trials import Session, assemble
from braincl.errors import ResponseError

GLMSINGLE = "TYPED_FITHRF_GLMDENOISE_RR.hdf5"
NAMES = (*(f"*beta*{suffix}" for suffix in (".nii.gz", ".nii", ".npy", ".h5", ".hdf5")), GLMSINGLE)
# What a name says beside "beta" where the file holds no trials, and where in a name it does not count.
NO_TRIALS = re.compile(
    r"(?<![a-z])(?:betas?)?(?:se|sem|ste|stderr|stderror|std|stdev|sd|err|errors?|var|variance|uncertainty|mask)(?![a-z])"
)
ELSEWHERE = re.compile(r"(?:sub|ses|task|acq|run|dir|echo|hemi|space|res)-[0-9A-Za-z]*_?")

LAYOUT = DataSet(
    name="bids",
    title="BIDS derivatives: single-trial betas (NIfTI or GLMsingle's HDF5) + events with stim_file",
    licence="that of the data set",
    source="your own analysis, or OpenNeuro",
    reader="braincl.datasets.read_bids",
    parts=(
        Part("events", ("sub-{subject}/**/*_events.tsv",), "onset and stim_file of each trial",
             "they are part of the raw data set; stim_file is relative to its folder stimuli"),
        Part("betas", tuple(f"derivatives/*/sub-{{subject}}/**/{name}" for name in NAMES),
             "a volume for each trial, for each run or session", "write them with your GLM (GLMsingle: wanthdf5=1)"),
        Part("mask", tuple(f"derivatives/*/sub-{{subject}}/**/*_mask.nii{suffix}" for suffix in (".gz", "")),
             "3-D, on the grid of the betas",
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
    betas: str | None = None,
    mask: str | Path | None = None,
    task: str | None = None,
    pictures: str | Path | None = None,
    zscore: str | None = None,
    trials: bool = False,
    noise_ceiling: str | None = None,
) -> xr.Dataset:
    """Response set of one subject of a BIDS data set with single-trial betas.

    The trials of a run are the rows of its events with a `stim_file`, by onset. A betas file with a run in its name
    holds the trials of that run; one without, and GLMsingle's, those of all runs of the session in order (run-2 before
    run-10). Arrays in .npy and HDF5 files are (i, j, k, trial), or (voxel, 1, 1, trial) or (voxel, trial) with the
    voxels of the mask in C order. Links to folders are followed.

    Parameters
    ----------
    folder : path
        The raw data set.
    subject : str
        With or without "sub-".
    derivatives : folder, optional
        Of the pipeline that wrote the betas. None: the only one in ``derivatives/`` that has betas of the subject.
    betas : str, optional
        Pattern of the names of betas, such as ``"*desc-betasLSS*"``. None: those that hold "beta" but speak of no
        standard error, variance or mask, in the space of the mask; they must be of one kind.
    mask : path, optional
        None: the only ``*_mask.nii.gz`` of the subject in `derivatives`.
    task : str, optional
        Where there are several.
    pictures : folder, optional
        What `stim_file` is relative to; None: `stimuli` of the data set. `image_id` is the hash of the file; where it
        is not there, and `pictures` is None, `stim_file` itself.
    zscore, trials, noise_ceiling
        See `braincl.datasets.assemble`; a column `split` ("test" or "context") of the events is used where
        there is one.

    Returns
    -------
    Dataset
        ``response (image, voxel)`` with `image_id`, `image_file`, `repeats`, `i`, `j`, `k`, and the attribute `notes`
        where something had to be assumed or left out.

    Raises
    ------
    ResponseError
        Files are missing, it is not clear which are meant, betas and events do not hold the same number of trials, or
        a split is unknown or not the same in all rows of a picture.
    """
    root = need_folder(folder)
    subject = f"sub-{subject.removeprefix('sub-')}"
    events = _events(root, subject, task)
    candidates, own = _betas(root, subject, derivatives, betas, task)
    masks = (f"**/*_mask{suffix}" for suffix in (".nii.gz", ".nii"))
    mask = _only(find_files(own, *masks), f"mask of {subject} in {own}") if mask is None else Path(mask)
    voxels = voxel_table(mask)
    planned: list[tuple[str, Path, list[dict[str, str]]]] = []
    taken: dict[tuple[str, str], Path] = {}
    for path in _of_one_kind(candidates, _value("space", mask)):
        session, run = _entities(path.relative_to(own.parent))
        keys = [key for key in events if key[0] == session and run in ("", key[1])]
        if not keys:
            raise ResponseError(f"{path}: the data set has no events with stim_file of {subject} {session} {run}")
        for key in keys:
            if (other := taken.setdefault(key, path)) != path:
                raise ResponseError(f"{other} and {path} both hold {' '.join(key)}; name one kind by betas= (--betas)")
        rows = [row for key in keys for row in events[key]]
        if (count := _count(path, voxels)) != len(rows):
            raise ResponseError(
                f"{path} holds {count} trials, the events of {session or subject} {run} list {len(rows)} with a "
                "stim_file; were trials left out of the GLM, or is a run missing?"
            )
        planned.append((session, path, rows))
    shown = [row for _, _, rows in planned for row in rows]
    folder = root / "stimuli" if pictures is None else Path(pictures)
    ids, missing = _image_ids(dict.fromkeys(row["stim_file"] for row in shown), folder)
    if missing and pictures is not None:
        raise ResponseError(f"{folder / missing[0]} is missing: the events name it as a picture")
    result = assemble(
        _join_runs(planned, ids, voxels),
        voxels.assign_attrs(subject=subject, dataset="bids"),
        zscore=zscore,
        test_ids=_test_ids(shown, ids, root),
        trials=trials,
        noise_ceiling=noise_ceiling,
    )
    unused = [" ".join(filter(None, key)) for key in events if key not in taken]
    notes = [f"there are no betas of {', '.join(unused)}, whose events list pictures"] if unused else []
    if missing:
        notes.append(f"{len(missing)} pictures are not in {folder}, such as {missing[0]}: their names are their ids")
    return with_notes(with_image_files(result, {i: name for name, i in ids.items()}), notes)


def _entities(path: Path) -> tuple[str, str]:
    """Session and run, such as ("ses-01", "run-2"), as the path says; "" where it does not. Runs lose leading zeros."""
    session = re.search(r"ses-[0-9A-Za-z]+", str(path))
    run = re.search(r"_run-(\d+)", path.name)
    return session[0] if session else "", f"run-{int(run[1])}" if run else ""


def _events(root: Path, subject: str, task: str | None) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Rows with a stim_file, by onset, for each session and run in order."""
    files = find_files(root, f"{subject}/**/*_events.tsv")
    files = [file for file in files if task in (None, _value("task", file))]
    events: dict[tuple[str, str], list[dict[str, str]]] = {}
    for file in sorted(files, key=lambda file: _order(file.relative_to(root))):
        rows = read_table(file, ("onset", "stim_file"), ("split",))
        rows = [row for row in rows if shows_picture(row["stim_file"])]
        try:
            rows.sort(key=lambda row: float(row["onset"]))
        except ValueError as error:
            raise ResponseError(f"{file}: an onset is not a number of seconds ({error})") from error
        if rows and (key := _entities(file.relative_to(root))) in events:
            raise ResponseError(
                f"{file}: there is more than one task for {' '.join(key)}; name one with task= (--task)"
            )
        elif rows:
            events[key] = rows
    return events


def _order(path: Path) -> tuple[list[str | int], list[str | int]]:
    session, run = _entities(path)
    return natural_order(session), natural_order(run)


def _value(key: str, path: Path) -> str:
    """What a BIDS name says of an entity, such as "T1w" of space; "" where it does not name it."""
    found = re.search(rf"(?:^|_){key}-([0-9A-Za-z]+)", path.name)
    return found[1] if found else ""


def _betas(
    root: Path, subject: str, derivatives: str | Path | None, betas: str | None, task: str | None
) -> tuple[list[Path], Path]:
    """Files that may hold betas, in order, and the subject's folder that they lie in."""
    pipelines = [need_folder(derivatives)] if derivatives is not None else sorted((root / "derivatives").glob("*"))
    candidates: dict[Path, list[Path]] = {}
    for pipeline in pipelines:
        paths = find_files(pipeline, *(f"{subject}/**/{name}" for name in (NAMES if betas is None else [betas])))
        paths = [path for path in paths if task is None or _value("task", path) in (task, "")]
        paths = [path for path in paths if betas is not None or not _speaks_of_errors(path)]
        if paths:
            candidates[pipeline] = sorted(paths, key=lambda path: _order(path.relative_to(pipeline)))
    if len(candidates) != 1:
        names = ", ".join(pipeline.name for pipeline in candidates) or "none"
        raise ResponseError(
            f"{root}: betas of {subject} in one pipeline of derivatives are expected, found: {names}; name its folder "
            "with derivatives= (--derivatives)"
        )
    ((pipeline, paths),) = candidates.items()
    return paths, pipeline / subject


def _speaks_of_errors(path: Path) -> bool:
    words = re.sub("([a-z])([A-Z])", r"\1-\2", ELSEWHERE.sub("", path.name.partition(".")[0]))
    return NO_TRIALS.search(words.lower()) is not None


def _of_one_kind(paths: Sequence[Path], space: str) -> list[Path]:
    """Those of the mask's space where there are some; all must then say the same of what they hold."""
    paths = [path for path in paths if _value("space", path) == space] or list(paths)
    kinds = {(*(_value(key, path) for key in ("space", "desc", "stat")), path.suffix): path for path in paths}
    if len(kinds) > 1:
        raise ResponseError(
            f"these are different kinds of betas: {', '.join(path.name for path in kinds.values())}; name one by "
            "betas= (--betas), or its mask by mask= (--mask)"
        )
    return paths


def _only(found: Sequence[Path], what: str) -> Path:
    if len(found) != 1:
        raise ResponseError(f"one {what} is expected, found {len(found)}; name it with mask= (--mask)")
    return found[0]


def _is_array(path: Path) -> bool:
    return path.suffix in (".npy", ".h5", ".hdf5")


def _count(path: Path, voxels: xr.Dataset) -> int:
    return len(_read_array(path, voxels, only_check=True)) if _is_array(path) else count_volumes(path)


def _read_array(path: Path, voxels: xr.Dataset, only_check: bool = False) -> NDArray[np.float32]:
    """Voxels (trial, voxel) of an array; zeros where they are not wanted."""
    indices, _, shape = grid_of(voxels)
    with _open_array(path) as betas:
        on_grid = betas.ndim == 4 and betas.shape[:3] == shape
        listed = betas.ndim > 1 and betas.shape[0] == len(indices) and set(betas.shape[1:-1]) <= {1}
        if not (on_grid or listed):
            swapped = "; its axes are swapped" if betas.shape[::-1][:3] == shape else ""
            raise ResponseError(
                f"{path}: betas have shape {betas.shape}; (i, j, k, trial) on the grid {shape} of the mask, or (voxel, "
                f"1, 1, trial) for its {len(indices)} voxels, is expected{swapped}"
            )
        values = np.zeros((betas.shape[-1], len(indices)), dtype=np.float32)
        if only_check:
            return values
        if listed:
            return np.asarray(betas[...], np.float32).reshape(len(indices), -1).T
        for i in np.unique(indices[:, 0]):  # a slice at a time bounds memory
            at = indices[:, 0] == i
            values[:, at] = betas[i][indices[at, 1], indices[at, 2]].T
        return values


@contextmanager
def _open_array(path: Path) -> Iterator[Any]:
    """The array of betas in a file: of .npy, or 'betasmd' or the only array of HDF5."""
    if path.suffix == ".npy":
        try:
            values = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise ResponseError(
                f"{path} is not a readable array ({error}); Python objects, as GLMsingle writes them, may hold code, "
                "so they are not loaded: write HDF5 (wanthdf5=1)"
            ) from error
        yield values
        return
    with open_hdf5(path, "is not a readable HDF5 file of betas", "write it again") as file:
        arrays = [value for value in file.values() if getattr(value, "ndim", 0) > 1]
        if "betasmd" not in file and len(arrays) != 1:
            raise ResponseError(f"{path} holds {len(arrays)} arrays and no 'betasmd'; keep the betas alone in it")
        yield file["betasmd"] if "betasmd" in file else arrays[0]


def _image_ids(names: Iterable[str], folder: Path) -> tuple[dict[str, str], list[str]]:
    """`image_id` of each stim_file: the hash of its file, or its name where that is missing; and the missing ones."""
    files = {name: folder / name for name in names}
    missing = [name for name, file in files.items() if not file.is_file()]
    hashes = file_ids(file for name, file in files.items() if name not in missing)
    return {name: hashes.get(file, name) for name, file in files.items()}, missing


def _test_ids(shown: Sequence[dict[str, str]], ids: dict[str, str], root: Path) -> set[str] | None:
    if not any("split" in row for row in shown):
        return None
    if not all("split" in row for row in shown):
        raise ResponseError(f"{root}: some events have a column split, others have none; give it to all or to none")
    pictures = (ids[row["stim_file"]] for row in shown)
    return pictures_for_testing(pictures, (row["split"] for row in shown), f"the events of {root}")


def _join_runs(
    planned: Sequence[tuple[str, Path, list[dict[str, str]]]], ids: dict[str, str], voxels: xr.Dataset
) -> list[Session]:
    """One `Session` for each session, whose runs are read one after another."""
    sessions = []
    for name in dict.fromkeys(session for session, _, _ in planned):
        parts = [(path, rows) for session, path, rows in planned if session == name]

        def read(parts: Sequence[tuple[Path, Any]] = parts) -> NDArray[np.float32]:
            paths = [path for path, _ in parts]
            return np.concatenate([_read_array(p, voxels) if _is_array(p) else read_voxels(p, voxels) for p in paths])

        shown = [ids[row["stim_file"]] for _, rows in parts for row in rows]
        sessions.append(Session(name or "all", shown, read))
    return sessions
