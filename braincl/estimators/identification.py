"""Which picture was seen, from responses and what an encoder predicts: the mathematics of identification and decoding.

A response of all voxels to one picture is taken for ``r = m(x) + e``, ``e ~ N(0, S)``. S is the covariance of the
residuals of left-out context pictures (what the encoder misses is noise, too), shrunk towards independent voxels
(target D of Schäfer & Strimmer 2005, "A shrinkage approach to large-scale covariance matrix estimation"). How much is
what tells the context's own pictures apart best, with noise from the others. On macaque V4 (sessions 210224 and 210225
of PE, contexts of 50 to 400) this identified more pictures than Schäfer & Strimmer's share, which is right for the
covariance itself, than a share of the highest likelihood, than one common factor, and than variances that differ from
picture to picture as the encoder predicts them.

Axes: m response, c candidate, n context image, V voxel, E feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax

from braincl.data.splits import grouped_folds
from braincl.errors import ResponseError

Array = NDArray[np.float64]
FOLDS = 10  # of the context's pictures, each left out once
LEAST_PICTURES = 8  # of a context, to estimate the noise
SHRINKAGES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)  # towards independent voxels, that are tried
METHODS = ("auto", "gaussian", "correlation")


class ResponseNoise(NamedTuple):
    """A covariance that is diagonal but for a few directions, ``D (I + Q diag(g) Q') D``, D a diagonal.

    Parameters
    ----------
    scale : array of shape (V,)
        The diagonal of D, above 0.
    axes : array of shape (V, k)
        Q, of orthonormal columns.
    gain : array of shape (k,)
        g, 0 or more.
    """

    scale: Array
    axes: Array
    gain: Array

    def whiten(self, values: Float[np.ndarray, "m v"]) -> Float[np.ndarray, "m v"]:
        """Values whose inner products are those under the inverse covariance, ``w(x) . w(y) = x' S^-1 y``.

        Parameters
        ----------
        values : array of shape (m, V)

        Returns
        -------
        array of shape (m, V)
        """
        scaled = values / self.scale
        less = 1 - 1 / np.sqrt(1 + self.gain)  # (I + Q g Q')^-1/2 = I - Q (1 - (1 + g)^-1/2) Q'
        return np.asarray(scaled - ((scaled @ self.axes) * less) @ self.axes.T)

    @property
    def log_determinant(self) -> float:
        """Of the covariance.

        Returns
        -------
        float
        """
        return float(2 * np.log(self.scale).sum() + np.log1p(self.gain).sum())


@dataclass(frozen=True)
class LeftOutContext:
    """A context whose pictures were predicted without them, all of it standardised.

    Parameters
    ----------
    responses, predicted : array of shape (n, V)
    folds : list of int array
        Rows that were left out together; every row is in one.
    """

    responses: Array
    predicted: Array
    folds: list[NDArray[np.int64]]

    def of(self, voxels: NDArray[Any]) -> LeftOutContext:
        """Some of the voxels.

        Parameters
        ----------
        voxels : bool or int array

        Returns
        -------
        LeftOutContext
        """
        return LeftOutContext(self.responses[:, voxels], self.predicted[:, voxels], self.folds)

    @cached_property
    def likelihood(self) -> tuple[float, Array]:
        """The shrinkage that tells the pictures apart best, and the likelihoods (n, n) by it: of `left_out_scores`.

        Returns
        -------
        float
        array of shape (n, n)
        """
        scores = left_out_scores(self)
        best = best_shrinkage(scores)
        return SHRINKAGES[best], scores[best].copy()


def leave_out(
    predict: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[Any]],
    responses: Float[np.ndarray, "n v"],
    groups: ArrayLike | None = None,
) -> LeftOutContext:
    """Predict every picture of a context from the others, in `FOLDS` folds drawn by a fixed seed.

    Parameters
    ----------
    predict : callable
        Predictions of the second rows, fitted to the first.
    responses : array of shape (n, V)
    groups : array of shape (n,), optional
        Rows that are left out together, such as the runs of a time series.

    Returns
    -------
    LeftOutContext

    Raises
    ------
    ResponseError
        The groups cannot be used, or there are fewer than `LEAST_PICTURES` pictures.
    """
    n = len(responses)
    if n < LEAST_PICTURES:
        raise ResponseError(
            f"the context has {n} pictures; identification learns the noise from pictures that are left out, and needs "
            f"{LEAST_PICTURES} or more"
        )
    predicted, folds = np.empty(responses.shape), grouped_folds(n, FOLDS, groups)
    for fold in folds:
        predicted[fold] = predict(np.setdiff1d(np.arange(n), fold), fold)
    return LeftOutContext(np.asarray(responses, dtype=np.float64), predicted, folds)


def shrunk_noise(residuals: Float[np.ndarray, "n v"], shrinkages: Sequence[float]) -> list[ResponseNoise]:
    """Covariances of residuals, shrunk towards independent voxels: ``D (s I + (1 - s) R' R / n) D``.

    D holds the root mean squares of residuals, R the residuals over it.

    Parameters
    ----------
    residuals : array of shape (n, V)
    shrinkages : sequence of float
        Every s, above 0 and at most 1.

    Returns
    -------
    list of ResponseNoise
    """
    std = np.sqrt(np.square(residuals).mean(axis=0))
    std = np.maximum(std, 1e-6 * std.max(initial=1e-300))
    axes, variance = _principal(residuals / (std * np.sqrt(len(residuals))))
    return [ResponseNoise(std * np.sqrt(share), axes, (1 - share) / share * variance) for share in shrinkages]


def _principal(rows: Array) -> tuple[Array, Array]:
    """Right singular vectors (V, k) and squared singular values (k,) of (n, V), by way of n x n or V x V."""
    wide = rows.shape[0] < rows.shape[1]
    squares, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    kept = squares > 1e-10 * squares[-1]  # the others are rounding errors
    squares, vectors = squares[kept], vectors[:, kept]
    return (rows.T @ vectors) / np.sqrt(squares) if wide else vectors, squares


def left_out_scores(context: LeftOutContext) -> Float[np.ndarray, "s n n"]:
    """Log likelihood of a context's responses under all its left-out predictions, with noise from the other folds.

    Parameters
    ----------
    context : LeftOutContext

    Returns
    -------
    array of shape (len(SHRINKAGES), n, n)
    """
    scores = np.empty((len(SHRINKAGES), len(context.responses), len(context.responses)))
    for fold in context.folds:
        residuals = np.delete(context.responses - context.predicted, fold, axis=0)
        for found, noise in zip(scores, shrunk_noise(residuals, SHRINKAGES), strict=True):
            found[fold] = gaussian_scores(context.responses[fold], context.predicted, noise)
    return scores


def best_shrinkage(scores: Float[np.ndarray, "s n n"]) -> int:
    """Which of `SHRINKAGES` gives the pictures that were seen the highest probability among all of the context.

    Parameters
    ----------
    scores : array of shape (len(SHRINKAGES), n, n)
        Of `left_out_scores`.

    Returns
    -------
    int
    """
    return int(np.argmax([(np.diagonal(found) - logsumexp(found, axis=1)).sum() for found in scores]))


def fit_noise(context: LeftOutContext) -> ResponseNoise:
    """The noise of a context, by the shrinkage that tells its own pictures apart best.

    Parameters
    ----------
    context : LeftOutContext

    Returns
    -------
    ResponseNoise
    """
    return shrunk_noise(context.responses - context.predicted, [context.likelihood[0]])[0]


def gaussian_scores(
    responses: Float[np.ndarray, "m v"], predicted: Float[np.ndarray, "c v"], noise: ResponseNoise
) -> Float[np.ndarray, "m c"]:
    """Log likelihood of every response under every candidate, ``log N(r; m_c, S)``, in nats.

    Parameters
    ----------
    responses : array of shape (m, V)
    predicted : array of shape (c, V)
    noise : ResponseNoise

    Returns
    -------
    array of shape (m, c)
    """
    seen, expected = noise.whiten(responses), noise.whiten(predicted)
    distance = np.square(seen).sum(axis=1)[:, None] + np.square(expected).sum(axis=1) - 2 * seen @ expected.T
    return np.asarray(-0.5 * (distance + noise.log_determinant + responses.shape[1] * np.log(2 * np.pi)))


def correlation_scores(
    responses: Float[np.ndarray, "m v"], predicted: Float[np.ndarray, "c v"]
) -> Float[np.ndarray, "m c"]:
    """Pearson correlation over voxels of every response with every candidate's prediction (Kay et al. 2008).

    Parameters
    ----------
    responses : array of shape (m, V)
        Standardised per voxel.
    predicted : array of shape (c, V)

    Returns
    -------
    array of shape (m, c)
        0 where either does not vary over voxels.
    """

    def unit(values: NDArray[Any]) -> NDArray[Any]:
        centred = values - values.mean(axis=1, keepdims=True)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        return np.asarray(centred / np.where(length > 0, length, np.inf))

    return np.asarray(unit(responses) @ unit(predicted).T)


def better_method(context: LeftOutContext) -> str:
    """Gaussian likelihood or correlation, whichever ranks the context's own pictures better when they are left out.

    Every left-out response is identified among the left-out predictions of all context pictures.

    Parameters
    ----------
    context : LeftOutContext

    Returns
    -------
    {"gaussian", "correlation"}
        The likelihood where they are level.
    """
    scores = (context.likelihood[1], correlation_scores(context.responses, context.predicted))
    likelihood, correlation = (above_others(found, np.arange(len(found))).mean() for found in scores)
    return "gaussian" if likelihood >= correlation else "correlation"


def scores_by(
    method: str, responses: NDArray[Any], predicted: NDArray[Any], context: LeftOutContext
) -> Float[np.ndarray, "m c"]:
    """Scores of candidates, more for those that are likelier.

    Parameters
    ----------
    method : {"auto", "gaussian", "correlation"}
        "auto": `better_method`.
    responses : array of shape (m, V)
    predicted : array of shape (c, V)
    context : LeftOutContext
        In the same units.

    Returns
    -------
    array of shape (m, c)

    Raises
    ------
    ResponseError
        There is no such method.
    """
    if method not in METHODS:
        raise ResponseError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")
    if method == "auto":
        method = better_method(context)
    if method == "correlation":
        return correlation_scores(responses, predicted)
    return gaussian_scores(responses, predicted, fit_noise(context))


def above_others(scores: Float[np.ndarray, "m c"], right: NDArray[np.int64]) -> Float[np.ndarray, "m"]:
    """Share of the other candidates that score less than the right one: two-alternative forced choice.

    Parameters
    ----------
    scores : array of shape (m, c)
        Of two candidates or more.
    right : int array of shape (m,)
        Which candidate was seen.

    Returns
    -------
    array of shape (m,)
        Ties count half.
    """
    own = np.take_along_axis(scores, right[:, None], axis=1)
    less, level = (scores < own).sum(axis=1), (scores == own).sum(axis=1) - 1
    return np.asarray((less + 0.5 * level) / (scores.shape[1] - 1))


def in_top(scores: Float[np.ndarray, "m c"], right: NDArray[np.int64], k: int) -> Float[np.ndarray, "m"]:
    """Whether the right candidate is among the `k` best; with ties, how probable it is when they are broken at random.

    Parameters
    ----------
    scores : array of shape (m, c)
    right : int array of shape (m,)
    k : int

    Returns
    -------
    array of shape (m,)
        0..1.
    """
    own = np.take_along_axis(scores, right[:, None], axis=1)
    better, level = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    return np.asarray(np.clip((k - better) / level, 0, 1))


def posterior_of_candidates(scores: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m c"]:
    """Probability of every candidate, each as likely as another before the response was seen.

    Parameters
    ----------
    scores : array of shape (m, c)
        From `gaussian_scores`.

    Returns
    -------
    array of shape (m, c)
        Rows sum to one.
    """
    return np.asarray(softmax(scores, axis=1))


def posterior_embedding(
    responses: Float[np.ndarray, "m v"],
    coef: Float[np.ndarray, "v e"],
    intercept: Float[np.ndarray, "v"],
    noise: ResponseNoise,
    pictures: Float[np.ndarray, "n e"],
) -> Float[np.ndarray, "m e"]:
    """Posterior mean of the embedding under a Gaussian prior, ``mu + C W' (W C W' + S)^-1 (r - W mu - b)``.

    mu and C are mean and covariance of pictures' embeddings, C shrunk towards the identity (Ledoit & Wolf 2004). See
    Bishop 2006, equation 2.116; Thirion et al. 2006 for the inverse of an encoder.

    Parameters
    ----------
    responses : array of shape (m, V)
    coef : array of shape (V, E)
    intercept : array of shape (V,)
    noise : ResponseNoise
    pictures : array of shape (n, E)

    Returns
    -------
    array of shape (m, E)
    """
    from sklearn.covariance import ledoit_wolf

    mean = pictures.mean(axis=0)
    covariance = ledoit_wolf(pictures)[0]
    unexplained = noise.whiten(responses - (coef @ mean + intercept))
    weights = noise.whiten(coef.T).T  # of whitened responses, whose noise is I
    values, axes = np.linalg.eigh(covariance)
    root = axes * np.sqrt(np.maximum(values, 0))
    on_root = weights @ root
    gain = np.linalg.solve(np.eye(len(values)) + on_root.T @ on_root, on_root.T @ unexplained.T)
    return np.asarray(mean + (root @ gain).T)
