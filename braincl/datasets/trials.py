"""From trials to a response set: sessions one after another, z-scored, averaged by picture, with a noise ceiling.

Axes: t trial of a session, V voxel, image a picture. Every reader of a layout describes its sessions and leaves the
rest to `assemble`, so that all data sets are treated alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.errors import ResponseError
from setcore.evaluation.noise_ceilings import (
    noise_ceiling_from_ncsnr,
    noise_ceiling_from_repeats,
    split_half_reliability,
)

ZSCORES = ("session", "context", None)
CEILINGS = ("ncsnr", "repeats", "split_half", None)
VOXEL_BATCH = 1024  # voxels whose trials are in double precision at once


class Session(NamedTuple):
    """One session, not read yet.

    Parameters
    ----------
    name : str
        For messages and the attribute `sessions`.
    image_ids : sequence of str
        The picture of each trial.
    read : callable
        Returns the responses (trial, voxel), NaN where there is none.
    """

    name: str
    image_ids: Sequence[str]
    read: Callable[[], NDArray[np.float32]]


def assemble(
    sessions: Sequence[Session],
    voxels: xr.Dataset,
    *,
    zscore: str | None = None,
    test_ids: Collection[str] | None = None,
    trials: bool = False,
    noise_ceiling: str | None = None,
    ncsnr: NDArray[Any] | None = None,
) -> xr.Dataset:
    """Read sessions one by one into a response set.

    Only one session is in memory besides the result. Voxels without data in a session (not finite in some trial, 0 in
    all of them, or with `zscore` without variation) are left out; the attribute `dropped_voxels` counts them.

    Parameters
    ----------
    sessions : sequence of Session
    voxels : Dataset
        The voxel axis: coordinates `voxel_id` and others along 'voxel', and the attributes of the result.
    zscore : "session", "context" or None
        Subtract the mean and divide by the standard deviation (population formula) of each voxel in each session:
        over all of its trials, or over those of context pictures only. The first is how NSD is usually prepared, but
        it uses test trials, which a lab with a hundred pictures does not have. None: responses as they are stored.
    test_ids : collection of str, optional
        Pictures kept for testing; they get `split` "test", the others "context".
    trials : bool
        Keep ``response_trials (image, repeat, voxel)``.
    noise_ceiling : "ncsnr", "repeats", "split_half" or None
        How `noise_ceiling (voxel)` is found: from `ncsnr`, by analysis of variance over repeats, or from random
        halves of the repeats. The latter two hold all trials in memory.
    ncsnr : array of shape (n_voxels,), optional
        Ratio of signal to single-trial noise, as standard deviations.

    Returns
    -------
    Dataset
        ``response (image, voxel)``; pictures in the order in which they first appear, `repeats (image)` the number of
        trials averaged. Attributes: those of `voxels`, `zscore`, `noise_ceiling`, `sessions`, `dropped_voxels`.

    Raises
    ------
    ResponseError
    """
    _check_options(sessions, zscore, test_ids, noise_ceiling)
    counts = Counter(image_id for session in sessions for image_id in session.image_ids)
    row_of = {image_id: row for row, image_id in enumerate(counts)}
    repeats = np.array(list(counts.values()))
    if noise_ceiling in ("repeats", "split_half") and repeats.max() < 2:
        raise ResponseError(f"no picture was shown twice; the noise ceiling cannot come from {noise_ceiling}")
    held = set(test_ids or ())
    width = voxels.sizes["voxel"]
    sums = np.zeros((len(row_of), width), dtype=np.float32)
    cube = None
    if trials or noise_ceiling in ("repeats", "split_half"):
        cube = np.full((len(row_of), repeats.max(), width), np.nan, dtype=np.float32)
    seen = np.zeros(len(row_of), dtype=int)
    dead = np.zeros(width, dtype=bool)
    for session in sessions:
        rows = np.array([row_of[image_id] for image_id in session.image_ids])
        reference = np.array([zscore != "context" or image_id not in held for image_id in session.image_ids])
        dead |= _add_session(session, rows, None if zscore is None else reference, sums, cube, seen)
    if dead.all():
        raise ResponseError(f"all {width} voxels are without data in some session; is the mask that of these betas?")
    alive = ~dead
    result = voxels.isel(voxel=alive)
    result["response"] = (("image", "voxel"), sums[:, alive] / repeats[:, None].astype(np.float32))
    result = result.assign_coords(image_id=("image", np.array(list(row_of), dtype=str)), repeats=("image", repeats))
    if test_ids is not None:
        split = np.where([image_id in held for image_id in row_of], "test", "context")
        result = result.assign_coords(split=("image", split))
    ceiling = _ceiling(noise_ceiling, None if ncsnr is None else ncsnr[alive], cube, alive, repeats)
    if ceiling is not None:
        result = result.assign_coords(noise_ceiling=("voxel", ceiling))
    if trials and cube is not None:
        result["response_trials"] = (("image", "repeat", "voxel"), cube[:, :, alive])
    return result.assign_attrs(
        zscore=zscore or "none",
        noise_ceiling=noise_ceiling or "none",
        sessions=" ".join(session.name for session in sessions),
        dropped_voxels=int(dead.sum()),
    )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Refuse an option that is not one of `choices`.

    Parameters
    ----------
    name : str
        Of the option.
    value : object
    choices : iterable

    Raises
    ------
    ResponseError
        Naming the choices.
    """
    if value not in (choices := list(choices)):
        raise ResponseError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}")


def choose_sessions(there: Collection[int], sessions: Sequence[int] | None, where: Path) -> list[int]:
    """The sessions to read, in order.

    Parameters
    ----------
    there : collection of int
        The sessions that have files, counted from 1.
    sessions : sequence of int, optional
        Those that are wanted. None: all, which must have no gaps.
    where : path
        For messages.

    Returns
    -------
    list of int

    Raises
    ------
    ResponseError
        A session is not there, or none is wanted.
    """
    wanted = list(range(1, max(there) + 1)) if sessions is None else sorted(set(sessions))
    if not wanted:
        raise ResponseError("the list of sessions is empty; name at least one, or None for all")
    if missing := [n for n in wanted if n not in there]:
        raise ResponseError(
            f"{where}: session {', '.join(f'{n:02d}' for n in missing)} is missing (there are "
            f"{', '.join(f'{n:02d}' for n in sorted(there))}); fetch it, or name the sessions to read"
        )
    return wanted


def _check_options(
    sessions: Sequence[Session], zscore: str | None, test_ids: Collection[str] | None, noise_ceiling: str | None
) -> None:
    check_choice("zscore", zscore, ZSCORES)
    check_choice("noise_ceiling", noise_ceiling, CEILINGS)
    if not any(session.image_ids for session in sessions):
        raise ResponseError("there is no trial to read; name at least one session")
    if zscore == "context" and test_ids is None:
        raise ResponseError(
            "zscore='context' needs a split into test and context pictures; use 'session' or None (--zscore none)"
        )


def _add_session(
    session: Session,
    rows: NDArray[np.int64],
    reference: NDArray[np.bool_] | None,
    sums: NDArray[np.float32],
    cube: NDArray[np.float32] | None,
    seen: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Add the trials of a session to `sums` and `cube`, in place; returns the voxels without data in it."""
    values = session.read()
    if values.shape != (expected := (len(rows), sums.shape[1])):
        raise ResponseError(
            f"session {session.name} has {values.shape[0]} trials of {values.shape[1]} voxels, {expected} are "
            "expected; do the betas belong to this list of pictures and this mask?"
        )
    dead = ~np.isfinite(values).all(axis=0) | (values == 0).all(axis=0)
    values = np.where(dead, 0, values)
    if reference is not None:
        values, flat = _standardise(values, reference, session.name)
        dead |= flat
    for row, response in zip(rows, values, strict=True):
        sums[row] += response
        if cube is not None:
            cube[row, seen[row]] = response
        seen[row] += 1
    return np.asarray(dead)


def _standardise(
    values: NDArray[np.float32], reference: NDArray[np.bool_], name: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Trials standardised by those of `reference`, and the voxels that do not vary there."""
    if (count := int(reference.sum())) < 2:
        raise ResponseError(
            f"session {name} has {count} trials to take mean and standard deviation from; at least 2 are needed. Use "
            "zscore=None (--zscore none)"
        )
    mean = values[reference].mean(axis=0, dtype=np.float64)
    std = values[reference].std(axis=0, dtype=np.float64)
    flat = ~(std > 1e-6 * np.abs(mean))  # rounding of the mean of equal numbers leaves a little
    return ((values - mean) / np.where(flat, 1, std)).astype(np.float32), flat


def _ceiling(
    method: str | None,
    ncsnr: NDArray[Any] | None,
    cube: NDArray[np.float32] | None,
    alive: NDArray[np.bool_],
    repeats: NDArray[np.int64],
) -> NDArray[np.float32] | None:
    """Explainable share of the variance of averaged responses, (voxel)."""
    if method is None:
        return None
    if method == "ncsnr":
        if ncsnr is None:
            raise ResponseError(
                "there is no ncsnr to take the noise ceiling from; use 'repeats' or None (--noise-ceiling)"
            )
        values = noise_ceiling_from_ncsnr(ncsnr, repeats)
    else:
        assert cube is not None
        estimate = noise_ceiling_from_repeats if method == "repeats" else split_half_reliability
        kept = np.flatnonzero(alive)
        parts = [kept[start : start + VOXEL_BATCH] for start in range(0, len(kept), VOXEL_BATCH)]
        values = np.concatenate([estimate(cube[:, :, part]) for part in parts])
    return np.clip(values, 0, 1).astype(np.float32)
