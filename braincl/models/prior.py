"""A population prior over voxel weights: a Gaussian, or a mixture of Gaussians.

Model of a standardised voxel on centred embeddings: ``y = s X u + e``, ``u ~ sum_c p_c N(mu_c, Sigma_c)``,
``e ~ N(0, 1 - h)``, where h is the voxel's share of signal and ``s = sqrt(h)``: the prior describes the direction and
spread of tuning, normalised so that the mean variance of ``X u`` is one, and h is the voxel's own. It is fitted to the
voxels of other subjects in `braincl.training.population_prior`.

Axes: E feature, c component, h share of signal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from braincl.models.noise_levels import SIGNAL_SHARES

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """A mixture of Gaussians over voxel weights; one component is a plain Gaussian.

    Parameters
    ----------
    log_weights : array of shape (c,)
    means : array of shape (c, E)
    covariances : array of shape (c, E, E)
    shares : array of shape (h,)
        Distribution of the training voxels over `SIGNAL_SHARES`.
    embedding_covariance : array of shape (E, E), optional
        Of the pictures that the prior was fitted on, where they are known.
    """

    log_weights: Array
    means: Array
    covariances: Array
    shares: Array = field(default_factory=lambda: np.full(len(SIGNAL_SHARES), 1 / len(SIGNAL_SHARES)))
    embedding_covariance: Array | None = None

    def __repr__(self) -> str:
        return f"Prior({len(self.log_weights)} Gaussians over the weights of {self.n_features} features)"

    @property
    def n_features(self) -> int:
        """E, the width of the embedding.

        Returns
        -------
        int
        """
        return int(self.means.shape[1])

    @cached_property
    def spectra(self) -> list[tuple[Array, Array]]:
        """Eigendecompositions of the covariances.

        Returns
        -------
        list of (array of shape (E,), array of shape (E, E))
            By component: eigenvalues, none below rounding, and eigenvectors.
        """
        found = [np.linalg.eigh(covariance) for covariance in self.covariances]
        return [(np.maximum(values, 1e-9 * values[-1]), vectors) for values, vectors in found]

    def shrunk(self, shrinkage: float) -> Prior:
        """Every covariance moved towards the multiple of the identity that has the same trace.

        Parameters
        ----------
        shrinkage : float
            0 leaves the covariances, 1 makes them isotropic.

        Returns
        -------
        Prior
        """
        traces = np.trace(self.covariances, axis1=1, axis2=2) / self.n_features
        identity = traces[:, None, None] * np.eye(self.n_features)
        return replace(self, covariances=(1 - shrinkage) * self.covariances + shrinkage * identity)

    def normalised(self, feature_covariance: Array) -> Prior:
        """The same prior in other units of the responses: their mean variance is one.

        Parameters
        ----------
        feature_covariance : array of shape (E, E)
            Of the centred embeddings.

        Returns
        -------
        Prior
        """
        variance = np.einsum("cij,ij->c", self.covariances, feature_covariance)
        variance += np.einsum("ci,ij,cj->c", self.means, feature_covariance, self.means)
        total = float(np.exp(self.log_weights) @ variance)
        return replace(self, means=self.means / np.sqrt(total), covariances=self.covariances / total)


def isotropic_prior(features: int, variance: float = 1.0) -> Prior:
    """Mean zero and covariance ``variance I``: tuning of which nothing is known.

    Parameters
    ----------
    features : int
    variance : float

    Returns
    -------
    Prior
    """
    return Prior(np.zeros(1), np.zeros((1, features)), variance * np.eye(features)[None])
