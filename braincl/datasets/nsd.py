"""The Natural Scenes Dataset (Allen et al. 2022) as its bucket lays it out: single-trial betas in func1pt8mm.

Numbers count in two ways there: trials and the pictures of `nsd_expdesign.mat` from 1, `nsdId` from 0.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.hdf5_check import hdf5_fault
from braincl.data.nifti import VOLUMES, count_volumes, grid_of, open_nifti, read_map, read_voxels, voxel_table
from braincl.datasets.files import (
    file_ids,
    need_file,
    need_folder,
    open_hdf5,
    read_labels,
    read_mat,
    read_table,
    with_rois,
)
from braincl.datasets.generic import with_image_files
from braincl.datasets.layout import DataSet, Part
from braincl.datasets.trials import Session, assemble, choose_sessions
from braincl.errors import ResponseError

SCALE = 300  # betas are stored as int16: percent signal change times 300
SUBJECTS = tuple(f"subj{number:02d}" for number in range(1, 9))
BETAS = "betas_fithrf_GLMdenoise_RR"
ATLASES = ("prf-visualrois", "floc-faces", "floc-bodies", "floc-places", "floc-words")
DESIGN = "nsddata/experiments/nsd"
STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
_BETA_FOLDER = f"nsddata_betas/ppdata/{{subject}}/func1pt8mm/{BETAS}"
_ROI_FOLDER = "nsddata/ppdata/{subject}/func1pt8mm/roi"
_LABELS = "nsddata/freesurfer/{}/label"


def _copy(path: str, recursive: bool = False) -> str:
    """What to do by hand for a file or folder of the bucket: no download, since the terms are to be signed first."""
    return (
        "sign the terms at naturalscenesdataset.org, then `aws s3 cp --no-sign-request "
        f"s3://natural-scenes-dataset/{path} FOLDER/{path}{' --recursive' if recursive else ''}`"
    )


LAYOUT = DataSet(
    name="nsd",
    title="Natural Scenes Dataset: 8 subjects, up to 10,000 pictures each, 7T (Allen et al. 2022)",
    licence="NSD Terms and Conditions: no redistribution; sign them at naturalscenesdataset.org",
    source="s3://natural-scenes-dataset (public bucket)",
    reader="braincl.datasets.read_nsd",
    subjects=SUBJECTS,
    parts=(
        Part("betas", (f"{_BETA_FOLDER}/betas_session*.hdf5", f"{_BETA_FOLDER}/betas_session*.nii.gz"),
             "single-trial betas, int16 / 300, a file a session (.hdf5 is read faster)",
             f"{_copy(f'{_BETA_FOLDER}/betas_session01.hdf5')} and so on"),
        Part("ncsnr", (f"{_BETA_FOLDER}/ncsnr.nii.gz",), "signal-to-noise for noise ceilings",
             _copy(f"{_BETA_FOLDER}/ncsnr.nii.gz"), needed=False),
        Part("mask", (f"{_ROI_FOLDER}/nsdgeneral.nii.gz",), "voxels that respond to pictures",
             _copy(f"{_ROI_FOLDER}/nsdgeneral.nii.gz")),
        Part("ROI volumes", tuple(f"{_ROI_FOLDER}/{atlas}.nii.gz" for atlas in ATLASES), "labels of areas",
             _copy(f"{_ROI_FOLDER}/", recursive=True), needed=False),
        Part("label tables", tuple(f"{_LABELS.format(who)}/*.mgz.ctab" for who in ("{subject}", "fsaverage")),
             "names of the labels", _copy(f"{_LABELS.format('{subject}')}/", recursive=True), needed=False),
        Part("design", (f"{DESIGN}/nsd_expdesign.mat",), "which trial showed which picture",
             _copy(f"{DESIGN}/nsd_expdesign.mat")),
        Part("picture table", (f"{DESIGN}/nsd_stim_info_merged.csv",), "COCO ids, crops, the shared 1,000",
             _copy(f"{DESIGN}/nsd_stim_info_merged.csv")),
        Part("pictures", (STIMULI,), "all 73,000 pictures (37 GB), for embeddings", _copy(STIMULI), needed=False),
    ),
)  # fmt: skip


class _Design(NamedTuple):
    nsd_ids: NDArray[np.int64]  # from 0, of every trial of the subject in order
    trials: list[int]  # of every session
    pictures: dict[int, dict[str, str]]  # rows of the picture table by nsdId


def read_nsd(
    folder: str | Path,
    subject: str,
    *,
    sessions: Sequence[int] | None = None,
    mask: str | Path = "nsdgeneral",
    rois: Sequence[str] | None = None,
    pictures: str | Path | None = None,
    zscore: str | None = "session",
    trials: bool = False,
    noise_ceiling: str | None = "ncsnr",
) -> xr.Dataset:
    """Response set of one NSD subject: betas_fithrf_GLMdenoise_RR in func1pt8mm, repeats averaged.

    Parameters
    ----------
    folder : path
        With `nsddata` and `nsddata_betas` as in the bucket.
    subject : str
        "subj01" to "subj08".
    sessions : sequence of int, optional
        Counted from 1. None: all that are there, which must be 1 to some number without gaps.
    mask : str or path
        Name of a volume in the subject's `roi` folder, whose voxels above 0 are read, or path of any mask.
    rois : sequence of str, optional
        Volumes in the `roi` folder that name areas; a voxel takes the first one's. None: those of `ATLASES` that are
        there.
    pictures : folder, optional
        Where `export_nsd_pictures` wrote ``nsd-NNNNN.png``; `image_id` then is the hash of that file, as in
        `braincl embed`. None: the pictures are not looked at, and `image_id` is ``nsd-NNNNN``, the nsdId with five
        digits. Both name a picture across subjects, but the two kinds do not join.
    zscore, trials, noise_ceiling
        See `braincl.datasets.assemble`; the test pictures are the shared 1,000.

    Returns
    -------
    Dataset
        ``response (image, voxel)`` in percent signal change or z-scores, with `image_id`, `nsd_id`, `coco_id`,
        `coco_split`, `crop_box (image, side)` (shares cut off at top, bottom, left, right of the COCO picture),
        `split`, `repeats`; `i`, `j`, `k`, `roi`, `noise_ceiling`.

    Raises
    ------
    ResponseError
        A file is missing, damaged or on another grid; sessions have gaps; betas are not int16 or their HDF5 axes are
        not reversed; label tables disagree with their volume; design and picture table disagree.
    """
    root = need_folder(folder)
    if subject not in SUBJECTS:
        raise ResponseError(f"subject {subject!r} is not one of NSD; choose one of {', '.join(SUBJECTS)}")
    betas = root / _BETA_FOLDER.format(subject=subject)
    roi_folder = root / _ROI_FOLDER.format(subject=subject)
    design = _read_design(root, subject)
    files = _session_files(betas, sessions, len(design.trials))
    mask_path = roi_folder / f"{mask}.nii.gz" if (roi_folder / f"{mask}.nii.gz").is_file() else Path(mask)
    voxels = voxel_table(need_file(mask_path, f"a volume in {roi_folder}, or the path of a mask"))
    if rois is None:
        rois = [atlas for atlas in ATLASES if (roi_folder / f"{atlas}.nii.gz").is_file()]
    if rois:
        tables = {atlas: _label_table(root, subject, atlas) for atlas in rois}
        labels = {a: read_labels(roi_folder / f"{a}.nii.gz", table, voxels) for a, table in tables.items()}
        voxels = with_rois(voxels, labels)
    ncsnr = None
    if noise_ceiling == "ncsnr":
        lacks = "ncsnr for the noise ceiling; or take noise_ceiling='repeats' or None (--noise-ceiling)"
        ncsnr = read_map(need_file(betas / "ncsnr.nii.gz", lacks), voxels)
    starts = np.concatenate([[0], np.cumsum(design.trials)])
    shown = {n: design.nsd_ids[starts[n - 1] : starts[n]].tolist() for n in files}
    unique = sorted({nsd_id for ids in shown.values() for nsd_id in ids})
    names = {nsd_id: f"nsd-{nsd_id:05d}" for nsd_id in unique}
    hashes = names
    if pictures is not None:
        paths = {nsd_id: Path(pictures) / f"{name}.png" for nsd_id, name in names.items()}
        for path in paths.values():
            need_file(path, "a picture; `braincl.datasets.export_nsd_pictures` writes them")
        found = file_ids(paths.values())
        hashes = {nsd_id: found[path] for nsd_id, path in paths.items()}
    result = assemble(
        [
            Session(f"{n:02d}", [hashes[i] for i in shown[n]], _reader(file, len(shown[n]), voxels))
            for n, file in files.items()
        ],
        voxels.assign_attrs(subject=f"nsd-{subject}", dataset="nsd", betas=BETAS, scale=float(SCALE)),
        zscore=zscore,
        test_ids={hashes[i] for i in unique if design.pictures[i]["shared1000"] == "True"},
        trials=trials,
        noise_ceiling=noise_ceiling,
        ncsnr=ncsnr,
    )
    if pictures is not None:
        result = with_image_files(result, {hashes[i]: f"{names[i]}.png" for i in unique})
    return _with_pictures(result, {hashes[i]: design.pictures[i] for i in unique})


def export_nsd_pictures(
    folder: str | Path, out: str | Path, nsd_ids: Sequence[int] | None = None, *, progress: bool = False
) -> list[Path]:
    """Write pictures of `nsd_stimuli.hdf5` as ``nsd-NNNNN.png`` (nsdId from 0), for `braincl embed` and `read_nsd`.

    Pictures that are there already are kept, so that a second call goes on where the first was stopped.

    Parameters
    ----------
    folder : path
        With `nsddata_stimuli` as in the bucket; 'imgBrick' there is (picture, row, column, RGB) uint8.
    out : folder
        Made if need be.
    nsd_ids : sequence of int, optional
        None: all of them.
    progress : bool

    Returns
    -------
    list of Path

    Raises
    ------
    ResponseError
    """
    import h5py
    from PIL import Image

    from setcore.files import atomic_path
    from setcore.progress import progress_bar

    path = need_file(need_folder(folder) / STIMULI, "the pictures")
    Path(out).mkdir(parents=True, exist_ok=True)

    def _damaged(error: Exception) -> ResponseError:
        return ResponseError(f"{path} does not hold the pictures of NSD ({error}); fetch it again")

    if what := hdf5_fault(path, values=False):
        raise _damaged(OSError(what))
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _damaged(error) from error
    written = []
    with file:
        if "imgBrick" not in file:
            raise _damaged(KeyError("imgBrick"))
        brick = file["imgBrick"]
        wanted = range(len(brick)) if nsd_ids is None else nsd_ids
        for nsd_id in progress_bar(wanted, desc="export pictures", shown=progress, unit="image"):
            picture = Path(out) / f"nsd-{nsd_id:05d}.png"
            if not picture.is_file():
                try:
                    pixels = Image.fromarray(brick[nsd_id])
                except (OSError, IndexError, ValueError, TypeError) as error:
                    raise _damaged(error) from error
                with atomic_path(picture) as temporary:
                    pixels.save(temporary)
            written.append(picture)
    return written


def _read_design(root: Path, subject: str) -> _Design:
    """Which picture each trial showed, from the design, and checked against the picture table."""
    path = root / DESIGN / "nsd_expdesign.mat"
    number = int(subject[-2:])
    mat = read_mat(
        need_file(path, "which trial showed which picture"),
        ("masterordering", "subjectim", "sharedix", "stimpattern"),
    )
    order, pictures = mat["masterordering"].ravel().astype(np.int64), mat["subjectim"].astype(np.int64)
    if pictures.ndim != 2 or len(pictures) < number or order.min() < 1 or order.max() > pictures.shape[1]:
        raise ResponseError(
            f"{path}: subjectim has shape {pictures.shape} and masterordering runs from {order.min()} to "
            f"{order.max()}; one row a subject and indices from 1 to its length are expected"
        )
    nsd_ids = pictures[number - 1, order - 1] - 1
    trials = (
        mat["stimpattern"].sum(axis=(1, 2), dtype=int).tolist()
    )  # (session, run, slot), 1 where a picture was shown
    if sum(trials) != len(order):
        raise ResponseError(f"{path}: sessions have {sum(trials)} trials in all, masterordering lists {len(order)}")
    table = root / DESIGN / "nsd_stim_info_merged.csv"
    repeats = [f"subject{number}_rep{repeat}" for repeat in range(3)]  # trials from 1; 0 where it was not shown
    rows = read_table(table, ("nsdId", "cocoId", "cocoSplit", "cropBox", "shared1000", *repeats))
    try:
        by_id = {int(row["nsdId"]): row for row in rows}
        listed = {int(row[name]): nsd_id for nsd_id, row in by_id.items() for name in repeats}
    except ValueError as error:
        raise ResponseError(f"{table}: nsdId and {', '.join(repeats)} must be integers ({error})") from error
    if absent := sorted(set(nsd_ids.tolist()) - set(by_id)):
        raise ResponseError(f"{table} does not list nsdId {absent[0]}, which {path.name} shows; fetch both again")
    for trial, nsd_id in enumerate(nsd_ids.tolist(), 1):
        if listed.get(trial, nsd_id) != nsd_id:
            raise ResponseError(
                f"{table} and {path.name} disagree: trial {trial} of {subject} shows nsdId {listed[trial]} in one and "
                f"{nsd_id} in the other; they belong to different versions, fetch both again"
            )
    shared = {nsd_id for nsd_id, row in by_id.items() if row["shared1000"] == "True"}
    if shared != set((mat["sharedix"].ravel().astype(np.int64) - 1).tolist()):
        raise ResponseError(f"{table} and {path.name} disagree on the shared pictures; fetch both again")
    return _Design(nsd_ids, trials, by_id)


def _session_files(folder: Path, sessions: Sequence[int] | None, planned: int) -> dict[int, Path]:
    """The file of each session, HDF5 where there are both."""
    there: dict[int, Path] = {}
    for suffix in (".nii.gz", ".hdf5"):
        for file in sorted(folder.glob(f"betas_session*{suffix}")):
            if match := re.fullmatch(r"betas_session(\d\d)", file.name.removesuffix(suffix)):
                there[int(match[1])] = file
    if not there:
        raise ResponseError(f"{folder} holds no betas_sessionNN.hdf5 or .nii.gz; `braincl data check nsd` says more")
    wanted = choose_sessions(there, sessions, folder)
    if wanted[-1] > planned:
        raise ResponseError(f"{there[wanted[-1]]}: the design has {planned} sessions only")
    return {n: there[n] for n in wanted}


def _label_table(root: Path, subject: str, atlas: str) -> Path:
    """The subject's own table, else that of fsaverage."""
    paths = [root / _LABELS.format(who) / f"{atlas}.mgz.ctab" for who in (subject, "fsaverage")]
    return paths[0] if paths[0].is_file() else need_file(paths[1], f"names of the labels in {atlas}.nii.gz")


def _reader(path: Path, trials: int, voxels: xr.Dataset) -> Any:
    def read() -> NDArray[np.float32]:
        if path.suffix == ".hdf5":
            values = _read_hdf5(path, trials, voxels)
        else:
            if (dtype := open_nifti(path).get_data_dtype()) != np.int16:
                raise ResponseError(_not_int16(path, dtype))
            if (volumes := count_volumes(path)) != trials:
                raise ResponseError(f"{path} holds {volumes} trials, the design has {trials} in that session")
            values = read_voxels(path, voxels)
        return values / np.float32(SCALE)

    return read


def _read_hdf5(path: Path, trials: int, voxels: xr.Dataset) -> NDArray[np.float32]:
    """Voxels of 'betas', which MATLAB wrote: its (i, j, k, trial) lie on disk as (trial, k, j, i)."""
    indices, _, shape = grid_of(voxels)
    values = np.empty((trials, len(indices)), dtype=np.float32)
    advice = "it may be truncated, fetch it again"
    with open_hdf5(path, "is not a readable HDF5 file of betas", advice) as file:
        betas = file["betas"]
        if betas.shape != (expected := (trials, *shape[::-1])):
            swapped = betas.shape == expected[::-1]
            raise ResponseError(
                f"{path}: 'betas' has shape {betas.shape}; {expected} is expected, (trial, k, j, i) on the mask's "
                f"grid {shape}" + ("; its axes are swapped, write it transposed" if swapped else "")
            )
        if betas.dtype != np.int16:
            raise ResponseError(_not_int16(path, betas.dtype))
        for part, slices in _blocks(betas.chunks, betas.shape):
            at = (indices[:, 2] >= slices.start) & (indices[:, 2] < slices.stop)
            block = betas[part, slices]
            values[part, at] = block[:, indices[at, 2] - slices.start, indices[at, 1], indices[at, 0]]
    return values


def _blocks(chunks: tuple[int, ...] | None, shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Ranges of trials and of k that are read at once: few, and such that no chunk is unpacked twice."""
    trials, depth = shape[:2]
    whole_trials = chunks is not None and chunks[0] >= trials  # chunks hold all trials of some voxels
    size = chunks[0] * -(-VOLUMES // chunks[0]) if chunks is not None and not whole_trials else VOLUMES
    steps = (trials, chunks[1]) if chunks is not None and whole_trials else (size, depth)
    for start in range(0, trials, steps[0]):
        for k in range(0, depth, steps[1]):
            yield slice(start, min(start + steps[0], trials)), slice(k, min(k + steps[1], depth))


def _not_int16(path: Path, dtype: Any) -> str:
    return (
        f"{path}: betas are {dtype}; NSD stores int16, percent signal change times {SCALE}. Of converted files nobody "
        "knows the unit: fetch the original, or read yours with braincl.datasets.read_nifti"
    )


def _with_pictures(result: xr.Dataset, rows: dict[str, dict[str, str]]) -> xr.Dataset:
    """The set with what the picture table says of each picture."""
    chosen = [rows[image_id] for image_id in result["image_id"].values]
    try:
        boxes = np.array([ast.literal_eval(row["cropBox"]) for row in chosen], dtype=float).reshape(len(chosen), 4)
    except (ValueError, SyntaxError) as error:
        raise ResponseError("a cropBox of nsd_stim_info_merged.csv is not four numbers in brackets") from error
    return result.assign_coords(
        nsd_id=("image", np.array([int(row["nsdId"]) for row in chosen])),
        coco_id=("image", np.array([int(row["cocoId"]) for row in chosen])),
        coco_split=("image", np.array([row["cocoSplit"] for row in chosen], dtype=str)),
        crop_box=(("image", "side"), boxes),
    )
