"""What all voxel encoders share: validation, prediction and score; those that are linear have `coef_` and `intercept_`.

Axes: n context image, m query image, E feature, V voxel.
"""

from __future__ import annotations

import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from braincl.data.arrays import check_finite, check_same_images, plain_array
from braincl.data.scatter import scatter
from braincl.errors import ResponseError, ResponseTypeError
from setcore.devices import find_device
from setcore.evaluation.metrics import explained_variance

# Either precision is kept, anything else becomes float64; torch takes no negative strides and no read-only arrays.
AS_IT_CAME: dict[str, Any] = {
    "dtype": (np.float64, np.float32), "order": "C", "ensure_all_finite": False, "force_writeable": True,
}  # fmt: skip
VOXELS = 512  # that are in float64 at once


class VoxelEncoder(MultiOutputMixin, RegressorMixin, BaseEstimator, metaclass=ABCMeta):  # type: ignore[misc]
    """An encoder of every voxel, from embeddings to responses.

    A subclass writes `fit`, which calls `_validate_fit` first, `_predict_mean` and `_predict_moments`.

    Attributes
    ----------
    constant_voxels_ : bool array of shape (n_voxels,)
        Voxels that are constant in the context; they are predicted as that constant.
    unusable_voxels_ : bool array of shape (n_voxels,)
        Voxels whose mean or standard deviation is beyond the range of numbers in the output's precision (float32: about
        1e-35 to 1e35). A warning names them, they are predicted as NaN, and the others as if they were not there.
    n_features_in_ : int
    """

    constant_voxels_: NDArray[np.bool_]
    unusable_voxels_: NDArray[np.bool_]
    n_features_in_: int
    device: str = "auto"
    _precision: ClassVar[Any] = None  # of what comes out; None: that of X

    @abstractmethod
    def fit(self, X: Any, y: Any) -> VoxelEncoder:
        """Fit to a context.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
            Embeddings.
        y : array of shape (n_images, n_voxels) or (n_images,)

        Returns
        -------
        VoxelEncoder
            This one.

        Raises
        ------
        ResponseError
            The context cannot be used.
        """

    @abstractmethod
    def _predict_mean(self, X: NDArray[Any]) -> NDArray[Any]:
        """Mean of a new response, (m, V), for a validated X (m, E)."""

    @abstractmethod
    def _predict_moments(self, X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean and standard deviation of a new response, (m, V) each, for a validated X (m, E)."""

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
        if not return_std:
            return self._in_shape_of_y(self._predict_mean(X))
        mean, std = self._predict_moments(X)
        return self._in_shape_of_y(mean), self._in_shape_of_y(std)

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
        observed = _responses(y, self)
        check_same_images(predicted, observed)
        if observed.shape != predicted.shape:
            raise ResponseError(
                f"y has shape {observed.shape} but the predictions have {predicted.shape}; score on the voxels "
                "that were fitted"
            )
        values = explained_variance(observed.reshape(len(observed), -1), predicted.reshape(len(predicted), -1))
        return float(values[0]) if observed.ndim == 1 else values

    def _validate_fit(self, X: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any], Standardiser]:
        """Check the context and set `n_features_in_`, `constant_voxels_` and `unusable_voxels_`.

        Returns
        -------
        X : float32 or float64 array of shape (n, E), as it came
        Y : float32 or float64 array of shape (n, V), as it came
        standardise : Standardiser
            Of Y.

        Raises
        ------
        ResponseError
        """
        if y is None:
            raise ResponseError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        X = self._embeddings(X, reset=True, ensure_min_samples=2)
        y = _responses(y, self)
        check_same_images(X, y)
        check_finite(y, "y", axis=1)
        Y = y.reshape(len(y), -1)
        if Y.shape[1] == 0:
            raise ResponseError(f"y has shape {Y.shape}: 0 voxels; give at least one")
        self._was_1d = y.ndim == 1
        standardise = standardiser(Y, self._precision or X.dtype)
        self.unusable_voxels_ = np.isnan(standardise.shift)
        self.constant_voxels_ = ~self.unusable_voxels_
        self.constant_voxels_[standardise.varying] = False
        if self.unusable_voxels_.any():
            first, count = int(self.unusable_voxels_.argmax()), int(self.unusable_voxels_.sum())
            warnings.warn(
                f"voxel {first} of {Y.shape[1]} is beyond the range of numbers (values up to "
                f"{np.abs(Y[:, first]).max():.3g}, spread {np.ptp(Y[:, first]):.3g}), {count} such voxels: their "
                "predictions are NaN, the others do without them; bring them to other units, or leave them out",
                stacklevel=3,
            )
        return X, Y, standardise

    def _on_device(self, values: NDArray[Any]) -> Tensor:
        """Values where voxels are worked on, in their precision; in float32 on a device that has no other (MPS)."""
        device = find_device(self.device)
        return torch.as_tensor(values).to(device, torch.float32 if device.type == "mps" else None)

    def _validate_query(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self, "constant_voxels_")
        return self._embeddings(X, reset=False)

    def _embeddings(self, X: Any, **checks: Any) -> NDArray[Any]:
        """X as a float32 or float64 array (n, E) in C order, its features checked or, with `reset`, remembered."""
        with _typed():
            X = validate_data(self, plain_array(X, "X"), **checks, **AS_IT_CAME)
        check_finite(X, "X")
        return np.asarray(X)

    def _in_shape_of_y(self, values: NDArray[Any]) -> NDArray[Any]:
        return values[:, 0] if self._was_1d else values


class LinearEncoder(VoxelEncoder):
    """One linear encoder per voxel, ``y_v = x . coef_[v] + intercept_[v]``; `fit` sets both.

    Attributes
    ----------
    coef_ : array of shape (n_voxels, n_features)
    intercept_ : array of shape (n_voxels,)
    """

    coef_: NDArray[Any]
    intercept_: NDArray[Any]

    def _predict_mean(self, X: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(X @ self.coef_.T + self.intercept_)


def _responses(y: Any, estimator: Any) -> NDArray[Any]:
    """Responses as a float32 or float64 array (n,) or (n, V) in C order, which may hold NaN and inf."""
    with _typed():
        return np.asarray(
            check_array(
                plain_array(y, "y"), input_name="y", estimator=estimator, ensure_2d=False, ensure_min_samples=2,
                ensure_min_features=0, **AS_IT_CAME,
            )
        )  # fmt: skip


@contextmanager
def _typed() -> Iterator[None]:
    """What scikit-learn finds wrong with an array as an error of ours, in one line and without the array itself."""
    try:
        yield
    except ResponseError:
        raise
    except (ValueError, TypeError) as error:
        lines = [line for line in str(error).splitlines() if not line.startswith(("array=", "[", " "))]
        kind = ResponseTypeError if isinstance(error, TypeError) else ResponseError
        raise kind(" ".join(lines)) from error


class Standardiser(NamedTuple):
    """How responses of V voxels are brought to mean 0 and variance 1 on a context, and back; in float64.

    Parameters
    ----------
    shift, scale : float64 array of shape (V,)
        Mean and standard deviation on the context; NaN for voxels that have none within the range of numbers.
    varying : int array of shape (v,)
        Indices of the voxels that vary on the context; only these can be standardised.
    """

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    varying: NDArray[np.int64]

    def __call__(self, Y: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
        """The varying voxels, standardised as on the context.

        Parameters
        ----------
        Y : array of shape (m, V)
        dtype : dtype, optional
            Of the result; None: that of `Y`. It is worked out in float64 all the same.

        Returns
        -------
        array of shape (m, v)
        """
        out = np.empty((len(Y), len(self.varying)), dtype or Y.dtype)
        for start in range(0, len(self.varying), VOXELS):
            part = slice(start, start + VOXELS)
            voxels = part if len(self.varying) == len(self.shift) else self.varying[part]  # a slice is no copy
            values = Y[:, voxels] - self.shift[voxels]
            np.divide(values, self.scale[voxels], out=values)
            out[:, part] = values
        return out

    def undo(self, values: NDArray[Any]) -> NDArray[Any]:
        """Standardised values of the varying voxels as responses; constant voxels stay what they were.

        Parameters
        ----------
        values : array of shape (m, v)

        Returns
        -------
        float64 array of shape (m, V)
        """
        out = np.tile(self.shift, (len(values), 1))
        out[:, self.varying] += values * self.scale[self.varying]
        return out

    def undo_std(self, std: NDArray[Any]) -> NDArray[Any]:
        """Standard deviations of standardised responses in the units of responses; 0 for constant voxels.

        Parameters
        ----------
        std : array of shape (..., v)

        Returns
        -------
        float64 array of shape (..., V)
        """
        at, shape = (..., self.varying), (*std.shape[:-1], len(self.shift))
        return scatter(std * self.scale[self.varying], at, shape, fill=0 * self.shift)

    def undo_weights(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Weights for standardised responses in the units of responses; 0 for constant voxels.

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
        return scatter(weights, self.varying, (len(self.shift), weights.shape[1]), fill=0 * self.shift[:, None])


def standardiser(Y: NDArray[Any], precision: Any = np.float32) -> Standardiser:
    """How the responses of a context are standardised: each voxel on its own, in float64.

    Parameters
    ----------
    Y : array of shape (n, V)
    precision : dtype
        Of what will be brought back to the units of responses: a voxel whose mean or standard deviation comes within a
        factor of 1000 of its limits is not among the varying ones, and has a `shift` of NaN.

    Returns
    -------
    Standardiser
    """
    info = np.finfo(precision)
    shift, scale = np.empty(Y.shape[1]), np.empty(Y.shape[1])
    low, high = Y.min(axis=0).astype(np.float64), Y.max(axis=0).astype(np.float64)
    constant = high - low <= 8 * np.finfo(Y.dtype).eps * np.maximum(np.abs(low), np.abs(high))  # up to rounding
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, Y.shape[1], VOXELS):
            part = slice(start, start + VOXELS)
            values = Y[:, part].astype(np.float64)
            shift[part] = np.where(constant[part], values[0], values.mean(axis=0))
            values -= shift[part]
            top = np.maximum(high[part] - shift[part], shift[part] - low[part])
            top[constant[part]] = 1  # any number will do
            values /= top  # squares of tiny numbers would be 0
            scale[part] = top * np.sqrt(np.einsum("nv,nv->v", values, values) / len(values))
        usable = (np.abs(shift) <= info.max / 1e3) & (
            constant | ((scale >= 1e3 * info.tiny) & (scale <= info.max / 1e3))
        )
    shift[~usable], scale[~usable] = np.nan, np.nan
    return Standardiser(shift, scale, np.flatnonzero(usable & ~constant))


def mean_explained_variance(estimator: VoxelEncoder, X: Any, y: Any) -> float:
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

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 8))  # embeddings of 60 pictures
    >>> Y = X @ rng.standard_normal((8, 5)) + 0.1 * rng.standard_normal((60, 5))  # responses of 5 voxels
    >>> from braincl import RidgeCV, mean_explained_variance
    >>> encoder = RidgeCV().fit(X[:40], Y[:40])
    >>> bool(np.isclose(mean_explained_variance(encoder, X[40:], Y[40:]), encoder.score(X[40:], Y[40:]).mean()))
    True
    """
    values = np.atleast_1d(estimator.score(X, y))
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")
