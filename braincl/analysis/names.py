"""Names as queries: what voxels prefer among 1,391 object names, through their CLIP text vectors.

Where the subject's embedding is CLIP ViT-B/32 itself, a name's vector is a direction in it. For any other embedding a
ridge takes text vectors to it, learned from pictures whose names are known.

Axes: k name, V voxel, E feature of the embedding, t feature of the text vectors.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from braincl.errors import ModelError, ResponseError
from setcore.errors import InputError
from setcore.name_bank import BACKBONE, load_name_bank

CLIP_BACKBONE = "clip-vit-b-32"  # of the embeddings that the names' vectors lie beside
LEAST_NAMES = 10  # that a map is learned from
LISTED = 10  # voxels that a warning names
STRENGTHS = np.geomspace(1e-2, 1e2, 13)  # of the ridge, times the mean eigenvalue of the Gram matrix


class NameMap(NamedTuple):
    """An affine map from text vectors to a subject's embedding.

    Parameters
    ----------
    weights : array of shape (t, E)
    text_mean : array of shape (t,)
    embedding_mean : array of shape (E,)
        Over the names that it was learned from.
    names : tuple of str
        Those.
    explained_variance : float
        Of embeddings of names that were left out, one by one: 0 says no more than their mean.
    two_alternative : float
        How often the embedding that is mapped from a left-out name is nearer (by cosine, means taken off) to its own
        pictures' than to another name's; .5 is chance.
    """

    weights: NDArray[np.float64]
    text_mean: NDArray[np.float64]
    embedding_mean: NDArray[np.float64]
    names: tuple[str, ...]
    explained_variance: float
    two_alternative: float

    def directions(self, vectors: Float[np.ndarray, "k t"]) -> Float[np.ndarray, "k e"]:
        """Mapped text vectors, less the mean embedding: their products with weights are predicted responses.

        Parameters
        ----------
        vectors : array of shape (k, t)

        Returns
        -------
        array of shape (k, E)
        """
        return np.asarray((vectors - self.text_mean) @ self.weights)


def picture_names(context: xr.Dataset) -> list[str]:
    """What a response set says its pictures show.

    Parameters
    ----------
    context : response set
        With the coordinate `name (image)`, or with `image_file`, of which the file's name is taken without digits and
        underscores at its end (``chair_012.jpg``), and failing that its folder's.

    Returns
    -------
    list of str
        One for each row; empty where the bank has none.

    Raises
    ------
    ResponseError
        The set has neither coordinate.
    """
    bank = load_name_bank()

    def known(*words: str) -> str:
        for word in words:
            try:
                return bank.names[bank.find(word)]
            except InputError:
                continue
        return ""

    if "name" in context.coords:
        return [known(str(name)) for name in context["name"].values]
    if "image_file" not in context.coords:
        raise ResponseError(
            "the response set does not say what its pictures show: it needs the coordinate 'name' (image), or "
            "'image_file', as `braincl embed` writes it"
        )
    paths = [PurePath(str(file)) for file in context["image_file"].values]
    return [known(re.sub(r"[\d_\-]+$", "", path.stem), path.parent.name) for path in paths]


def fit_name_map(context: xr.Dataset) -> NameMap:
    """Learn to map text vectors to a subject's embedding from the context's pictures whose names the bank has.

    Ridge from text vectors to the mean embedding of each name's pictures, its strength by leave-one-out over names
    (Golub, Heath & Wahba 1979). The way round matters: on human PPA and LOC, mapping texts to the embedding predicted
    the responses to left-out categories better than mapping voxels' weights to the texts did.

    Parameters
    ----------
    context : response set with embeddings
        See `picture_names`. Responses are not used.

    Returns
    -------
    NameMap

    Raises
    ------
    ResponseError
        Fewer than 10 names are known.

    Examples
    --------
    >>> import numpy as np
    >>> import braincl
    >>> from setcore.name_bank import load_name_bank
    >>> bank, rng = load_name_bank(), np.random.default_rng(0)
    >>> X = bank.vectors[::20] @ rng.normal(size=(512, 30))  # an embedding in which names lie somewhere
    >>> context = braincl.from_arrays(rng.normal(size=(len(X), 5)), X, subject="S1")
    >>> context = context.assign_coords(name=("image", list(bank.names[::20])))
    >>> name_map = braincl.fit_name_map(context)
    >>> len(name_map.names), name_map.two_alternative > 0.8
    (70, True)
    """
    bank, found = load_name_bank(), picture_names(context)
    names = sorted(set(found) - {""})
    if len(names) < LEAST_NAMES:
        raise ResponseError(
            f"the context's {len(found)} pictures show {len(names)} of the bank's {len(bank)} names; a map to names is "
            f"learned from {LEAST_NAMES} or more, given in the coordinate 'name' (image) or by the picture files"
        )
    shown = np.array(found)
    X = np.array([context["embedding"].values[shown == name].mean(axis=0, dtype=np.float64) for name in names])
    T = bank.vectors[[bank.find(name) for name in names]].astype(np.float64)
    A, B = T - T.mean(axis=0), X - X.mean(axis=0)
    values, vectors = np.linalg.eigh(A @ A.T)
    mean_eigenvalue = np.trace(A @ A.T) / len(names)
    best: tuple[float, float, NDArray[np.float64]] | None = None
    for strength in STRENGTHS * mean_eigenvalue:
        hat = (vectors * (values / (values + strength))) @ vectors.T + 1 / len(names)
        missed = (B - hat @ B) / (1 - np.diagonal(hat))[:, None]
        if best is None or np.square(missed).sum() < best[0]:
            best = float(np.square(missed).sum()), float(strength), missed
    assert best is not None
    error, strength, missed = best
    dual = np.linalg.solve(A @ A.T + strength * np.eye(len(names)), B)
    explained = float(1 - error / np.square(B).sum())
    guessed = (
        B - missed + B / (len(names) - 1)
    )  # less the mean of the others, which a left-out name pushes away from it
    return NameMap(A.T @ dual, T.mean(axis=0), X.mean(axis=0), tuple(names), explained, _told_apart(guessed, B))


def _told_apart(guessed: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Mean share of the other rows that a guess is less like, by cosine."""
    unit = [rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300) for rows in (guessed, true)]
    cosines = unit[0] @ unit[1].T
    return float((cosines < np.diagonal(cosines)[:, None]).sum() / (len(true) * (len(true) - 1)))


def name_directions(
    context: xr.Dataset, names: Sequence[str], map_to_names: bool
) -> tuple[Float[np.ndarray, "k e"], NameMap | None]:
    """Where names lie in the embedding of a response set.

    Parameters
    ----------
    context : response set with embeddings
    names : sequence of str
        Names or synonyms of the bank.
    map_to_names : bool
        Learn a map, for an embedding that is not CLIP ViT-B/32.

    Returns
    -------
    directions : array of shape (k, E)
    name_map : NameMap or None
        Where one was learned.

    Raises
    ------
    InputError
        The bank does not have a name.
    ModelError
        The embedding is another one, and no map is to be learned.
    ResponseError
        Too few pictures have names to learn a map from.
    """
    bank = load_name_bank()
    vectors = bank.vectors[[bank.find(name) for name in names]]
    if map_to_names:
        name_map = fit_name_map(context)
        return name_map.directions(vectors.astype(np.float64)), name_map
    stated, width = str(context.attrs.get("backbone", "")), context.sizes["feature"]
    if width != vectors.shape[1] or stated not in ("", CLIP_BACKBONE):
        raise ModelError(
            f"the context's embedding has {width} features and backbone {stated[:60]!r}, the names {vectors.shape[1]} "
            f"of {BACKBONE}; embed with `braincl embed --backbone {CLIP_BACKBONE}`, or learn a map: --map-to-names"
        )
    return vectors, None


def top_names(weights: NDArray[np.floating], k: int = 10, name_map: NameMap | None = None) -> list[list[str]]:
    """The names that voxels prefer, out of all 1,391.

    Parameters
    ----------
    weights : array of shape (n_voxels, n_features)
        Encoder weights (`coef_`), or means of them over a region, for the embedding of CLIP ViT-B/32; with a map, for
        the embedding that it was learned for.
    k : int
        How many, up to all.
    name_map : NameMap, optional
        From `fit_name_map`.

    Returns
    -------
    list of list of str
        For each voxel, those of the largest predicted response first. A voxel whose weights are all 0, as of one that
        is constant in the context, or not finite prefers nothing: its list is empty, and a warning names it.

    Raises
    ------
    InputError
        Widths differ, the weights have not two axes, or there are fewer than `k` names.

    Examples
    --------
    >>> import braincl
    >>> from setcore.name_bank import load_name_bank
    >>> bank = load_name_bank()
    >>> braincl.top_names(bank.vectors[[bank.find("chair"), bank.find("donkey")]], k=2)
    [['chair', 'armchair'], ['donkey', 'horse']]
    """
    bank, weights = load_name_bank(), np.atleast_2d(np.asarray(weights, dtype=np.float64))
    if weights.ndim != 2:
        raise ModelError(f"the weights have shape {weights.shape}; (voxel, feature) is expected")
    says = np.isfinite(weights).all(axis=1) & (weights != 0).any(axis=1)
    usable = np.where(says[:, None], weights, 0)
    if name_map is None:
        order = bank.nearest(usable, k)[0]
    else:
        directions = name_map.directions(bank.vectors.astype(np.float64))
        if directions.shape[1] != weights.shape[1]:
            raise ModelError(f"the map is to {directions.shape[1]} features, the weights have {weights.shape[1]}")
        if not 0 < k <= len(bank):
            raise InputError(f"there are {len(bank)} names; ask for 1 to {len(bank)} of them, not {k}")
        order = np.argsort(-(usable @ directions.T), axis=1, kind="stable")[:, :k]
    if not says.all():
        silent = np.flatnonzero(~says)
        listed = ", ".join(map(str, silent[:LISTED].tolist())) + ", ..." * (len(silent) > LISTED)
        warnings.warn(
            f"{len(silent)} of {len(says)} voxels have weights that are all 0 or not finite, and prefer no name: "
            f"{listed} (from 0); their lists are empty",
            stacklevel=2,
        )
    return [[bank.names[row] for row in rows] if said else [] for rows, said in zip(order, says, strict=True)]
