"""New shapes as tokens: a transformer that draws scale after scale, all tokens of a scale at once.

Next-scale prediction (Tian et al., arXiv 2404.02905) over the codec's ids, as in arXiv 2412.02202: the sequence is a
category, the proportions of the box, then the scales, coarse to fine. A token sees the category, the box, all coarser
scales and its own scale; what it is told of the coarser ids is the running reconstruction, reduced to its place.
Axes: b batch, k token, c latent channel, v code, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from setcore.blocks import SelfAttentionBlock
from setcore.checkpoint import CONFIG_FILE, WEIGHTS_FILE, build_network, load_config, load_tensors
from setcore.errors import InputError
from setcore.files import read_json
from setcore.model_lookup import find_model_folder
from setcore.seeding import torch_generator
from vat3d.bitstream.coordinate_frame import Frame
from vat3d.bitstream.stream import TokenStream
from vat3d.bitstream.token_model import WEIGHTS_FOLDER, embedded_models
from vat3d.errors import CodecError
from vat3d.network.blocks import BatchedAttention
from vat3d.network.quantizer import ScaleQuantizer
from vat3d.tokenizer import MeshTokenizer

DEFAULT_GENERATOR = "generator"
BINS, THINNEST = 16, 0.02
"""The two shorter half-extents are told in so many steps of equal ratio, from the longest one down to this share."""
LEVEL = 1
"""At which level samples decode: their thin parts are as little certain as those of a short file."""


@dataclass(frozen=True)
class GeneratorConfig:
    """Architecture, stored with the weights.

    Parameters
    ----------
    codec : str
        Id of the tokenizer whose ids are generated.
    tokens : tuple of int
        Tokens of each of that tokenizer's first scales; these are generated.
    codes, channels : int
        Size of its codebook and length of a code.
    width, heads, hidden, layers : int
    categories : tuple of str
    """

    codec: str
    tokens: tuple[int, ...]
    codes: int = 512
    channels: int = 8
    width: int = 128
    heads: int = 4
    hidden: int = 256
    layers: int = 6
    categories: tuple[str, ...] = ()


def box_class(box: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Numbers of the proportions of boxes: the longest axis, and the steps by which the others are shorter.

    Parameters
    ----------
    box : array of shape (n, 3)
        Half-extents.

    Returns
    -------
    int array of shape (n,)
    """
    ratio = np.clip(box / box.max(1, keepdims=True), THINNEST, 1)
    steps = np.rint(np.log(ratio) / np.log(THINNEST) * (BINS - 1)).astype(np.int64)
    longest = steps.argmin(1)  # the first of those that are as good as the longest
    others = np.stack([np.delete(row, axis) for row, axis in zip(steps, longest, strict=True)])
    return np.asarray((longest * BINS + others[:, 0]) * BINS + others[:, 1])


def class_box(number: int) -> NDArray[np.float64]:
    """The box that a number of `box_class` stands for.

    Parameters
    ----------
    number : int

    Returns
    -------
    array of shape (3,)
        Half-extents, the longest 1.
    """
    number, second = divmod(int(number), BINS)
    longest, first = divmod(number, BINS)
    return np.insert(THINNEST ** (np.array([first, second]) / (BINS - 1)), longest, 1.0)


def running_inputs(quantizer: ScaleQuantizer, ids: Sequence[Int[Tensor, "b _"]], scales: int) -> list[Tensor]:
    """What the tokens of each of the first scales are told of the ids before them.

    The sum of the coarser scales' contributions, reduced to the tokens; zero for the first scale, which has none.

    Parameters
    ----------
    quantizer : ScaleQuantizer
    ids : sequence of int tensors of shape (b, k)
        Of the scales that are known.
    scales : int

    Returns
    -------
    list of tensors of shape (b, k, c)
    """
    parts = [quantizer.codebook[chosen] for chosen in ids]
    batch = len(parts[0]) if parts else 1
    inputs = [quantizer.codebook.new_zeros(batch, quantizer.scales[0], quantizer.channels)]
    for scale in range(1, scales):
        known = quantizer.assemble(parts[:scale]) - quantizer.start(batch)
        inputs.append(quantizer.reduce(known, scale))
    return inputs


class ScaleTransformer(nn.Module):
    """Category, box and running reconstruction to the logits of the box and of every token's id.

    Parameters
    ----------
    config : GeneratorConfig
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width, tokens = config.width, sum(config.tokens)
        self.category = nn.Embedding(len(config.categories) + 1, width)  # 0: any
        self.box = nn.Embedding(3 * BINS * BINS, width)
        self.read = nn.Linear(config.channels, width)
        self.place = nn.Parameter(torch.randn(tokens, width) * 0.5)
        counts = torch.tensor([1, 1, *config.tokens])
        scale = torch.arange(len(counts)).repeat_interleave(counts)
        attention = partial(BatchedAttention, seen=scale[:, None] >= scale)
        self.layers = nn.ModuleList(
            SelfAttentionBlock(width, config.heads, config.hidden, attention=attention) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.to_box = nn.Linear(width, 3 * BINS * BINS)
        self.to_code = nn.Linear(width, config.codes)

    def forward(
        self, category: Int[Tensor, " b"], box: Int[Tensor, " b"], inputs: Sequence[Float[Tensor, "b _ c"]]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b k v"]]:
        """Logits of the box, which see the category alone, and of the ids of those scales that have inputs.

        Parameters
        ----------
        category, box : int tensors of shape (b,)
        inputs : sequence of tensors of shape (b, k, c)
            Of `running_inputs`.

        Returns
        -------
        box : tensor of shape (b, n)
        codes : tensor of shape (b, k, v)
        """
        states = [self.category(category)[:, None], self.box(box)[:, None]]
        if inputs:
            told = torch.cat(list(inputs), dim=1)
            states.append(self.read(told) + self.place[: told.shape[1]])
        tokens = torch.cat(states, dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        return self.to_box(tokens[:, 0]), self.to_code(tokens[:, 2:])


def is_generator(path_or_name: str | Path | None) -> bool:
    """Whether a name is that of a generator, not of a tokenizer.

    Parameters
    ----------
    path_or_name : path or str, optional
        A folder, or the name of an embedded generator.

    Returns
    -------
    bool
        False for None and for what is no model at all.
    """
    if path_or_name is None:
        return False
    if not Path(path_or_name).is_dir():
        return path_or_name == DEFAULT_GENERATOR
    path = Path(path_or_name) / CONFIG_FILE
    values = read_json(path) if path.is_file() else {}
    return isinstance(values, dict) and "codec" in (values.get("config") or {})


def describe_generator(path_or_name: str | Path) -> dict[str, Any]:
    """What a generator is: its tokenizer, size, categories and what is known of its training.

    Parameters
    ----------
    path_or_name : path or str
        A folder, or the name of an embedded generator.

    Returns
    -------
    dict

    Raises
    ------
    CodecError, CheckpointError
        There is no such generator, or its folder is damaged.
    """
    network, facts = _load_generator(path_or_name)
    config = network.config
    return {
        "model": config.codec,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "scales": list(config.tokens),
        "codes": config.codes,
        "categories": list(config.categories),
        **facts,
    }


def _load_generator(path_or_name: str | Path | None) -> tuple[ScaleTransformer, dict[str, Any]]:
    embedded = {DEFAULT_GENERATOR: WEIGHTS_FOLDER / DEFAULT_GENERATOR}
    folder = find_model_folder(path_or_name, embedded, DEFAULT_GENERATOR, CodecError)
    config, extra = load_config(folder, GeneratorConfig)
    path = folder / WEIGHTS_FILE
    return build_network(lambda: ScaleTransformer(config), load_tensors(path), str(path)), extra.get("facts", {})


class MeshGenerator:
    """Draws token streams of new shapes; `tokenizer.decode` makes meshes of them.

    Parameters
    ----------
    network : ScaleTransformer
        Frozen.
    tokenizer : MeshTokenizer
        The one whose ids the network was trained on. The generator computes where it does.

    Examples
    --------
    >>> from vat3d import MeshGenerator
    >>> generator = MeshGenerator.from_pretrained()
    >>> "chair" in generator.categories
    True
    >>> stream = generator.sample(1, "chair", seed=0)[0]
    >>> generator.tokenizer.decode(stream, resolution=32).is_watertight
    True
    """

    def __init__(self, network: ScaleTransformer, tokenizer: MeshTokenizer) -> None:
        if network.config.codec != tokenizer.model.model_id:
            raise CodecError(
                f"the generator draws tokens of model {network.config.codec}, not {tokenizer.model.model_id}; "
                "load that tokenizer"
            )
        self.network = network.to(tokenizer.device)
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls, path_or_name: str | Path | None = None, codec: str | Path | None = None, device: str = "auto"
    ) -> MeshGenerator:
        """A generator with trained weights, and its tokenizer.

        Parameters
        ----------
        path_or_name : path or str, optional
            A model folder, or (None) the embedded generator.
        codec : path or str, optional
            The tokenizer's folder; by default the embedded tokenizer of the id that the generator names.
        device : str
            "cpu", "cuda", "mps", or "auto" for the best there is.

        Returns
        -------
        MeshGenerator

        Raises
        ------
        CheckpointError, CodecError
            There is no such model, its folder is damaged, or it was trained on another tokenizer's tokens.
        InputError
            The device is not there.
        """
        network, _ = _load_generator(path_or_name)
        trained_on = network.config.codec
        if codec is None and trained_on not in embedded_models():
            raise CodecError(
                f"{path_or_name}: the generator draws tokens of model {trained_on}, which is not here; name that "
                "tokenizer's folder, or, if it was made by a version before the first release, train it again"
            )
        return cls(network.requires_grad_(False), MeshTokenizer.from_pretrained(codec or trained_on, device=device))

    @property
    def categories(self) -> tuple[str, ...]:
        """Names that `sample` takes."""
        return self.network.config.categories

    @torch.no_grad()
    def sample(
        self,
        count: int = 1,
        category: str | None = None,
        seed: int = 0,
        *,
        temperature: float = 1.0,
        top_p: float = 0.9,
        guidance: float = 2.0,
    ) -> list[TokenStream]:
        """Draw new shapes.

        Parameters
        ----------
        count : int
        category : str, optional
            One of `categories`; any shape, if not given.
        seed : int
            Same seed, count and machine: same shapes.
        temperature : float
            Of the logits; above 0.
        top_p : float
            Ids are drawn from the most probable ones that together have this share (nucleus sampling).
        guidance : float
            Logits move by this multiple of what the category changes (classifier-free guidance); 1 is none.

        Returns
        -------
        list of TokenStream

        Raises
        ------
        InputError
            The category is unknown, or a number is out of range.
        """
        names, scales = self.categories, len(self.network.config.tokens)
        if category is not None and category not in names:
            raise InputError(f"unknown category {category!r}; choose one of {', '.join(names) or '(none)'}")
        if count < 1 or not temperature > 0 or not 0 < top_p <= 1:
            raise InputError("count must be 1 or more, temperature above 0, and top_p in (0, 1]")
        device = self.tokenizer.device
        wanted = torch.full((count,), 0 if category is None else 1 + names.index(category), device=device)
        generator = torch_generator(seed, "sample", device=device)

        def logits(box: Tensor, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = self.network(wanted, box, inputs)
            if category is None or guidance == 1:
                return found
            free = self.network(torch.zeros_like(wanted), box, inputs)
            guided = [f + guidance * (w - f) for w, f in zip(found, free, strict=True)]
            return guided[0], guided[1]

        def draw(found: Tensor) -> Tensor:
            return draw_nucleus(found / temperature, top_p, generator)

        box = draw(logits(torch.zeros_like(wanted), [])[0])
        ids: list[Tensor] = []
        quantizer = self.tokenizer.network.quantizer
        for scale in range(scales):
            inputs = [part.expand(count, -1, -1) for part in running_inputs(quantizer, ids, scale + 1)]
            found = logits(box, inputs)[1]
            ids.append(draw(found[:, -self.network.config.tokens[scale] :]))
        streams, boxes, drawn = [], box.tolist(), [part.cpu().numpy() for part in ids]
        for row in range(count):
            half = class_box(boxes[row])
            parts = [part[row] for part in drawn]
            frame = Frame.from_corners(-half, half)
            streams.append(TokenStream(parts, frame, self.tokenizer.model, levels=(LEVEL,) * scales))
        return streams


def draw_nucleus(logits: Float[Tensor, "*b v"], top_p: float, generator: torch.Generator) -> Int[Tensor, "*b"]:
    """Draw from the most probable codes that together have a share (Holtzman et al. 2020, arXiv 1904.09751).

    Parameters
    ----------
    logits : tensor of shape (..., v)
    top_p : float
        That share, at least.
    generator : torch.Generator

    Returns
    -------
    int tensor of shape (...)
    """
    shares, order = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True, stable=True)
    before = shares.cumsum(-1) - shares
    kept = torch.where(before < top_p, shares, 0.0)
    picked = torch.multinomial(kept.flatten(0, -2), 1, generator=generator).view(*kept.shape[:-1], 1)
    return order.gather(-1, picked)[..., 0]
