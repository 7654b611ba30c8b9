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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from braincl.models.prior import SIGNAL_SHARES

SCALES = 5  # grid points for the relative scale
RANK_TOLERANCE = 1e-6


class System(NamedTuple):
    """Eigenvectors of ``A Sigma A'`` (n, k) that several experts share, and the bases that weights are read through.

    mix: pairs (basis, factor f) with ``Sigma A' vectors = sum_b f_b bases[b]' vectors``, up to each expert's `gain`.
    """

    vectors: Tensor
    mix: tuple[tuple[int, float], ...]


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
    system : int
        Which of the context's systems has the eigenvectors of ``K = A Sigma A'``.
    eigenvalues : tensor (k,)
        Of K.
    gain : tensor (k,)
        ``Sigma A' vectors = (sum_b f_b bases[b]' vectors) gain``.
    mean : tensor (k,)
        ``vectors' A mu``.
    mean_weights : tensor (E,)
        mu.
    outside : float
        Prior variance of tuning per unit direction outside the span of the context; generic experts only.
    signal : float
        Variance of the signal, where it is taken for known and only the noise is integrated over; 0: both are.
    """

    kind: str
    strength: float
    mean_scale: float
    system: int
    eigenvalues: Tensor
    gain: Tensor
    mean: Tensor
    mean_weights: Tensor
    outside: float = 0.0
    signal: float = 0.0

    def to(self, dtype: torch.dtype) -> Expert:
        """The same expert in another precision, for the work per voxel."""
        tensors = {name: getattr(self, name).to(dtype) for name in ("eigenvalues", "gain", "mean", "mean_weights")}
        return replace(self, **tensors)


class Grid(NamedTuple):
    """The (h, q) grid of one expert: s (h, q) and tau (h,). There is one scale only where the signal is known."""

    scale: Tensor
    ratio: Tensor


class Projection(NamedTuple):
    """Responses on the eigenvectors of a system: values (V, k), their squares, and their power outside, rest (V,)."""

    values: Tensor
    squares: Tensor
    rest: Tensor


class Evidence(NamedTuple):
    """What one expert says of a batch of voxels.

    projection : responses on the expert's eigenvectors, shared by the experts of a system;
    log_likelihood : (V, h, q); inverse : (h, k), ``1 / (eigenvalues + tau)``; grid.
    """

    projection: Projection
    log_likelihood: Tensor
    inverse: Tensor
    grid: Grid


class Solution(NamedTuple):
    """Given weights over the grid, their sum over scales, total (V, h), and posterior means: dual (V, k), which is what
    weights are read out with, and the coefficient of mu (V,)."""

    total: Tensor
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
        self.covariances: list[Tensor | None] = [None]  # Sigma of each basis A Sigma, None for the identity
        self.systems: list[System] = []
        self._gram = self.A @ self.A.T
        self._solved: dict[tuple[int, float], tuple[int, Tensor]] = {}

    @cached_property
    def _own(self) -> tuple[int, Tensor]:
        """The system of ``A A'`` and its eigenvalues."""
        return self._add_system(self._gram, ((0, 1.0),))

    def _add_system(self, kernel: Tensor, mix: tuple[tuple[int, float], ...]) -> tuple[int, Tensor]:
        eigenvalues, vectors = _decompose(kernel)
        self.systems.append(System(vectors, mix))
        return len(self.systems) - 1, eigenvalues

    def generic(self, power: float, signal: float = 0.0) -> Expert:
        """Zero-mean prior ``Sigma ~ (C + eps I)^power``, C the covariance of the context embeddings.

        Power 0 is ridge; a positive power expects tuning along the directions in which pictures vary most. `signal`:
        see `Expert`.
        """
        images = len(self.A)
        system, own = self._own
        spectrum = own / images
        floor = 0.1 * spectrum.mean()
        raw = (spectrum + floor) ** power
        level = images / (own * raw).sum()
        zeros = torch.zeros_like(own), torch.zeros_like(self.offset)
        outside = float(level * floor**power)
        return Expert("generic", power, 0.0, system, level * own * raw, level * raw, *zeros, outside, signal)

    def add_basis(self, covariance: Float[Tensor, "e e"]) -> int:
        """Make ``A Sigma`` a basis and return its index."""
        self.bases.append(self.A @ covariance)
        self.covariances.append(covariance)
        return len(self.bases) - 1

    def gaussian(
        self, kind: str, mean: Float[Tensor, "e"], basis: int, shrinkage: float = 0.0, mean_scale: float = 1.0,
        signal: float = 0.0,
    ) -> Expert:  # fmt: skip
        """Prior N(mean_scale mean, Sigma of the basis), the covariance shrunk towards the identity of equal trace."""
        covariance = self.covariances[basis]
        assert covariance is not None
        mean = mean_scale * mean
        level = float(shrinkage * covariance.diagonal().mean())
        if (basis, shrinkage) not in self._solved:  # priors that differ in their mean only share it
            kernel = (1 - shrinkage) * self.bases[basis] @ self.A.T + level * self._gram
            mix = ((basis, 1 - shrinkage), (0, level)) if shrinkage else ((basis, 1.0),)
            self._solved[basis, shrinkage] = self._add_system(kernel, mix)
        system, eigenvalues = self._solved[basis, shrinkage]
        mean_seen = self.systems[system].vectors.T @ (self.A @ mean)
        return Expert(
            kind, shrinkage, mean_scale, system, eigenvalues, torch.ones_like(eigenvalues), mean_seen, mean,
            signal=signal,
        )  # fmt: skip

    def prior_variance(self, expert: Expert, queries: Float[Tensor, "t e"]) -> Float[Tensor, "t"]:
        """``x' Sigma x`` of centred queries, in float64."""
        power, system = queries.square().sum(dim=1), self.systems[expert.system]
        if expert.kind == "generic":
            gain = expert.gain.double()
            inside = (queries @ (self.A.T @ system.vectors.double())).square() * (gain / expert.eigenvalues.double())
            return inside @ gain + expert.outside * (power - inside.sum(dim=1)).clamp(min=0)
        variance = torch.zeros_like(power)
        for basis, factor in system.mix:
            covariance = self.covariances[basis]
            variance += factor * (power if covariance is None else (queries @ covariance * queries).sum(dim=1))
        return variance

    def lower(self, dtype: torch.dtype) -> None:
        """Bring what the work per voxel needs to another precision; `A` and the offset stay in float64."""
        self.bases = [basis.to(dtype) for basis in self.bases]
        self.systems = [System(system.vectors.to(dtype), system.mix) for system in self.systems]

    def cross(self, expert: Expert) -> Float[Tensor, "e k"]:
        """``Sigma A' vectors``."""
        return self.mixed(expert.system, self.bases).T @ self.systems[expert.system].vectors * expert.gain

    def mixed(self, system: int, parts: Sequence[Tensor]) -> Tensor:
        """``sum_b f_b parts[b]``, parts being the bases or what has been made of each."""
        return sum((factor * parts[basis] for basis, factor in self.systems[system].mix), torch.zeros(()))

    def project(self, Y: Float[Tensor, "n v"]) -> list[Projection]:
        """Responses on the eigenvectors of every system."""
        power = Y.square().sum(dim=0)
        found = []
        for vectors, _ in self.systems:
            values = Y.T @ vectors
            squares = values.square()
            free = len(Y) - 1 - vectors.shape[1]
            rest = (power - squares.sum(dim=1)).clamp(min=0) if free else torch.zeros_like(power)
            found.append(Projection(values, squares, rest))
        return found


def evidence(expert: Expert, images: int, projections: Sequence[Projection], grid: Grid | None = None) -> Evidence:
    """Log marginal likelihood of standardised responses at every point of the grid.

    The offset has a flat prior and log s a flat one; priors over the grid are the caller's.

    Parameters
    ----------
    expert : Expert
    images : int
        n, of the context.
    projections : sequence of Projection
        Of the responses, from `Context.project`.
    grid : Grid, optional
    """
    projection = projections[expert.system]
    free = images - 1 - len(expert.eigenvalues)
    grid = grid or make_grid(expert, images)
    inverse = 1 / (expert.eigenvalues + grid.ratio[:, None])
    s = grid.scale
    power = projection.squares @ inverse.T
    if free:
        power = power + projection.rest[:, None] / grid.ratio
    own = inverse @ expert.mean.square()
    log_determinant = -inverse.log().sum(dim=1) + free * grid.ratio.log()
    constant = -0.5 * (own + log_determinant)[:, None] - (images - 1) * s.log()
    log_likelihood = torch.addcmul(constant, power[:, :, None], -0.5 / s.square())
    if expert.mean_scale:
        cross = projection.values @ (inverse * expert.mean).T
        log_likelihood = torch.addcmul(log_likelihood, cross[:, :, None], 1 / s)
    return Evidence(projection, log_likelihood, inverse, grid)


def make_grid(expert: Expert, images: int) -> Grid:
    """The grid of one expert.

    Signal shares as in the population prior, and scales within 2.5 standard errors of the context's own; or, where the
    expert takes the signal's variance for known, that scale beside noise from the variance 2 down to .02.
    """
    like = expert.eigenvalues
    if expert.signal:
        noise = torch.logspace(math.log10(2), math.log10(0.02), len(SIGNAL_SHARES), dtype=like.dtype)
        return Grid(torch.full((len(noise), 1), math.sqrt(expert.signal), dtype=like.dtype), noise / expert.signal)
    shares = torch.as_tensor(SIGNAL_SHARES, dtype=like.dtype)
    width = 2.5 / math.sqrt(2 * max(images - 1, 1))
    relative = torch.exp(torch.linspace(-width, width, SCALES, dtype=like.dtype))
    variance = _mean_variance(expert, images)
    scale = (shares / variance).sqrt()[:, None] * relative
    return Grid(scale, (1 - shares) / shares * variance)


def signal_shares(expert: Expert, grid: Grid, images: int) -> Float[Tensor, "h"]:
    """Share of signal in a response at every noise level of the grid."""
    return 1 / (1 + grid.ratio / _mean_variance(expert, images))


def _mean_variance(expert: Expert, images: int) -> Tensor:
    """v, the mean variance of ``A u`` over the context."""
    return (expert.eigenvalues.sum() + expert.mean.square().sum()) / (images - 1)


def solve(expert: Expert, found: Evidence, weights: Float[Tensor, "v h q"]) -> Solution:
    """Posterior mean of ``s u``, averaged over the grid with `weights` (they need not sum to one)."""
    total, scaled = _over_scales(found, weights)
    dual = (total @ found.inverse) * found.projection.values
    if expert.mean_scale:
        dual.addmm_(scaled, found.inverse * expert.mean, alpha=-1)
    return Solution(total, dual, scaled.sum(dim=1))


def _over_scales(found: Evidence, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over q of weights, and of weights times s, (V, h) each: a matrix product, since short sums are slow."""
    scale = found.grid.scale
    columns = (
        torch.stack([torch.ones_like(scale), scale])[:, :, :, None] * torch.eye(len(scale), dtype=scale.dtype)[:, None]
    )
    total, scaled = columns.flatten(1, 2)
    return weights.flatten(1) @ total, weights.flatten(1) @ scaled


def leave_one_out(
    expert: Expert,
    found: Evidence,
    weights: Float[Tensor, "v h q"],
    vectors: Float[Tensor, "n k"],
    Y: Float[Tensor, "n v"],
) -> tuple[Float[Tensor, "v"], Float[Tensor, "v h"]]:
    """Mean squared leave-one-out residual per voxel for `weights` that sum to one; and their sums over scales.

    ``r_i = [Q y]_i / Q_ii`` with Q the inverse covariance after projecting out the offset (Dubrule 1983), evaluated at
    the posterior mean of Q.
    """
    images, rank = vectors.shape
    total, dual, _ = solve(expert, found, weights)
    by_share = found.inverse @ vectors.square().T
    if images - 1 > rank:  # what the eigenvectors do not span is noise
        precision = (total @ (1 / found.grid.ratio))[:, None]
        by_share = by_share + (1 - 1 / images - vectors.square().sum(dim=1)) / found.grid.ratio[:, None]
        alpha = (dual - precision * found.projection.values) @ vectors.T + precision * Y.T
    else:
        alpha = dual @ vectors.T
    residual = alpha / (total @ by_share.clamp(min=1e-9))
    return torch.linalg.vector_norm(residual, dim=1).square() / images, total
