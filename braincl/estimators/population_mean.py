"""The population mean: what is predicted for a voxel of which only offset and scale are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braincl.errors import ModelError
from braincl.estimators.base import LinearEncoder


class PopulationMean(LinearEncoder):
    """The same weights for every voxel, in the voxel's own offset and scale.

    Parameters
    ----------
    weights : array of shape (n_features,), optional
        Mean weights of a population of voxels, for responses of unit variance. None: weights of 0, so that the
        prediction is the mean of the context.

    Attributes
    ----------
    coef_ : array of shape (n_voxels, n_features)
    intercept_ : array of shape (n_voxels,)
    residual_std_ : array of shape (n_voxels,)
        Standard deviation of the residuals in the context: the predictive standard deviation.
    """

    def __init__(self, weights: Any = None) -> None:  # scikit-learn: no checks here
        self.weights = weights

    def fit(self, X: Any, y: Any) -> PopulationMean:
        """Take offset and scale of every voxel from the context.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
        y : array of shape (n_images, n_voxels) or (n_images,)

        Returns
        -------
        PopulationMean
            This one.

        Raises
        ------
        ResponseError
        ModelError
            `weights` has another width than X.
        """
        X, Y, standardise = self._validate_fit(X, y)
        weights = np.zeros(X.shape[1]) if self.weights is None else np.asarray(self.weights)
        if weights.shape != X.shape[1:]:
            raise ModelError(
                f"the population mean has weights of shape {weights.shape}, the embedding has {X.shape[1]} features; "
                "embed with the backbone of the training subjects"
            )
        centre = X.mean(axis=0, dtype=np.float64)
        coef = standardise.undo_weights(np.tile(weights.astype(np.float64), (len(standardise.varying), 1)))
        residual = standardise(Y, np.float64) - ((X - centre) @ weights)[:, None]
        self.coef_, self.intercept_ = coef.astype(X.dtype), (standardise.shift - coef @ centre).astype(X.dtype)
        std = np.sqrt(np.square(residual).sum(axis=0) / (len(Y) - 1))
        self.residual_std_ = standardise.undo_std(std).astype(X.dtype)
        return self

    def _predict_moments(self, X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        mean = self._predict_mean(X)
        return mean, np.broadcast_to(self.residual_std_, mean.shape).copy()
