"""New shapes: token streams that a transformer draws by name, by words, from pictures, or from a coarse shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from setcore.checkpoint import CONFIG_FILE, WEIGHTS_FILE, build_network, load_config, load_tensors
from setcore.errors import InputError
from setcore.files import read_json
from setcore.model_lookup import find_model_folder
from vat3d.bitstream.coordinate_frame import Frame
from vat3d.bitstream.header import LEVELS
from vat3d.bitstream.stream import TokenStream
from vat3d.bitstream.token_model import WEIGHTS_FOLDER, embedded_models
from vat3d.codec.decode import StreamDecoder
from vat3d.errors import CodecError
from vat3d.generation.boxes import box_class, class_box
from vat3d.generation.draw import DrawOptions, draw_shapes
from vat3d.generation.network import TEXT_WIDTH, Condition, GeneratorConfig, TokenTransformer
from vat3d.mesh.triangles import face_components
from vat3d.placement.mirrored_view import MirroredView
from vat3d.tokenizer import MeshTokenizer

if TYPE_CHECKING:
    from vat3d.generation.picture_encoder import Picture

T = TypeVar("T")
DEFAULT_GENERATOR = "generator"
CELLS, TRIED = 64, LEVELS[::2]
"""Of the grid on which the parts of a sample are counted, and levels at which they are."""
LACKING = 0.1
"""What the largest part of a sample lacks of its box, in shares of the longest side, is as bad as another part for each
of these: what is thin breaks, or is gone at a low level."""
ROWS = 64
"""Draws at once, for memory."""
ATTEMPTS = 4
"""At a draw in one piece: with one a third of the samples are in pieces, with four an eighth."""


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
    """What a generator is: its tokenizer, size, names and what is known of its training.

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
    network, facts = load_generator(path_or_name)
    config = network.config
    return {
        "model": config.codec,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "scales": list(config.tokens),
        "codes": config.codes,
        "categories": list(config.names),
        **facts,
    }


def load_generator(path_or_name: str | Path | None) -> tuple[TokenTransformer, dict[str, Any]]:
    """The network of a generator, and what is known of its training.

    Parameters
    ----------
    path_or_name : path or str, optional
        A folder, or (None) the embedded one.

    Returns
    -------
    TokenTransformer
    dict

    Raises
    ------
    CodecError, CheckpointError
        There is no such generator, or its folder is damaged.
    """
    embedded = {DEFAULT_GENERATOR: WEIGHTS_FOLDER / DEFAULT_GENERATOR}
    folder = find_model_folder(path_or_name, embedded, DEFAULT_GENERATOR, CodecError)
    config, extra = load_config(folder, GeneratorConfig)
    path = folder / WEIGHTS_FILE
    return build_network(lambda: TokenTransformer(config), load_tensors(path), str(path)), extra.get("facts", {})


class MeshGenerator:
    """Draws token streams of new shapes; `tokenizer.decode` makes meshes of them.

    Parameters
    ----------
    network : TokenTransformer
        Frozen.
    tokenizer : MeshTokenizer
        The one whose ids the network was trained on. The generator computes where it does.

    Examples
    --------
    >>> from vat3d import MeshGenerator
    >>> generator = MeshGenerator.from_pretrained()
    >>> "chair" in generator.categories
    True
    >>> stream = generator.sample(category="chair", seed=0)[0]
    >>> generator.tokenizer.decode(stream, resolution=32).is_watertight
    True
    """

    def __init__(self, network: TokenTransformer, tokenizer: MeshTokenizer) -> None:
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
        network, _ = load_generator(path_or_name)
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
        return self.network.config.names

    def sample(
        self,
        count: int = 1,
        category: str | None = None,
        *,
        text: str | NDArray[np.floating] | None = None,
        image: Picture | Sequence[Picture] = (),
        seed: int = 0,
        options: DrawOptions | None = None,
        best_of: int = 1,
        clip: str | Path | None = None,
        coarse: TokenStream | bytes | str | Path | None = None,
        scales: int = 2,
    ) -> list[TokenStream]:
        """Draw new shapes, asked for by a name, by words, by pictures, or by nothing.

        Parameters
        ----------
        count : int
        category : str, optional
            One of `categories`.
        text : str or array of shape (512,), optional
            Words, see `vat3d.generation.conditions.ask_words`, or a text vector of CLIP ViT-B/32, as a mean of two.
        image : path, uint8 array of shape (h, w, 3), or sequence of these
            Pictures of one object, see `vat3d.generation.picture_encoder.read_pictures`. Where neither a category nor a
            text is given, the name that they are taken for is asked for as well.
        seed : int
            Same seed and machine: same shapes. The first of several is the one that is drawn alone.
        options : DrawOptions, optional
        best_of : int
            Draw so many of each and keep the one that the network finds likeliest. What comes out in pieces is drawn
            anew, up to `ATTEMPTS` times in all, and the most whole one is kept.
        clip : path, optional
            A checkpoint of CLIP ViT-B/32, for words.
        coarse, scales : TokenStream, bytes or path, and int
            As in `complete`.

        Returns
        -------
        list of TokenStream
            The report of each says how the request was understood (`asked`), the mean logarithm of its tokens'
            probabilities (`likelihood`), and what may be better about the pictures (`hints`).

        Raises
        ------
        InputError
            The category is unknown, or the words are, or both are given; a picture is none, or shows no object, or the
            generator was trained without pictures; a number is out of range; or the coarse shape has fewer whole
            scales, or none would be drawn.
        CodecError
            The coarse shape is of another model.
        """
        options = options or DrawOptions()
        options.check()
        if count < 1 or best_of < 1:
            raise InputError(f"count is {count} and best_of {best_of}; they are at least 1")
        asked, report = self._ask(category, text, image, clip)
        stream = None if coarse is None else self._opened(coarse, scales)
        shapes, draws = range(count), range(best_of)
        seeds = [(seed, shape, draw, attempt) for shape in shapes for draw in draws for attempt in range(ATTEMPTS)]
        streams: list[TokenStream] = []
        for first in range(0, len(seeds), ROWS):
            streams += self._draw(asked, seeds[first : first + ROWS], options, report, stream, scales)
        starts = range(0, len(streams), ATTEMPTS)
        kept = iter([_most_whole(map(self._at_level, streams[first : first + ATTEMPTS]))[1] for first in starts])
        return [max(islice(kept, best_of), key=lambda each: each.report["likelihood"]) for _ in shapes]

    def complete(
        self, stream: TokenStream | bytes | str | Path, scales: int, count: int = 1, **request: Any
    ) -> list[TokenStream]:
        """Draw the finer scales of a coarse shape: several shapes that share its first tokens.

        The generator knows shapes that stand along +y and face +z: encode them so.

        Parameters
        ----------
        stream : TokenStream, bytes or path
        scales : int
            Scales that are kept.
        count, **request
            As in `sample`, which raises the same errors.

        Returns
        -------
        list of TokenStream
        """
        return self.sample(count, coarse=stream, scales=scales, **request)

    def _opened(self, coarse: TokenStream | bytes | str | Path, scales: int) -> TokenStream:
        """The stream of a coarse shape, of which so many scales can be kept."""
        stream, sizes = self.tokenizer.open(coarse), self.network.config.tokens
        if stream.model_id != self.tokenizer.model.model_id:
            raise CodecError(
                f"the stream is of model {stream.model_id}, the generator draws tokens of model "
                f"{self.tokenizer.model.model_id}; encode the shape with that one"
            )
        whole = sum(len(part) == size for part, size in zip(stream.tokens, sizes, strict=False))
        if not 1 <= scales < len(sizes) or scales > whole:
            raise InputError(
                f"scales is {scales}; of this stream 1 to {min(whole, len(sizes) - 1)} can be kept: it has {whole} "
                f"whole ones, and the generator draws {len(sizes)}"
            )
        return stream

    def _ask(
        self,
        category: str | None,
        text: str | NDArray[np.floating] | None,
        image: Picture | Sequence[Picture],
        clip: str | Path | None,
    ) -> tuple[Condition, dict[str, Any]]:
        """What is asked for, and the report of how it was understood."""
        if category is not None and text is not None:
            raise InputError("give a category or a text, not both")
        device, names = self.tokenizer.device, self.categories
        number, vector, pictures = 0, np.zeros(TEXT_WIDTH, np.float32), None
        said: list[str] = []
        hints: list[str] = []
        if category is not None or text is not None:
            from vat3d.generation.conditions import ask_name, ask_vector, ask_words

            if category is not None:
                asked = ask_name(category, names)
            else:
                asked = ask_words(text, names, clip) if isinstance(text, str) else ask_vector(text)
            number, vector = 1 + names.index(asked.name) if asked.name else 0, asked.vector
            said.append(asked.said)
        if paths := [image] if isinstance(image, str | Path | np.ndarray) else list(image):
            from vat3d.generation.conditions import name_vectors
            from vat3d.generation.picture_encoder import load_picture_encoder, read_pictures

            if not self.network.config.picture:
                raise InputError("this generator was trained without pictures; ask it by category or text")
            seen, hints = read_pictures(paths)
            pictures = load_picture_encoder()(torch.from_numpy(seen)).flatten(0, 1)[None].to(device)
            taken = ""
            if not said and (number := self.network.recognised(pictures)):
                vector, taken = name_vectors([names[number - 1]])[0], f", taken for {names[number - 1]!r}"
            said.append(f"{len(paths)} picture{'s' * (len(paths) > 1)}{taken}")
        words = torch.from_numpy(np.array(vector))[None].to(device)
        report = {"asked": " and ".join(said) or "anything", "hints": hints}
        return Condition(torch.tensor([number]).to(device), words, pictures, empty=not said), report

    def _draw(
        self, asked: Condition, seeds: Sequence[tuple[int, ...]], options: DrawOptions, report: dict[str, Any],
        coarse: TokenStream | None, scales: int,
    ) -> list[TokenStream]:  # fmt: skip
        """Streams, without levels, of shapes that share a condition and, where one is given, the coarse scales."""
        device, total, box, known = self.tokenizer.device, len(seeds), None, []
        if coarse is not None:
            known = [torch.from_numpy(part).to(device).expand(total, -1) for part in coarse.tokens[:scales]]
            box = torch.from_numpy(box_class(coarse.frame.aspect[None])).to(device).expand(total)
        quantizer = self.tokenizer.network.quantizer
        drawn = draw_shapes(self.network, quantizer, asked.expand(total), seeds, options, box, known)
        found, model = [part.cpu().numpy() for part in drawn.ids], self.tokenizer.model
        halves = map(class_box, drawn.box.tolist())
        frames = [coarse.frame if coarse is not None else Frame.from_corners(-half, half) for half in halves]
        return [
            TokenStream([part[row] for part in found], frame, model, {**report, "likelihood": float(likelihood)})
            for row, (frame, likelihood) in enumerate(zip(frames, drawn.likelihood.tolist(), strict=True))
        ]

    def _at_level(self, stream: TokenStream) -> tuple[float, TokenStream]:
        """How far a sample is from whole, and the sample at the level at which it is so."""
        decoder = StreamDecoder(self.tokenizer.network, MirroredView(stream.frame))
        field = decoder.field(stream)

        def faults(level: int) -> float:
            vertices, faces = decoder.surface(field, level, CELLS)
            parts, sides = face_components(faces, len(vertices)), 2 * stream.frame.aspect
            largest = vertices[faces[parts == np.bincount(parts).argmax()]].reshape(-1, 3)
            lacks = (sides - np.ptp(largest, axis=0)).max() / sides.max()
            return float(parts.max() + max(0, lacks) / LACKING)

        least, level = _most_whole((faults(level), level) for level in TRIED)
        return least, replace(stream, levels=(level,) * len(stream.ids))


def _most_whole(found: Iterable[tuple[float, T]]) -> tuple[float, T]:
    """The first of some things with their faults that is whole (below 1), or else the one with the least; none after a
    whole one is looked at."""
    seen: list[tuple[float, T]] = []
    for each in found:
        seen.append(each)
        if each[0] < 1:
            break
    return min(seen, key=itemgetter(0))
