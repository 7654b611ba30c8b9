"""Which context pictures a voxel's weights rest on, for both networks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braincl.estimators.in_context import InContextEncoder


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
    return encoder.context_shares()
