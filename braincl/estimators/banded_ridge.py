"""Banded ridge: several feature spaces in one encoder, each with a strength of its own, under a prior of its own.

Axes: n image, s feature space, E feature (of all spaces side by side), V voxel, b band: strengths that add up to one.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from braincl.data.scatter import scatter
from braincl.data.splits import grouped_folds
from braincl.data.torch_settings import plain_torch
from braincl.errors import ModelError, ResponseError
from braincl.estimators.base import LinearEncoder
from braincl.estimators.ridge import RELATIVE_ALPHAS, cross_validated_errors, decompose
from braincl.models.prior import Prior
from setcore.seeding import numpy_generator

FLAT = 1e-12  # variance of a space, relative to its mean square, below which it says nothing


class BandedRidgeCV(LinearEncoder):
    """Ridge on several feature spaces, one strength for each space and voxel, chosen by cross-validation.

    ``w_s ~ N(0, g_s M_s)`` and noise of variance a: the kernel is ``sum_s g_s A_s M_s A_s'`` on centred features A
    (Nunez-Elizalde, Huth & Gallant 2019; Dupré la Tour et al. 2022). M_s is the identity, or the second moment
    ``Sigma + mu mu'`` of a population prior. Candidates are bands g that add up to one (corners, where a space is off,
    the centre, and draws from a Dirichlet distribution), times strengths 1 / a; each voxel takes the pair of least
    cross-validated error.

    Parameters
    ----------
    widths : sequence of int, optional
        Features of each space; they stand side by side in X. None: all of X is one space.
    priors : sequence of Prior or None, optional
        Of each space. None: identities.
    strengths : array of shape (n_spaces,), optional
        Take these, ``g_s / a``, in place of a choice.
    cv : int
        Folds of the choice.
    bands : int
        Dirichlet draws among the candidates.
    seed : int
        Of the folds and the draws.
    device : str
        Where voxels are worked on: cpu, cuda, mps, or auto, the best there is.

    Attributes
    ----------
    coef_ : array of shape (n_voxels, n_features)
    intercept_ : array of shape (n_voxels,)
    strengths_ : array of shape (n_spaces, n_voxels)
        ``g_s / a``, the variance of the prior of each space over that of the noise.
    residual_std_ : array of shape (n_voxels,)
        Root of the cross-validated mean squared error at the chosen strengths; where they were given, of the residuals.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 8))  # a space of 5 features beside one of 3
    >>> Y = X[:, :5] @ rng.standard_normal((5, 4)) + 0.1 * rng.standard_normal((60, 4))  # the voxels know the first
    >>> from braincl import BandedRidgeCV
    >>> encoder = BandedRidgeCV(widths=(5, 3)).fit(X[:40], Y[:40])
    >>> bool((encoder.score(X[40:], Y[40:]) > 0.9).all())
    True
    >>> first, second = encoder.strengths_
    >>> bool((first > 10 * second).all())
    True
    """

    def __init__(
        self, widths: Any = None, priors: Any = None, strengths: Any = None, cv: Any = 5, bands: Any = 20,
        seed: Any = 0, device: Any = "auto",
    ) -> None:  # fmt: skip
        self.widths = widths
        self.priors = priors
        self.strengths = strengths
        self.cv = cv
        self.bands = bands
        self.seed = seed
        self.device = device

    @plain_torch()
    def fit(self, X: Any, y: Any, groups: Any = None) -> BandedRidgeCV:
        """Choose the strengths of every voxel by cross-validation, then fit to all images.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
            The spaces side by side.
        y : array of shape (n_images, n_voxels) or (n_images,)
        groups : array of shape (n_images,), optional
            Rows that are left out together, such as the runs of a time series.

        Returns
        -------
        BandedRidgeCV
            This one.

        Raises
        ------
        ResponseError
            The context, the widths, strengths, groups, `cv` or `bands` cannot be used, or a space does not vary.
        ModelError
            There is not one prior for each space, or one has another width.
        InputError
            The device is not there.
        """
        X, Y, standardise = self._validate_fit(X, y)
        for name, least in (("cv", 2), ("bands", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ResponseError(f"{name} is {value!r}; give a whole number, {least} or more")
        x_mean, Z = X.mean(axis=0, dtype=np.float64), self._on_device(standardise(Y, X.dtype))
        roots = self._roots(X.shape[1])
        parts = [(X[:, at] - x_mean[at]) @ root for at, root in zip(space_slices(self._widths(X)), roots, strict=True)]
        powers = np.array([np.square(part).sum() / len(X) for part in parts])
        for number, (part, power) in enumerate(zip(parts, powers, strict=True)):
            if not power > FLAT * max(float(np.square(X).mean()), np.finfo(float).tiny):
                raise ResponseError(f"feature space {number} ({part.shape[1]} features) does not vary over the images")
        chosen, errors = self._choose(parts, powers, Z, groups)
        coef = np.zeros((Z.shape[1], X.shape[1]))
        for strengths in np.unique(chosen, axis=0):
            voxels = np.flatnonzero((chosen == strengths).all(axis=1))
            seen = np.hstack([np.sqrt(g) * part for g, part in zip(strengths, parts, strict=True)])
            found = decompose(seen, Z.double())
            weights = (found.synthesis / (found.eigenvalues + 1)) @ (found.analysis @ Z[:, voxels].double())
            coef[voxels] = _in_features(weights.cpu().numpy(), strengths, roots, self._widths(X)).T
        if errors is None:
            fitted = (X - x_mean) @ coef.T
            errors = np.square(Z.cpu().numpy() - fitted).mean(axis=0)
        self.strengths_ = scatter(chosen.T, (slice(None), standardise.varying), (len(parts), Y.shape[1]), fill=0.0)
        self.coef_ = standardise.undo_weights(coef.astype(X.dtype))
        self.intercept_ = (standardise.shift - self.coef_ @ x_mean).astype(X.dtype)
        self.residual_std_ = standardise.undo_std(np.sqrt(errors)).astype(X.dtype)
        return self

    def _widths(self, X: NDArray[Any]) -> tuple[int, ...]:
        try:
            widths = (X.shape[1],) if self.widths is None else tuple(operator.index(width) for width in self.widths)
        except (TypeError, ValueError) as error:
            raise ResponseError(
                f"widths are {self.widths!r}; give the number of features of each space, such as (512, 30)"
            ) from error
        if not widths or min(widths) < 1 or sum(widths) != X.shape[1]:
            raise ResponseError(f"feature spaces of {' + '.join(map(str, widths))} features, X has {X.shape[1]}")
        return widths

    def _roots(self, features: int) -> list[NDArray[np.float64]]:
        """A root R of every space's second moment, M = R R'."""
        widths = self._widths(np.empty((0, features)))
        priors = [None] * len(widths) if self.priors is None else list(self.priors)
        if len(priors) != len(widths):
            raise ModelError(
                f"there are {len(priors)} priors for {len(widths)} feature spaces; give one for each, or None"
            )
        for prior in priors:
            if prior is not None and not isinstance(prior, Prior):
                raise ModelError(
                    f"a prior is {type(prior).__name__}; give a Prior, such as `encoder.population_prior().prior`, or "
                    "None"
                )
        return [_root(prior, width) for prior, width in zip(priors, widths, strict=True)]

    def _choose(
        self, parts: Sequence[NDArray[Any]], powers: NDArray[np.float64], Z: Tensor, groups: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Strengths (V, s) and the cross-validated mean squared error (V,) at them; none where they were given."""
        voxels = Z.shape[1]
        if self.strengths is not None:
            advice = f"strengths are {self.strengths!r}; give {len(parts)} numbers, 0 or more, and not all 0"
            try:
                given = np.asarray(self.strengths, dtype=np.float64)
            except (TypeError, ValueError) as cause:
                raise ResponseError(advice) from cause
            if given.shape != (len(parts),) or not (np.isfinite(given).all() and given.min() >= 0 and given.max() > 0):
                raise ResponseError(advice)
            return np.tile(given, (voxels, 1)), None
        images = len(Z)
        left_out = grouped_folds(images, self.cv, groups, self.seed)
        folds = [(np.setdiff1d(np.arange(images), fold), fold) for fold in left_out]
        alphas = RELATIVE_ALPHAS[::-1]  # the largest first: ties go to the stronger shrinkage
        chosen, best = np.zeros((voxels, len(parts))), np.full(voxels, np.inf)
        for band in candidate_bands(len(parts), self.bands, self.seed) / powers:
            seen = np.hstack([np.sqrt(g) * part for g, part in zip(band, parts, strict=True)])
            errors = cross_validated_errors(seen, Z, alphas, folds).cpu().numpy().astype(np.float64)
            least = errors.argmin(axis=0)
            error = errors[least, np.arange(voxels)]
            better = error < best
            best[better], chosen[better] = error[better], band / alphas[least[better], None]
        return chosen, best

    def _predict_moments(self, X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        mean = self._predict_mean(X)
        return mean, np.broadcast_to(self.residual_std_, mean.shape).copy()

    def predict_by_space(self, X: Any) -> NDArray[Any]:
        """What each space contributes to the predictions; they add up to `predict` less the mean of the context.

        Parameters
        ----------
        X : array of shape (m, n_features)

        Returns
        -------
        array of shape (n_spaces, m, n_voxels)

        Raises
        ------
        sklearn.exceptions.NotFittedError
        ResponseError
        """
        X = self._validate_query(X)
        return np.stack([X[:, at] @ self.coef_[:, at].T for at in space_slices(self._widths(X))])


def space_slices(widths: Iterable[int]) -> list[slice]:
    """Where each feature space lies in features side by side.

    Parameters
    ----------
    widths : iterable of int

    Returns
    -------
    list of slice
    """
    ends = np.cumsum([0, *widths]).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


def candidate_bands(spaces: int, draws: int, seed: int = 0) -> NDArray[np.float64]:
    """Strengths of feature spaces relative to each other: corners, the centre, and draws between them.

    Parameters
    ----------
    spaces, draws, seed : int

    Returns
    -------
    array of shape (b, spaces)
        Rows add up to one; the centre comes first.
    """
    if spaces == 1:
        return np.ones((1, 1))
    drawn = numpy_generator(seed, "bands").dirichlet(np.full(spaces, 0.5), draws)
    return np.concatenate([np.full((1, spaces), 1 / spaces), np.eye(spaces), drawn])


def _root(prior: Prior | None, width: int) -> NDArray[np.float64]:
    if prior is None:
        return np.eye(width)
    if prior.n_features != width:
        raise ModelError(f"the prior has {prior.n_features} features, its feature space {width}")
    values, vectors = np.linalg.eigh(prior.covariances[0] + np.outer(prior.means[0], prior.means[0]))
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def _in_features(
    weights: NDArray[Any], strengths: NDArray[Any], roots: Sequence[NDArray[Any]], widths: Sequence[int]
) -> NDArray[Any]:
    """Weights (E, V) of features from those of scaled ones."""
    spaces = zip(strengths, roots, space_slices(widths), strict=True)
    return np.concatenate([np.sqrt(g) * root @ weights[at] for g, root, at in spaces])
