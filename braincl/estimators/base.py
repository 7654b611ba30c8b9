"""What all linear voxel encoders share: validation, prediction and score on `coef_` and `intercept_`.

Axes: n context image, m query image, E feature, V voxel.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from braincl.data.scatter import scatter
from braincl.errors import ResponseError
from setcore.evaluation.metrics import explained_variance

FLOATS = (np.float64, np.float32)  # either is kept, anything else becomes float64


class LinearEncoder(MultiOutputMixin, RegressorMixin, BaseEstimator, metaclass=ABCMeta):  # type: ignore[misc]
    """One linear encoder per voxel, ``y_v = x . coef_[v] + intercept_[v]``.

    A subclass writes `fit`, which calls `_validate_fit` first and sets `coef_` and `intercept_`, and `_predict_std`.

    Attributes
    ----------
    coef_ : array of shape (n_voxels, n_features)
    intercept_ : array of shape (n_voxels,)
    constant_voxels_ : bool array of shape (n_voxels,)
        Voxels that are constant in the context; they are predicted as that constant.
    n_features_in_ : int
    """

    coef_: NDArray[Any]
    intercept_: NDArray[Any]
    constant_voxels_: NDArray[np.bool_]
    n_features_in_: int

    @abstractmethod
    def fit(self, X: Any, y: Any) -> LinearEncoder:
        """Fit to a context.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
            Embeddings.
        y : array of shape (n_images, n_voxels) or (n_images,)

        Returns
        -------
        LinearEncoder
            This one.

        Raises
        ------
        ResponseError
            The context cannot be used.
        """

    @abstractmethod
    def _predict_std(self, X: NDArray[Any]) -> NDArray[Any]:
        """Standard deviation of a new response, (m, V), for a validated X (m, E)."""

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict the responses to new images.

        Parameters
        ----------
        X : array of shape (m, n_features)
            Embeddings.
        return_std : bool
            Also return the standard deviation of a new stored response, noise included.

        Returns
        -------
        mean : array of shape (m, n_voxels), or (m,) after a fit to a one-dimensional y
        std : array of the same shape, if asked for

        Raises
        ------
        sklearn.exceptions.NotFittedError
        ResponseError
            The width differs from that of the context, or X holds NaN or inf.
        """
        X = self._validate_query(X)
        mean = X @ self.coef_.T + self.intercept_
        if not return_std:
            return self._in_shape_of_y(mean)
        return self._in_shape_of_y(mean), self._in_shape_of_y(self._predict_std(X))

    def score(self, X: Any, y: Any) -> Any:
        """Explained variance, ``1 - Var(y - prediction) / Var(y)``, per voxel.

        Parameters
        ----------
        X : array of shape (m, n_features)
        y : array of shape (m, n_voxels) or (m,)

        Returns
        -------
        array of shape (n_voxels,), NaN where y is constant; a float for a one-dimensional y

        Raises
        ------
        sklearn.exceptions.NotFittedError
        ResponseError
        """
        predicted = self.predict(X)
        try:
            observed = check_array(y, ensure_2d=False, dtype=FLOATS, ensure_min_samples=2, input_name="y")
        except ValueError as error:
            raise ResponseError(str(error)) from error
        if observed.shape != predicted.shape:
            raise ResponseError(
                f"y has shape {observed.shape} but the predictions have {predicted.shape}; score on the voxels "
                "that were fitted"
            )
        values = explained_variance(observed.reshape(len(observed), -1), predicted.reshape(len(predicted), -1))
        return float(values[0]) if observed.ndim == 1 else values

    def _validate_fit(self, X: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any], bool]:
        """Check the context and set `n_features_in_` and `constant_voxels_`.

        Returns
        -------
        X : float32 or float64 array of shape (n, E), as it came
        Y : array of shape (n, V) in the precision of X
        was_1d : bool
            Whether y had one axis; predictions then have one, too.

        Raises
        ------
        ResponseError
        """
        try:
            X, y = validate_data(
                self, X, y, dtype=FLOATS, multi_output=True, y_numeric=True, ensure_min_samples=2, force_writeable=True
            )
            Y = np.require(y.reshape(len(y), -1), X.dtype, "W")  # torch takes no read-only arrays
        except ValueError as error:
            raise ResponseError(str(error)) from error
        if Y.shape[1] == 0:
            raise ResponseError(f"y has shape {Y.shape}: 0 voxels; give at least one")
        self.constant_voxels_ = constant_voxels(Y)
        self._was_1d = y.ndim == 1
        return X, Y, self._was_1d

    def _validate_query(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self, "coef_")
        try:
            return np.asarray(validate_data(self, X, dtype=FLOATS, reset=False, force_writeable=True))
        except ValueError as error:
            raise ResponseError(str(error)) from error

    def _in_shape_of_y(self, values: NDArray[Any]) -> NDArray[Any]:
        return values[:, 0] if self._was_1d else values


def constant_voxels(Y: NDArray[Any]) -> NDArray[np.bool_]:
    """Which voxels are constant up to rounding.

    Parameters
    ----------
    Y : array of shape (n, V)

    Returns
    -------
    bool array of shape (V,)
    """
    return np.asarray(np.ptp(Y, axis=0) <= 8 * np.finfo(Y.dtype).eps * np.abs(Y).max(axis=0))


class Standardiser(NamedTuple):
    """How responses of V voxels are brought to mean 0 and variance 1 on a context, and back.

    Parameters
    ----------
    shift, scale : array of shape (V,)
        Mean and standard deviation on the context.
    varying : int array of shape (v,)
        Indices of the voxels that vary on the context; only these can be standardised.
    """

    shift: NDArray[Any]
    scale: NDArray[Any]
    varying: NDArray[np.int64]

    def __call__(self, Y: NDArray[Any]) -> NDArray[Any]:
        """The varying voxels, standardised as on the context.

        Parameters
        ----------
        Y : array of shape (m, V)

        Returns
        -------
        array of shape (m, v)
        """
        return np.asarray((Y[:, self.varying] - self.shift[self.varying]) / self.scale[self.varying])

    def undo(self, values: NDArray[Any]) -> NDArray[Any]:
        """Standardised values of the varying voxels as responses; the other voxels stay what they were.

        Parameters
        ----------
        values : array of shape (m, v)

        Returns
        -------
        array of shape (m, V)
        """
        out = np.tile(self.shift, (len(values), 1))
        out[:, self.varying] += values * self.scale[self.varying]
        return out

    def undo_std(self, std: NDArray[Any]) -> NDArray[Any]:
        """Standard deviations of standardised responses in the units of responses; 0 for voxels that do not vary.

        Parameters
        ----------
        std : array of shape (m, v)

        Returns
        -------
        array of shape (m, V)
        """
        return scatter(std * self.scale[self.varying], np.s_[:, self.varying], (len(std), len(self.shift)))

    def undo_weights(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Weights for standardised responses in the units of responses; 0 for voxels that do not vary.

        Parameters
        ----------
        weights : array of shape (v, E)
            Scaled in place.

        Returns
        -------
        array of shape (V, E)
            The same array where all voxels vary: for many voxels a copy would take longer than the network.
        """
        weights *= self.scale[self.varying, None]
        if len(weights) == len(self.shift):
            return weights
        return scatter(weights, self.varying, (len(self.shift), weights.shape[1]))


def standardiser(Y: NDArray[Any]) -> Standardiser:
    """How the responses of a context are standardised.

    Parameters
    ----------
    Y : array of shape (n, V)

    Returns
    -------
    Standardiser
    """
    return Standardiser(Y.mean(axis=0), Y.std(axis=0), np.flatnonzero(~constant_voxels(Y)))


def mean_explained_variance(estimator: LinearEncoder, X: Any, y: Any) -> float:
    """Mean of `score` over the voxels that vary in y: a scorer for `GridSearchCV(scoring=mean_explained_variance)`.

    Parameters
    ----------
    estimator : encoder, fitted
    X : array of shape (m, n_features)
    y : array of shape (m, n_voxels) or (m,)

    Returns
    -------
    float
        NaN where no voxel varies.
    """
    values = np.atleast_1d(estimator.score(X, y))
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")
