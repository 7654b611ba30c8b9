"""Ridge regression in the metric of a population prior: the strongest simple baseline, and the network's start."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from braincl.errors import ModelError
from braincl.estimators.base import LinearEncoder, standardiser
from braincl.models.evidence import Evidence, evidence, solve
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
    """

    def __init__(self, prior: Prior | None = None) -> None:
        self.prior = prior

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
        """
        X, Y, _ = self._validate_fit(X, y)
        prior = self.prior
        if prior is None:
            variance = max(float(X.var(axis=0, dtype=np.float64).sum()), np.finfo(np.float64).tiny)
            prior = isotropic_prior(X.shape[1], 1 / variance)
        if prior.n_features != X.shape[1]:
            raise ModelError(f"the prior has {prior.n_features} features, the embeddings {X.shape[1]}")
        self._context = Context(torch.as_tensor(X))
        covariance = torch.as_tensor(prior.covariances[0])
        basis = self._context.add_basis(covariance)
        self._expert = self._context.gaussian("population", torch.as_tensor(prior.means[0]), basis)
        self._standardiser = standardise = standardiser(Y)
        standardised = torch.as_tensor(standardise(Y)).double()
        projections, grid = (
            self._context.project(standardised),
            known_signal_grid(float(prior.shares @ SIGNAL_SHARES), NOISE_LEVELS),
        )
        self._evidence = evidence(self._expert, len(X), projections, grid)
        weights = most_likely_level(self._evidence.log_likelihood)
        solution = solve(self._expert, self._evidence, weights)
        coef = solution.mean_coefficient[:, None] * self._expert.mean_weights
        coef += solution.dual @ self._context.cross(self._expert).T
        self._weights = weights
        self.coef_ = standardise.undo_weights(coef.numpy()).astype(X.dtype)
        self.intercept_ = (standardise.shift - self.coef_ @ self._context.offset.numpy()).astype(X.dtype)
        return self

    def _predict_std(self, X: NDArray[Any]) -> NDArray[Any]:
        expert, found = self._expert, self._evidence
        variance = _predictive_variance(self._context, expert, found, self._weights, torch.as_tensor(X)).numpy()
        return self._standardiser.undo_std(np.sqrt(variance)).astype(X.dtype)


def _predictive_variance(
    context: Context, expert: Expert, found: Evidence, weights: torch.Tensor, queries: torch.Tensor
) -> torch.Tensor:
    """Predictive variance of standardised responses (t, V) under one expert, noise and offset included."""
    centred = queries.double() - context.offset
    cross = centred @ context.cross(expert)
    power = (weights * found.grid.scale.square()).sum(dim=2)
    noise = power @ found.grid.ratio * (1 + 1 / len(context.A))
    spread = torch.outer(context.prior_variance(expert, centred), power.sum(dim=1))
    return (spread - cross.square() @ (power @ found.inverse).T + noise).clamp(min=1e-9)
