"""Which context pictures a voxel's weights rest on, for both networks.

Axes: n context image, E feature, V voxel, b basis.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from braincl.estimators.in_context import InContextEncoder
from braincl.models.per_voxel import PerVoxelNetwork
from braincl.models.shared_context import ConditionedContext, SharedContextNetwork, batches


def context_shares(encoder: InContextEncoder) -> NDArray[np.float32]:
    """The share of each context picture in each voxel's weights.

    The two networks answer differently, and their shares are not to be compared with each other:

    - ``per_voxel``: the attention of the read-out token over the pictures in the last layer, mean over heads. What
      falls on the learned tokens is left out and the rest scaled to a sum of one.
    - ``shared_context``: its weights are a sum over pictures, ``w_v = m_v + sum_i c_vi`` with m_v from the population's
      mean tuning and ``c_vi = sum_b a_vbi phi_b(x_i)``; the share is ``|c_vi| / sum_j |c_vj|``. Contributions of
      opposite sign may cancel in the sum; the share says how much a picture is used, not in which direction.

    Parameters
    ----------
    encoder : InContextEncoder
        After `fit`.

    Returns
    -------
    array of shape (n_voxels, n_images)
        Rows sum to one; NaN for voxels that are constant in the context.

    Raises
    ------
    sklearn.exceptions.NotFittedError
    """
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(encoder, "coef_")
    network, X, Y = encoder._network, encoder._X, encoder._Y
    shares = np.full((len(encoder.coef_), len(X)), np.nan, dtype=np.float32)
    with torch.inference_mode():
        for part in batches(len(encoder._live), encoder.voxel_batch):
            if isinstance(network, PerVoxelNetwork):
                found = network.context_attention(X.float(), Y[:, part]).mean(dim=1)
            else:
                found = contribution_norms(network, encoder._reading, Y[:, part], part)
            shares[encoder._live[part]] = (found / found.sum(dim=1, keepdim=True)).numpy()
    return shares


def contribution_norms(
    network: SharedContextNetwork, reading: ConditionedContext, Y: Float[Tensor, "n v"], voxels: slice
) -> Float[Tensor, "v n"]:
    """The norm of what each context picture contributes to the weights of each voxel.

    The E-dimensional contributions themselves are never formed: their norms follow from the inner products of the
    bases, picture by picture.
    """
    dual, _ = network.read_through(reading, Y, voxels)
    stacked = torch.stack(reading.context.bases)
    products = torch.einsum("bne,cne->nbc", stacked, stacked)
    return torch.einsum("vbn,nbc,vcn->vn", dual, products, dual).clamp(min=0).sqrt()
