"""BOLD5000 (Chang et al. 2019): release 2, GLMsingle betas as volumes, and release 1, responses of areas.

In both, one line of a text file names the picture of each trial; a picture shown again is prefixed ``rep_`` there.
The volumes of release 2 were written without an affine, so that those of one subject are matched by their voxel indices
alone; `affine` is that of the mask.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.folders import find_files
from braincl.data.nifti import count_volumes, read_map, read_voxels, voxel_table
from braincl.datasets.files import file_ids, need_file, need_folder, open_hdf5, read_lines, read_mat, with_rois
from braincl.datasets.generic import with_image_files
from braincl.datasets.layout import DataSet, Part
from braincl.datasets.trials import Session, assemble, check_choice
from braincl.errors import ResponseError

SUBJECTS = ("CSI1", "CSI2", "CSI3", "CSI4")
BETAS = "GLMbetas-TYPED-FITHRF-GLMDENOISE-RR"  # the version that the authors recommend
AREAS = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
ALIASES = {"LOC": ("LOC", "LO"), "RSC": ("RSC", "RRSC")}  # as some subjects' masks are named
SOURCES = ("COCO", "ImageNet", "Scene")  # folders of the pictures
_BETAS_AT = "https://doi.org/10.1184/R1/14456124 (release 2)"
_ROIS_AT = "https://doi.org/10.1184/R1/6459449 (release 1, BOLD5000_ROIs.zip)"

LAYOUT = DataSet(
    name="bold5000",
    title="BOLD5000: 4 subjects, 4,916 pictures, 3T (Chang et al. 2019), releases 1 and 2",
    licence="CC0 1.0 (responses); the pictures have licences of their own",
    source="bold5000.org, KiltHub (figshare) and OpenNeuro ds001499",
    reader="braincl.datasets.read_bold5000",
    subjects=SUBJECTS,
    parts=(
        Part("betas (release 2)", (f"**/{{subject}}_{BETAS}_ses-*.nii.gz",), "single-trial betas, a file a session",
             f"download them from {_BETAS_AT}", needed=False),
        Part("brain mask (release 2)", ("**/{subject}_brainmask.nii.gz",), "voxels to read",
             f"download it from {_BETAS_AT}", needed=False),
        Part("picture names (release 2)", ("**/{subject}_imgnames.txt",), "a line for each trial",
             f"download it from {_BETAS_AT}", needed=False),
        Part("masks of areas (release 2)", ("**/sub-{subject}_mask-*.nii.gz",), "EarlyVis, LOC, OPA, PPA, RSC",
             "`aws s3 sync --no-sign-request s3://openneuro.org/ds001499/derivatives/spm .`", needed=False),
        Part("responses of areas (release 1)", ("**/{subject}_ROIs_TR34.mat", "**/{subject}_ROIs_TR34.h5"),
             "trials by voxels of ten areas", f"download them from {_ROIS_AT}", needed=False),
        Part("picture names (release 1)", ("**/stim_lists/CSI0*_stim_lists.txt",), "a line for each trial",
             f"download them from {_ROIS_AT}", needed=False),
        Part("pictures", ("**/Presented_Stimuli/*/*.*",), "COCO, ImageNet, Scene: for embeddings",
             "BOLD5000_Stimuli.zip, linked at bold5000.org", needed=False),
    ),
)  # fmt: skip


def read_bold5000(
    folder: str | Path,
    subject: str,
    *,
    release: int = 2,
    sessions: Sequence[int] | None = None,
    mask: str | Path | None = None,
    pictures: str | Path | None = None,
    zscore: str | None = None,
    trials: bool = False,
    noise_ceiling: str | None = "repeats",
) -> xr.Dataset:
    """Response set of one BOLD5000 subject, repeats averaged; pictures shown more than once are the test split.

    Parameters
    ----------
    folder : path
        Files are looked for anywhere below it, by name.
    subject : str
        "CSI1" to "CSI4".
    release : 1 or 2
        1: responses of ten areas, averaged over the third and fourth volume after a picture (TR34), without places of
        voxels. 2: betas of GLMsingle, percent signal change.
    sessions : sequence of int, optional
        Of release 2; 1 to some number, since the list of pictures does not say where a session begins. None: all that
        are there.
    mask : path, optional
        Of release 2; None: the brain mask that comes with it.
    pictures : folder, optional
        `Presented_Stimuli` with COCO, ImageNet and Scene; `image_id` is the hash of the file. None: `image_id` is the
        name of the file.
    zscore, trials, noise_ceiling
        See `braincl.datasets.assemble`; release 1 does not tell sessions apart and is z-scored as one.

    Returns
    -------
    Dataset
        ``response (image, voxel)`` with `image_id`, `image_file`, `split`, `repeats`, `roi`, and for release 2 `i`,
        `j`, `k`.

    Raises
    ------
    ResponseError
        A file is missing, damaged or on another grid, or the list of pictures is not as long as the responses.
    """
    root = need_folder(folder)
    check_choice("subject", subject, SUBJECTS)
    check_choice("release", release, (1, 2))
    if release == 1:
        names = _names(_find(root, f"CSI0{subject[-1]}_stim_lists.txt", "the pictures of the trials (release 1)"))
        voxels, planned = _areas_of_release_1(root, subject, len(names))
    else:
        names = _names(_find(root, f"{subject}_imgnames.txt", "the pictures of the trials (release 2)"))
        voxels, planned = _volumes_of_release_2(root, subject, sessions, mask, len(names))
    shown = names[: sum(len(session.image_ids) for session in planned)]
    hashes = {name: name for name in shown}
    if pictures is not None:
        files = {name: _picture(Path(pictures), name) for name in hashes}
        ids = file_ids(files.values())
        hashes = {name: ids[file] for name, file in files.items()}
    numbered: list[Session] = []
    for session in planned:
        start = sum(len(other.image_ids) for other in numbered)
        ids_of_session = [hashes[name] for name in shown[start : start + len(session.image_ids)]]
        numbered.append(session._replace(image_ids=ids_of_session))
    # by the whole list, so that the split is the same however many sessions are read
    repeated = {hashes[name] for name in hashes if names.count(name) > 1}
    result = assemble(
        numbered,
        voxels.assign_attrs(subject=f"bold5000-{subject}", dataset="bold5000", release=release),
        zscore=zscore,
        test_ids=repeated,
        trials=trials,
        noise_ceiling=noise_ceiling,
    )
    return with_image_files(result, {image_id: name for name, image_id in hashes.items()})


def _names(path: Path) -> list[str]:
    return [Path(line).name.removeprefix("rep_") for line in read_lines(path)]


def _find(root: Path, name: str, what: str) -> Path:
    """The file of that name below `root`."""
    found = find_files(root, f"**/{name}")
    if not found:
        raise ResponseError(f"{root} holds no {name}: {what}; `braincl data check bold5000` says where to get it")
    return found[0]


def _picture(folder: Path, name: str) -> Path:
    paths = [folder / source / name for source in SOURCES]
    for path in paths:
        if path.is_file():
            return path
    raise ResponseError(f"{folder} has no picture {name} in {', '.join(SOURCES)}; name the folder Presented_Stimuli")


def _volumes_of_release_2(
    root: Path, subject: str, sessions: Sequence[int] | None, mask: str | Path | None, listed: int
) -> tuple[xr.Dataset, list[Session]]:
    there = {}
    for file in find_files(root, f"**/{subject}_{BETAS}_ses-*.nii.gz"):
        if match := re.search(r"_ses-(\d\d)\.nii\.gz$", file.name):
            there[int(match[1])] = file
    if not there:
        raise ResponseError(f"{root} holds no {subject}_{BETAS}_ses-NN.nii.gz; `braincl data check bold5000` says more")
    wanted = sorted(there) if sessions is None else sorted(set(sessions))
    if not wanted:
        raise ResponseError("the list of sessions is empty; name at least one, or None for all")
    if missing := [n for n in range(1, wanted[-1] + 1) if n not in there or n not in wanted]:
        raise ResponseError(
            f"session {', '.join(f'{n:02d}' for n in missing)} of {subject} is missing (there are "
            f"{', '.join(f'{n:02d}' for n in sorted(there))}); sessions must run from 01 on, since the list of "
            "pictures does not say where one begins"
        )
    voxels = voxel_table(_find(root, f"{subject}_brainmask.nii.gz", "the brain mask") if mask is None else mask)
    planned = []
    for n in wanted:

        def read(file: Path = there[n]) -> NDArray[np.float32]:
            return read_voxels(file, voxels, same_affine=False)

        planned.append(Session(f"{n:02d}", [""] * count_volumes(there[n]), read))
    total = sum(len(session.image_ids) for session in planned)
    if total > listed or (total < listed and len(wanted) == (9 if subject == "CSI4" else 15)):
        raise ResponseError(
            f"the betas of {subject} hold {total} trials, {subject}_imgnames.txt lists {listed}; fetch both again"
        )
    return _with_areas(voxels, root, subject), planned


def _with_areas(voxels: xr.Dataset, root: Path, subject: str) -> xr.Dataset:
    """The voxel axis with `roi`, such as "LHPPA", from the masks of OpenNeuro as far as they are there."""
    roi = np.full(voxels.sizes["voxel"], "", dtype=object)
    found = False
    for area in AREAS:
        for name in (f"{side}{alias}" for side in ("LH", "RH") for alias in ALIASES.get(area, (area,))):
            for file in find_files(root, f"**/sub-{subject}_mask-{name}.nii.gz"):
                roi[(roi == "") & (read_map(file, voxels, same_affine=False) > 0)] = name[:2] + area
                found = True
    return with_rois(voxels, {"area": roi.astype(str)}) if found else voxels


def _areas_of_release_1(root: Path, subject: str, listed: int) -> tuple[xr.Dataset, list[Session]]:
    mat = find_files(root, f"**/{subject}_ROIs_TR34.mat")
    path = mat[0] if mat else _find(root, f"{subject}_ROIs_TR34.h5", "responses of areas (release 1; .mat or .h5)")
    keys = [side + area for side in ("LH", "RH") for area in AREAS]
    areas: dict[str, NDArray[Any]] = read_mat(path, keys) if path.suffix == ".mat" else _read_h5(path, keys)
    for key, values in areas.items():
        if values.ndim != 2 or len(values) != listed:
            raise ResponseError(
                f"{path}: {key} has shape {values.shape}; (trial, voxel) with the {listed} trials of the list of "
                "pictures is expected"
            )
    roi = np.repeat(keys, [areas[key].shape[1] for key in keys])
    voxel_id = [f"{key}-{number}" for key in keys for number in range(areas[key].shape[1])]
    voxels = xr.Dataset(coords={"voxel_id": ("voxel", np.array(voxel_id, dtype=str)), "roi": ("voxel", roi)})
    values = np.concatenate([areas[key].astype(np.float32) for key in keys], axis=1)
    return voxels, [Session("all", [""] * listed, lambda: values)]


def _read_h5(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Release 1's HDF5 files: a dataset for each area, (trial, voxel), not reversed."""
    need_file(path, "responses of areas")
    with open_hdf5(path, "does not hold the ten areas") as file:
        return {key: np.asarray(file[key]) for key in keys}
