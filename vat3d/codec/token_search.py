"""The tokens of one mesh that decode best within a file of so many bytes.

`TokenSearch.choose_price` quantises a latent at several prices of a bit and takes what decodes best;
`vat3d.codec.refine_tokens` and `vat3d.codec.refine_residual` go on from there. Axes: b batch (1), n point, k token, v
code, p plane, r row and s column of the latent grid, c latent channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from setcore.devices import autocast
from setcore.seeding import torch_generator
from vat3d.bitstream.entropy import Tables
from vat3d.codec.targets import Target, draw_samples
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.losses import field_loss

PRICES = (0.03, 0.1, 0.2, 0.4, 0.8)
"""Prices of a bit to try beside none, in half squared error of a token's vector at the last scale that fits."""
SHARPER_WEIGHT = 0.5
"""Of the loss's second term; without it thin parts fade away. (In training it cost more than it brought.)"""
HELD_SAMPLES = 4096
"""Samples kept for choosing among states."""
Fit = Callable[[NDArray[np.int64]], int]
"""How many of some ids (all scales, flat) fit into the file."""


@dataclass(frozen=True)
class TokenChoice:
    """Tokens that were chosen, and what decodes from them.

    Parameters
    ----------
    ids : array of shape (count,)
        Of all scales that were chosen.
    kept : int
        How many of them fit into the file.
    price : float
        Of a bit, at which they were chosen, in half squared error of the latent.
    loss : float
        Of what decodes from those that fit.
    """

    ids: NDArray[np.int64]
    kept: int
    price: float
    loss: float

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The ids that fit."""
        return self.ids[: self.kept]


class TokenSearch:
    """How a choice of tokens decodes, and what it costs.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    target : Target
    fit : callable
        How many of some ids fit into the file.
    tables : Tables
        What each id costs in bits.
    seed : int
    limit : int, optional
        So many tokens are chosen at least, in whole scales: more than fit. All, if not given.
    precision : {"auto", "float32", "bfloat16"}
        Of matrix products.
    prices : sequence of float
        Of a bit, to try beside none.
    """

    def __init__(
        self,
        network: CodecNetwork,
        target: Target,
        fit: Fit,
        tables: Tables,
        seed: int = 0,
        limit: int | None = None,
        precision: str = "auto",
        prices: Sequence[float] = PRICES,
    ) -> None:
        self.network, self.target, self.fit, self.tables, self.seed = network, target, fit, tables, seed
        self.precision, self.prices = precision, prices
        quantizer, scales = network.quantizer, network.config.scales
        last = len(scales) if limit is None else int(np.searchsorted(np.cumsum(scales), limit)) + 1
        self.scales = list(scales[:last])
        self.weights = quantizer.weights()
        self.codebook = quantizer.codebook.detach()
        self.device = target.points.device
        self.held = draw_samples(target, torch_generator(seed, "held", device=self.device), HELD_SAMPLES)

    def with_fit(self, fit: Fit) -> TokenSearch:
        """The same search for a file of another size.

        Parameters
        ----------
        fit : callable

        Returns
        -------
        TokenSearch
        """
        other = copy(self)
        other.fit = fit
        return other

    def field_error(self, latent: Tensor, points: Tensor, distances: Tensor) -> Tensor:
        """Mean loss of what a latent decodes to.

        Parameters
        ----------
        latent : tensor of shape (1, p, r, s, c)
        points : tensor of shape (n, 3)
            The first half of them near the surface.
        distances : tensor of shape (n,)

        Returns
        -------
        tensor of shape ()
        """
        with autocast(self.precision, self.device):
            planes = self.network.planes(latent, self.target.box)
            logits = self.network.field(planes, points[None], self.target.box)
        errors = field_loss(logits, distances[None], self.network.config.sharpness, SHARPER_WEIGHT)[0]
        near = len(points) // 2
        return errors[:near].mean() + errors[near:].mean()

    def latent(self, vectors: Float[Tensor, "k c"]) -> Float[Tensor, "1 p r r c"]:
        """The latent of the first tokens.

        Parameters
        ----------
        vectors : tensor of shape (k, c)

        Returns
        -------
        tensor of shape (1, p, r, s, c)
        """
        return self.network.quantizer.from_vectors(vectors[None])

    def coded(self, ids: NDArray[np.int64]) -> Float[Tensor, "k c"]:
        """The vectors of ids.

        Parameters
        ----------
        ids : array of shape (k,)

        Returns
        -------
        tensor of shape (k, c)
        """
        return self.codebook[torch.from_numpy(ids).to(self.device)]

    @torch.no_grad()
    def evaluate(self, ids: NDArray[np.int64], price: float) -> TokenChoice:
        """What decodes from those of some ids that fit, on the held samples.

        Parameters
        ----------
        ids : array of shape (count,)
        price : float
            At which they were chosen.

        Returns
        -------
        TokenChoice
        """
        kept = self.fit(ids)
        loss = self.field_error(self.latent(self.coded(ids[:kept])), *self.held)
        return TokenChoice(ids, kept, price, float(loss))

    def costs(self, ids: NDArray[np.int64], price: float) -> Float[Tensor, "k v"]:
        """What each code costs at each token, the other tokens being as they are.

        Parameters
        ----------
        ids : array of shape (k,)
        price : float
            Of a bit.

        Returns
        -------
        tensor of shape (k, v)
            In half squared error of the token's vector.
        """
        return self._bits(ids) * (price / self.weights[: len(ids)])[:, None]

    def _bits(self, ids: NDArray[np.int64]) -> Tensor:
        return id_costs(self.tables, ids).to(self.device)

    @torch.no_grad()
    def choose_price(self, latent: Float[Tensor, "1 p r r c"], frozen: NDArray[np.int64] | None = None) -> TokenChoice:
        """Quantise a latent at several prices of a bit, and take what decodes best from what fits.

        Parameters
        ----------
        latent : tensor of shape (1, p, r, s, c)
        frozen : array of shape (k,), optional
            Ids of the first scales, which stay.

        Returns
        -------
        TokenChoice
        """
        first = None if frozen is None else torch.from_numpy(frozen)[None].to(self.device)

        def quantised(price: Tensor | None = None, bits: Sequence[Tensor] | None = None) -> NDArray[np.int64]:
            found = self.network.quantizer(latent, None, price, bits, first, len(self.scales))
            return np.asarray(torch.cat(found.ids, dim=1)[0].cpu().numpy())

        best = self.evaluate(quantised(), 0.0)
        ids, unit = best.ids, float(self.weights[best.kept - 1])
        for price in self.prices:
            ids = quantised(self.weights.new_full((1,), price * unit), self._bits(ids).split(self.scales))
            best = min(best, self.evaluate(ids, price * unit), key=lambda choice: choice.loss)
        return best


def id_costs(tables: Tables, ids: NDArray[np.int64]) -> Tensor:
    """What each code would cost at each of the first tokens, those before it being as they are.

    Parameters
    ----------
    tables : Tables
    ids : array of shape (k,)

    Returns
    -------
    tensor of shape (k, v)
        In bits.
    """
    return torch.from_numpy(tables.code_bits[tables.rows(ids)])
