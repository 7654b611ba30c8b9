"""Kernel ridges in the metric of a population prior, weighted by what they predict: tuning that is not quite linear.

A Gaussian process per voxel, ``y = s (mu . x + f(x)) + e`` with ``f`` of covariance k (Rasmussen & Williams 2006,
section 2.7): linear, ``k(x, x') = x' Sigma x``, or bent, ``exp(-g d^2 / 2)`` with d the distance of two pictures in the
metric Sigma, in units of the context's mean. Axes: n context image, t query image, E feature, V voxel, c member.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from braincl.data.memory import check_memory
from braincl.data.torch_settings import plain_torch
from braincl.estimators.base import VoxelEncoder
from braincl.estimators.prior_ensemble import MEAN_SCALES, blended_covariances
from braincl.estimators.prior_ridge import NOISE_LEVELS, prior_for
from braincl.models.evidence import ExpertGroup, evidence, group_experts, leave_one_out, read_through, squared_scale
from braincl.models.experts import RANK_TOLERANCE, Expert, project
from braincl.models.network import Summary, batches
from braincl.models.noise_levels import SIGNAL_SHARES, known_signal_grid, most_likely_level

BENDS = (0.0, 0.3, 0.6)
"""g; 0 is the linear kernel."""
OWN_TRUST = 0.25
"""Weight of a voxel's own leave-one-out log likelihood beside the mean of all voxels, which counts in full."""
VOXEL_BATCH = 2048
MATRICES = 60
"""Of n x n numbers that the image side of a context holds at most: eigenvectors of all kernels, and their making."""


class PriorKernelRidge(VoxelEncoder):
    """Population-prior ridges and kernel ridges in the metric of the prior, weighted per voxel by leave-one-out error.

    The covariances are those of `PriorEnsemble`, each as a linear kernel and as two that bend with the distance between
    pictures. Members are weighted by the leave-one-out likelihood of the context: of all voxels together, and a quarter
    of the voxel's own. It predicts a little better than any linear encoder from a few hundred pictures on, and has no
    `coef_`. Twenty-one systems of n equations are solved: for contexts of up to a few thousand pictures.

    Parameters
    ----------
    prior : Prior, optional
        Its first component is used. None: an isotropic prior.
    device : str
        Where voxels are worked on: cpu, cuda, mps, or auto, the best there is.

    Examples
    --------
    >>> import numpy as np
    >>> from braincl import PriorKernelRidge
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 8))  # embeddings of 60 pictures
    >>> Y = X @ rng.standard_normal((8, 5)) + 0.1 * rng.standard_normal((60, 5))  # responses of 5 voxels
    >>> mean, std = PriorKernelRidge().fit(X[:40], Y[:40]).predict(X[40:], return_std=True)
    >>> mean.shape, std.shape
    ((20, 5), (20, 5))
    """

    def __init__(self, prior: Any = None, device: Any = "auto") -> None:
        self.prior = prior
        self.device = device

    @plain_torch()
    def summarise(self, X: Any, y: Any) -> Summary:
        """What `fit` takes from all voxels of a context, for fits in parts; summaries of parts add up.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
        y : array of shape (n_images, n_voxels)

        Returns
        -------
        Summary
            Mean leave-one-out log likelihood of every member.
        """
        _, scores = self._solve(self._prepare(X, y))
        return Summary(scores.shape[1], scores.mean(dim=1, keepdim=True))

    @plain_torch()
    def fit(self, X: Any, y: Any, summary: Summary | None = None) -> PriorKernelRidge:
        """Condition on a context.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
        y : array of shape (n_images, n_voxels) or (n_images,)
        summary : Summary, optional
            Of all voxels of the subject, where y has only some of them. None: y has all.

        Returns
        -------
        PriorKernelRidge
            This one.

        Raises
        ------
        ResponseError
            The context cannot be used.
        ModelError
            The prior has another number of features.
        InputError
            The device is not there, or memory is too small for so many pictures.
        """
        Z = self._prepare(X, y)
        levels, scores = self._solve(Z)
        of_all = scores.mean(dim=1, keepdim=True) if summary is None else summary.values.to(scores)
        shares = (of_all + OWN_TRUST * scores).softmax(dim=0)
        self._duals = [Z.new_empty(Z.shape[1], group.inverse.shape[2]) for group in self._groups]
        self._of_mean = Z.new_zeros(Z.shape[1])
        self._power = [Z.new_empty(Z.shape[1], group.inverse[:, :, 0].numel()) for group in self._groups]
        for voxels in batches(Z.shape[1], VOXEL_BATCH):
            projections = project(self._vectors, Z[:, voxels])
            for place, group in enumerate(self._groups):
                found = evidence(group, len(Z), projections)
                chosen = torch.zeros_like(found.log_likelihood)
                at = levels[group.members, voxels].T[:, :, None]
                chosen.scatter_(2, at, shares[group.members, voxels].T[:, :, None])
                dual, of_mean = read_through(group, found, chosen)
                self._duals[place][voxels] = dual
                self._of_mean[voxels] += of_mean @ self._mean_scales[group.members]
                self._power[place][voxels] = (chosen * squared_scale(group, found)).flatten(1)
        return self

    def _prepare(self, X: Any, y: Any) -> Tensor:
        """Solve the image side; the standardised responses (n, v)."""
        X, Y, self._standardiser = self._validate_fit(X, y)
        prior = prior_for(self.prior, X)
        embeddings = torch.as_tensor(X).double()
        self._offset = embeddings.mean(dim=0)
        A, mean = embeddings - self._offset, torch.as_tensor(prior.means[0])
        check_memory(8 * len(A) ** 2 * MATRICES, f"a context of {len(A)} pictures; give fewer")
        Z = self._on_device(self._standardiser(Y, X.dtype))
        self._kernels = [kernel(A, covariance, bend) for covariance in blended_covariances(prior, A) for bend in BENDS]
        experts, vectors, basis = [], [], centred_basis(len(A))
        for system, own in enumerate(self._kernels):
            values, axes = own.spectrum(basis)
            for scale in MEAN_SCALES:
                experts.append(Expert(
                    "population", own.bend, scale, system, values, torch.ones_like(values),
                    scale * (axes.T @ (A @ mean)), scale * mean,
                ))  # fmt: skip
            vectors.append(axes)
        self._mean, self._mean_scales = mean, torch.tensor([expert.mean_scale for expert in experts]).to(Z)
        grid = known_signal_grid(float(prior.shares @ SIGNAL_SHARES), NOISE_LEVELS)
        self._groups: list[ExpertGroup] = group_experts(experts, len(A), Z, grid=grid)
        self._vectors = [axes.to(Z) for axes in vectors]
        return Z

    def _solve(self, Z: Tensor) -> tuple[Int[Tensor, "c v"], Float[Tensor, "c v"]]:
        """The likeliest noise level of every member, and its leave-one-out log likelihood."""
        members = len(self._mean_scales)
        levels, scores = Z.new_empty(members, Z.shape[1], dtype=torch.long), Z.new_empty(members, Z.shape[1])
        for voxels in batches(Z.shape[1], VOXEL_BATCH):
            part = Z[:, voxels]
            projections = project(self._vectors, part)
            for group in self._groups:
                found = evidence(group, len(Z), projections)
                chosen = most_likely_level(found.log_likelihood)
                residual = leave_one_out(group, found, chosen, self._vectors[group.system], part).mean_square
                levels[group.members, voxels] = chosen.argmax(dim=2).T
                scores[group.members, voxels] = -0.5 * len(Z) * residual.clamp(min=1e-6).log()
        return levels, scores

    def _predict_mean(self, X: NDArray[Any]) -> NDArray[Any]:
        return self._moments(X, std=False)[0]

    def _predict_moments(self, X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        mean, std = self._moments(X, std=True)
        assert std is not None
        return mean, std

    @plain_torch()
    def _moments(self, X: NDArray[Any], std: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
        centred = torch.as_tensor(X).double() - self._offset
        mean = torch.outer((centred @ self._mean).to(self._of_mean), self._of_mean)
        variance = torch.zeros_like(mean) if std else None
        parts = zip(self._kernels, self._groups, self._vectors, self._duals, self._power, strict=True)
        for own, group, vectors, dual, power in parts:
            coordinates = own.values(centred).to(mean) @ vectors
            mean.addmm_(coordinates, dual.T)
            if variance is not None:
                explained = coordinates.square() @ group.inverse.flatten(0, 1).T
                noise = group.ratio.flatten() * (1 + 1 / len(vectors))
                variance.addmm_(own.variances(centred).to(mean)[:, None] + noise - explained, power.T)
        found = self._standardiser.undo(mean.cpu().numpy()).astype(X.dtype)
        if variance is None:
            return found, None
        return found, self._standardiser.undo_std(variance.clamp_(min=1e-9).sqrt_().cpu().numpy()).astype(X.dtype)


@dataclass(frozen=True)
class Kernel:
    """A kernel of centred embeddings, itself centred on the context, and of the trace of the linear one there.

    Parameters
    ----------
    context : tensor (n, E)
    covariance : tensor (E, E)
        The metric.
    bend : float
        g; 0 for the linear kernel.
    unit : float
        One over the mean of half the squared distance of two context images.
    factor : float
        On its values.
    columns : tensor (n,)
        Means over the context, before centring.
    """

    context: Tensor
    covariance: Tensor
    bend: float
    unit: float
    factor: float
    columns: Tensor

    def raw(self, X: Float[Tensor, "t e"]) -> Float[Tensor, "t n"]:
        """Values before they are centred.

        Parameters
        ----------
        X : tensor (t, E)
            Centred as the context.

        Returns
        -------
        tensor (t, n)
        """
        products = X @ self.covariance @ self.context.T
        if not self.bend:
            return products
        distance = (self._power(X)[:, None] + self._power(self.context) - 2 * products).clamp(min=0)
        return torch.exp(-0.5 * self.bend * self.unit * distance)

    def values(self, X: Float[Tensor, "t e"]) -> Float[Tensor, "t n"]:
        """The kernel of new pictures and those of the context.

        Parameters
        ----------
        X : tensor (t, E)

        Returns
        -------
        tensor (t, n)
        """
        raw = self.raw(X)
        return self.factor * (raw - self.columns - raw.mean(dim=1, keepdim=True) + self.columns.mean())

    def variances(self, X: Float[Tensor, "t e"]) -> Float[Tensor, "t"]:
        """The kernel of new pictures with themselves.

        Parameters
        ----------
        X : tensor (t, E)

        Returns
        -------
        tensor (t,)
        """
        own = torch.ones(len(X), dtype=X.dtype) if self.bend else self._power(X)
        return self.factor * (own - 2 * self.raw(X).mean(dim=1) + self.columns.mean())

    def spectrum(self, basis: Float[Tensor, "n k"]) -> tuple[Float[Tensor, "k"], Float[Tensor, "n k"]]:
        """Eigenvalues and eigenvectors on the context.

        Parameters
        ----------
        basis : tensor (n, k)
            From `centred_basis`.

        Returns
        -------
        values : tensor (k,)
        vectors : tensor (n, k)
        """
        matrix = basis.T @ self.values(self.context) @ basis
        values, axes = torch.linalg.eigh(0.5 * (matrix + matrix.T))
        return values.clamp(min=max(RANK_TOLERANCE**2 * float(values[-1]), 1e-30)), basis @ axes

    def _power(self, X: Tensor) -> Tensor:
        return (X @ self.covariance * X).sum(dim=1)


def kernel(A: Float[Tensor, "n e"], covariance: Float[Tensor, "e e"], bend: float) -> Kernel:
    """The kernel of a metric on a context.

    Parameters
    ----------
    A : tensor (n, E)
        Centred embeddings of the context.
    covariance : tensor (E, E)
    bend : float

    Returns
    -------
    Kernel
    """
    power = float((A @ covariance * A).sum()) / len(A)  # mean squared distance of two images is twice that
    tiny = np.finfo(np.float64).tiny
    raw = Kernel(A, covariance, bend, 1 / max(power, tiny), 1.0, torch.zeros(len(A), dtype=A.dtype))
    values = raw.raw(A)
    columns = values.mean(dim=0)
    trace = float(values.diagonal().sum() - columns.sum())
    factor = len(A) * power / trace if trace > math.sqrt(tiny) else 1.0
    return Kernel(A, covariance, bend, raw.unit, factor, columns)


def centred_basis(images: int) -> Float[Tensor, "n k"]:
    """An orthonormal basis of all vectors whose mean is 0.

    Parameters
    ----------
    images : int
        n.

    Returns
    -------
    float64 tensor (n, n - 1)
    """
    projector = torch.eye(images, dtype=torch.float64) - 1 / images
    basis: Tensor = torch.linalg.eigh(projector)[1][:, 1:]
    return basis
