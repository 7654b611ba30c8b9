"""Ridge regression in the metric of a population prior: the strongest simple baseline, and the network's start."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from braincl.data.torch_settings import plain_torch
from braincl.errors import ModelError
from braincl.estimators.base import LinearEncoder
from braincl.models.evidence import evidence, group_experts, read_through, squared_scale
from braincl.models.experts import Context, Expert
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
        prior = prior_for(self.prior, X)
        self._context = context = Context(torch.as_tensor(X))
        self._experts = experts = self._members(context, prior)
        self._standardiser = standardise
        Z = self._on_device(standardise(Y, X.dtype))
        grid = known_signal_grid(float(prior.shares @ SIGNAL_SHARES), NOISE_LEVELS)
        self._groups = group_experts(experts, len(X), Z, grid=grid)
        cross = [context.cross(experts[group.members][0]).to(Z) for group in self._groups]
        context.lower(Z)
        projections = context.project(Z)
        coef, self._power = Z.new_zeros(Z.shape[1], X.shape[1]), []
        for group, read_out in zip(self._groups, cross, strict=True):
            found = evidence(group, len(X), projections)
            weights = most_likely_level(found.log_likelihood) / len(experts)
            dual, mean_coefficient = read_through(group, found, weights)
            means = torch.stack([expert.mean_weights for expert in experts[group.members]]).to(Z)
            coef.addmm_(dual, read_out.T).addmm_(mean_coefficient, means)
            self._power.append((weights * squared_scale(group, found)).flatten(1))
        self.coef_ = standardise.undo_weights(coef.cpu().numpy().astype(X.dtype, copy=False))
        self.intercept_ = (standardise.shift - self.coef_ @ context.offset.numpy()).astype(X.dtype)
        return self

    def _members(self, context: Context, prior: Prior) -> list[Expert]:
        """The experts whose posterior means are averaged, those with one covariance side by side: here a single one."""
        basis = context.add_basis(torch.as_tensor(prior.covariances[0]))
        return [context.gaussian("population", torch.as_tensor(prior.means[0]), basis)]

    @plain_torch()
    def _predict_moments(self, X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        context = self._context
        centred = torch.as_tensor(X).double() - context.offset
        variance = centred.new_zeros(len(X), len(self._standardiser.varying)).to(self._power[0])
        read = [centred.to(variance) @ basis.T for basis in context.bases]
        for group, power in zip(self._groups, self._power, strict=True):
            prior = context.prior_variance(self._experts[group.members][0], centred).to(power)
            explained = context.coordinates(group.system, read, None).square() @ group.inverse.flatten(0, 1).T
            noise = group.ratio.flatten() * (1 + 1 / len(context.A))
            variance.addmm_(prior[:, None] + noise - explained, power.T)
        std = self._standardiser.undo_std(variance.clamp_(min=1e-9).sqrt_().cpu().numpy()).astype(X.dtype)
        return self._predict_mean(X), std


def prior_for(prior: Prior | None, X: NDArray[Any]) -> Prior:
    """A prior that fits the embeddings at hand; where there is none, an isotropic one whose signals have variance 1.

    Parameters
    ----------
    prior : Prior, optional
    X : array of shape (n, E)

    Returns
    -------
    Prior

    Raises
    ------
    ModelError
        The prior has another number of features.
    """
    if prior is None:
        variance = max(float(X.var(axis=0, dtype=np.float64).sum()), np.finfo(np.float64).tiny)
        return isotropic_prior(X.shape[1], 1 / variance)
    if prior.n_features != X.shape[1]:
        raise ModelError(f"the prior has {prior.n_features} features, the embeddings {X.shape[1]}")
    return prior
