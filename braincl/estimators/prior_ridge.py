"""Ridge regression in the metric of a population prior: the strongest simple baseline, and the network's start."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from braincl.data.torch_settings import plain_torch
from braincl.errors import ModelError
from braincl.estimators.base import LinearEncoder
from braincl.models.evidence import evidence, group_experts, over_scales, read_through
from braincl.models.experts import Context
from braincl.models.noise_levels import SIGNAL_SHARES, known_signal_grid, most_likely_level
from braincl.models.prior import Prior, isotropic_prior

NOISE_LEVELS = 30


class PriorRidge(LinearEncoder):
    """Posterior mean of linear encoders under a Gaussian population prior, each voxel's noise by marginal likelihood.

    ``w_v = s mu + s Sigma A' (A Sigma A' + tau_v I)^-1 (y_v - s A mu)`` on the centred context A, with mu and Sigma
    fitted on the voxels of other subjects (`braincl.training.population_prior.fit_population`). It works in the span of
    the context: n^3 once, n^2 per voxel.

    Parameters
    ----------
    prior : Prior, optional
        Its first component is used. None: an isotropic prior, ridge with its strength by marginal likelihood.
    device : str
        Where voxels are worked on: cpu, cuda, mps, or auto, the best there is.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 8))  # embeddings of 60 pictures
    >>> Y = X @ rng.standard_normal((8, 5)) + 0.1 * rng.standard_normal((60, 5))  # responses of 5 voxels
    >>> from braincl import PriorRidge
    >>> mean, std = PriorRidge().fit(X[:40], Y[:40]).predict(X[40:], return_std=True)
    >>> mean.shape, std.shape
    ((20, 5), (20, 5))
    >>> inside = np.abs(Y[40:] - mean) < 1.645 * std
    >>> bool(inside.mean() > 0.8)  # of 90 % intervals
    True
    """

    def __init__(self, prior: Prior | None = None, device: Any = "auto") -> None:
        self.prior = prior
        self.device = device

    @plain_torch()
    def fit(self, X: Any, y: Any) -> PriorRidge:
        """Condition on a context, with the noise level at which each voxel's responses are most likely.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
        y : array of shape (n_images, n_voxels) or (n_images,)

        Returns
        -------
        PriorRidge
            This one.

        Raises
        ------
        ResponseError
            The context cannot be used.
        ModelError
            The prior has another number of features.
        InputError
            The device is not there.
        """
        X, Y, standardise = self._validate_fit(X, y)
        prior = self.prior
        if prior is None:
            variance = max(float(X.var(axis=0, dtype=np.float64).sum()), np.finfo(np.float64).tiny)
            prior = isotropic_prior(X.shape[1], 1 / variance)
        if prior.n_features != X.shape[1]:
            raise ModelError(f"the prior has {prior.n_features} features, the embeddings {X.shape[1]}")
        self._context = context = Context(torch.as_tensor(X))
        basis = context.add_basis(torch.as_tensor(prior.covariances[0]))
        self._expert = expert = context.gaussian("population", torch.as_tensor(prior.means[0]), basis)
        self._standardiser = standardise
        Z = self._on_device(standardise(Y, X.dtype))
        grid = known_signal_grid(float(prior.shares @ SIGNAL_SHARES), NOISE_LEVELS)
        (self._group,) = group_experts([expert], len(X), Z, grid=grid)
        cross = context.cross(expert).to(Z)
        context.lower(Z)
        found = evidence(self._group, len(X), context.project(Z))
        weights = most_likely_level(found.log_likelihood)
        dual, mean_coefficient = read_through(self._group, found, weights)
        coef = torch.addmm(mean_coefficient * expert.mean_weights.to(Z), dual, cross.T)
        self._power = over_scales(weights * self._group.grid.scale.square())[:, 0]
        self.coef_ = standardise.undo_weights(coef.cpu().numpy().astype(X.dtype, copy=False))
        self.intercept_ = (standardise.shift - self.coef_ @ context.offset.numpy()).astype(X.dtype)
        return self

    @plain_torch()
    def _predict_std(self, X: NDArray[Any]) -> NDArray[Any]:
        context, expert, group, power = self._context, self._expert, self._group, self._power
        centred = torch.as_tensor(X).double() - context.offset
        noise = power @ group.grid.ratio[0] * (1 + 1 / len(context.A))
        spread = torch.outer(context.prior_variance(expert, centred).to(power), power.sum(dim=1))
        read = [centred.to(power) @ basis.T for basis in context.bases]
        explained = context.coordinates(expert.system, read, None).square() @ (power @ group.inverse[0]).T
        variance = (spread - explained + noise).clamp_(min=1e-9)
        return self._standardiser.undo_std(variance.sqrt_().cpu().numpy()).astype(X.dtype)
