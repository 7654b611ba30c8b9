"""Closed-form experts: one Gaussian prior over tuning each, solved once per context for all voxels.

A voxel standardised on the context obeys ``y = s A u + e``: centred embeddings A (n, E), tuning ``u ~ N(mu, Sigma)``
and noise of variance ``s^2 tau``. An expert holds the eigendecomposition of ``K = A Sigma A'``; every voxel then costs
a few products with n x k matrices (`braincl.models.evidence`).

Axes: n context image, t query image, E feature, V voxel, k eigenvector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from braincl.data.memory import check_memory

RANK_TOLERANCE = 1e-6


class System(NamedTuple):
    """Eigenvectors of ``A Sigma A'`` (n, k) that several experts share, and the bases that weights are read through.

    Parameters
    ----------
    vectors : tensor (n, k)
    mix : tuple of (basis, factor f)
        ``Sigma A' vectors = sum_b f_b bases[b]' vectors``, up to each expert's `gain`.
    """

    vectors: Tensor
    mix: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Expert:
    """One prior on one context.

    Parameters
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


class Projection(NamedTuple):
    """Responses on the eigenvectors of a system.

    Parameters
    ----------
    values, squares : tensor (V, k)
    rest : tensor (V,)
        Power of the responses outside the eigenvectors.
    """

    values: Tensor
    squares: Tensor
    rest: Tensor


def _decompose(A: Tensor, spread: Tensor, covariance: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Eigenvalues (k,) above rounding and eigenvectors (n, k) of ``A Sigma A'``, of the smaller of two matrices.

    `spread` is ``A Sigma``, and `covariance` finds Sigma. With more images than features the matrix is the E x E one
    ``R' A' A R``, ``R R' = Sigma``, so that nothing grows with the square of the number of images.
    """
    images, features = A.shape
    primal = images > features
    if primal:
        values, axes = torch.linalg.eigh(covariance())
        root = axes * values.clamp(min=0).sqrt()
        on_root = A @ root
        kernel = on_root.T @ on_root
    else:
        check_memory(4 * A.element_size() * images**2, f"a context of {images} pictures of {features} features; give "
                     "fewer pictures, or an embedding of fewer features")  # fmt: skip
        kernel = spread @ A.T
    eigenvalues, vectors = torch.linalg.eigh(0.5 * (kernel + kernel.T))
    keep = eigenvalues > RANK_TOLERANCE * eigenvalues[-1].clamp(min=1e-30)
    keep[0] &= primal  # a centred kernel has the constant vector in its null space
    if not keep.any():  # all context images alike
        keep[-1] = True
    eigenvalues, vectors = eigenvalues[keep].clamp(min=1e-30), vectors[:, keep]
    return eigenvalues, (on_root @ vectors) / eigenvalues.sqrt() if primal else vectors


class Context:
    """The image side of a context: centred embeddings, the bases that weights are read out through.

    It is worked out on the CPU and in float64, wherever voxels are: it is small and done once, and in float32
    embeddings that differ by little beside their mean leave no eigenvectors. `lower` brings what voxels need to them.

    Parameters
    ----------
    X : tensor (n, E)
        On the CPU.
    """

    def __init__(self, X: Float[Tensor, "n e"]) -> None:
        X = X.double()
        self.offset = X.mean(dim=0)
        self.A = X - self.offset
        self.bases = [self.A]
        self.covariances: list[Tensor | None] = [None]  # Sigma of each basis A Sigma, None for the identity
        self.systems: list[System] = []
        self.mean_in_span: dict[int, Tensor] = {}  # mu of a system's experts on ``Sigma A' vectors``
        self._solved: dict[tuple[int, float], tuple[int, Tensor]] = {}

    @cached_property
    def _own(self) -> tuple[int, Tensor]:
        """The system of ``A A'`` and its eigenvalues."""
        system, eigenvalues = self._add_system(((0, 1.0),))
        self._axes = self.A.T @ self.systems[system].vectors
        return system, eigenvalues

    def _add_system(self, mix: tuple[tuple[int, float], ...]) -> tuple[int, Tensor]:
        eigenvalues, vectors = _decompose(
            self.A,
            mixed(mix, self.bases),
            lambda: mixed(mix, [self._eye if c is None else c for c in self.covariances]),
        )
        self.systems.append(System(vectors, mix))
        return len(self.systems) - 1, eigenvalues

    @property
    def _eye(self) -> Tensor:
        return torch.eye(self.A.shape[1], dtype=self.A.dtype)

    def generic(self, power: float, signal: float = 0.0) -> Expert:
        """Zero-mean prior ``Sigma ~ (C + eps I)^power``, C the covariance of the context embeddings.

        Power 0 is ridge; a positive power expects tuning along the directions in which pictures vary most.

        Parameters
        ----------
        power : float
        signal : float
            See `Expert`.

        Returns
        -------
        Expert
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
        """Make ``A Sigma`` a basis.

        Parameters
        ----------
        covariance : tensor (E, E)
            Sigma.

        Returns
        -------
        int
            The index of the basis.
        """
        self.bases.append(self.A @ covariance)
        self.covariances.append(covariance)
        return len(self.bases) - 1

    def gaussian(
        self, kind: str, mean: Float[Tensor, "e"], basis: int, shrinkage: float = 0.0, mean_scale: float = 1.0,
        signal: float = 0.0,
    ) -> Expert:  # fmt: skip
        """Prior N(mean_scale mean, Sigma of the basis), the covariance shrunk towards the identity of equal trace.

        Parameters
        ----------
        kind : {"population", "mixture"}
        mean : tensor (E,)
        basis : int
            From `add_basis`.
        shrinkage, mean_scale : float
        signal : float
            See `Expert`.

        Returns
        -------
        Expert
        """
        covariance = self.covariances[basis]
        assert covariance is not None
        mean = mean_scale * mean
        level = float(shrinkage * covariance.diagonal().mean())
        if (basis, shrinkage) not in self._solved:  # priors that differ in their mean only share it
            mix = ((basis, 1 - shrinkage), (0, level)) if shrinkage else ((basis, 1.0),)
            self._solved[basis, shrinkage] = self._add_system(mix)
        system, eigenvalues = self._solved[basis, shrinkage]
        mean_seen = self.systems[system].vectors.T @ (self.A @ mean)
        self.mean_in_span[system] = mean_seen / eigenvalues / (mean_scale or 1.0)
        return Expert(
            kind, shrinkage, mean_scale, system, eigenvalues, torch.ones_like(eigenvalues), mean_seen, mean,
            signal=signal,
        )  # fmt: skip

    def prior_variance(self, expert: Expert, queries: Float[Tensor, "t e"]) -> Float[Tensor, "t"]:
        """``x' Sigma x`` of queries.

        Parameters
        ----------
        expert : Expert
        queries : tensor (t, E)
            Centred, in float64.

        Returns
        -------
        tensor (t,)
        """
        power, system = queries.square().sum(dim=1), self.systems[expert.system]
        if expert.kind == "generic":
            gain = expert.gain.double()
            inside = (queries @ self._axes).square() * (gain / expert.eigenvalues.double())
            return inside @ gain + expert.outside * (power - inside.sum(dim=1)).clamp(min=0)
        variance = torch.zeros_like(power)
        for basis, factor in system.mix:
            covariance = self.covariances[basis]
            variance += factor * (power if covariance is None else (queries @ covariance * queries).sum(dim=1))
        return variance

    def lower(self, like: Tensor) -> None:
        """Bring what the work per voxel needs to a precision and a device; `A` and the offset stay what they are.

        Parameters
        ----------
        like : tensor
            Whose.
        """
        self.bases = [basis.to(like) for basis in self.bases]
        self.systems = [System(system.vectors.to(like), system.mix) for system in self.systems]
        self.mean_in_span = {index: mean.to(like) for index, mean in self.mean_in_span.items()}

    @property
    def few_systems(self) -> bool:
        """Whether there are no more systems than bases, so that weights are read out through eigenvectors."""
        return len(self.systems) <= len(self.bases)

    def read_outs(self) -> list[Tensor]:
        """``Sigma A' vectors`` of every system, up to each expert's gain.

        Returns
        -------
        list of tensor (k, E)
        """
        return [vectors.T @ mixed(mix, self.bases) for vectors, mix in self.systems]

    def cross(self, expert: Expert) -> Float[Tensor, "e k"]:
        """``Sigma A' vectors``.

        Parameters
        ----------
        expert : Expert

        Returns
        -------
        tensor (E, k)
        """
        return mixed(self.systems[expert.system].mix, self.bases).T @ self.systems[expert.system].vectors * expert.gain

    def coordinates(self, system: int, read: Sequence[Tensor], mean: Tensor | None) -> Float[Tensor, "t k_"]:
        """Queries in the coordinates that weights are told in by `braincl.models.evidence.read_out`.

        Parameters
        ----------
        system : int
        read : sequence of tensor (t, n)
            Queries times each basis.
        mean : tensor (t,), optional
            Queries times mu, where the experts of the system have a mean.

        Returns
        -------
        tensor (t, k) or (t, k + 1)
        """
        on_basis = mixed(self.systems[system].mix, read) @ self.systems[system].vectors
        if mean is None:
            return on_basis
        return torch.cat([on_basis, (mean - on_basis @ self.mean_in_span[system])[:, None]], dim=1)

    def project(self, Y: Float[Tensor, "n v"]) -> list[Projection]:
        """Responses on the eigenvectors of every system.

        Parameters
        ----------
        Y : tensor (n, V)

        Returns
        -------
        list of Projection
        """
        return project([system.vectors for system in self.systems], Y)


def project(systems: Sequence[Float[Tensor, "n _"]], Y: Float[Tensor, "n v"]) -> list[Projection]:
    """Responses on the eigenvectors of every system.

    Parameters
    ----------
    systems : sequence of tensor (n, k)
        Eigenvectors of each, in the span of centred vectors.
    Y : tensor (n, V)

    Returns
    -------
    list of Projection
    """
    responses = Y.T.contiguous()
    power = responses.square().sum(dim=1)
    found = []
    for vectors in systems:
        values = responses @ vectors
        squares = values.square()
        free = len(Y) - 1 - vectors.shape[1]
        rest = (power - squares.sum(dim=1)).clamp(min=0) if free else torch.zeros_like(power)
        found.append(Projection(values, squares, rest))
    return found


def mixed(mix: Sequence[tuple[int, float]], parts: Sequence[Tensor]) -> Tensor:
    """``sum_b f_b parts[b]``.

    Parameters
    ----------
    mix : sequence of (basis b, factor f)
        Of a `System`.
    parts : sequence of tensor
        The bases of a context, or what has been made of each.

    Returns
    -------
    tensor
        Of the shape of one part.
    """
    first, *others = (factor * parts[basis] for basis, factor in mix)
    return sum(others, first)
