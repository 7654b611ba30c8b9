"""Variance partitioning: what each of several feature spaces explains alone, and what they share.

For every subset of the spaces a banded ridge is fitted and scored on folds that are left out. Of two spaces A and B,
``unique A = EV(AB) - EV(B)`` and ``shared = EV(A) + EV(B) - EV(AB)``; of more, commonality analysis (Newton & Spurrell
1967; de Heer et al. 2017). The product measure splits EV of the joint model among the spaces instead (Pratt 1987; Dupré
la Tour et al. 2022, equation 11).

Axes: n image, s space, u subset of spaces, V voxel, b resample.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.splits import grouped_folds, image_groups
from braincl.data.stores.blocks import VoxelBlocks
from braincl.errors import ResponseError
from braincl.estimators.banded_ridge import BandedRidgeCV
from setcore.evaluation.bootstrap import bootstrap_mean
from setcore.seeding import numpy_generator

PREFIX = "embedding_"
MOST_SPACES = 4  # fifteen subsets
RESAMPLES = 500
LEAST_CEILING = 0.05  # of the voxels whose share of it is reported
Array = NDArray[np.float64]


class _Scored(NamedTuple):
    """What sums over pictures are made of: squared responses and errors (n, V), products (s, n, V) of each space."""

    total: Array
    missed: dict[tuple[int, ...], Array]
    products: Array


def partition_variance(
    dataset: xr.Dataset,
    spaces: Sequence[str],
    groups: str | None = None,
    folds: int = 5,
    seed: int = 0,
    bands: int = 20,
) -> xr.Dataset:
    """Explained variance of every voxel, taken apart by feature space, on pictures that were left out.

    Parameters
    ----------
    dataset : response set
        With ``embedding_<name> (image, feature_<name>)`` for every space; rows that show one picture are averaged.
    spaces : sequence of str
        Two to four names.
    groups : str, optional
        Coordinate of images that are left out together, such as the run of a time series.
    folds : int
        In which pictures are left out, for scores and, within the others, for the strengths of the spaces.
    seed : int
        Of the folds, the candidate strengths and the bootstrap.
    bands : int
        See `BandedRidgeCV`.

    Returns
    -------
    Dataset
        By voxel: ``explained_variance (subset, voxel)`` of each subset of spaces alone; ``variance (part, voxel)``:
        what is unique to a subset ("A" or, shared by several and by no others, "A&B"), which adds up to the explained
        variance of all; ``product_measure (space, voxel)``, which does as well; ``variance_low`` and ``variance_high``,
        95 % bootstrap intervals over pictures, or over groups. Parts may be below 0: a space that says nothing costs a
        little, and spaces that suppress each other's noise share less than nothing. Voxels that do not vary are NaN.
        Coordinates of voxels are kept, `noise_ceiling` among them.

    Raises
    ------
    ResponseError
        A space is missing, named twice or does not vary, there are too few or many, or groups cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> import braincl
    >>> rng = np.random.default_rng(0)
    >>> A, B = rng.normal(size=(80, 4)), rng.normal(size=(80, 3))
    >>> Y = A @ rng.normal(size=(4, 5)) + 0.1 * rng.normal(size=(80, 5))
    >>> subject = braincl.from_arrays(Y, A, subject="S1")
    >>> subject = subject.assign(embedding_a=(("image", "feature_a"), A), embedding_b=(("image", "feature_b"), B))
    >>> found = braincl.partition_variance(subject, ["a", "b"])
    >>> found["part"].values.tolist(), round(float(found["variance"].sel(part="a").mean()), 1)
    (['a', 'b', 'a&b'], 1.0)
    """
    blocks = VoxelBlocks(dataset)
    X = _spaces(blocks.head, spaces)
    labels = image_groups(blocks.head, groups)
    if blocks.images < 2 * folds:
        raise ResponseError(
            f"{blocks.images} pictures in {folds} folds: each needs two or more; give more pictures or fewer folds"
        )
    if labels is not None and len(set(labels.tolist())) == 2:
        raise ResponseError(
            f"there are two groups {groups!r}: one is left out for scores, and of the others one to choose strengths; "
            "give three or more"
        )
    left_out = grouped_folds(blocks.images, folds, labels, seed)
    subsets = [u for size in range(1, len(spaces) + 1) for u in itertools.combinations(range(len(spaces)), size)]
    counts = _resamples(blocks.images, labels, seed)
    by_subset = ("explained_variance", "variance", "variance_low", "variance_high")
    sizes = dict.fromkeys(by_subset, len(subsets)) | {"product_measure": len(spaces)}
    values = {name: np.full((size, blocks.voxels), np.nan) for name, size in sizes.items()}
    for voxels, Y in blocks:
        scored = _score(X, Y.astype(np.float64), subsets, left_out, labels, seed, bands)
        varies = scored.total.sum(axis=0) > 0
        found = _values(scored, subsets, np.ones((1, blocks.images)))
        drawn = _values(scored, subsets, counts)["variance"]
        found |= {"variance_low": np.quantile(drawn, 0.025, axis=1), "variance_high": np.quantile(drawn, 0.975, axis=1)}
        for name, of_block in found.items():
            whole = of_block if of_block.ndim == 2 else of_block[:, 0]
            values[name][:, voxels] = np.where(varies, whole, np.nan)
    names = ["&".join(spaces[s] for s in u) for u in subsets]
    axes = {"explained_variance": "subset", "product_measure": "space"}
    return xr.Dataset(
        {name: ((axes.get(name, "part"), "voxel"), array.astype(np.float32)) for name, array in values.items()},
        coords={
            "subset": ["+".join(spaces[s] for s in u) for u in subsets], "part": names, "space": list(spaces),
            **{name: c for name, c in blocks.head.coords.items() if c.dims == ("voxel",)},
        },
        attrs={"subject": str(dataset.attrs.get("subject", "")), "folds": len(left_out), "groups": groups or "",
               "images": blocks.images},
    )  # fmt: skip


def _spaces(head: xr.Dataset, spaces: Sequence[str]) -> list[Array]:
    """Features (n, E) of every space."""
    known = [str(name).removeprefix(PREFIX) for name in head.data_vars if str(name).startswith(PREFIX)]
    if not 2 <= len(spaces) <= MOST_SPACES or len(set(spaces)) < len(spaces):
        raise ResponseError(f"name 2 to {MOST_SPACES} different feature spaces, not {', '.join(spaces) or 'none'}")
    found = []
    for name in spaces:
        if name not in known:
            raise ResponseError(
                f"there is no variable '{PREFIX}{name}' (image, feature_{name}); spaces are "
                f"{', '.join(known) or 'none'}"
            )
        values = head[PREFIX + name]
        if values.ndim != 2 or values.dims[0] != "image" or values.dtype.kind != "f":
            raise ResponseError(f"'{PREFIX}{name}' has axes {values.dims} and dtype {values.dtype}; it must be (image, "
                                f"feature_{name}) of floats")  # fmt: skip
        array = values.values.astype(np.float64)
        if not np.isfinite(array).all():
            raise ResponseError(f"'{PREFIX}{name}' holds NaN or inf; leave those pictures out")
        if not np.ptp(array, axis=0).any():
            raise ResponseError(
                f"feature space {name!r} does not vary over the {len(array)} pictures: it has zero variance; "
                "leave it out"
            )
        found.append(array)
    return found


def _score(
    X: Sequence[Array], Y: Array, subsets: Sequence[tuple[int, ...]], left_out: Sequence[NDArray[np.int64]],
    labels: NDArray[Any] | None, seed: int, bands: int,
) -> _Scored:  # fmt: skip
    """Squares and products of left-out predictions."""
    total, products = np.zeros_like(Y), np.zeros((len(X), *Y.shape))
    missed = {u: np.zeros_like(Y) for u in subsets}
    for fold in left_out:
        rest = np.setdiff1d(np.arange(len(Y)), fold)
        mean = Y[rest].mean(axis=0)
        total[fold] = (Y[fold] - mean) ** 2
        for u in subsets:
            seen = np.hstack([X[s] for s in u])
            encoder = BandedRidgeCV([X[s].shape[1] for s in u], cv=len(left_out), bands=bands, seed=seed)
            encoder.fit(seen[rest], Y[rest], None if labels is None else labels[rest])
            predicted = encoder.predict(seen[fold]) - mean
            missed[u][fold] = (Y[fold] - mean - predicted) ** 2
            if len(u) == len(X):
                by_space = encoder.predict_by_space(seen[fold]) - encoder.predict_by_space(seen[rest]).mean(
                    axis=1, keepdims=True
                )
                products[:, fold] = by_space * (2 * (Y[fold] - mean) - predicted)
    return _Scored(total, missed, products)


def _values(scored: _Scored, subsets: Sequence[tuple[int, ...]], counts: Array) -> dict[str, Array]:
    """Explained variance, parts and product measure, (., b, V), under counts (b, n) of pictures."""
    power = counts @ scored.total
    with np.errstate(invalid="ignore", divide="ignore"):
        of = {u: 1 - counts @ scored.missed[u] / power for u in subsets}
        product = np.stack([counts @ part / power for part in scored.products])
    parts = [_unique_to(u, of, len(scored.products)) for u in subsets]
    return {
        "explained_variance": np.stack([of[u] for u in subsets]),
        "variance": np.stack(parts),
        "product_measure": product,
    }


def _unique_to(u: tuple[int, ...], of: dict[tuple[int, ...], Array], spaces: int) -> Array:
    """What exactly the spaces of `u` share: by inclusion and exclusion over its subsets, beside all other spaces."""
    others = tuple(s for s in range(spaces) if s not in u)
    found = np.zeros_like(next(iter(of.values())))
    for size in range(len(u) + 1):
        for inner in itertools.combinations(u, size):
            together = tuple(sorted((*others, *inner)))
            if together:
                found += (-1) ** (size + 1) * of[together]
    return found


def _resamples(images: int, labels: NDArray[Any] | None, seed: int) -> Array:
    """How often each picture is in each resample (b, n); pictures of a group together."""
    group = np.arange(images) if labels is None else np.unique(labels, return_inverse=True)[1]
    count = int(group.max()) + 1
    drawn = numpy_generator(seed, "partition bootstrap").multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return np.asarray(drawn[:, group], dtype=np.float64)


def partition_report(found: xr.Dataset, seed: int = 0) -> dict[str, Any]:
    """Means by region of what `partition_variance` finds, with 95 % bootstrap intervals over voxels.

    Parameters
    ----------
    found : Dataset
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Plain JSON values. ``results``: by region (`roi`, "all" first) and `part`, with `voxels`, `mean`,
        `interval_low`, `interval_high`, and where there are ceilings `of_ceiling`: the sum over the sum of ceilings, of
        voxels with a ceiling above `LEAST_CEILING`. The part "total" is explained variance of all spaces together;
        "product A" and so on are the product measure. ``warnings``.
    """
    everything = np.full(found.sizes["voxel"], True)
    regions = {"all": everything}
    if "roi" in found.coords:
        roi = found["roi"].values
        regions |= {name: roi == name for name in sorted(set(roi.tolist()))} if len(set(roi.tolist())) > 1 else {}
    values = dict(zip(found["part"].values.tolist(), found["variance"].values, strict=True))
    values["total"] = found["explained_variance"].values[-1]
    values |= {f"product {s}": v for s, v in zip(found["space"].values, found["product_measure"].values, strict=True)}
    ceiling = found["noise_ceiling"].values if "noise_ceiling" in found.coords else None
    warnings = []
    if constant := int(np.isnan(values["total"]).sum()):
        warnings.append(f"{constant} of {len(everything)} voxels do not vary and were left out")
    if ceiling is not None and not (ceiling > LEAST_CEILING).any():
        warnings.append(f"no voxel has a noise_ceiling above {LEAST_CEILING}: there are no shares of it")
    rows = []
    for region, chosen in regions.items():
        for part, of_voxels in values.items():
            known = chosen & np.isfinite(of_voxels)
            if not known.any():
                continue
            low, high = bootstrap_mean(of_voxels[known], seed=seed)
            row = {"roi": region, "part": part, "voxels": int(known.sum()), "mean": float(of_voxels[known].mean()),
                   "interval_low": low, "interval_high": high, "of_ceiling": None}  # fmt: skip
            if ceiling is not None and (counted := known & (ceiling > LEAST_CEILING)).any():
                row["of_ceiling"] = float(of_voxels[counted].sum() / ceiling[counted].sum())
            rows.append(row)
    return {
        "subject": found.attrs["subject"], "spaces": found["space"].values.tolist(), "images": found.attrs["images"],
        "folds": found.attrs["folds"], "groups": found.attrs["groups"] or None, "results": rows,
        "warnings": warnings,
    }  # fmt: skip


def format_partition(report: dict[str, Any]) -> str:
    """A report as a table to print.

    Parameters
    ----------
    report : dict
        From `partition_report`.

    Returns
    -------
    str
    """
    lines = [f"{'region':16}{'voxels':>7}  {'part':24}{'EV, mean and 95 %':>30}{'of ceiling':>12}"]
    for row in report["results"]:
        interval = f"{row['mean']:+.3f} ({row['interval_low']:+.3f}..{row['interval_high']:+.3f})"
        share = "-" if row["of_ceiling"] is None else f"{row['of_ceiling']:.3f}"
        lines.append(f"{row['roi']:16}{row['voxels']:>7}  {row['part']:24}{interval:>30}{share:>12}")
    return "\n".join(lines)
