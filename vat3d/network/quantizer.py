"""Multi-scale residual vector quantisation of a triplane latent grid.

Every scale reduces the residual to its tokens' vectors, divides by gains, takes the nearest codes, raises them back to
the grid and subtracts. The latent is the mean latent plus the sum over scales; any prefix of the tokens is a coarser
latent (residual quantisation over scales as in arXiv 2412.02202; the shared codebook is arXiv 2404.02905, section 3.2).
There are two kinds of scales:

- The first ones hold principal components. Scale k covers the n_k of largest variance over training shapes, `channels`
  of them a token, so that a coarse scale says what shapes differ in most and each later scale says the same more finely
  and adds more. Planes, channels and places of a latent are strongly correlated: at equal bits this leaves half of the
  error that averages over areas do. The components are combinations of the lower frequencies of a cosine
  transform of each plane, held in 8 bits. Tokens come by falling variance.
- Then scales with 3 s_k^2 tokens laid over the three planes: the residual is averaged over each token's area, raised
  back bilinearly and passed through a small convolution. Tokens come centre first, planes in turn, so that a partial
  scale refines where shapes have most to tell.

Axes: b batch, p plane (3), r cells along the grid's side, k token of a scale, c latent channel, v code, m
frequency of a plane and channel, n component.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from setcore.devices import to_float64
from vat3d.network.config import CodecConfig


def area_weights(side: int, grid: int) -> Float[Tensor, "s g"]:
    """Averages of cells over equal intervals.

    Parameters
    ----------
    side : int
        Intervals.
    grid : int
        Cells.

    Returns
    -------
    tensor of shape (side, grid)
        Rows sum to 1.
    """
    edges = torch.linspace(0, grid, side + 1)
    low, high = edges[:-1, None], edges[1:, None]
    cells = torch.arange(grid, dtype=torch.float32)
    overlap = (torch.minimum(high, cells + 1) - torch.maximum(low, cells)).clamp_min(0)
    return overlap / overlap.sum(1, keepdim=True)


def linear_weights(side: int, grid: int) -> Float[Tensor, "g s"]:
    """Linear interpolation from cell centres to others, constant beyond the outer ones.

    Parameters
    ----------
    side : int
        Cells from which.
    grid : int
        Cells to which.

    Returns
    -------
    tensor of shape (grid, side)
    """
    position = ((torch.arange(grid) + 0.5) * side / grid - 0.5).clamp(0, side - 1)
    low = position.floor().clamp(max=max(side - 2, 0)).long()
    share = (position - low)[:, None]
    high = (low + 1).clamp(max=side - 1)
    return functional.one_hot(low, side) * (1 - share) + functional.one_hot(high, side) * share


def centre_first(side: int) -> Int[Tensor, " k"]:
    """Order of the 3 side^2 cells of a scale: by distance from the plane's centre, the three planes in turn.

    Parameters
    ----------
    side : int

    Returns
    -------
    int tensor of shape (3 side^2,)
    """
    offsets = 2 * torch.arange(side) - (side - 1)
    distance = (offsets[:, None] ** 2 + offsets[None] ** 2).flatten()
    cells = torch.argsort(distance, stable=True)
    return (cells[:, None] + side * side * torch.arange(3)).flatten()


def cosine_waves(grid: int) -> Float[Tensor, "g g"]:
    """The orthonormal cosine waves over `grid` cells, slowest first (DCT-II).

    Parameters
    ----------
    grid : int

    Returns
    -------
    tensor of shape (grid, grid)
        One wave a row.
    """
    waves: Tensor = (torch.arange(grid)[:, None] * (torch.arange(grid) + 0.5) * (torch.pi / grid)).cos() * (
        2 / grid
    ) ** 0.5
    waves[0] /= 2**0.5
    return waves


@dataclass(frozen=True)
class Quantized:
    """What the quantiser made of a latent grid.

    Parameters
    ----------
    latent : tensor of shape (b, 3, r, r, c)
        The sum of all kept scales, with straight-through gradients.
    ids : list of int tensors of shape (b, k)
        Codes of each scale, -1 where a sample dropped the token.
    loss : tensor of shape (2, b)
        Of each sample: mean codebook error over partial sums, and commitment error.
    inputs : list of tensors of shape (b, k, c)
        For each scale the vectors that codes stand for, those of dropped tokens among them.
    """

    latent: Tensor
    ids: list[Tensor]
    loss: Tensor
    inputs: list[Tensor]


class ScaleQuantizer(nn.Module):
    """The codebook, the components, gains and convolutions of the scales, and the walk from coarse to fine.

    Parameters
    ----------
    config : CodecConfig
    """

    waves: Tensor
    low: Tensor
    basis: Tensor
    basis_step: Tensor
    axes: Tensor
    mean: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.grid, self.channels, self.sides, self.scales = config.grid, config.channels, config.sides, config.scales
        self.components = config.components
        self.codebook = nn.Parameter(torch.randn(config.codes, config.channels))
        if self.components:
            self.register_buffer("waves", cosine_waves(self.grid), persistent=False)
            low = [row * self.grid + column for row in range(config.band) for column in range(config.band - row)]
            self.register_buffer("low", torch.tensor(low), persistent=False)  # in the plane's flat spectrum
            frequencies = 3 * len(low) * self.channels
            self.register_buffer("basis", torch.zeros(max(self.components), frequencies, dtype=torch.int8))
            self.register_buffer("basis_step", torch.ones(max(self.components)))
            self.register_buffer("mean", torch.zeros(3, self.grid, self.grid, self.channels))
            self.register_buffer("axes", torch.zeros(self.basis.shape), persistent=False)
            self.register_load_state_dict_post_hook(lambda module, _: module._set_axes())  # type: ignore[no-untyped-call]
        self.log_spread = nn.ParameterList(torch.zeros(count) for count in self.components)
        self.log_gain = nn.Parameter(torch.linspace(0, -2, len(self.sides)))
        convs = [nn.Conv2d(config.channels, config.channels, 3, padding=1, bias=False) for _ in self.sides]
        for conv in convs:
            nn.init.zeros_(conv.weight)
        self.smooth = nn.ModuleList(convs)
        for k, side in enumerate(self.sides):
            self.register_buffer(f"reduce_{k}", area_weights(side, self.grid), persistent=False)
            self.register_buffer(f"raise_{k}", linear_weights(side, self.grid), persistent=False)
            self.register_buffer(f"order_{k}", centre_first(side), persistent=False)

    def start(self, batch: int) -> Float[Tensor, "b p r r c"]:
        """The latent of no tokens: the mean over training shapes, or zero where there are no components.

        Parameters
        ----------
        batch : int

        Returns
        -------
        tensor of shape (batch, 3, r, r, c)
        """
        shape = (batch, 3, self.grid, self.grid, self.channels)
        return self.mean.expand(shape) if self.components else self.codebook.new_zeros(shape)

    def spectrum(self, grid: Float[Tensor, "b p r r c"]) -> Float[Tensor, "b m"]:
        """The lower frequencies of every plane and channel.

        Parameters
        ----------
        grid : tensor of shape (b, 3, r, r, c)

        Returns
        -------
        tensor of shape (b, m)
        """
        found = torch.einsum("ir,js,bprsc->bpijc", self.waves, self.waves, grid)
        return found.flatten(2, 3).index_select(2, self.low).flatten(1)

    def _set_axes(self) -> None:
        """The principal components in float32, orthonormal to within their 8 bits."""
        self.axes = self.basis.float() * self.basis_step[:, None]

    def reduce(self, grid: Float[Tensor, "b p r r c"], scale: int) -> Float[Tensor, "b k c"]:
        """Vectors of a scale's tokens, in token order, in units of the scale's gains.

        Parameters
        ----------
        grid : tensor of shape (b, 3, r, r, c)
        scale : int

        Returns
        -------
        tensor of shape (b, k, c)
        """
        if scale < len(self.components):
            found = self.spectrum(grid) @ self.axes[: self.components[scale]].T
            result: Tensor = (found / self.log_spread[scale].exp()).unflatten(1, (-1, self.channels))
            return result
        scale -= len(self.components)
        weights = getattr(self, f"reduce_{scale}")
        cells = torch.einsum("ir,js,bprsc->bpijc", weights, weights, grid).flatten(1, 3)
        return cells[:, getattr(self, f"order_{scale}")] / self.log_gain[scale].exp()

    def expand(self, vectors: Float[Tensor, "b k c"], scale: int) -> Float[Tensor, "b p r r c"]:
        """A scale's contribution to the grid from its token vectors; the mirror of `reduce`, and linear.

        Parameters
        ----------
        vectors : tensor of shape (b, k, c)
        scale : int

        Returns
        -------
        tensor of shape (b, 3, r, r, c)
        """
        if scale < len(self.components):
            return self._compose(vectors.flatten(1) * self.log_spread[scale].exp())
        scale -= len(self.components)
        side, weights = self.sides[scale], getattr(self, f"raise_{scale}")
        cells = torch.empty_like(vectors)
        cells[:, getattr(self, f"order_{scale}")] = vectors
        cells = cells.view(-1, 3, side, side, self.channels)
        grid = torch.einsum("ri,sj,bpijc->bprsc", weights, weights, cells) * self.log_gain[scale].exp()
        mixed = self.smooth[scale](grid.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        result: Tensor = grid + mixed.unflatten(0, (-1, 3))
        return result

    def _compose(self, found: Float[Tensor, "b n"]) -> Float[Tensor, "b p r r c"]:
        """The grid that the first n components make up."""
        low = (found @ self.axes[: found.shape[1]]).view(len(found), 3, -1, self.channels)
        spectrum = low.new_zeros(len(found), 3, self.grid**2, self.channels).index_copy(2, self.low, low)
        grid = spectrum.unflatten(2, (self.grid, self.grid))
        return torch.einsum("ir,js,bpijc->bprsc", self.waves, self.waves, grid)

    def assemble(self, parts: Sequence[Float[Tensor, "b _ c"]]) -> Float[Tensor, "b p r r c"]:
        """Latent grid of the token vectors of the first scales; the last one may hold fewer than its full count.

        Parameters
        ----------
        parts : sequence of tensors of shape (b, k, c)

        Returns
        -------
        tensor of shape (b, 3, r, r, c)
        """
        latent = self.start(len(parts[0]) if parts else 1)
        found = latent.new_zeros(len(latent), max(self.components, default=0))
        for scale, vectors in enumerate(parts):
            vectors = functional.pad(vectors, (0, 0, 0, self.scales[scale] - vectors.shape[1]))
            if scale < len(self.components):  # in one product for all scales: they share their components
                known = vectors.flatten(1) * self.log_spread[scale].exp()
                found = found + functional.pad(known, (0, found.shape[1] - known.shape[1]))
            else:
                latent = latent + self.expand(vectors, scale)
        return latent + self._compose(found) if self.components else latent

    def from_vectors(self, vectors: Float[Tensor, "b k c"]) -> Float[Tensor, "b p r r c"]:
        """Latent grid of the vectors of the first tokens, scale after scale.

        Parameters
        ----------
        vectors : tensor of shape (b, k, c)

        Returns
        -------
        tensor of shape (b, 3, r, r, c)
        """
        ends = itertools.accumulate(self.scales)
        return self.assemble(vectors.tensor_split([end for end in ends if end < vectors.shape[1]], dim=1))

    @torch.no_grad()
    def nearest(self, vectors: Float[Tensor, "m c"], cost: Float[Tensor, "#m v"] | None = None) -> Int[Tensor, " m"]:
        """Index of the nearest code in float32; ties go to the lowest index.

        Parameters
        ----------
        vectors : tensor of shape (m, c)
        cost : tensor of shape (m or 1, v), optional
            Added to half the squared distance (entropy-constrained vector quantisation, Chou, Lookabaugh & Gray 1989).

        Returns
        -------
        int tensor of shape (m,)
        """
        codes = self.codebook.float()
        scores = torch.addmm(codes.square().sum(1) / 2, vectors.float(), codes.T, alpha=-1)
        return (scores if cost is None else scores + cost).argmin(-1)

    @torch.no_grad()
    def weights(self) -> Float[Tensor, " n"]:
        """Squared error in the latent, per unit of squared error in a token's vector, for each token.

        Returns
        -------
        tensor of shape (n,)
        """
        parts = [(2 * spread).exp().view(-1, self.channels).mean(1) for spread in self.log_spread]
        for side, gain in zip(self.sides, self.log_gain, strict=True):
            parts.append(((self.grid / side) ** 2 * (2 * gain).exp()).expand(3 * side * side))
        return torch.cat(parts)

    def forward(
        self,
        latent: Float[Tensor, "b p r r c"],
        kept: Int[Tensor, " b"] | None = None,
        price: Float[Tensor, " b"] | None = None,
        bits: Sequence[Float[Tensor, "_ v"]] | None = None,
        given: Int[Tensor, "b k"] | None = None,
        scales: int | None = None,
    ) -> Quantized:
        """Quantise `latent`.

        Parameters
        ----------
        latent : tensor of shape (b, 3, r, r, c)
        kept : tensor of shape (b,), optional
            Each sample has its first so many tokens only; all, if not given.
        price : tensor of shape (b,), optional
            Half the squared error in the latent that a bit is worth; with `bits`.
        bits : list of tensors of shape (k or 1, v), optional
            For each scale what a code costs, for each token or for all.
        given : tensor of shape (b, k), optional
            Ids of the first scales, which stay.
        scales : int, optional
            Only the first so many scales; all, if not given, though no sample may keep tokens of the last ones: so
            every parameter has a gradient, and shapes do not depend on the samples.

        Returns
        -------
        Quantized
        """
        weights, wide = self.weights(), latent.detach()
        total, losses, ids, inputs, start = self.start(len(latent)), [], [], [], 0
        for scale, count in enumerate(self.scales[:scales]):
            wanted = self.reduce(wide - total.detach(), scale).detach()
            cost = None
            if price is not None and bits is not None:
                worth = price[:, None] / weights[start : start + count]
                cost = (bits[scale].expand(count, -1) * worth[..., None]).flatten(0, 1)
            if given is not None and start + count <= given.shape[1]:
                chosen = given[:, start : start + count]
            else:
                chosen = self.nearest(wanted.flatten(0, 1), cost).view(wanted.shape[:2])
            vectors = self.codebook[chosen]
            if kept is not None:
                present = start + torch.arange(count, device=latent.device) < kept[:, None]
                vectors, chosen = vectors * present[..., None], torch.where(present, chosen, -1)
            total = total + self.expand(vectors, scale)
            losses.append((total - wide).square().flatten(1).mean(1))
            ids.append(chosen)
            inputs.append(wanted)
            start += count
        commitment = (latent - total.detach()).square().flatten(1).mean(1)
        straight = total + latent - wide
        return Quantized(straight, ids, torch.stack([torch.stack(losses).mean(0), commitment]), inputs)

    def dequantize(self, ids: Sequence[Int[Tensor, "b _"]]) -> Float[Tensor, "b p r r c"]:
        """Latent grid of a prefix of tokens; the last scale may hold fewer than its full count.

        Parameters
        ----------
        ids : sequence of int tensors of shape (b, k)

        Returns
        -------
        tensor of shape (b, 3, r, r, c)
        """
        return self.assemble([self.codebook[chosen] for chosen in ids])

    @torch.no_grad()
    def initialise(self, latent: Float[Tensor, "b p r r c"], generator: torch.Generator) -> None:
        """Components and gains from the spread of the residuals of many latents, codes drawn from those residuals.

        Assumes a rate-distortion-like decline: a scale is taken to remove half of the residual's amplitude that it can
        see, which is close enough for gradients to take over. The components stay as they are found here.

        Parameters
        ----------
        latent : tensor of shape (b, 3, r, r, c)
        generator : torch.Generator
        """
        if self.components:
            self.mean.copy_(latent.mean(0))
            centred = to_float64(self.spectrum(latent - self.mean))
            _, axes = torch.linalg.eigh((centred.T @ centred).cpu())  # once a training
            axes = axes.T.flip(0)[: len(self.basis)]
            step = (axes.abs().amax(1) / 127).float()
            self.basis_step.copy_(step)
            self.basis.copy_(torch.round(axes / step[:, None]))
            self._set_axes()
        residual, pools = latent - self.start(len(latent)), []
        for scale, gain in enumerate([*self.log_spread, *self.log_gain]):
            gain.zero_()
            seen = self.reduce(residual, scale)
            spread = (seen.flatten(1).std(0) if gain.dim() else seen.std()).clamp_min(1e-4)
            gain.copy_(spread.log())
            seen = self.reduce(residual, scale)
            pools.append(seen.flatten(0, 1))
            residual = residual - 0.5 * self.expand(seen, scale)
        share = -(-len(self.codebook) // len(pools))
        rows = [torch.randint(len(pool), (share,), generator=generator).to(pool.device) for pool in pools]
        drawn = [pool[chosen] for pool, chosen in zip(pools, rows, strict=True)]
        self.codebook.copy_(torch.cat(drawn)[: len(self.codebook)])

    @torch.no_grad()
    def revive(self, ids: Sequence[Tensor], inputs: Sequence[Tensor], dead: Tensor, generator: torch.Generator) -> None:
        """Put codes that nothing chose for long onto vectors of the current batch, scales drawn evenly.

        Parameters
        ----------
        ids : sequence of int tensors of shape (b, k)
            Of each scale; -1 was dropped.
        inputs : sequence of tensors of shape (b, k, c)
            The vectors that they stand for.
        dead : bool tensor of shape (v,)
        generator : torch.Generator
            Of the CPU.
        """
        wanted = torch.nonzero(dead).flatten()
        pools = [found for part, chosen in zip(inputs, ids, strict=True) if len(found := part[chosen >= 0])]
        if not len(wanted) or not pools:
            return
        scale = torch.randint(len(pools), (len(wanted),), generator=generator).tolist()
        for code, k in zip(wanted.tolist(), scale, strict=True):
            self.codebook[code] = pools[k][torch.randint(len(pools[k]), (1,), generator=generator).item()]
