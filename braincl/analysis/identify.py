"""Identification: which of a bank of pictures evoked each response, scored against what was shown.

Kay, Naselaris, Prenger & Gallant 2008 (Nature 452:352). Axes: m response, c candidate, V voxel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.analysis.predict import shared_pictures
from braincl.data.responses import (
    average_duplicates,
    check_model_backbone,
    check_same_embedding,
    open_embeddings,
    open_responses,
)
from braincl.data.splits import image_groups
from braincl.data.stores.blocks import VoxelBlocks
from braincl.errors import ResponseError
from braincl.estimators.decoding import Decoder
from braincl.estimators.identification import above_others, better_method, in_top
from braincl.models.model_folder import short_ids
from setcore.evaluation.bootstrap import bootstrap_mean

SCORES = {"top_1": "top-1", "top_5": "top-5", "two_alternative": "2AFC", "mean_rank": "mean rank"}
LISTED = 5  # best candidates of every response


def identify_pictures(
    encoder: Any,
    context: xr.Dataset,
    responses: xr.Dataset,
    candidates: xr.Dataset,
    method: str = "auto",
    seed: int = 0,
    groups: str | None = None,
) -> dict[str, Any]:
    """Fit an encoder to a context, and identify which candidate evoked each new response, by region.

    Parameters
    ----------
    encoder : InContextEncoder or any other encoder
    context : response set with embeddings
    responses : response set
        Of the context's voxels, in any order, to pictures that are among the candidates. Rows that show one picture are
        averaged.
    candidates : Dataset with ``embedding (image, feature)`` and `image_id`
        Each picture counts once.
    method : {"auto", "gaussian", "correlation"}
        As of `InContextEncoder.identify`; "auto" chooses by the context, for each region.
    seed : int
        Of the bootstrap.
    groups : str, optional
        Coordinate of the context's images that are left out together when the noise is measured, such as the run.

    Returns
    -------
    dict
        Plain JSON values. ``results``: one row for all voxels and one for each region, with `roi`, `voxels`, `method`,
        and of `top_1`, `top_5` (shares of responses), `two_alternative` (mean share of the other candidates that score
        lower) and `mean_rank` (1 is best) the mean over the responses that are scored, ``_low`` and ``_high``: 95 %
        bootstrap intervals over them, null where it is one. ``scored``: how many responses are, those to pictures among
        the candidates. ``responses``: the picture shown, its rank and the five best candidates, by all voxels.
        ``warnings``.

    Raises
    ------
    ResponseError
        There is no response, voxels differ, candidates are of another embedding, without `image_id` or fewer than two,
        or none of the pictures shown is among them.
    ModelError
        The model takes other embeddings.

    Examples
    --------
    >>> import numpy as np
    >>> import braincl
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 8))
    >>> Y = X @ rng.normal(size=(8, 5)) + 0.1 * rng.normal(size=(60, 5))
    >>> subject = braincl.from_arrays(Y, X, subject="S1")
    >>> context, new = subject.isel(image=slice(0, 40)), subject.isel(image=slice(40, 60))
    >>> report = braincl.identify_pictures(braincl.InContextEncoder(), context, new, new[["embedding"]])
    >>> report["results"][0]["top_1"], report["candidates"]
    (1.0, 20)
    """
    context, candidates = open_responses(context, lazy=True), open_embeddings(candidates)
    responses = open_responses(responses, require_embedding=False, lazy=True, least_pictures=0)
    check_same_embedding(context, candidates)
    check_model_backbone(encoder, context=context, candidates=candidates)
    if "image_id" not in candidates.coords:
        raise ResponseError("the candidates have no coordinate 'image_id'; make them with `braincl embed`")
    bank = average_duplicates(candidates[["embedding"]])
    if bank.sizes["image"] < 2:
        raise ResponseError("there is 1 candidate; identification takes two or more pictures")
    if not responses.sizes["image"]:
        raise ResponseError("there is no response to identify; give at least one")
    blocks = VoxelBlocks(context)
    seen, Y_seen = _same_voxels(blocks.head, responses)
    row_of = {image_id: row for row, image_id in enumerate(bank["image_id"].values.tolist())}
    right = np.array([row_of.get(image_id, -1) for image_id in seen], dtype=np.int64)
    warnings = _warnings(context, responses, right, seen, encoder)
    X, Y = blocks.head["embedding"].values, blocks.read()
    labels = image_groups(blocks.head, groups)
    decoder = Decoder(encoder.fit(X, Y), X, Y, labels)
    if (constant := blocks.voxels - len(decoder.varying)) > 0:
        warnings.append(f"{constant} of {blocks.voxels} voxels do not vary in the context and were left out")
    known, rows = right >= 0, []
    ranked: list[dict[str, Any]] = []
    for roi, voxels in _regions(blocks.head, decoder):
        chosen = better_method(decoder.left_out_of(voxels)) if method == "auto" else method
        scores = decoder.identify(Y_seen, bank["embedding"].values, chosen, voxels)
        rows.append({"roi": roi, "voxels": len(voxels), "method": chosen} | _row(scores[known], right[known], seed))
        ranked = ranked or _ranked(scores, right, seen, bank["image_id"].values)
    return {
        "subject": str(context.attrs.get("subject", "")), "context": len(X), "candidates": len(row_of),
        "scored": int(known.sum()), "results": rows, "responses": ranked, "warnings": warnings,
    }  # fmt: skip


def _same_voxels(context: xr.Dataset, responses: xr.Dataset) -> tuple[list[str], NDArray[np.float32]]:
    """Pictures shown, and responses in the context's order of voxels."""
    ours, theirs = context["voxel_id"].values, responses["voxel_id"].values
    if len(ours) != len(theirs) or set(ours.tolist()) != set(theirs.tolist()):
        other = sorted(set(theirs.tolist()) ^ set(ours.tolist()))[0]
        raise ResponseError(
            f"the context has {len(ours)} voxels, the responses {len(theirs)}, and voxel_id {str(other)!r} is in one "
            "only; give responses of the same voxels"
        )
    blocks = VoxelBlocks(responses)
    place = {voxel: number for number, voxel in enumerate(theirs.tolist())}
    values = blocks.read()[:, [place[voxel] for voxel in ours.tolist()]]
    return blocks.head["image_id"].values.tolist(), values


def _warnings(
    context: xr.Dataset, responses: xr.Dataset, right: NDArray[np.int64], seen: list[str], encoder: Any
) -> list[str]:
    found = []
    if not (right >= 0).any():
        raise ResponseError(
            f"none of the {len(right)} pictures shown is among the candidates; the image_id of both is the hash of the "
            "picture file"
        )
    if (unknown := int((right < 0).sum())) > 0:
        found.append(f"{unknown} of {len(right)} pictures shown are not among the candidates: they are not scored")
    if shared := shared_pictures(context, responses):
        found.append(f"{shared} pictures shown are in the context, too: scores on them flatter the model")
    if trained := int(np.isin(short_ids(seen), getattr(encoder, "training_images", [])).sum()):
        found.append(
            f"{trained} of {len(right)} pictures shown were in training, with the responses of other subjects: others "
            "are harder to tell; train with --exclude-images"
        )
    return found


def _regions(head: xr.Dataset, decoder: Decoder) -> list[tuple[str, NDArray[np.int64]]]:
    """All voxels that vary in the context, then those of each region, where there are several."""
    varying = decoder.varying
    regions = [("all", varying)]
    if "roi" in head.coords and len(names := sorted(set(head["roi"].values.tolist()))) > 1:
        regions += [(name, varying[head["roi"].values[varying] == name]) for name in names]
    return [(name, voxels) for name, voxels in regions if len(voxels) or name == "all"]


def _row(scores: NDArray[np.float64], right: NDArray[np.int64], seed: int) -> dict[str, float | None]:
    pairs = above_others(scores, right)
    values = {
        "top_1": in_top(scores, right, 1), "top_5": in_top(scores, right, 5), "two_alternative": pairs,
        "mean_rank": 1 + (1 - pairs) * (scores.shape[1] - 1),
    }  # fmt: skip
    row: dict[str, float | None] = {}
    for name, of_responses in values.items():
        low, high = bootstrap_mean(of_responses, seed=seed) if len(right) > 1 else (None, None)
        row |= {name: float(of_responses.mean()), f"{name}_low": low, f"{name}_high": high}
    return row


def _ranked(
    scores: NDArray[np.float64], right: NDArray[np.int64], seen: list[str], ids: NDArray[Any]
) -> list[dict[str, Any]]:
    """Every response: what was shown, the rank of that, and the best candidates."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :LISTED]
    ranks = [1 + int((row > row[k]).sum()) if k >= 0 else None for row, k in zip(scores, right, strict=True)]
    return [
        {"image_id": shown, "rank": rank, "best": ids[row].tolist()}
        for shown, rank, row in zip(seen, ranks, best, strict=True)
    ]


def responses_scored(report: dict[str, Any]) -> str:
    """How many responses a report is of, and how many of them are scored where these are fewer.

    Parameters
    ----------
    report : dict
        From `identify_pictures`.

    Returns
    -------
    str
        Such as "20 of 30 responses scored".
    """
    count = len(report["responses"])
    scored = sum(found["rank"] is not None for found in report["responses"])
    said = f"{count} response{'s' * (count > 1)}"
    return said if scored == count else f"{scored} of {said} scored"


def format_identification(report: dict[str, Any]) -> str:
    """A report as a table to print.

    Parameters
    ----------
    report : dict
        From `identify_pictures`.

    Returns
    -------
    str
    """
    count, chance = report["candidates"], 1 / report["candidates"]
    lines = [f"{responses_scored(report)}, {count} candidates (chance: top-1 {chance:.3f}, 2AFC .5)"]
    lines.append(f"{'region':16}{'voxels':>7}  {'method':12}" + "".join(f"{name:>24}" for name in SCORES.values()))
    for row in report["results"]:
        digits = {name: 1 if name == "mean_rank" else 3 for name in SCORES}
        cells = (_cell(row, name, d) for name, d in digits.items())
        lines.append(
            f"{row['roi']:16}{row['voxels']:>7}  {row['method']:12}" + "".join(f"{cell:>24}" for cell in cells)
        )
    return "\n".join(lines)


def _cell(row: dict[str, Any], name: str, digits: int) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.{digits}f}" + (f" ({low:.{digits}f}..{high:.{digits}f})" if low is not None else "")
