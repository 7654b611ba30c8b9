"""Ridge regression per voxel, the regularisation chosen by cross-validation.

Pure functions do the mathematics; `RidgeCV` calls them. Axes: n image, E feature, V voxel, r rank, a regularisation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import check_cv
from torch import Tensor

from braincl.data.scatter import scatter
from braincl.data.splits import grouped_folds
from braincl.data.torch_settings import plain_torch
from braincl.errors import ResponseError
from braincl.estimators.base import LinearEncoder

RELATIVE_ALPHAS = np.logspace(-3, 4, 15)  # times the mean eigenvalue of the Gram matrix of the centred context


class Decomposition(NamedTuple):
    """Ridge weights for any alpha: ``synthesis / (eigenvalues + alpha) @ analysis @ Y``, shape (E, V).

    Parameters
    ----------
    synthesis : tensor (E, r)
    eigenvalues : tensor (r,)
    analysis : tensor (r, n)
        For centred X (n, E) and centred Y.
    """

    synthesis: Tensor
    eigenvalues: Tensor
    analysis: Tensor


def decompose(X: NDArray[Any], like: Tensor) -> Decomposition:
    """Eigendecomposition of the smaller of X X' and X' X, once for all voxels and all alphas.

    Computed on the CPU in float64, whatever the precision and device that it is brought to.

    Parameters
    ----------
    X : array of shape (n, E)
        Centred.
    like : tensor
        Whose precision and device the result has.

    Returns
    -------
    Decomposition
    """
    wide = X.astype(np.float64)
    if X.shape[0] <= X.shape[1]:
        eigenvalues, vectors = np.linalg.eigh(wide @ wide.T)
        synthesis, analysis = wide.T @ vectors, vectors.T
    else:
        eigenvalues, vectors = np.linalg.eigh(wide.T @ wide)
        synthesis, analysis = vectors, vectors.T @ wide.T
    return Decomposition(*(torch.as_tensor(p).to(like) for p in (synthesis, np.maximum(eigenvalues, 0), analysis)))


def cross_validated_errors(
    X: NDArray[Any], Y: Tensor, alphas: NDArray[Any], folds: Iterable[tuple[NDArray[Any], NDArray[Any]]]
) -> Tensor:
    """Mean squared error of ridge on held-out images, averaged over the folds.

    Parameters
    ----------
    X : array of shape (n, E)
    Y : tensor (n, V)
    alphas : array of shape (a,)
        Weights of ``|w|^2`` beside the sum of squared residuals.
    folds : pairs of (training rows, held-out rows)

    Returns
    -------
    tensor (a, V)
    """
    errors = Y.new_zeros(len(alphas), Y.shape[1])
    count = 0
    for count, (train, held_out) in enumerate(folds, start=1):  # noqa: B007
        x_mean = X[train].mean(axis=0)
        parts = decompose(X[train] - x_mean, Y)
        seen, asked = (Y[torch.as_tensor(rows, device=Y.device)] for rows in (train, held_out))
        y_mean = seen.mean(dim=0)
        projected = parts.analysis @ (seen - y_mean)
        scores = torch.as_tensor(X[held_out] - x_mean).to(Y) @ parts.synthesis
        residual = asked - y_mean
        for index, alpha in enumerate(alphas.tolist()):
            missed = torch.addmm(residual, scores / (parts.eigenvalues + alpha), projected, alpha=-1)
            errors[index] += missed.square_().mean(dim=0)
    return errors / count


class RidgeCV(LinearEncoder):
    """Ridge regression for every voxel, ``min |y - X w - b|^2 + alpha |w|^2`` with alpha chosen by cross-validation.

    Parameters
    ----------
    alphas : array of shape (n_alphas,), optional
        Candidates, as in `sklearn.linear_model.Ridge`. None: 15 values from 1e-3 to 1e4 times the mean eigenvalue of
        the Gram matrix of the centred context, which makes the choice independent of the scale of the embedding.
    cv : int or splitter
        Folds (consecutive images; as many as there are images where these are fewer; of whole groups, where `fit` is
        given some), or a scikit-learn splitter; one that needs groups, such as `GroupKFold`, takes those of `fit`.
    per_voxel : bool
        Choose alpha for each voxel; False: one alpha, which has the least mean error over the voxels.
    device : str
        Where voxels are worked on: cpu, cuda, mps, or auto, the best there is.

    Attributes
    ----------
    coef_ : array of shape (n_voxels, n_features)
    intercept_ : array of shape (n_voxels,)
    alpha_ : array of shape (n_voxels,)
    residual_std_ : array of shape (n_voxels,)
        Root of the cross-validated mean squared error at the chosen alpha: the predictive standard deviation.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 8))  # embeddings of 60 pictures
    >>> Y = X @ rng.standard_normal((8, 5)) + 0.1 * rng.standard_normal((60, 5))  # responses of 5 voxels
    >>> from braincl import RidgeCV
    >>> encoder = RidgeCV().fit(X[:40], Y[:40])
    >>> encoder.coef_.shape, encoder.predict(X[40:]).shape
    ((5, 8), (20, 5))
    >>> bool((encoder.score(X[40:], Y[40:]) > 0.9).all())  # explained variance of each voxel
    True
    """

    def __init__(  # scikit-learn: no checks here
        self, alphas: Any = None, cv: Any = 5, per_voxel: Any = True, device: Any = "auto"
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.per_voxel = per_voxel
        self.device = device

    @plain_torch()
    def fit(self, X: Any, y: Any, groups: Any = None) -> RidgeCV:
        """Choose alpha by cross-validation, then fit to all images.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
        y : array of shape (n_images, n_voxels) or (n_images,)
        groups : array of shape (n_images,), optional
            Images that are left out together, such as those of a run or a session.

        Returns
        -------
        RidgeCV
            This one.

        Raises
        ------
        ResponseError
            The context or the parameters cannot be used.
        InputError
            The device is not there.
        """
        X, Y, standardise = self._validate_fit(X, y)
        x_mean, Z = X.mean(axis=0, dtype=np.float64), self._on_device(standardise(Y, X.dtype))
        parts = decompose((X - x_mean).astype(X.dtype), Z)
        alphas = self._candidates(float(parts.eigenvalues.sum()) / len(X)).astype(X.dtype)
        errors = cross_validated_errors(X, Z, alphas, self._folds(X, Z.shape[1], groups)).cpu().numpy()
        scale = standardise.scale[standardise.varying]
        shared = errors @ np.square(scale / scale.max(initial=1e-300))  # in units of the responses, up to a factor
        best = errors.argmin(axis=0) if self.per_voxel else np.full(Z.shape[1], shared.argmin())
        self.alpha_ = scatter(alphas[best], standardise.varying, Y[0].shape, fill=alphas[0])
        shrunk = (parts.analysis @ Z) / (parts.eigenvalues[:, None] + torch.as_tensor(alphas[best]).to(Z))
        self.coef_ = standardise.undo_weights((shrunk.T @ parts.synthesis.T).cpu().numpy().astype(X.dtype, copy=False))
        self.intercept_ = (standardise.shift - self.coef_ @ x_mean).astype(X.dtype)
        std = np.sqrt(errors[best, np.arange(Z.shape[1])])
        self.residual_std_ = standardise.undo_std(std).astype(X.dtype)
        return self

    def _folds(self, X: NDArray[Any], voxels: int, groups: Any) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        if groups is not None and isinstance(self.cv, int):
            every = np.arange(len(X))
            return [(np.setdiff1d(every, fold), fold) for fold in grouped_folds(len(X), self.cv, groups)]
        try:
            cv = check_cv(min(self.cv, len(X)) if isinstance(self.cv, int) else self.cv)
            return list(cv.split(X, np.broadcast_to(np.zeros(1), (len(X), voxels)), groups))
        except (ValueError, TypeError) as error:
            needs = "; give them to fit(X, y, groups=...)" if groups is None and "group" in str(error) else ""
            raise ResponseError(f"cv={self.cv} cannot split {len(X)} images: {error}{needs}") from error

    def _candidates(self, mean_eigenvalue: float) -> NDArray[Any]:
        """Candidate alphas, the largest first, so that a tie (a context of 2 images) goes to the stronger shrinkage."""
        if self.alphas is None:
            return RELATIVE_ALPHAS[::-1] * (mean_eigenvalue or 1.0)
        alphas = np.atleast_1d(np.asarray(self.alphas, dtype=np.float64))
        if alphas.size == 0 or not (np.isfinite(alphas).all() and alphas.min() > 0):
            raise ResponseError(f"alphas must be positive numbers, got {self.alphas!r}")
        return np.sort(alphas)[::-1]

    def _predict_moments(self, X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        mean = self._predict_mean(X)
        return mean, np.broadcast_to(self.residual_std_, mean.shape).copy()
