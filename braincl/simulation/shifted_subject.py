"""Simulated subjects for training that are not quite like the training subjects, by known amounts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braincl.models.noise_levels import SIGNAL_SHARES
from braincl.models.prior import Prior


def simulate_shifted_subject(
    prior: Prior, X: NDArray[Any], voxels: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Responses of a simulated subject whose tuning differs from a population prior by a random amount.

    The population mean is scaled, the spectrum of tuning is steeper or flatter than the prior's, part of the tuning is
    drawn from a generic prior ``C^p`` instead, signal shares are spread around a random centre, and part of the noise
    is shared by the voxels, as it is in recordings.

    Parameters
    ----------
    prior : Prior
        The population of training subjects.
    X : array of shape (i, E)
        Embeddings.
    voxels : int
    rng : numpy.random.Generator

    Returns
    -------
    array of shape (i, voxels)
        Responses.
    """
    X = X - X.mean(axis=0)
    component = rng.choice(len(prior.log_weights), size=voxels, p=np.exp(prior.log_weights))
    tuned, steepness = np.empty((len(X), voxels)), rng.uniform(0.8, 1.8)
    for c in np.unique(component):
        drawn = rng.standard_normal((X.shape[1], int((component == c).sum())))
        values, vectors = prior.spectra[c]
        power = (values / values.max()) ** (steepness / 2)
        power *= np.sqrt(values.sum()) / np.linalg.norm(power)
        tuned[:, component == c] = X @ (vectors @ (power[:, None] * drawn))
    left, singular, _ = np.linalg.svd(X, full_matrices=False)
    power = rng.choice([0.0, 0.5, 1.0])
    generic = left @ (singular[:, None] ** (1 + power) * rng.standard_normal((len(singular), voxels)))
    generic_share = rng.beta(0.6, 2.4)
    mean = rng.uniform(0.4, 1.2) * (X @ prior.means[component].T)
    signal = (
        mean
        + np.sqrt(1 - generic_share) * tuned
        + np.sqrt(generic_share) * generic * tuned.std() / max(generic.std(), 1e-12)
    )
    signal /= max(signal.std(), 1e-12)  # as the prior has it: mean variance one, not every voxel's own
    odds = rng.uniform(-3, 1.5) + rng.uniform(0.1, 1.2) * rng.standard_normal(voxels)
    share = np.clip(1 / (1 + np.exp(-odds)), SIGNAL_SHARES[0], SIGNAL_SHARES[-1])
    rank, together = rng.integers(1, 6), rng.uniform(0, 0.5) * (rng.random() < 0.5)
    common = rng.standard_normal((len(X), rank)) @ rng.standard_normal((rank, voxels)) / np.sqrt(rank)
    noise = np.sqrt(1 - together) * rng.standard_normal((len(X), voxels)) + np.sqrt(together) * common
    return np.asarray(np.sqrt(share) * signal + np.sqrt(1 - share) * noise, np.float32)
