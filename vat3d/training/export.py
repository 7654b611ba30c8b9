"""From a trained network to a model folder that reads and writes token files: half-precision weights, tables, an id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setcore.checkpoint import half_precision, save_model
from setcore.seeding import numpy_generator, torch_generator
from vat3d.bitstream.entropy import fit_tables
from vat3d.bitstream.token_model import TokenModel, model_hash, save_token_model
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.config import CodecConfig
from vat3d.network.quantizer import centre_first
from vat3d.pretrained import DECODING
from vat3d.training.augment import make_batch
from vat3d.training.config import TrainConfig
from vat3d.training.rate import bit_prices, kept_tokens, scale_bits
from vat3d.training.validation import Samples

BUCKETS = 16
PRICED_ROUNDS = 2


def parent_tokens(config: CodecConfig) -> NDArray[np.int64]:
    """For each token the one whose id its table may depend on; -1 for none.

    For a token of principal components that of the same components in the scale before, for new components the token
    before; for a token with a place the token of the scale before that holds its middle, on the same plane.

    Parameters
    ----------
    config : CodecConfig

    Returns
    -------
    int array of shape (n_tokens,)
    """
    parents, start, known = [np.empty(0, dtype=np.int64)], 0, 0
    for count in config.scales[: len(config.components)]:
        token = np.arange(count)
        parents.append(np.where(token < known, start - known + token, start + token - 1))
        start, known = start + count, count
    for k, side in enumerate(config.sides):
        order = centre_first(side).numpy()
        if k == 0:
            parents.append(np.full(len(order), -1))
            continue
        before = config.sides[k - 1]
        plane, cell = np.divmod(order, side * side)
        row, column = (np.floor((part + 0.5) * before / side).astype(int) for part in np.divmod(cell, side))
        rank = np.empty(3 * before * before, dtype=np.int64)
        rank[centre_first(before).numpy()] = np.arange(len(rank))
        parents.append(start + rank[(plane * before + row) * before + column])
        start += 3 * before * before
    return np.concatenate(parents)


def code_buckets(codebook: Tensor, count: int = BUCKETS, rounds: int = 20) -> NDArray[np.int64]:
    """Groups of neighbouring codes (k-means from codes far apart; deterministic).

    Parameters
    ----------
    codebook : tensor of shape (v, c)
    count : int
        Groups.
    rounds : int

    Returns
    -------
    int array of shape (v,)
        The group of each code.
    """
    chosen = [int(codebook.norm(dim=1).argmin())]
    while len(chosen) < min(count, len(codebook)):
        chosen.append(int(torch.cdist(codebook, codebook[chosen]).amin(1).argmax()))
    centres = codebook[chosen].clone()
    group = torch.cdist(codebook, centres).argmin(1)
    for _ in range(rounds):
        for index in range(len(centres)):
            if bool((group == index).any()):
                centres[index] = codebook[group == index].mean(0)
        group = torch.cdist(codebook, centres).argmin(1)
    return group.numpy()


@torch.no_grad()
def encoded_latents(
    network: CodecNetwork, datasets: Sequence[Samples], *, seed: int = 0, count: int = 1024
) -> list[tuple[Tensor, Tensor]]:
    """The encoder's latents of training shapes, deformed as in training.

    Parameters
    ----------
    network : CodecNetwork
    datasets : sequence of Dataset
    seed : int
    count : int
        About so many shapes.

    Returns
    -------
    list of pairs of tensors
        For each batch latents (b, 3, r, r, c) on the network's device, and on the CPU how many tokens its shapes keep
        (b,), prefixes as in training.
    """
    config, found = TrainConfig(batch=16), []
    kept_generator = torch_generator(seed, "tables")
    for number, dataset in enumerate(datasets):
        rng = numpy_generator(seed, "tables", number)
        order = rng.permutation(dataset.split("train"))  # a shape in both halves would make large tables look good
        for step in range(max(1, count // (config.batch * len(datasets)))):
            places = range(step * config.batch, (step + 1) * config.batch)
            generators = [torch_generator(seed, "tables", number, place) for place in places]
            chosen = order.take(places, mode="wrap")
            batch = make_batch(dataset.batch(chosen), config, generators).to(network.device)
            kept = kept_tokens(network.config.scales, config.batch, kept_generator)
            found.append((network.encode(batch.points, batch.normals, batch.box)[0], kept))
    return found


@torch.no_grad()
def priced_ids(network: CodecNetwork, latents: Sequence[tuple[Tensor, Tensor]], *, seed: int = 0) -> NDArray[np.int64]:
    """Ids of latents whose codes are chosen at random prices, as in training, bits being those of the round before.

    Parameters
    ----------
    network : CodecNetwork
    latents : sequence of pairs of tensors
        Of `encoded_latents`.
    seed : int

    Returns
    -------
    int array of shape (shapes, tokens)
        -1 where a token was dropped.
    """
    scales, config, weights = network.config.scales, TrainConfig(), network.quantizer.weights()
    bits: list[Tensor] | None = None
    for _ in range(PRICED_ROUNDS + 1):
        generator, rows = torch_generator(seed, "prices"), []
        for latent, kept in latents:
            present = kept.to(latent.device)
            price = bit_prices(len(kept), config, generator).to(latent.device) * weights[present - 1]
            rows.append(torch.cat(network.quantizer(latent, present, price, bits).ids, dim=1).cpu())
        found = torch.cat(rows)
        shares = [scale_bits(part, network.config.codes) for part in found.split(list(scales), dim=1)]
        bits = [share.to(weights.device) for share in shares]
    return found.numpy()


def write_release(
    folder: str | Path, network: CodecNetwork, ids: NDArray[np.int64], facts: dict[str, Any] | None = None
) -> TokenModel:
    """Write the network (in half precision), its entropy tables and its id into a model folder.

    Parameters
    ----------
    folder : path
        Exists.
    network : CodecNetwork
    ids : array of shape (n_shapes, n_tokens)
        Token ids of training shapes, from which the tables are made; -1 where a shape has no token.
    facts : dict, optional
        Kept in `config.json` beside the config, such as steps and minutes of training; codes in use and perplexity of
        each scale are added.

    Returns
    -------
    TokenModel
    """
    config = network.config
    tables = fit_tables(
        ids, config.scales, config.codes, parent_tokens(config), code_buckets(network.quantizer.codebook.detach().cpu())
    )
    decoding = {name: t.cpu() for name, t in network.state_dict().items() if name.startswith(DECODING)}
    tensors = half_precision(decoding)
    latent = (3, config.grid, config.grid, config.channels)
    token_model = TokenModel(model_hash(tensors, config.scales, tables), config.scales, tables, latent)
    facts = {**(facts or {}), "codes_in_use": [], "perplexity": []}
    for part in np.split(ids, np.cumsum(config.scales)[:-1], axis=1):
        share = np.bincount(part[part >= 0], minlength=config.codes) / max(1, (part >= 0).sum())
        facts["codes_in_use"].append(int((share > 0).sum()))
        facts["perplexity"].append(round(float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())), 1))
    save_model(folder, config, network, half=True, model_id=token_model.model_id, facts=facts)
    save_token_model(folder, token_model)
    return token_model


def export(
    folder: str | Path,
    network: CodecNetwork,
    datasets: Sequence[Samples],
    facts: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    count: int = 1024,
) -> TokenModel:
    """Fit entropy tables on training shapes and write the model folder.

    Parameters
    ----------
    folder : path
        Exists.
    network : CodecNetwork
    datasets : sequence of Dataset
    facts : dict, optional
        Of the training.
    seed : int
    count : int
        About so many shapes.

    Returns
    -------
    TokenModel
    """
    latents = encoded_latents(network, datasets, seed=seed, count=count)
    return write_release(folder, network, priced_ids(network, latents, seed=seed), facts)
