"""Closed-form experts: one Gaussian prior over tuning each, solved once per context for all voxels.

A voxel standardised on the context obeys ``y = s A u + e``: centred embeddings A (n, E), tuning ``u ~ N(mu, Sigma)``
and noise of variance ``s^2 tau``. An expert holds the eigendecomposition of ``K = A Sigma A'``; every voxel then costs
a few products with n x k matrices. Offset, scale s and noise are integrated over: the offset by centring, s and tau on
a grid of signal shares h and relative scales q, ``s^2 = h q^2 / v``, ``s^2 tau = (1 - h) q^2``, v the mean variance of
``A u`` (Rasmussen & Williams 2006, sections 2.2 and 5.4.1).

Axes: n context image, t query image, E feature, V voxel, k eigenvector, h signal share, q relative scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from braincl.prior import SIGNAL_SHARES

SCALES = 5  # grid points for the relative scale
RANK_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Expert:
    """One prior on one context.

    Attributes
    ----------
    kind : str
        "population", "mixture" or "generic".
    strength : float
        Shrinkage or power, by kind.
    mean_scale : float
        Factor on the population mean.
    eigenvalues : tensor (k,), vectors : tensor (n, k)
        Of ``K = A Sigma A'``.
    mean : tensor (k,)
        ``vectors' A mu``.
    mean_weights : tensor (E,)
        mu.
    maps : tuple of (basis, tensor (k, n))
        ``Sigma A' vectors = sum_b bases[b]' maps[b]'``: weights are read out through bases shared by experts.
    quadratic : function from centred queries (t, E) to prior variances ``x' Sigma x`` (t,)
    """

    kind: str
    strength: float
    mean_scale: float
    eigenvalues: Tensor
    vectors: Tensor
    mean: Tensor
    mean_weights: Tensor
    maps: tuple[tuple[int, Tensor], ...]
    quadratic: Callable[[Tensor], Tensor]

    @property
    def images(self) -> int:
        return self.vectors.shape[0]

    def to(self, dtype: torch.dtype) -> Expert:
        """The same expert in another precision, for the work per voxel."""
        tensors = {name: getattr(self, name).to(dtype) for name in ("eigenvalues", "vectors", "mean", "mean_weights")}
        return replace(self, maps=tuple((basis, transform.to(dtype)) for basis, transform in self.maps), **tensors)


class Grid(NamedTuple):
    """The (h, q) grid of one expert: s (h, q) and tau (h,)."""

    scale: Tensor
    ratio: Tensor


class Evidence(NamedTuple):
    """What one expert says of a batch of voxels.

    projected : (V, k), the responses on the expert's eigenvectors; rest (V,): their power outside these;
    log_likelihood : (V, h, q); inverse : (h, k), ``1 / (eigenvalues + tau)``; grid.
    """

    projected: Tensor
    rest: Tensor
    log_likelihood: Tensor
    inverse: Tensor
    grid: Grid


class Solution(NamedTuple):
    """Posterior means given weights over the grid: dual (V, k) and the coefficient of mu (V,)."""

    dual: Tensor
    mean_coefficient: Tensor


def _decompose(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (k,) above rounding and eigenvectors (n, k) of a positive semi-definite kernel (n, n)."""
    eigenvalues, vectors = torch.linalg.eigh(0.5 * (kernel + kernel.T))
    keep = eigenvalues > RANK_TOLERANCE * eigenvalues[-1].clamp(min=1e-30)
    keep[0] = False  # a centred kernel has the constant vector in its null space
    if not keep.any():  # all context images alike
        keep[-1] = True
    return eigenvalues[keep].clamp(min=1e-30), vectors[:, keep]


class Context:
    """The image side of a context, in float64: centred embeddings, the bases that weights are read out through.

    Parameters
    ----------
    X : tensor (n, E)
    """

    def __init__(self, X: Float[Tensor, "n e"]) -> None:
        X = X.double()
        self.offset = X.mean(dim=0)
        self.A = X - self.offset
        self.bases = [self.A]
        self._gram = self.A @ self.A.T
        self._solved: dict[tuple[int, float], tuple[Tensor, Tensor]] = {}

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        return _decompose(self._gram)

    def generic(self, power: float) -> Expert:
        """Zero-mean prior ``Sigma ~ (C + eps I)^power``, C the covariance of the context embeddings.

        Power 0 is ridge; a positive power expects tuning along the directions in which pictures vary most.
        """
        images = len(self.A)
        own, vectors = self._spectrum
        spectrum = own / images
        floor = 0.1 * spectrum.mean()
        raw = (spectrum + floor) ** power
        level = images / (own * raw).sum()
        eigenvalues = level * own * raw

        def quadratic(queries: Tensor) -> Tensor:
            inside = queries @ (self.A.T @ vectors) / own.sqrt()
            outside = (queries.square().sum(dim=1) - inside.square().sum(dim=1)).clamp(min=0)
            return level * (inside.square() @ raw + floor**power * outside)

        maps = ((0, (level * raw)[:, None] * vectors.T),)
        mean, mean_weights = torch.zeros_like(eigenvalues), torch.zeros_like(self.offset)
        return Expert("generic", power, 0.0, eigenvalues, vectors, mean, mean_weights, maps, quadratic)

    def add_basis(self, covariance: Float[Tensor, "e e"]) -> int:
        """Make ``A Sigma`` a basis and return its index."""
        self.bases.append(self.A @ covariance)
        return len(self.bases) - 1

    def gaussian(
        self,
        kind: str,
        mean: Float[Tensor, "e"],
        covariance: Float[Tensor, "e e"],
        basis: int,
        shrinkage: float = 0.0,
        mean_scale: float = 1.0,
    ) -> Expert:
        """Prior N(mean_scale mean, covariance), the covariance shrunk towards the identity of equal trace."""
        mean = mean_scale * mean
        level = shrinkage * covariance.diagonal().mean()
        if (basis, shrinkage) not in self._solved:  # priors that differ in their mean only share it
            kernel = (1 - shrinkage) * self.bases[basis] @ self.A.T + level * self._gram
            self._solved[basis, shrinkage] = _decompose(kernel)
        eigenvalues, vectors = self._solved[basis, shrinkage]

        def quadratic(queries: Tensor) -> Tensor:
            spread = (queries @ covariance * queries).sum(dim=1)
            return (1 - shrinkage) * spread + level * queries.square().sum(dim=1)

        maps: tuple[tuple[int, Tensor], ...] = ((basis, (1 - shrinkage) * vectors.T),)
        if shrinkage:
            maps += ((0, level * vectors.T),)
        mean_seen = vectors.T @ (self.A @ mean)
        return Expert(kind, shrinkage, mean_scale, eigenvalues, vectors, mean_seen, mean, maps, quadratic)

    def cross(self, expert: Expert) -> Float[Tensor, "e k"]:
        """``Sigma A' vectors``."""
        return sum((self.bases[b].T @ m.T for b, m in expert.maps), torch.zeros(()))


def evidence(expert: Expert, Y: Float[Tensor, "n v"], grid: Grid | None = None) -> Evidence:
    """Log marginal likelihood of standardised responses at every point of the grid.

    The offset has a flat prior and log s a flat one; priors over the grid are the caller's.
    """
    images, rank = expert.images, len(expert.eigenvalues)
    projected = Y.T @ expert.vectors
    free = images - 1 - rank
    rest = (Y.square().sum(dim=0) - projected.square().sum(dim=1)).clamp(min=0) if free else torch.zeros_like(Y[0])
    grid = grid or make_grid(expert)
    inverse = 1 / (expert.eigenvalues + grid.ratio[:, None])
    power = projected.square() @ inverse.T + rest[:, None] / grid.ratio
    cross = (projected * expert.mean) @ inverse.T
    own = inverse @ expert.mean.square()
    log_determinant = -inverse.log().sum(dim=1) + free * grid.ratio.log()
    s = grid.scale
    quadratic = power[:, :, None] / s.square() - 2 * cross[:, :, None] / s + own[:, None]
    log_likelihood = -0.5 * (quadratic + log_determinant[:, None]) - (images - 1) * s.log()
    return Evidence(projected, rest, log_likelihood, inverse, grid)


def make_grid(expert: Expert) -> Grid:
    """Signal shares as in the population prior, and scales within 2.5 standard errors of the context's own."""
    like = expert.eigenvalues
    shares = torch.as_tensor(SIGNAL_SHARES, dtype=like.dtype)
    width = 2.5 / math.sqrt(2 * max(expert.images - 1, 1))
    relative = torch.exp(torch.linspace(-width, width, SCALES, dtype=like.dtype))
    variance = (like.sum() + expert.mean.square().sum()) / (expert.images - 1)
    scale = (shares / variance).sqrt()[:, None] * relative
    return Grid(scale, (1 - shares) / shares * variance)


def solve(expert: Expert, found: Evidence, weights: Float[Tensor, "v h q"]) -> Solution:
    """Posterior mean of ``s u``, averaged over the grid with `weights` (they need not sum to one)."""
    scaled = (weights * found.grid.scale).sum(dim=2)
    total = weights.sum(dim=2)
    dual = (total @ found.inverse) * found.projected - (scaled @ found.inverse) * expert.mean
    return Solution(dual, scaled.sum(dim=1))


def leave_one_out(expert: Expert, found: Evidence, weights: Float[Tensor, "v h q"], Y: Float[Tensor, "n v"]) -> Tensor:
    """Mean squared leave-one-out residual per voxel, (V,), for `weights` that sum to one.

    ``r_i = [Q y]_i / Q_ii`` with Q the inverse covariance after projecting out the offset (Dubrule 1983), evaluated at
    the posterior mean of Q.
    """
    images, rank = expert.images, len(expert.eigenvalues)
    solution = solve(expert, found, weights)
    total = weights.sum(dim=2)
    alpha = solution.dual @ expert.vectors.T
    diagonal = (total @ found.inverse) @ expert.vectors.square().T
    if images - 1 > rank:
        precision = total @ (1 / found.grid.ratio)
        alpha = alpha + precision[:, None] * (Y.T - found.projected @ expert.vectors.T)
        diagonal = diagonal + precision[:, None] * (1 - 1 / images - expert.vectors.square().sum(dim=1))
    return (alpha / diagonal.clamp(min=1e-9)).square().mean(dim=1)
