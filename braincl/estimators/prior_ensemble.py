"""The mean of many population-prior ridges: what is known of the prior's covariance is little, so several are asked."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.experts import Context, Expert
from braincl.models.prior import Prior

TOWARDS_PICTURES = (0.0, 0.1, 0.3, 0.6)
"""Weights of the square root of the pictures' covariance in the prior's."""
TOWARDS_IDENTITY = (0.1, 0.3, 0.6)
MEAN_SCALES = (0.5, 1.0)


class PriorEnsemble(PriorRidge):
    """Equal-weight mean of the encoders that `PriorRidge` finds under 14 variants of a population prior.

    A covariance that is fitted on the voxels of a few subjects is uncertain. It is blended with the square root of the
    covariance of the embeddings (weights 0, .1, .3, .6), which lets directions count that no training voxel happened to
    use, and with the identity (.1, .3, .6), all of the trace of the prior's; each blend is asked with the population
    mean and with half of it. The encoder is linear, and as fast as seven ridges.

    Parameters
    ----------
    prior : Prior, optional
        Its first component is used. None: an isotropic prior. Where its `embedding_covariance` is not known, that of
        the context stands in, which serves less well in short contexts.
    device : str
        Where voxels are worked on: cpu, cuda, mps, or auto, the best there is.

    Examples
    --------
    >>> import numpy as np
    >>> from braincl import PriorEnsemble
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 8))  # embeddings of 60 pictures
    >>> Y = X @ rng.standard_normal((8, 5)) + 0.1 * rng.standard_normal((60, 5))  # responses of 5 voxels
    >>> PriorEnsemble().fit(X[:40], Y[:40]).coef_.shape
    (5, 8)
    """

    def _members(self, context: Context, prior: Prior) -> list[Expert]:
        mean = torch.as_tensor(prior.means[0])
        bases = [context.add_basis(covariance) for covariance in blended_covariances(prior, context.A)]
        return [
            context.gaussian("population", mean, basis, mean_scale=mean_scale)
            for basis in bases
            for mean_scale in MEAN_SCALES
        ]


def blended_covariances(prior: Prior, A: Float[Tensor, "n e"]) -> list[Float[Tensor, "e e"]]:
    """Variants of a prior's covariance, all of its trace; the first is the prior's own.

    Parameters
    ----------
    prior : Prior
        Its first component is used.
    A : tensor (n, E)
        Centred embeddings of a context.

    Returns
    -------
    list of tensor (E, E)
    """
    own, pictures = torch.as_tensor(prior.covariances[0]), prior.embedding_covariance
    root = square_root(A.T @ A if pictures is None else torch.as_tensor(pictures))
    identity = torch.eye(len(own), dtype=own.dtype)
    return [
        (1 - weight) * own + weight * other * (own.trace() / other.trace().clamp(min=torch.finfo(own.dtype).tiny))
        for other, weights in ((root, TOWARDS_PICTURES), (identity, TOWARDS_IDENTITY))
        for weight in weights
    ]


def square_root(covariance: Float[Tensor, "e e"]) -> Float[Tensor, "e e"]:
    """The symmetric square root of a covariance.

    Parameters
    ----------
    covariance : tensor (E, E)

    Returns
    -------
    tensor (E, E)
    """
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
