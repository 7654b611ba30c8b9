"""Voxels of known populations."""

import numpy as np
import pytest


@pytest.fixture
def population():
    """A function that draws voxels of several subjects; see `draw`."""
    return draw


def draw(components, features, voxels, images, subjects, seed=0):
    """Voxels of several subjects from one mixture whose components differ in mean and covariance."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((components, features))
    roots = rng.standard_normal((components, features, features)) * np.geomspace(1, 0.05, features) / 3
    data = []
    for _ in range(subjects):
        label = rng.integers(components, size=voxels)
        weights = means[label] + np.einsum("vij,vj->vi", roots[label], rng.standard_normal((voxels, features)))
        X = rng.standard_normal((images, features))
        signal = X @ weights.T
        share = rng.uniform(0.05, 0.6, voxels)
        noise = rng.standard_normal((images, voxels))
        Y = np.sqrt(share) * signal / signal.std(axis=0) + np.sqrt(1 - share) * noise
        data.append((X.astype("f4"), Y.astype("f4")))
    return means, data
