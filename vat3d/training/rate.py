"""Rate in training: which prefix of its tokens a sample keeps, what a bit is worth to it, and what codes cost.

Axes: b batch, s scale, v code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vat3d.training.config import TrainConfig


def kept_tokens(scales: Sequence[int], batch: int, generator: torch.Generator) -> Tensor:
    """How many tokens each sample of a batch keeps: for a quarter up to a random scale's end, else log-uniform.

    The log-uniform draw begins at a twentieth of all tokens, which is below the smallest useful file.

    Parameters
    ----------
    scales : sequence of int
        Tokens in each.
    batch : int
    generator : torch.Generator

    Returns
    -------
    int tensor of shape (batch,)
    """
    ends = torch.tensor(scales).cumsum(0)
    total = int(ends[-1])
    whole = ends[torch.randint(len(ends), (batch,), generator=generator)]
    low = math.log(max(3, total / 20))
    partial = torch.exp(low + (math.log(total) - low) * torch.rand(batch, generator=generator)).long()
    return torch.where(torch.rand(batch, generator=generator) < 0.25, whole, partial)


def bit_prices(batch: int, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """What a bit is worth to each sample of a batch.

    Log-uniform between the bounds of `config`; a quarter pay nothing.

    Parameters
    ----------
    batch : int
    config : TrainConfig
    generator : torch.Generator

    Returns
    -------
    tensor of shape (batch,)
        In half squared error of the vector of the sample's last token.
    """
    if not config.price_high:
        return torch.zeros(batch)
    low, high = math.log(config.price_low), math.log(config.price_high)
    price = torch.exp(low + (high - low) * torch.rand(batch, generator=generator))
    return price * (torch.rand(batch, generator=generator) < 0.75)


class CodeUse(nn.Module):
    """How often each scale chose each code lately: what it costs, and whether it is dead. A module, for checkpoints.

    Parameters
    ----------
    scales, codes : int
    decay : float
        Of the counts, each batch.
    """

    counts: Tensor

    def __init__(self, scales: int, codes: int, decay: float = 0.98) -> None:
        super().__init__()
        self.register_buffer("counts", torch.ones(scales, codes))
        self.decay = decay

    def count(self, ids: Sequence[Tensor]) -> Tensor:
        """How often each scale chooses each code in a batch.

        Parameters
        ----------
        ids : sequence of int tensors of shape (b, k)
            Of each scale; -1 was dropped.

        Returns
        -------
        tensor of shape (scales, codes)
        """
        found = torch.zeros_like(self.counts)
        for scale, chosen in enumerate(ids):
            flat = chosen.flatten()
            found[scale].index_add_(0, flat.clamp_min(0), (flat >= 0).to(found.dtype))
        return found

    def update(self, found: Tensor) -> None:
        """Add what was counted in a batch; a scale that chose nothing stays as it is.

        Parameters
        ----------
        found : tensor of shape (scales, codes)
        """
        total = found.sum(1, keepdim=True)
        share = found * (found.shape[1] / total.clamp_min(1))
        self.counts.copy_(torch.where(total > 0, self.counts.lerp(share, 1 - self.decay), self.counts))

    def dead(self, below: float = 0.02) -> Tensor:
        """Codes that hardly any scale chooses.

        Parameters
        ----------
        below : float
            At less than this share of the uniform rate.

        Returns
        -------
        bool tensor of shape (codes,)
        """
        return (self.counts < below).all(0)

    def bits(self) -> list[Tensor]:
        """What each code costs at each scale.

        Returns
        -------
        list of tensors of shape (1, codes)
        """
        share = (self.counts / self.counts.sum(1, keepdim=True)).clamp_min(2.0**-16)
        return list(-share.log2()[:, None])

    def revived(self, dead: Tensor) -> None:
        """Codes that were put somewhere else start at the uniform rate, or their price would keep them dead.

        Parameters
        ----------
        dead : bool tensor of shape (codes,)
        """
        self.counts.masked_fill_(dead, 1.0)

    def in_use(self) -> list[int]:
        """How many codes each scale chooses at more than a fiftieth of the uniform rate.

        Returns
        -------
        list of int
        """
        return (self.counts >= 0.02).sum(1).tolist()

    def perplexity(self) -> list[float]:
        """Effective number of codes of each scale.

        Returns
        -------
        list of float
        """
        share = self.counts / self.counts.sum(1, keepdim=True)
        return torch.exp(torch.special.entr(share).sum(1)).tolist()


def scale_bits(ids: Tensor, codes: int) -> Tensor:
    """What each code costs by its share.

    Parameters
    ----------
    ids : int tensor
        -1 does not count.
    codes : int

    Returns
    -------
    tensor of shape (1, codes)
    """
    counts = torch.bincount(ids[ids >= 0], minlength=codes) + 1.0
    return (counts.sum() / counts).log2()[None]
