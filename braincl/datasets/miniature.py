"""A miniature of NSD in exactly its layout, generated: for trying the reader where the data set is not.

Names, dtypes, axis orders, scale factors and the two ways of counting are those of the data set; sizes are small and
no two axes are equally long. The responses are simulated: pictures are random colour fields, voxels are linear in
their colours with a tuning that depends on the area, noise and drifts between sessions come on top.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braincl.datasets.nsd import BETAS, DESIGN, SCALE, STIMULI
from setcore.seeding import numpy_generator

RUNS, SLOTS = 2, 75  # of a session; a slot without a picture is a blank trial
GRID = 4, 5  # rows and columns of colours in a picture
VOXEL_SIZE = 1.8  # mm
ATLASES = {
    "prf-visualrois": {1: "V1v", 2: "V1d", 3: "V2v"},
    "floc-faces": {1: "OFA", 2: "FFA-1"},
}


def write_nsd_miniature(
    folder: str | Path,
    subjects: Sequence[str] = ("subj01", "subj02"),
    *,
    sessions: int = 3,
    trials: int = 46,
    shared: int = 14,
    shape: tuple[int, int, int] = (7, 13, 11),
    picture: int = 40,
    formats: Sequence[str] = (".nii.gz",),
    seed: int = 0,
) -> Path:
    """Write a miniature of NSD below `folder`.

    Parameters
    ----------
    folder : path
        Made if need be.
    subjects : sequence of str
        Their grids differ by a slice from one to the next.
    sessions, trials : int
        Each subject's sessions and the trials of each; a picture is shown three times.
    shared : int
        Pictures that all subjects see (1,000 in NSD).
    shape : tuple of int
        Grid of the first subject.
    picture : int
        Pixels along a side of a picture (425 in NSD).
    formats : sequence of ".nii.gz" and ".hdf5"
        Of the betas.
    seed : int

    Returns
    -------
    Path
        `folder`.
    """
    root = Path(folder)
    own = -(-sessions * trials // 3) - shared
    shown, order = _write_design(root, subjects, sessions, trials, shared, own, seed)
    colours = _write_pictures(root, shared + 8 * own, picture, seed)
    tuning = numpy_generator(seed, "tuning").standard_normal((6, colours.shape[1], 5))
    for number, subject in enumerate(subjects):
        grid = (shape[0] + number, shape[1], shape[2])
        latents = colours[shown[int(subject[-2:]) - 1, order - 1] - 1]
        _write_subject(root, subject, grid, latents.reshape(sessions, trials, -1), tuning, formats, seed)
    return root


def _write_design(
    root: Path, subjects: Sequence[str], sessions: int, trials: int, shared: int, own: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`nsd_expdesign.mat` and `nsd_stim_info_merged.csv`; returns subjectim and masterordering, both from 1."""
    from scipy.io import savemat

    rng = numpy_generator(seed, "design")
    pictures = shared + own
    ids = rng.permutation(shared + 8 * own) + 1  # the eight subjects of NSD have rows, whoever was scanned
    sharedix = np.sort(ids[:shared])
    subjectim = np.stack([np.concatenate([sharedix, ids[shared + s * own : shared + (s + 1) * own]]) for s in range(8)])
    order = rng.permutation(np.tile(np.arange(1, pictures + 1), 3))[: sessions * trials]
    pattern = np.zeros((sessions, RUNS, SLOTS), np.uint8)
    for session in range(sessions):
        pattern[session].reshape(-1)[np.sort(rng.choice(RUNS * SLOTS, trials, replace=False))] = 1
    (root / DESIGN).mkdir(parents=True, exist_ok=True)
    savemat(
        root / DESIGN / "nsd_expdesign.mat",
        {
            "masterordering": order[None].astype(float),
            "basiccnt": np.zeros((3, sessions)),
            "sharedix": sharedix[None].astype(float),
            "subjectim": subjectim.astype(float),
            "stimpattern": pattern,
        },
        do_compression=True,
    )
    coco = rng.choice(580_000, len(ids), replace=False) + 1
    heads = [f"subject{s}_rep{repeat}" for s in range(1, 9) for repeat in range(3)]
    head = ["", "cocoId", "cocoSplit", "cropBox", "loss", "nsdId", "flagged", "BOLD5000", "shared1000"]
    head += [f"subject{s}" for s in range(1, 9)] + heads
    rows: list[list[Any]] = []
    for nsd_id in range(len(ids)):
        cut = float(rng.integers(0, 100) / 400)
        box = (0.0, 0.0, cut, cut) if nsd_id % 2 else (cut, cut, 0.0, 0.0)
        saw = (subjectim == nsd_id + 1).any(axis=1)
        repeats = []
        for s in range(8):
            at = np.flatnonzero(subjectim[s, order - 1] == nsd_id + 1) + 1
            repeats += [*at, 0, 0, 0][:3]
        split = "train2017" if nsd_id % 3 else "val2017"
        flags = [False, False, nsd_id + 1 in sharedix]
        rows.append([nsd_id, coco[nsd_id], split, box, 0.0, nsd_id, *flags, *saw.astype(int), *repeats])
    with open(root / DESIGN / "nsd_stim_info_merged.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])
    return subjectim, order


def _write_pictures(root: Path, count: int, side: int, seed: int) -> NDArray[np.float64]:
    """`nsd_stimuli.hdf5`; returns the colours of each picture's cells, (picture, cell x RGB), centred on 0."""
    import h5py

    cells = GRID[0] * GRID[1]
    rng = numpy_generator(seed, "pictures")
    mixing = rng.standard_normal((8, cells * 3)) / np.sqrt(8)  # pictures of the world have few dimensions, too
    colours = np.clip(rng.standard_normal((count, 8)) @ mixing, -1.9, 1.9)
    bricks = (128 + 66 * colours).reshape(count, *GRID, 3).round().astype(np.uint8)
    rows, columns = (np.arange(side) * cells // side for cells in GRID)
    path = root / STIMULI
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=bricks[:, rows[:, None], columns], chunks=(1, side, side, 3))
    return np.asarray(colours)


def _write_subject(
    root: Path,
    subject: str,
    shape: tuple[int, int, int],
    latents: NDArray[np.float64],
    tuning: NDArray[np.float64],
    formats: Sequence[str],
    seed: int,
) -> None:
    """Betas, ncsnr, mask, ROI volumes and label tables of one subject; `latents` (session, trial, feature)."""
    import h5py

    rng = numpy_generator(seed, subject)
    area, volumes = _areas(shape)
    count = int((area >= 0).sum())
    weights = np.einsum("vfk,vk->vf", tuning[area[area >= 0]], rng.standard_normal((count, tuning.shape[2])))
    signal = latents @ weights.T
    signal /= signal.std(axis=(0, 1))
    ncsnr = rng.uniform(0.2, 1.6, count)
    noise = rng.standard_normal(signal.shape) / ncsnr
    drift = rng.normal(1.5, 0.5, (len(signal), 1, count)), rng.uniform(0.8, 1.2, (len(signal), 1, count))
    responses = drift[0] + drift[1] * (signal + noise)
    betas = root / "nsddata_betas" / "ppdata" / subject / "func1pt8mm" / BETAS
    roi = root / "nsddata" / "ppdata" / subject / "func1pt8mm" / "roi"
    labels = root / "nsddata" / "freesurfer" / subject / "label"
    for path in (betas, roi, labels):
        path.mkdir(parents=True, exist_ok=True)
    for session, values in enumerate(responses, 1):
        volume = np.zeros((*shape, len(values)), np.int16)  # 0 outside the brain
        volume[area >= 0] = np.clip((values.T * SCALE).round(), -32768, 32767)
        if ".nii.gz" in formats:
            save_volume(volume, betas / f"betas_session{session:02d}.nii.gz")
        if ".hdf5" in formats:
            with h5py.File(betas / f"betas_session{session:02d}.hdf5", "w") as file:
                file.create_dataset("betas", data=volume.T, chunks=(len(values), 1, *shape[1::-1]))
    ratio = np.zeros(shape, np.float32)
    ratio[area >= 0] = ncsnr
    save_volume(ratio, betas / "ncsnr.nii.gz")
    for name, volume in volumes.items():
        save_volume(volume, roi / f"{name}.nii.gz")
    for name, areas in ATLASES.items():
        lines = [f"{number} {area}\n" for number, area in ({0: "Unknown"} | areas).items()]
        (labels / f"{name}.mgz.ctab").write_text("".join(lines), encoding="utf-8")


def _areas(shape: tuple[int, int, int]) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int16]]]:
    """Area of each voxel (-1 outside the brain), and the volumes of labels: -1 outside cortex, 0 where none applies."""
    centred = [np.linspace(-1, 1, length) for length in shape]
    x, y, z = np.meshgrid(*centred, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    brain = radius < 1.05
    cortex = brain & (radius > 0.45)
    area = np.where(brain, 5, -1)
    for number, inside in enumerate((y < -0.5, (y < -0.1) & (z < 0), (y < -0.1) & (z >= 0), z < -0.45, z < -0.1)):
        area[cortex & inside & (area == 5)] = number
    base = np.where(cortex, 0, -1).astype(np.int16)
    prf, faces, general = base.copy(), base.copy(), base.copy()
    for number in (1, 2, 3):
        prf[cortex & (area == number - 1)] = number
    for number in (1, 2):
        faces[cortex & (area == number + 2)] = number
    general[cortex & (area < 5) & (x > -0.8)] = 1  # some labelled voxels lie outside, as in NSD
    return area, {"prf-visualrois": prf, "floc-faces": faces, "nsdgeneral": general}


def save_volume(volume: NDArray[Any], path: Path, voxel_size: float = VOXEL_SIZE) -> None:
    """Write a NIfTI image with the origin in its middle.

    Parameters
    ----------
    volume : array of shape (i, j, k) or (i, j, k, trial)
    path : path
    voxel_size : float
        In mm.
    """
    nibabel: Any = import_module("nibabel")
    affine = np.diag([voxel_size] * 3 + [1.0])
    affine[:3, 3] = [-voxel_size * (length - 1) / 2 for length in volume.shape[:3]]
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)
