"""A miniature of LAION-fMRI in its layout, generated: for trying the reader where the data set is not.

Names, fields and the ways of counting are those that `braincl.datasets.laion_fmri` cites; sizes are small and no two
axes are equally long. The responses are simulated: voxels are linear in random embeddings, with noise and drifts.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braincl.datasets.laion_fmri import CEILING, EMBEDDINGS, GLM, MODELS, POOLED, R2_MEAN, REPEATS, SPLITS
from braincl.datasets.miniature import save_volume
from setcore.seeding import numpy_generator

VOXEL_SIZE = 1.778  # mm
OFTEN = 12  # times that a shared picture is shown; the others REPEATS times
WIDTHS = dict(zip(MODELS, (10, 9, 8, 12), strict=True))  # features of each model (1,024 or 1,152 in the data set)


def write_laion_fmri_miniature(
    folder: str | Path,
    subjects: Sequence[str] = ("sub-01", "sub-03"),
    *,
    sessions: int = 3,
    shared: int = 5,
    ood: int = 3,
    unique: int = 13,
    shape: tuple[int, int, int] = (7, 13, 11),
    seed: int = 0,
) -> Path:
    """Write a miniature of LAION-fMRI below `folder`, and its splits as the package laion_fmri holds them.

    Parameters
    ----------
    folder : path
        Made if need be.
    subjects : sequence of str
        Their grids differ by a slice from one to the next.
    sessions : int
        Of each subject; they differ in their numbers of trials where these do not divide evenly.
    shared, ood, unique : int
        Pictures that all subjects see twelve times, out-of-distribution ones that all see four times, and each
        subject's own, seen four times (881, 371 and 4,712, and another 240 shared ones seen four times, in the data
        set).
    shape : tuple of int
        Grid of the first subject.
    seed : int

    Returns
    -------
    Path
        `folder`.
    """
    root = Path(folder)
    common = [f"shared_{OFTEN}rep_LAION_cluster_{1003 + 7 * n}_i{n % 3}.jpg" for n in range(shared)]
    odd = [f"shared_{REPEATS}rep_OOD_shape_{n}.png" for n in range(ood)]
    own = {who: [f"unique_THINGS_{n}_p{who[-2:]}.jpg" for n in range(unique)] for who in subjects}
    features = _write_embeddings(root, [*common, *odd, *(name for names in own.values() for name in names)], seed)
    for number, subject in enumerate(subjects):
        rng = numpy_generator(seed, subject)
        shown = rng.permutation(
            np.repeat([*common, *odd, *own[subject]], [OFTEN] * shared + [REPEATS] * (ood + unique))
        )
        grid = (shape[0] + number, shape[1], shape[2])
        _write_subject(root, subject, grid, np.array_split(shown, sessions), features, rng)
    everything = [*common, *(name for names in own.values() for name in names)]
    for pool, names in {"shared": common, **{who: common + own[who] for who in subjects}, "pooled": everything}.items():
        _write_splits(root / "laion_fmri" / "splits" / "data" / pool, names, odd, seed)
    return root


def _write_embeddings(root: Path, names: list[str], seed: int) -> dict[str, NDArray[np.float64]]:
    """The four files of embeddings, pictures in an order of their own; returns those of CLIP by picture."""
    import h5py

    rng = numpy_generator(seed, "pictures")
    names = rng.permutation(names).tolist()
    (root / "stimuli").mkdir(parents=True, exist_ok=True)
    made = {}
    for model, width in WIDTHS.items():
        values = rng.standard_normal((len(names), width))
        if MODELS[model].normalization == "unit norm":
            values /= np.linalg.norm(values, axis=1, keepdims=True)
        made[model] = values.astype(np.float16)
        with h5py.File(root / EMBEDDINGS.format(model=model), "w") as file:
            file.create_dataset("embedding", data=made[model])
            file.create_dataset("image_ids", data=names, dtype=h5py.string_dtype())
            file.create_dataset("valid", data=np.ones(len(names), bool))
    return dict(zip(names, made["CLIP"].astype(float), strict=True))


def _write_subject(
    root: Path,
    subject: str,
    shape: tuple[int, int, int],
    shown: list[NDArray[Any]],
    features: dict[str, NDArray[np.float64]],
    rng: np.random.Generator,
) -> None:
    """Betas and trials of each session, ceilings, mean R2 and ROI masks of one subject."""
    brain, masks = _areas(shape)
    count = int(brain.sum())
    weights = rng.standard_normal((WIDTHS["CLIP"], count))
    ncsnr = rng.uniform(0.2, 1.6, count)
    folder = root / GLM.format(subject=subject)
    for session, labels in enumerate(shown, 1):
        func = folder / f"ses-{session:02d}" / "func"
        func.mkdir(parents=True, exist_ok=True)
        signal = np.stack([features[label] for label in labels]) @ weights
        betas = np.zeros((*shape, len(labels)), np.float32)  # 0 outside the brain
        noise = rng.standard_normal(signal.shape) / ncsnr
        betas[brain] = (rng.normal(1, 0.3, count) + rng.uniform(0.8, 1.2, count) * (signal + noise)).T
        if session == 2:
            betas[tuple(np.argwhere(masks["laion", "laiongeneral"])[0])] = np.nan  # at the rim, as in the data set
        start = f"{subject}_ses-{session:02d}_task-images"
        save_volume(betas, func / f"{start}_space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz", VOXEL_SIZE)
        rows = [
            [f"ses-{session:02d}", f"run-{1 + index * 12 // len(labels):02d}", index, label]
            for index, label in enumerate(labels)
        ]
        with open(func / f"{start}_desc-SingletrialBetas_trials.tsv", "w", newline="", encoding="utf-8") as file:
            head = ["session", "run", "beta_index", "label"]
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows([head, *rows])
    for path, values in (
        (CEILING, 100 * ncsnr**2 / (ncsnr**2 + 1 / REPEATS)),
        (R2_MEAN, rng.uniform(1, 40, count)),
    ):
        volume = np.zeros(shape, np.float32)
        volume[brain] = values
        save_volume(volume, root / path.format(subject=subject), VOXEL_SIZE)
    for (category, label), inside in masks.items():
        rois = root / "derivatives" / "rois" / subject / category
        rois.mkdir(parents=True, exist_ok=True)
        name = f"{subject}_space-T1w_res-1pt8_label-{label}_mask.nii.gz"
        save_volume(inside.astype(np.uint8), rois / name, VOXEL_SIZE)


def _areas(shape: tuple[int, int, int]) -> tuple[NDArray[np.bool_], dict[tuple[str, str], NDArray[np.bool_]]]:
    """The brain, and masks by category and label; face areas overlap retinotopic ones, and unions hold the others."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    brain = radius < 1.05
    cortex = brain & (radius > 0.45)
    early, low = cortex & (y < -0.3), cortex & (y >= -0.3) & (y < 0.4) & (z < -0.1)
    masks = {
        ("retinotopy", "V1v"): early & (z < 0),
        ("retinotopy", "V1d"): early & (z >= 0),
        ("retinotopy", "EVC"): early,
        ("retinotopy", "hV4"): low & (y < 0),
        ("face", "OFA"): low & (y < -0.1) & (x > 0),
        ("face", "FFA-1"): low & (y >= -0.1),  # with a hyphen, as in the bucket
        ("laion", "laion-EVC"): early & (x > -0.8),
        ("laion", "laion-ventral"): low & (x > -0.8),
    }
    general = masks["laion", "laion-EVC"] | masks["laion", "laion-ventral"] | (cortex & (z > 0.6))
    return brain, {**masks, ("laion", "laiongeneral"): general}  # without, as the package stores it


def _write_splits(folder: Path, names: list[str], odd: list[str], seed: int) -> None:
    """Every split of a pool; `ood` tests on the out-of-distribution pictures, the others on a fifth of `names`."""
    folder.mkdir(parents=True, exist_ok=True)
    folds = np.array_split(numpy_generator(seed, folder.name).permutation(names), 5)
    for name in POOLED if folder.name == "pooled" else SPLITS:
        fold = folds[int(name[-1]) if name[-1].isdigit() else 0]
        test = odd if name == "ood" else sorted(fold.tolist())
        train = [label for label in names if label not in test]
        of = {"variant_id": 0, "train_ids": train, "test_ids": test}
        split: dict[str, Any] = {"name": name, "pool": folder.name, "splitter": "miniature", "params": {}}
        split |= {"n_train": len(train), "n_test": len(test), "variants": [of]}
        (folder / f"{name}.json").write_text(json.dumps(split, indent=2) + "\n", encoding="utf-8")
