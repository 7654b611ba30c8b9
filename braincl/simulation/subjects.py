"""Simulated subjects: response sets with known weights and noise, on embeddings of real pictures.

A voxel is drawn as `braincl.models.prior` describes one: ``y = offset + scale (sqrt(h) X u + e)`` on centred embeddings
X, with u from a prior whose mean response variance is one, and ``e ~ N(0, 1 - h)``: h is the voxel's expected share of
signal. Weights come from a Gaussian, from a mixture of Gaussians (groups tuned to categories, and a bulk with a full
covariance), or from the weights of real voxels on another embedding (`transplant_map`). Axes: i image, E feature, D
feature of another embedding, V voxel, c component.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from braincl.data.responses import EMBEDDING_ATTRIBUTES, open_responses
from braincl.errors import ResponseError
from braincl.models.prior import Prior
from setcore.seeding import numpy_generator

Array = NDArray[np.float64]
SHARED_NOISE = 0.3  # of a voxel's noise variance that comes from the shared patterns, where there are any
OFFSET_SPREAD, SCALE_SPREAD = 0.5, 0.3  # standard deviation of offsets, and of the logarithm of scales


class Simulation(NamedTuple):
    """A simulated response set and the truth behind it.

    Parameters
    ----------
    dataset : Dataset
        A valid response set; attribute ``simulated`` is 1 and the subject's name begins with "simulated".
    signal : array of shape (i, V)
        Responses without noise, in the units of `dataset.response`.
    weights : array of shape (V, E)
        ``signal = offset + (X - centre) @ weights.T``, in the units of `dataset.response`.
    centre : array of shape (E,)
        Mean embedding.
    offset : array of shape (V,)
    scale : array of shape (V,)
        Factor between the units of the prior and those of the responses.
    share : array of shape (V,)
        h, the share of signal that the voxel was drawn with; noise of the stored (averaged) responses has the variance
        ``scale^2 (1 - share)``.
    """

    dataset: xr.Dataset
    signal: Array
    weights: Array
    centre: Array
    offset: Array
    scale: Array
    share: Array


def power_law_covariance(X: NDArray[Any], decay: float = 1.0, *, seed: int) -> Array:
    """A covariance of weights whose eigenvalues fall as ``k^-decay``, on an axis of rank k of the embeddings.

    The axes are principal axes of the embeddings, mixed by a random rotation within bands of similar rank, so that
    strong tuning goes with large variance of the embedding, as it does in fitted weights, but not exactly.

    Parameters
    ----------
    X : array of shape (i, E)
    decay : float
        1 resembles real voxels: the weights of BOLD5000 in `img2fmri` fall as k^-1.1 over the first 30 directions,
        k^-0.9 over the first 100.
    seed : int

    Returns
    -------
    array of shape (E, E)
        Scaled so that the mean variance of ``X u`` is one.
    """
    axes = _principal_axes(X) @ _banded_rotation(X.shape[1], seed=seed)
    variance = np.var(np.asarray(X, np.float64) @ axes, axis=0)
    values = np.arange(1, X.shape[1] + 1, dtype=np.float64) ** -decay
    values /= values @ variance
    return (axes * values) @ axes.T


def category_prior(
    X: NDArray[Any], components: int = 8, *, bulk: float = 0.4, tuning: float = 0.6, decay: float = 1.0, seed: int
) -> Prior:
    """A mixture: `components` groups of voxels, each tuned to a category of pictures, and a bulk tuned to anything.

    A category is a random direction among the embedding's leading axes, as faces, places or food are; a group shares it
    as its mean, and its voxels differ by a covariance of their own.

    Parameters
    ----------
    X : array of shape (i, E)
    components : int
        Groups beside the bulk.
    bulk : float
        Share of the voxels in the bulk.
    tuning : float
        Share of a group's response variance that its mean explains.
    decay : float
        See `power_law_covariance`.
    seed : int

    Returns
    -------
    Prior
        Of `components` + 1 components, the bulk last.
    """
    rng = numpy_generator(seed, "categories")
    covariance = np.cov(np.asarray(X, np.float64).T, bias=True)
    axes = _principal_axes(X)[:, : max(components, 1) * 4]
    deviation = np.sqrt(np.einsum("ek,ef,fk->k", axes, covariance, axes).clip(min=1e-12))
    means = rng.standard_normal((components, axes.shape[1])) / deviation @ axes.T
    means *= np.sqrt(tuning / np.einsum("ce,ef,cf->c", means, covariance, means))[:, None]
    spreads = [(1 - tuning) * power_law_covariance(X, decay, seed=seed + 1 + c) for c in range(components)]
    sizes = (1 - bulk) * rng.dirichlet(np.full(components, 5.0)) if components else np.zeros(0)
    return Prior(
        np.log(np.append(sizes, 1 - sizes.sum())),
        np.vstack([means, np.zeros((1, X.shape[1]))]),
        np.stack([*spreads, power_law_covariance(X, decay, seed=seed)]),
    )


def gaussian_prior(X: NDArray[Any], *, decay: float = 1.0, seed: int) -> Prior:
    """One Gaussian with mean zero and the covariance of `power_law_covariance`.

    Parameters
    ----------
    X : array of shape (i, E)
    decay : float
    seed : int

    Returns
    -------
    Prior
    """
    return Prior(np.zeros(1), np.zeros((1, X.shape[1])), power_law_covariance(X, decay, seed=seed)[None])


def _draw_weights(prior: Prior, n_voxels: int, *, seed: int) -> tuple[Array, NDArray[np.int64]]:
    """Weights of voxels drawn from a prior.

    Returns
    -------
    weights : array of shape (V, E)
    component : array of shape (V,)
        Which component each voxel was drawn from.
    """
    rng = numpy_generator(seed, "weights")
    chances = np.exp(prior.log_weights - prior.log_weights.max())
    component = rng.choice(len(chances), size=n_voxels, p=chances / chances.sum())
    weights = prior.means[component].copy()
    for c, covariance in enumerate(prior.covariances):
        values, vectors = np.linalg.eigh(covariance)
        rows = component == c
        spread = rng.standard_normal((int(rows.sum()), len(values))) * np.sqrt(values.clip(min=0))
        weights[rows] += spread @ vectors.T
    return weights, component


def simulate_subject(X: NDArray[Any], prior: Prior, n_voxels: int, *, seed: int, **options: Any) -> Simulation:
    """A subject whose voxels are drawn from a prior.

    Parameters
    ----------
    X : array of shape (i, E)
        Embeddings.
    prior : Prior
    n_voxels : int
    seed : int
    **options
        Those of `simulate_responses`.

    Returns
    -------
    Simulation
        The dataset's coordinate `roi` names each voxel's component.

    Raises
    ------
    ResponseError
        The prior has another number of features, or an option cannot be used.
    """
    if prior.n_features != X.shape[1]:
        raise ResponseError(f"the prior has {prior.n_features} features, the embeddings {X.shape[1]}")
    weights, component = _draw_weights(prior, n_voxels, seed=seed)
    options.setdefault("roi", np.array([f"component {c}" for c in component]))
    return simulate_responses(X, weights, seed=seed, **options)


def simulate_population(
    embeddings: xr.Dataset,
    subjects: int,
    voxels: int,
    *,
    components: int = 0,
    decay: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> Iterator[Simulation]:
    """Subjects of one population, one after another: all see the same pictures, and their voxels share a prior.

    Parameters
    ----------
    embeddings : Dataset with ``embedding (image, feature)``
    subjects, voxels : int
        Number of subjects, and of voxels in each.
    components : int
        Groups of a mixture beside the bulk (`category_prior`); 0: one Gaussian (`gaussian_prior`).
    decay : float
    seed : int
        Of the prior; subject k is drawn with seed + 1 + k.
    **options
        Those of `simulate_responses`.

    Raises
    ------
    ResponseError
        A number is below its least value.
    """
    if min(subjects, voxels) < 1 or components < 0 or decay < 0:
        raise ResponseError(
            f"subjects and voxels must be 1 or more, components and decay 0 or more; got {subjects}, {voxels}, "
            f"{components}, {decay}"
        )
    X = embeddings["embedding"].values
    prior = (
        category_prior(X, components, decay=decay, seed=seed)
        if components
        else gaussian_prior(X, decay=decay, seed=seed)
    )
    ids = embeddings["image_id"].values if "image_id" in embeddings.coords else None
    settings = {"components": components, "decay": decay, "population_seed": seed}
    for number in range(subjects):
        made = simulate_subject(X, prior, voxels, seed=seed + 1 + number, name=str(number), image_id=ids, **options)
        named = {name: embeddings.attrs[name] for name in EMBEDDING_ATTRIBUTES if name in embeddings.attrs}
        dataset = made.dataset.assign_attrs(named | settings | {"seed": seed + 1 + number})
        yield made._replace(dataset=dataset)


def with_truth(simulation: Simulation) -> xr.Dataset:
    """The response set with what it was made from: a valid response set that holds more than one.

    Parameters
    ----------
    simulation : Simulation

    Returns
    -------
    Dataset
        ``true_signal (image, voxel)``, ``true_weights (voxel, feature)``, ``true_offset``, ``true_scale`` and
        ``true_signal_share (voxel)`` and ``embedding_centre (feature)``: `Simulation` says how they go together.
    """
    of_voxels = {"offset": simulation.offset, "scale": simulation.scale, "signal_share": simulation.share}
    return simulation.dataset.assign(
        {f"true_{name}": ("voxel", values) for name, values in of_voxels.items()}
        | {
            "true_signal": (("image", "voxel"), simulation.signal.astype(np.float32)),
            "true_weights": (("voxel", "feature"), simulation.weights.astype(np.float32)),
            "embedding_centre": ("feature", simulation.centre),
        }
    )


def simulate_responses(
    X: NDArray[Any],
    weights: NDArray[Any],
    *,
    seed: int,
    signal_shares: tuple[float, float] = (0.02, 0.7),
    repeats: int = 1,
    noise_rank: int = 0,
    name: str = "subject",
    image_id: ArrayLike | None = None,
    roi: ArrayLike | None = None,
    backbone: str = "unknown",
) -> Simulation:
    """Responses of voxels with the weights given, noise of a random strength, and an offset and a scale of their own.

    Parameters
    ----------
    X : array of shape (i, E)
        Embeddings, one row per picture.
    weights : array of shape (V, E)
        On the scale of a prior: the mean over voxels of the variance of ``X u`` is one.
    seed : int
    signal_shares : (low, high)
        Range of h, drawn log-uniformly.
    repeats : int
        Trials of each picture; more than one are stored as `response_trials`. h is that of their average.
    noise_rank : int
        Number of patterns over the voxels that part of the noise is made of; 0: voxels have independent noise.
    name : str
        The subject is called "simulated " + name.
    image_id : sequence of i strings, optional
    roi : sequence of V strings, optional
    backbone : str

    Returns
    -------
    Simulation
        `noise_ceiling` in its dataset is the share of variance that the signal has on these pictures, known exactly.

    Raises
    ------
    ResponseError
    """
    X, weights = np.asarray(X, np.float64), np.asarray(weights, np.float64)
    low, high = signal_shares
    if not 0 < low <= high < 1:
        raise ResponseError(f"signal_shares must be 0 < low <= high < 1, got {signal_shares}")
    if repeats < 1 or noise_rank < 0:
        raise ResponseError(f"repeats must be 1 or more and noise_rank 0 or more, got {repeats} and {noise_rank}")
    if X.ndim != 2 or weights.ndim != 2 or X.shape[1] != weights.shape[1]:
        raise ResponseError(f"X {X.shape} and weights {weights.shape} must have equally many features on axis 1")
    images, voxels = len(X), len(weights)
    rng = numpy_generator(seed, "voxels")
    share = np.exp(rng.uniform(np.log(low), np.log(high), voxels))
    offset, scale = OFFSET_SPREAD * rng.standard_normal(voxels), np.exp(SCALE_SPREAD * rng.standard_normal(voxels))
    weights = (scale * np.sqrt(share))[:, None] * weights
    centre = X.mean(axis=0)
    signal = offset + (X - centre) @ weights.T
    noise_std = scale * np.sqrt(1 - share)
    trials = _noise(images * repeats, voxels, noise_rank, seed).reshape(images, repeats, voxels)
    trials *= noise_std * np.sqrt(repeats)
    response = signal + trials.mean(axis=1)
    power = signal.var(axis=0)
    dataset = xr.Dataset(
        {
            "response": (("image", "voxel"), response.astype(np.float32)),
            "embedding": (("image", "feature"), X.astype(np.float32)),
        },
        coords={
            "image_id": ("image", np.asarray([f"{i:016x}" for i in range(images)] if image_id is None else image_id)),
            "voxel_id": ("voxel", np.array([f"{v:06d}" for v in range(voxels)])),
            "noise_ceiling": ("voxel", (power / (power + noise_std**2)).astype(np.float32)),
        },
        attrs={"subject": f"simulated {name}", "backbone": backbone, "simulated": 1},
    )
    if roi is not None:
        dataset = dataset.assign_coords(roi=("voxel", np.asarray(roi)))
    if repeats > 1:
        stored = signal[:, None, :] + trials
        dataset["response_trials"] = (("image", "repeat", "voxel"), stored.astype(np.float32))
    return Simulation(open_responses(dataset), signal, weights, centre, offset, scale, share)


def _noise(rows: int, voxels: int, rank: int, seed: int) -> Array:
    """Noise of unit variance (rows, V); with a rank, `SHARED_NOISE` of it comes from that many patterns."""
    rng = numpy_generator(seed, "noise")
    own = rng.standard_normal((rows, voxels))
    if rank == 0:
        return own
    patterns = rng.standard_normal((rank, voxels))
    patterns /= np.linalg.norm(patterns, axis=0)
    shared = rng.standard_normal((rows, rank)) @ patterns
    return np.asarray(np.sqrt(1 - SHARED_NOISE) * own + np.sqrt(SHARED_NOISE) * shared)


def _principal_axes(X: NDArray[Any]) -> Array:
    """Principal axes of embeddings X (i, E) as columns (E, E), the largest variance first."""
    centred = np.asarray(X, np.float64) - np.mean(X, axis=0, dtype=np.float64)
    return np.linalg.eigh(centred.T @ centred)[1][:, ::-1]


def _banded_rotation(size: int, *, band: int = 8, seed: int) -> Array:
    """A random rotation (size, size) that mixes only axes within bands of `band` neighbours."""
    rng = numpy_generator(seed, "rotation")
    rotation = np.zeros((size, size))
    for start in range(0, size, band):
        width = min(band, size - start)
        orthogonal, triangle = np.linalg.qr(rng.standard_normal((width, width)))
        rotation[start : start + width, start : start + width] = orthogonal * np.sign(np.diag(triangle))
    return rotation


def transplant_map(weights: NDArray[Any], X: NDArray[Any], *, seed: int) -> Array:
    """A linear map that carries weights on one embedding over to another, ranks matched.

    The k-th principal direction of the given voxels' weights goes to the k-th principal axis of X, after a random
    rotation within bands of 8. What is kept: the spectrum of the weights, and everything that is relative between
    voxels (areas, subjects), since one map serves all. What is not: what a voxel prefers; the features of the two
    embeddings have nothing to do with one another.

    Parameters
    ----------
    weights : array of shape (V, D)
        Of voxels of all subjects that may be known; each voxel counts with unit norm.
    X : array of shape (i, E)
        The other embedding.
    seed : int

    Returns
    -------
    array of shape (D, E)
        With orthonormal columns, for `transplant_weights`.

    Raises
    ------
    ResponseError
        E is above D: there are not enough directions.
    """
    source, size = weights.shape[1], X.shape[1]
    if size > source:
        raise ResponseError(f"weights on {source} features cannot fill {size}; reduce the embedding first")
    unit = _unit_norm(weights)
    directions = np.linalg.eigh(unit.T @ unit)[1][:, ::-1][:, :size]
    return directions @ _banded_rotation(size, seed=seed) @ _principal_axes(X).T


def transplant_weights(weights: NDArray[Any], carry: NDArray[Any], X: NDArray[Any]) -> Array:
    """Weights of a subject on another embedding.

    Each voxel's weights are brought to unit norm first (the norm of a fitted weight tells of its regularisation and
    noise, which a simulation draws anew); then all are scaled so that the mean variance of ``X u`` is one.

    Parameters
    ----------
    weights : array of shape (V, D)
    carry : array of shape (D, E)
        From `transplant_map`.
    X : array of shape (i, E)
        The other embedding.

    Returns
    -------
    array of shape (V, E)
    """
    carried = _unit_norm(weights) @ carry
    return np.asarray(carried / np.sqrt(np.var(np.asarray(X, np.float64) @ carried.T, axis=0).mean()))


def _unit_norm(weights: NDArray[Any]) -> Array:
    weights = np.asarray(weights, np.float64)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True))
