"""Ridge regression per voxel, the regularisation chosen by cross-validation.

Pure functions do the mathematics; `RidgeCV` calls them. Axes: n image, E feature, V voxel, r rank, a regularisation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import check_cv

from braincl.errors import ResponseError
from braincl.estimators.base import LinearEncoder

RELATIVE_ALPHAS = np.logspace(-3, 4, 15)  # times the mean eigenvalue of the Gram matrix of the centred context


class Decomposition(NamedTuple):
    """Ridge weights for any alpha: ``synthesis / (eigenvalues + alpha) @ analysis @ Y``, shape (E, V).

    Parameters
    ----------
    synthesis : ndarray, shape (E, r)
    eigenvalues : ndarray, shape (r,)
    analysis : ndarray, shape (r, n)
        For centred X (n, E) and centred Y.
    """

    synthesis: NDArray[Any]
    eigenvalues: NDArray[Any]
    analysis: NDArray[Any]


def _decompose(X: NDArray[Any]) -> Decomposition:
    """Eigendecomposition of the smaller of X X' and X' X, once for all voxels and all alphas.

    Computed in float64 and returned in the precision of X.
    """
    wide = X.astype(np.float64)
    if X.shape[0] <= X.shape[1]:
        eigenvalues, vectors = np.linalg.eigh(wide @ wide.T)
        synthesis, analysis = wide.T @ vectors, vectors.T
    else:
        eigenvalues, vectors = np.linalg.eigh(wide.T @ wide)
        synthesis, analysis = vectors, vectors.T @ wide.T
    parts = synthesis, np.maximum(eigenvalues, 0), analysis
    return Decomposition(*(part.astype(X.dtype) for part in parts))


def _cross_validated_errors(
    X: NDArray[Any], Y: NDArray[Any], alphas: NDArray[Any], folds: Iterable[tuple[NDArray[Any], NDArray[Any]]]
) -> NDArray[Any]:
    """Mean squared error of ridge on held-out images, averaged over the folds.

    Parameters
    ----------
    X : array of shape (n, E)
    Y : array of shape (n, V)
    alphas : array of shape (a,)
        Weights of ``|w|^2`` beside the sum of squared residuals.
    folds : pairs of (training rows, held-out rows)

    Returns
    -------
    array of shape (a, V)
    """
    errors = np.zeros((len(alphas), Y.shape[1]), dtype=np.float64)
    count = 0
    for count, (train, held_out) in enumerate(folds, start=1):  # noqa: B007
        x_mean, y_mean = X[train].mean(axis=0), Y[train].mean(axis=0)
        parts = _decompose(X[train] - x_mean)
        projected = parts.analysis @ (Y[train] - y_mean)
        scores = (X[held_out] - x_mean) @ parts.synthesis
        residual = Y[held_out] - y_mean
        for index, alpha in enumerate(alphas):
            errors[index] += np.square(residual - (scores / (parts.eigenvalues + alpha)) @ projected).mean(axis=0)
    return errors / count


class RidgeCV(LinearEncoder):
    """Ridge regression for every voxel, ``min |y - X w - b|^2 + alpha |w|^2`` with alpha chosen by cross-validation.

    Parameters
    ----------
    alphas : array of shape (n_alphas,), optional
        Candidates, as in `sklearn.linear_model.Ridge`. None: 15 values from 1e-3 to 1e4 times the mean eigenvalue of
        the Gram matrix of the centred context, which makes the choice independent of the scale of the embedding.
    cv : int or splitter
        Folds (consecutive images; as many as there are images where these are fewer), or a scikit-learn splitter.
    per_voxel : bool
        Choose alpha for each voxel; False: one alpha, which has the least mean error over the voxels.

    Attributes
    ----------
    coef_ : array of shape (n_voxels, n_features)
    intercept_ : array of shape (n_voxels,)
    alpha_ : array of shape (n_voxels,)
    residual_std_ : array of shape (n_voxels,)
        Root of the cross-validated mean squared error at the chosen alpha: the predictive standard deviation.
    """

    def __init__(self, alphas: Any = None, cv: Any = 5, per_voxel: Any = True) -> None:  # scikit-learn: no checks here
        self.alphas = alphas
        self.cv = cv
        self.per_voxel = per_voxel

    def fit(self, X: Any, y: Any) -> RidgeCV:
        """Choose alpha by cross-validation, then fit to all images.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
        y : array of shape (n_images, n_voxels) or (n_images,)

        Returns
        -------
        RidgeCV
            This one.

        Raises
        ------
        ResponseError
            The context or the parameters cannot be used.
        """
        X, Y, _ = self._validate_fit(X, y)
        x_mean, y_mean = X.mean(axis=0), Y.mean(axis=0)
        parts = _decompose(X - x_mean)
        alphas = self._candidates(float(parts.eigenvalues.sum()) / len(X)).astype(X.dtype)
        cv = check_cv(min(self.cv, len(X)) if isinstance(self.cv, int) else self.cv)
        errors = _cross_validated_errors(X, Y, alphas, cv.split(X))
        best = errors.argmin(axis=0) if self.per_voxel else np.full(Y.shape[1], errors.mean(axis=1).argmin())
        self.alpha_ = alphas[best]
        centred = np.where(self.constant_voxels_, 0, Y - y_mean)
        shrunk = (parts.analysis @ centred) / (parts.eigenvalues[:, None] + self.alpha_)
        self.coef_ = shrunk.T @ parts.synthesis.T
        self.intercept_ = np.where(self.constant_voxels_, Y[0], y_mean - self.coef_ @ x_mean)
        self.residual_std_ = np.sqrt(errors[best, np.arange(Y.shape[1])]).astype(X.dtype)
        self.residual_std_[self.constant_voxels_] = 0
        return self

    def _candidates(self, mean_eigenvalue: float) -> NDArray[Any]:
        """Candidate alphas, the largest first, so that a tie (a context of 2 images) goes to the stronger shrinkage."""
        if self.alphas is None:
            return RELATIVE_ALPHAS[::-1] * (mean_eigenvalue or 1.0)
        alphas = np.atleast_1d(np.asarray(self.alphas, dtype=np.float64))
        if alphas.size == 0 or not (np.isfinite(alphas).all() and alphas.min() > 0):
            raise ResponseError(f"alphas must be positive numbers, got {self.alphas!r}")
        return np.sort(alphas)[::-1]

    def _predict_std(self, X: NDArray[Any]) -> NDArray[Any]:
        return np.broadcast_to(self.residual_std_, (len(X), len(self.residual_std_))).copy()
