"""Encoding as a search: the tokens of one mesh that decode best within a file of so many bytes.

`choose_price` quantises a latent at several prices of a bit and takes what decodes best. `refine` goes on from there:
first the tokens' vectors move freely against the mesh's own surface through the frozen decoder, which keeps the latent
within what the file's tokens can say, and are quantised anew. Then each token is drawn at random from the codes near
its vector, by a softmax with Gumbel noise whose temperature falls until the nearest code hardly changes (Yang, Bamler &
Mandt, "Improving Inference for Neural Image Compression", arXiv 2006.04240; gradients through the nearest code alone,
straight through, gain nothing here: one token moves the whole shape, and no step is small). What room a file has after
its components goes to a sparse residual of the latent (`refine_residual`). Axes: b batch (1), n point, k token, v code,
p plane, r row and s column of the latent grid, c latent channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from setcore.seeding import torch_generator
from vat3d.bitstream.entropy import Tables
from vat3d.codec.targets import Target, draw_samples
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.losses import field_loss
from vat3d.network.precision import autocast

PRICES = (0.03, 0.1, 0.2, 0.4, 0.8)
"""Prices of a bit that are tried beside none, in half squared error of a token's vector at the last scale that fits."""
SHARPER_WEIGHT = 0.5
"""Of the loss's second term; without it thin parts fade away. (In training it cost more than it brought.)"""
HELD = 4096
"""Samples kept for choosing among states."""
Fit = Callable[[NDArray[np.int64]], int]
"""How many of some ids (all scales, flat) fit into the file."""


@dataclass(frozen=True)
class Choice:
    """Ids of all scales, flat; how many of them fit; the price of a bit they were chosen at, in half squared error of
    the latent; and the loss of what decodes from those that fit."""

    ids: NDArray[np.int64]
    kept: int
    price: float
    loss: float

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The ids that fit."""
        return self.ids[: self.kept]


class Search:
    """What the two stages share: how a choice of tokens decodes, and what it costs.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    target : Target
    fit : callable
    tables : Tables
        What each id costs in bits.
    seed : int
    limit : int, optional
        So many tokens are chosen at least, in whole scales: more than fit. All, if not given.
    """

    def __init__(
        self,
        network: CodecNetwork,
        target: Target,
        fit: Fit,
        tables: Tables,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.network, self.target, self.fit, self.tables, self.seed = network, target, fit, tables, seed
        quantizer, scales = network.quantizer, network.config.scales
        last = len(scales) if limit is None else int(np.searchsorted(np.cumsum(scales), limit)) + 1
        self.scales = list(scales[:last])
        self.weights = quantizer.weights()
        self.codebook = quantizer.codebook.detach()
        self.held = draw_samples(target, torch_generator(seed, "held"), HELD)

    def field_error(self, latent: Tensor, points: Tensor, distances: Tensor) -> Tensor:
        """Mean loss of what `latent` decodes to; half of the points near the surface."""
        with autocast():
            planes = self.network.planes(latent, self.target.box)
            logits = self.network.field(planes, points[None], self.target.box)
        errors = field_loss(logits, distances[None], self.network.config.sharpness, SHARPER_WEIGHT)[0]
        near = len(points) // 2
        return errors[:near].mean() + errors[near:].mean()

    def latent(self, vectors: Float[Tensor, "k c"]) -> Float[Tensor, "1 p r r c"]:
        """The latent of the first tokens' vectors."""
        return self.network.quantizer.from_vectors(vectors[None])

    @torch.no_grad()
    def judge(self, ids: NDArray[np.int64], price: float) -> Choice:
        """What the prefix of `ids` that fits decodes to, on the held samples."""
        kept = self.fit(ids)
        loss = self.field_error(self.latent(self.codebook[torch.from_numpy(ids[:kept])]), *self.held)
        return Choice(ids, kept, price, float(loss))

    def costs(self, ids: NDArray[np.int64], price: float) -> Float[Tensor, "k v"]:
        """What each code costs at each token, in half squared error of the token's vector, the others as in `ids`."""
        return id_costs(self.tables, ids) * (price / self.weights[: len(ids)])[:, None]

    @torch.no_grad()
    def choose_price(self, latent: Float[Tensor, "1 p r r c"], given: NDArray[np.int64] | None = None) -> Choice:
        """Quantise `latent` at several prices of a bit; the choice that decodes best from what fits. `given`, ids of
        the first scales, stay."""
        first = None if given is None else torch.from_numpy(given)[None]
        kept = torch.tensor([sum(self.scales)])

        def quantised(*price_and_bits: Any) -> NDArray[np.int64]:
            found = self.network.quantizer(latent, kept, *price_and_bits, given=first)
            return np.asarray(torch.cat(found.ids, dim=1)[0].numpy())

        best = self.judge(quantised(), 0.0)
        ids, unit = best.ids, float(self.weights[best.kept - 1])
        for price in PRICES:
            bits = id_costs(self.tables, ids).split(self.scales)
            ids = quantised(torch.tensor([price * unit]), bits)
            best = min(best, self.judge(ids, price * unit), key=lambda choice: choice.loss)
        return best


def id_costs(tables: Tables, ids: NDArray[np.int64]) -> Tensor:
    """Bits that each code would cost at each of the first tokens (tokens, codes), those before it being as in `ids`."""
    return torch.from_numpy(tables.code_bits[tables.rows(ids)])
