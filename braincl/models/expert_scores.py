"""How experts are weighted before anything is learned: by what they predict, not by how likely they find the data.

The evidence of an expert trusts its prior: it is right where voxels are drawn from it, as in a simulation, and misled
where tuning is of another kind, as in a new animal. Leave-one-out errors do not share that trust, and averaged over
voxels they order experts rightly even in short contexts. Which of the three counts how much is learned.
The components of a mixture are one expert here: among each other they are weighted by evidence, exactly.

Axes: V voxel, c expert, m component of the mixture.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

INITIAL_TRUST = (0.0, 0.25, 2.0)  # in evidence, in the voxel's own leave-one-out error, and in that of all voxels


class ExpertScores(NamedTuple):
    """How well experts did on a context, against the first of them.

    Parameters
    ----------
    scores : tensor (V, c, 2) or (V, c, 3)
        In nats: log evidence and leave-one-out log likelihood; and the latter's mean over all voxels, which the
        caller adds.
    within_mixture : tensor (V, c)
        Log weights of components inside the mixture; 0 for all other experts.
    """

    scores: Tensor
    within_mixture: Tensor


def score_experts(
    log_evidence: Float[Tensor, "v c"],
    log_predictive: Float[Tensor, "v c"],
    mixture: slice,
    log_weights: Float[Tensor, "m"] | None,
) -> ExpertScores:
    """Bring what is known of every expert together.

    Parameters
    ----------
    log_evidence : tensor (V, c)
    log_predictive : tensor (V, c)
        Leave-one-out log likelihood of the context's responses, ``-n/2 log(mean squared residual)``.
    mixture : slice
        Which experts are components of the mixture.
    log_weights : tensor (m,), optional
        Of the components, before any evidence; None where there are none.

    Returns
    -------
    ExpertScores
    """
    scores = torch.stack([log_evidence, log_predictive], dim=-1)
    within = torch.zeros_like(log_evidence)
    if log_weights is not None:
        joint = log_evidence[:, mixture] + log_weights
        total = joint.logsumexp(dim=1, keepdim=True)
        within[:, mixture] = joint - total
        predictive = ((joint - total).exp() * log_predictive[:, mixture]).sum(dim=1, keepdim=True)
        scores[:, mixture] = torch.stack([total, predictive], dim=-1)
    return ExpertScores(scores - scores[:, :1], within)
