"""What estimators and analyses ask of a pretrained network, whichever of the two architectures it has.

A context is read once (`condition`); what comes of it is handed back for any batch of its voxels. Responses are those
of voxels that vary in the context, as the network is to see them (standardised, unless it takes them as they are).

Axes: n context image, t query image, E feature, V voxel of the context, v voxel of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from braincl.errors import ModelError
from braincl.models.prior import Prior


@dataclass(frozen=True)
class Summary:
    """Averages over the voxels of a context.

    Parameters
    ----------
    voxels : int
    values : tensor (c, f)
        By expert.
    noise : tensor (n, 2), optional
        `braincl.models.evidence.noise_sums`, by image.
    """

    voxels: int
    values: Tensor
    noise: Tensor | None = None

    def __add__(self, other: Summary) -> Summary:
        voxels = self.voxels + other.voxels
        own, others = self.voxels / voxels, other.voxels / voxels
        noise = None
        if self.noise is not None and other.noise is not None:
            noise = own * self.noise + others * other.noise
        return Summary(voxels, own * self.values + others * other.values, noise)


class Conditioned(Protocol):
    """A context as a network has read it."""

    def compact(self) -> Any:
        """Without what can be found again, for copies."""


class InContextNetwork(nn.Module, ABC):
    """A network that turns a context into linear encoders of its voxels.

    Parameters
    ----------
    *args, **kwargs
        Passed on to `torch.nn.Module`.
    """

    architecture: ClassVar[str]  # as `config.json` names it
    config_class: ClassVar[type]
    config: Any
    card: Any = None  # the `ModelCard` of the folder that the network was loaded from; it stays with copies

    @property
    def features(self) -> int:
        """E, the width of the embeddings that the network takes; 0: any.

        Returns
        -------
        int
        """
        return int(self.config.features)

    @property
    def device(self) -> torch.device:
        """Where the parameters are, and so where responses must be.

        Returns
        -------
        torch.device
        """
        return next(self.parameters()).device

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.parameters())
        return f"{type(self).__name__}({size:,} parameters, {self.features or 'any number of'} features)"

    def check_features(self, features: int) -> None:
        """Refuse embeddings of another width.

        Parameters
        ----------
        features : int
            E, of the embeddings at hand.

        Raises
        ------
        ModelError
        """
        if self.features and features != self.features:
            raise ModelError(
                f"the embeddings have {features} features, the model was trained on {self.features}; use the same "
                "image encoder, or a model that takes any embedding (the default)"
            )

    def summarise(self, X: Float[Tensor, "n e"], Y: Float[Tensor, "n v"], voxel_batch: int = 2048) -> Summary | None:
        """What the network takes from all voxels of a context; summaries of parts of the voxels add up.

        Parameters
        ----------
        X, Y, voxel_batch
            As in `condition`.

        Returns
        -------
        Summary or None
            None where every voxel is on its own.
        """
        return None

    @abstractmethod
    def condition(
        self, X: Float[Tensor, "n e"], Y: Float[Tensor, "n v"], voxel_batch: int = 2048, summary: Summary | None = None
    ) -> Any:
        """Read a context.

        Parameters
        ----------
        X : tensor (n, E)
        Y : tensor (n, V)
        voxel_batch : int
            Voxels that are worked on at once; bounds memory.
        summary : Summary, optional
            Of all voxels of the subject, where Y has only some of them. None: Y has all.

        Returns
        -------
        Conditioned
            For the other methods.

        Raises
        ------
        ModelError
            X has another width than the network takes.
        """

    @abstractmethod
    def emit(
        self, conditioned: Any, Y: Float[Tensor, "n v"], voxels: slice, scale: Float[Tensor, "v"] | None = None,
        out: Tensor | None = None,
    ) -> tuple[Float[Tensor, "v e"], Float[Tensor, "v"]]:  # fmt: skip
        """Encoder weights and biases of a batch of voxels.

        Parameters
        ----------
        conditioned : Conditioned
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice
            Their place among the voxels of the context.
        scale : tensor (v,), optional
            Of the voxels' responses, whose units weights and biases get; None: they are for standardised responses.
        out : tensor (v, E), optional
            What weights are written to.

        Returns
        -------
        weights : tensor (v, E)
        bias : tensor (v,)
        """

    @abstractmethod
    def ask(self, conditioned: Any, queries: Float[Tensor, "t e"]) -> Any:
        """What of new pictures is alike for all voxels.

        Parameters
        ----------
        conditioned : Conditioned
        queries : tensor (t, E)

        Returns
        -------
        object
            For `predictive_moments`.
        """

    @abstractmethod
    def tell(self, conditioned: Any, Y: Float[Tensor, "n v"], voxels: slice) -> Any:
        """What of a batch of voxels is alike for all new pictures.

        Parameters
        ----------
        conditioned, Y, voxels
            As in `emit`.

        Returns
        -------
        object
            For `predictive_moments`.
        """

    @abstractmethod
    def predictive_moments(self, told: Any, asked: Any) -> tuple[Float[Tensor, "t v"], Float[Tensor, "t v"]]:
        """Mean and variance of new responses, noise included.

        Parameters
        ----------
        told : object
            From `tell`.
        asked : object
            From `ask`.

        Returns
        -------
        mean, variance : tensor (t, v)
        """

    def noise_sums(self, conditioned: Any) -> Tensor | None:
        """How the noise of a context goes with what is predicted, for `braincl.estimators.mean_dependent_noise`.

        Parameters
        ----------
        conditioned : Conditioned

        Returns
        -------
        tensor (n, 2) or None
            Averages over its voxels, by image; None where the network leaves no response out.
        """
        return None

    @abstractmethod
    def context_shares(self, conditioned: Any, Y: Float[Tensor, "n v"], voxels: slice) -> Float[Tensor, "v n"]:
        """How much of a voxel's weights rests on each context image.

        Parameters
        ----------
        conditioned, Y, voxels
            As in `emit`.

        Returns
        -------
        tensor (v, n)
            Rows sum to one.
        """

    @abstractmethod
    def gaussian_prior(self) -> Prior | None:
        """The Gaussian population prior that the network holds.

        Returns
        -------
        Prior or None
            Of one component.
        """

    @abstractmethod
    def starting_prior(self, features: int) -> Prior:
        """The Gaussian over tuning, and the distribution of signal shares, that hold before any response is seen.

        Parameters
        ----------
        features : int
            E, of the embeddings at hand.

        Returns
        -------
        Prior
            Of one component; isotropic where the network knows none.

        Raises
        ------
        ModelError
            The network takes embeddings of another width.
        """


def batches(voxels: int, voxel_batch: int) -> Iterator[slice]:
    """Slices that cover all voxels.

    Parameters
    ----------
    voxels, voxel_batch : int

    Returns
    -------
    iterator of slice
    """
    for start in range(0, voxels, voxel_batch):
        yield slice(start, min(start + voxel_batch, voxels))
