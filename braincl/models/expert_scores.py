"""How experts are weighed before anything is learned: by what they predict, not by how likely they find the data.

The evidence of an expert trusts its prior: it is right where voxels are drawn from it, as in a simulation, and misled
where tuning is of another kind, as in a new animal. Leave-one-out errors do not share that trust, and averaged over
voxels they order experts rightly even in short contexts. Which of the three counts how much is learned.
The components of a mixture are one expert here: among each other they are weighed by evidence, exactly.

Axes: V voxel, c expert.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

START = (0.0, 0.25, 2.0)  # trust in evidence, in the voxel's own leave-one-out error, and in that of all voxels


class Judgement(NamedTuple):
    """Scores of experts, in nats over the start, and log weights inside the mixture (0 for all other experts).

    scores (V, c, 3) : log evidence, leave-one-out log likelihood, and the latter's mean over voxels;
    inside (V, c).
    """

    scores: Tensor
    inside: Tensor


def judge(
    log_evidence: Float[Tensor, "v c"],
    log_predictive: Float[Tensor, "v c"],
    mixture: list[int],
    log_weights: Float[Tensor, "m"],
) -> Judgement:
    """Bring scores of experts together.

    Parameters
    ----------
    log_evidence : tensor (V, c)
    log_predictive : tensor (V, c)
        Leave-one-out log likelihood of the context's responses, ``-n/2 log(mean squared residual)``.
    mixture : list of int
        Which experts are components of the mixture.
    log_weights : tensor (m,)
        Of the components, before any evidence.
    """
    scores = torch.stack([log_evidence, log_predictive], dim=-1)
    inside = torch.zeros_like(log_evidence)
    if mixture:
        joint = log_evidence[:, mixture] + log_weights
        total = joint.logsumexp(dim=1, keepdim=True)
        inside[:, mixture] = joint - total
        predictive = ((joint - total).exp() * log_predictive[:, mixture]).sum(dim=1, keepdim=True)
        scores[:, mixture] = torch.stack([total, predictive], dim=-1)
    scores = scores - scores[:, :1]
    of_all = scores[..., 1:].mean(dim=0, keepdim=True).expand(len(scores), -1, -1)
    return Judgement(torch.cat([scores, of_all], dim=-1), inside)
