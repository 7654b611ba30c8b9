"""LAION-fMRI (Hebart Lab, 2026) as its bucket lays it out: single-trial betas of GLMsingle in the subject's T1w space.

Every path and field is named here with the public page or file that states it. DOCS stands for
https://laion-fmri.hebartlab.com, REPO for https://github.com/ViCCo-Group/LAION-fMRI; where versions of REPO disagree,
its newest is followed (`data_manifests/laion-fmri.yaml` says where they do). No file of the data set was at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.folders import find_files
from braincl.data.nifti import count_volumes, read_map, read_voxels, voxel_table, with_notes
from braincl.datasets.files import file_ids, need_file, need_folder, open_hdf5, read_table, shows_picture, with_rois
from braincl.datasets.generic import with_image_files
from braincl.datasets.layout import DataSet, Part
from braincl.datasets.trials import Session, assemble, check_choice, choose_sessions
from braincl.errors import ResponseError

# DOCS/train_test_splits.html, "Pools"; REPO laion_fmri/splits/__init__.py
SUBJECTS = ("sub-01", "sub-03", "sub-05", "sub-06", "sub-07")
POOLED = ("tau", *(f"cluster_k5_{k}" for k in range(5)))  # splits of the pictures of all subjects
SPLITS = (*POOLED, "ood", *(f"random_{k}" for k in range(5)))
POOLS = ("shared", *SUBJECTS, "pooled")

# DOCS/glmsingle_betas.html, "File Organization"; REPO laion_fmri/_paths.py
GLM = "derivatives/glmsingle-tedana/{subject}"
_SESSION = f"{GLM}/ses-*/func/{{subject}}_ses-*_task-images"
BETAS = f"{_SESSION}_space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"
TRIALS = f"{_SESSION}_desc-SingletrialBetas_trials.tsv"
R2_MEAN = f"{GLM}/{{subject}}_task-images_space-T1w_stat-rsquare_desc-R2mean_statmap.nii.gz"
CEILING = f"{GLM}/{{subject}}_task-images_space-T1w_desc-Noiseceiling4rep_statmap.nii.gz"
REPEATS = 4  # of the pictures that the map is of: DOCS/stimulus_data.html, "Stimulus Sets"

# REPO laion_fmri/_paths.py (`roi_mask_path`); the categories: DOCS/laion_fmri_package/load.html, "ROI queries"
ROIS = "derivatives/rois/{subject}/*/{subject}_space-T1w_res-1pt8_label-*_mask.nii.gz"
CATEGORIES = ("retinotopy", "face", "body", "place", "character", "object", "motion", "laion")
UNIONS = ("EVC", "laiongeneral")  # hold other ROIs of their category: DOCS/rois.html

# DOCS/stimulus_derivatives.html, "Stimulus Embeddings"; REPO laion_fmri/embeddings.py
EMBEDDINGS = "stimuli/task-images_desc-{model}_embeddings.h5"


class _Model(NamedTuple):
    architecture: str
    preprocessing: str
    normalization: str


MODELS = {
    "CLIP": _Model("OpenCLIP LAION ViT-H/14", "of LAION-fMRI", "unit norm"),
    "DINOv2": _Model("DINOv2 ViT-L/14", "of LAION-fMRI; mean of the patch tokens of layer 23", "none"),
    "PEcore": _Model("PE Core L/14", "of LAION-fMRI; 336 pixels", "unit norm"),
    "SigLIP2": _Model("SigLIP2 SO400M Patch14", "of LAION-fMRI; 384 pixels", "unit norm"),
}

# DOCS/faq.html, "How do I download the dataset?"; DOCS/data_access.html, "Direct AWS CLI"
_INSTALL = 'pip install "laion-fmri @ git+https://github.com/ViCCo-Group/LAION-fMRI.git@main"'


def _sync(path: str) -> str:
    """How to come by a folder of the bucket, which is public but for the pictures."""
    return f"aws s3 sync --no-sign-request s3://laion-fmri/{path}/ FOLDER/{path}/"


LAYOUT = DataSet(
    name="laion-fmri",
    title="LAION-fMRI: 5 subjects, 6,204 pictures each (25,052 in all), 7T (Hebart Lab 2026)",
    licence="CC0 1.0 (responses, masks, embeddings); the pictures come under a data use agreement",
    source="s3://laion-fmri (public bucket); laion-fmri.hebartlab.com",
    reader="braincl.datasets.read_laion_fmri",
    subjects=SUBJECTS,
    parts=(
        Part("betas", (BETAS,), "single-trial betas, a volume a trial, a file a session (some gigabytes each)",
             _sync(GLM)),
        Part("trials", (TRIALS,), "the picture of each volume", "they lie beside the betas"),
        Part("ROI masks", (ROIS,), "areas, and laiongeneral, the voxels that are read unless a mask is named",
             _sync("derivatives/rois/{subject}")),
        Part("noise ceiling", (CEILING,), "in percent, of pictures shown four times", "it lies above the sessions",
             needed=False),
        Part("mean R2", (R2_MEAN,), "above 0 in all voxels that have betas, for --mask R2mean",
             "it lies above the sessions", needed=False),
        Part("embeddings", tuple(EMBEDDINGS.format(model=model) for model in MODELS),
             "of all pictures, by CLIP, DINOv2, PEcore and SigLIP2", f"{_INSTALL}; laion-fmri download-embeddings",
             needed=False),
    ),
)  # fmt: skip


class _Planned(NamedTuple):
    path: Path  # betas of a session
    labels: list[str]  # the picture of each volume
    kept: NDArray[np.bool_]  # which volumes are read


def read_laion_fmri(
    folder: str | Path,
    subject: str,
    *,
    sessions: Sequence[int] | None = None,
    mask: str | Path = "laiongeneral",
    rois: Sequence[str] | None = None,
    embedding: str | None = None,
    split: str | Path | None = None,
    pool: str | None = None,
    pictures: str | Path | None = None,
    zscore: str | None = "session",
    trials: bool = False,
    noise_ceiling: str | None = "ncsnr",
) -> xr.Dataset:
    """Response set of one subject of LAION-fMRI: betas TYPED of GLMsingle on 1.8 mm voxels, repeats averaged.

    Parameters
    ----------
    folder : path
        With `derivatives` and, for embeddings, `stimuli` as in the bucket.
    subject : str
        "sub-01", "sub-03", "sub-05", "sub-06" or "sub-07".
    sessions : sequence of int, optional
        Counted from 1. None: all that are there, which must be 1 to some number without gaps.
    mask : str or path
        Label of a ROI mask, such as "laiongeneral" or "V1v"; "R2mean": all voxels that have betas; or path of any mask.
    rois : sequence of str, optional
        Categories of ROI masks, folders such as "retinotopy" and "face"; a voxel takes the first one's label, and each
        is kept as `roi_CATEGORY`, since areas of different categories overlap. None: those of `CATEGORIES` that are
        there.
    embedding : "CLIP", "DINOv2", "PEcore", "SigLIP2" or None
        Which of the embeddings that come with the data set is taken into the response set.
    split : str or path, optional
        One of the data set's own splits, such as "tau" or "ood", which lie in the Python package laion_fmri, or path
        of such a JSON file. Pictures in neither of its lists are not read. None: no `split`.
    pool : str, optional
        Which pictures the split divides: "shared", those of a subject, or "pooled", those of all subjects, so that
        sets of several agree on what is kept for testing. None: those of `subject`.
    pictures : folder, optional
        Of the picture files; `image_id` then is the hash of the file, as in `braincl embed`. None: `image_id` is the
        name of the file, which is the same for all subjects. The two kinds do not join.
    zscore, trials, noise_ceiling
        See `braincl.datasets.assemble`. "ncsnr" takes the data set's own ceilings, of the average of four trials, and
        finds from them those of the trials that are averaged here.

    Returns
    -------
    Dataset
        ``response (image, voxel)`` as z-scores or in GLMsingle's units (shrunk percent signal change), with
        `image_id`, `image_file`, `repeats`, `i`, `j`, `k`, `roi`, `noise_ceiling`, `split` and
        ``embedding (image, feature)`` where they were asked for; attributes `backbone` ("laion-fmri-CLIP" and so on)
        and `split_source`.

    Raises
    ------
    ResponseError
        A file is missing, damaged or on another grid; subject, split, pool, mask or category are unknown; sessions
        have gaps; betas and trials are not equally many; embeddings lack a picture; ceilings are not in percent.
    """
    check_choice("subject", subject, SUBJECTS)
    check_choice("embedding", embedding, (*MODELS, None))
    root = need_folder(folder)
    held = None if split is None else _read_split(split, subject if pool is None else pool)
    planned = {n: _plan(path, held) for n, path in _session_files(root, subject, sessions).items()}
    names = list(dict.fromkeys(label for of in planned.values() for label in np.array(of.labels)[of.kept].tolist()))
    if not names:
        raise ResponseError(f"{split} lists none of the pictures that {subject} saw in these sessions; name its own")
    masks = _roi_masks(root, subject)
    voxels = voxel_table(_find_mask(root, subject, mask, masks))
    voxels = _with_areas(voxels, rois, masks)
    ncsnr = None
    if noise_ceiling == "ncsnr":
        lacks = "the noise ceiling; or take noise_ceiling='repeats' or None (--noise-ceiling)"
        ncsnr = _read_ncsnr(need_file(root / CEILING.format(subject=subject), lacks), voxels)
    features = None if embedding is None else _read_embeddings(root, embedding, names)
    ids = {name: name for name in names}
    if pictures is not None:
        files = {name: need_file(Path(pictures) / name, "a picture that trials name") for name in names}
        hashes = file_ids(files.values())
        ids = {name: hashes[file] for name, file in files.items()}
    result = assemble(
        [
            Session(f"{n:02d}", [ids[label] for label in np.array(of.labels)[of.kept].tolist()], _reader(of, voxels))
            for n, of in planned.items()
            if of.kept.any()
        ],
        voxels.assign_attrs(subject=f"laion-fmri-{subject}", dataset="laion-fmri", betas="GLMsingle TYPED"),
        zscore=zscore,
        test_ids=None if held is None else {ids[name] for name in names if held[name] == "test"},
        trials=trials,
        noise_ceiling=noise_ceiling,
        ncsnr=ncsnr,
    )
    result = with_image_files(result, {image_id: name for name, image_id in ids.items()})
    if split is not None:
        result = result.assign_attrs(split_source=str(split) if Path(split).suffix else f"{pool or subject}/{split}")
    if features is not None:
        rows = {name: row for row, name in enumerate(names)}
        order = [rows[name] for name in result["image_file"].values.tolist()]
        result["embedding"] = (("image", "feature"), features[order])
        result = result.assign_attrs(backbone=f"laion-fmri-{embedding}", **MODELS[str(embedding)]._asdict())
    left = {label for of in planned.values() for label in np.array(of.labels)[~of.kept].tolist()}
    return with_notes(result, [f"{len(left)} pictures are in neither list of {split} and were not read"] * bool(left))


def _session_files(root: Path, subject: str, sessions: Sequence[int] | None) -> dict[int, Path]:
    """Betas of each session, in the order of sessions."""
    there: dict[int, Path] = {}
    for file in find_files(root, BETAS.format(subject=subject)):
        if match := re.search(r"_ses-(\d+)_", file.name):
            there[int(match[1])] = file
    if not there:
        raise ResponseError(
            f"{root} holds no betas of {subject} ({BETAS.format(subject=subject)}); `braincl data check laion-fmri` "
            "says where to get them"
        )
    return {n: there[n] for n in choose_sessions(there, sessions, root / GLM.format(subject=subject))}


def _plan(path: Path, held: dict[str, str] | None) -> _Planned:
    """The pictures of a session's volumes, and which of them are in a list of the split.

    The columns `beta_index`, from 0, and `label`, the name of the picture's file: DOCS/glmsingle_betas.html, "Relation
    to Stimuli".
    """
    start = path.name.split("_task-images")[0]
    table = path.with_name(f"{start}_task-images_desc-SingletrialBetas_trials.tsv")
    rows = read_table(need_file(table, f"which pictures the volumes of {path.name} are of"), ("beta_index", "label"))
    try:
        indices = [int(row["beta_index"]) for row in rows]
    except ValueError as error:
        raise ResponseError(f"{table}: a beta_index is not a whole number ({error})") from error
    if blank := [row["beta_index"] for row in rows if not shows_picture(row["label"])]:
        raise ResponseError(f"{table}: volume {blank[0]} has no label; fetch the file again")
    if (volumes := count_volumes(path)) != len(rows):
        raise ResponseError(
            f"{path} holds {volumes} trials, {table.name} lists {len(rows)}; they are of different versions, fetch "
            "both again"
        )
    if sorted(indices) != list(range(volumes)):
        raise ResponseError(f"{table}: beta_index must be the numbers 0 to {volumes - 1}, each once; fetch it again")
    labels = [rows[row]["label"] for row in np.argsort(indices)]
    return _Planned(path, labels, np.array([held is None or label in held for label in labels]))


def _reader(of: _Planned, voxels: xr.Dataset) -> Any:
    def read() -> NDArray[np.float32]:
        return read_voxels(of.path, voxels, of.kept)

    return read


def _roi_masks(root: Path, subject: str) -> dict[str, dict[str, Path]]:
    """Masks by category and label; those that hold others come last, and hyphens are left out of labels.

    The bucket writes "FFA-1" where the package laion_fmri stores "FFA1" (REPO laion_fmri/_bidsify.py).
    """
    found: dict[str, dict[str, Path]] = {}
    for file in find_files(root, ROIS.format(subject=subject)):
        label = file.name.split("_label-")[1].removesuffix("_mask.nii.gz").replace("-", "")
        found.setdefault(file.parent.name, {})[label] = file
    return {category: dict(sorted(of.items(), key=lambda item: item[0] in UNIONS)) for category, of in found.items()}


def _find_mask(root: Path, subject: str, mask: str | Path, masks: dict[str, dict[str, Path]]) -> Path:
    if mask == "R2mean":  # above 0 where there are betas: REPO laion_fmri/_paths.py (`r2mean_path`)
        return need_file(root / R2_MEAN.format(subject=subject), "the map whose voxels above 0 have betas")
    labels = {label: path for of in masks.values() for label, path in of.items()}
    if (label := str(mask).replace("-", "")) in labels:
        return labels[label]
    known = ", ".join(labels) if labels else f"none: {ROIS.format(subject=subject)} is missing"
    return need_file(Path(mask), f"name a mask's path, R2mean, or a label ({known})")


def _with_areas(voxels: xr.Dataset, rois: Sequence[str] | None, masks: dict[str, dict[str, Path]]) -> xr.Dataset:
    """The voxel axis with `roi` and one coordinate for each category."""
    if rois is None:
        rois = [category for category in CATEGORIES if category in masks]
    labels = {}
    for category in rois:
        check_choice("category of rois", category, masks)
        names = np.full(voxels.sizes["voxel"], "", dtype=object)
        for label, path in masks[category].items():
            names[(names == "") & (read_map(path, voxels) > 0)] = label
        labels[category] = names.astype(str)
    return with_rois(voxels, labels) if labels else voxels


def _read_ncsnr(path: Path, voxels: xr.Dataset) -> NDArray[np.float64]:
    """Ratio of signal to single-trial noise from the data set's ceilings, ``100 ncsnr^2 / (ncsnr^2 + 1 / REPEATS)``.

    DOCS/glmsingle_betas.html, "Noise Ceilings", states formula and unit; examples in REPO that keep voxels above .2
    could be taken to mean shares, so that a map of nothing above 1 is refused.
    """
    share = read_map(path, voxels).astype(np.float64) / 100
    known = share[np.isfinite(share)]
    if len(known) and (known.min() < 0 or not 0.01 < known.max() <= 1):
        raise ResponseError(
            f"{path} runs from {100 * known.min():g} to {100 * known.max():g}; percent of variance, 0 to 100, are "
            "expected. Take noise_ceiling='repeats' or None (--noise-ceiling)"
        )
    with np.errstate(divide="ignore"):
        return np.asarray(np.sqrt(share / (1 - share) / REPEATS))


def _read_embeddings(root: Path, model: str, names: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of pictures, in the order of `names`."""
    path = need_file(
        root / EMBEDDINGS.format(model=model), f"embeddings of {model}; {_INSTALL}; laion-fmri download-embeddings"
    )
    with open_hdf5(path, "does not hold embeddings of LAION-fMRI", "fetch it again") as file:
        listed = [name.decode() if isinstance(name, bytes) else str(name) for name in file["image_ids"][()]]
        stored, valid = file["embedding"], np.asarray(file["valid"][()], bool)
        if stored.ndim != 2 or len(stored) != len(listed) or valid.shape != (len(listed),):
            raise ResponseError(
                f"{path}: embedding has shape {stored.shape}, valid {valid.shape}, for {len(listed)} image_ids; one "
                "row for each is expected, fetch it again"
            )
        row_of = {name: row for row, name in enumerate(listed) if valid[row]}
        if missing := [name for name in names if name not in row_of]:
            raise ResponseError(
                f"{path} has no valid embedding of {len(missing)} of {len(names)} pictures, such as {missing[0]}; it "
                "is of other pictures or of another version, fetch it again"
            )
        values = np.asarray(stored[()][[row_of[name] for name in names]], np.float32)
    if not np.isfinite(values).all():
        raise ResponseError(f"{path} holds embeddings that are NaN or inf; fetch it again")
    return values


def _read_split(split: str | Path, pool: str) -> dict[str, str]:
    """Pictures of a split: "test" or "context" by name.

    ``{"variants": [{"variant_id": 0, "train_ids": [...], "test_ids": [...]}]}`` in POOL/NAME.json: REPO
    laion_fmri/splits/data and laion_fmri/splits/__init__.py.
    """
    path = Path(split)
    if path.suffix != ".json":
        check_choice("pool", pool, POOLS)
        check_choice(f"split of {pool}", str(split), POOLED if pool == "pooled" else SPLITS)
        package = find_spec("laion_fmri")
        if package is None or not package.submodule_search_locations:
            raise ResponseError(
                f"the splits of LAION-fMRI come with its Python package; {_INSTALL}, or name the file "
                f"{pool}/{split}.json of its folder laion_fmri/splits/data (--split FILE.json)"
            )
        path = Path(package.submodule_search_locations[0]) / "splits" / "data" / pool / f"{split}.json"
    need_file(path, "a split of LAION-fMRI; the newest version of its Python package has all of them")
    try:
        variants = json.loads(path.read_text(encoding="utf-8"))["variants"]
        (first,) = [variant for variant in variants if variant["variant_id"] == 0]
        lists = {"context": first["train_ids"], "test": first["test_ids"]}
        held = {str(name): kind for kind, names in lists.items() for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise ResponseError(
            f"{path} is not a split of LAION-fMRI ({type(error).__name__}: {error}); variants with train_ids and "
            "test_ids are expected"
        ) from error
    if both := sorted(set(lists["context"]) & set(lists["test"])):
        raise ResponseError(f"{path}: picture {both[0]} is in train_ids and in test_ids; fetch the file again")
    return held
