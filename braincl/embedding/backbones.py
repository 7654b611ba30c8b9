"""Image encoders by name: real architectures of open_clip, timm and torchvision, filled from a file of weights.

The libraries are imported when an encoder is built, never before.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from braincl.errors import ModelError
from setcore.checkpoint import load_state, read_foreign_tensors
from setcore.errors import CheckpointError

HUB = "hf-hub:"


@dataclass(frozen=True)
class Backbone:
    """An image encoder: whose architecture it is and where its published weights lie.

    Parameters
    ----------
    name : str
        As users give it.
    library : str
        Which package builds the network: ``open_clip``, ``timm`` or ``torchvision``.
    model : str
        The architecture's name in that library.
    tag : str, optional
        open_clip's pretrained configuration, from which the preprocessing comes, or the maps that are taken of a
        network of torchvision.
    hub : str, optional
        Repository of the published weights.
    file : str, optional
        Their name in it.
    """

    name: str
    library: str
    model: str
    tag: str = ""
    hub: str = ""
    file: str = ""


_OPEN_CLIP_FILE, _TIMM_FILE = "open_clip_model.safetensors", "model.safetensors"
BACKBONES = {
    backbone.name: backbone
    for backbone in (
        # OpenAI's weights were trained with QuickGELU; tensors do not tell it, so those of LAION have their own names.
        Backbone("clip-vit-b-32", "open_clip", "ViT-B-32-quickgelu", "openai",
                 "timm/vit_base_patch32_clip_224.openai", _OPEN_CLIP_FILE),
        Backbone("clip-vit-b-16", "open_clip", "ViT-B-16-quickgelu", "openai",
                 "timm/vit_base_patch16_clip_224.openai", _OPEN_CLIP_FILE),
        Backbone("clip-vit-b-32-laion2b", "open_clip", "ViT-B-32", "laion2b_s34b_b79k",
                 "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", _OPEN_CLIP_FILE),
        Backbone("clip-vit-b-16-laion2b", "open_clip", "ViT-B-16", "laion2b_s34b_b88k",
                 "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", _OPEN_CLIP_FILE),
        Backbone("siglip-so400m-14", "open_clip", "ViT-SO400M-14-SigLIP", "webli",
                 "timm/ViT-SO400M-14-SigLIP", _OPEN_CLIP_FILE),
        Backbone("siglip-so400m-14-384", "open_clip", "ViT-SO400M-14-SigLIP-384", "webli",
                 "timm/ViT-SO400M-14-SigLIP-384", _OPEN_CLIP_FILE),
        Backbone("dinov2-vit-b-14", "timm", "vit_base_patch14_dinov2.lvd142m", "",
                 "timm/vit_base_patch14_dinov2.lvd142m", _TIMM_FILE),
        Backbone("mobilenet_v2", "torchvision", "mobilenet_v2"),
        Backbone("mobilenet_v2-two-maps", "torchvision", "mobilenet_v2", "two maps"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class TextEncoder:
    """A loaded CLIP model that turns words into features.

    Parameters
    ----------
    backbone : Backbone
    network : Module
        Its `encode_text` turns tokens (t, length) into features (t, feature).
    tokenize : callable
        Turns a list of texts into tokens (t, length).
    weights_sha256 : str
        Of the file of weights.
    """

    backbone: Backbone
    network: Any
    tokenize: Callable[[list[str]], Tensor]
    weights_sha256: str


@dataclass(frozen=True)
class ImageEncoder:
    """A loaded backbone.

    Parameters
    ----------
    backbone : Backbone
    network : Module
        Turns pictures (b, 3, height, width) into features (b, feature).
    prepare : callable
        Turns an RGB picture of PIL into one of the network's inputs (3, height, width).
    preprocessing : str
        JSON that says what `prepare` does.
    weights_sha256 : str
        Of the file of weights.
    """

    backbone: Backbone
    network: nn.Module
    prepare: Callable[[Any], Tensor]
    preprocessing: str
    weights_sha256: str


def find_backbone(name: str) -> Backbone:
    """An image encoder by its name.

    Parameters
    ----------
    name : str
        A key of `BACKBONES`.

    Returns
    -------
    Backbone

    Raises
    ------
    ModelError
        There is none; near matches are listed.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    near = difflib.get_close_matches(name.lower(), BACKBONES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are: {', '.join(BACKBONES)}"
    raise ModelError(f"unknown backbone {name!r}; {hint}")


def load_encoder(backbone: Backbone, weights: str | Path | None = None) -> ImageEncoder:
    """Build a backbone and fill it with weights.

    Parameters
    ----------
    backbone : Backbone
    weights : path or str, optional
        A file of tensors (safetensors, or .pt, .pth, .bin read with ``weights_only=True``), the whole model or its
        image side. ``hf-hub:ORG/NAME``: a repository, fetched once. None: the published weights, from the hub.

    Returns
    -------
    ImageEncoder
        In evaluation mode.

    Raises
    ------
    CheckpointError
        The weights cannot be fetched or read, or are of another architecture; the first tensor that differs is named.
    """
    path = _find_weights(backbone, weights)
    state = read_foreign_tensors(path)
    network, prepare, preprocessing = build(backbone)
    _BUILDERS[backbone.library].fill(network, state, f"{path} for {backbone.name}")
    return ImageEncoder(backbone, network.eval(), prepare, preprocessing, _digest(path))


def load_text_encoder(backbone: Backbone, weights: str | Path | None = None) -> TextEncoder:
    """The text side of a CLIP model, from the same file of weights as its image side.

    Parameters
    ----------
    backbone, weights : as in `load_encoder`; the file must hold the whole model

    Returns
    -------
    TextEncoder
        In evaluation mode.

    Raises
    ------
    ModelError
        The backbone has no text side.
    CheckpointError
        The weights or the vocabulary cannot be fetched or read, are of another architecture, or hold no text side.
    """
    if backbone.library != "open_clip":
        named = ", ".join(name for name, other in BACKBONES.items() if other.library == "open_clip")
        raise ModelError(
            f"{backbone.name} has no text tower, so that no text can be compared with its embeddings; embed the "
            f"pictures with one that has: {named}"
        )
    path = _find_weights(backbone, weights)
    state = read_foreign_tensors(path)
    if not any("token_embedding" in name for name in state):
        raise CheckpointError(
            f"{path} holds no text tower of {backbone.name}, only tensors such as {next(iter(state))!r}; give the file "
            "of the whole model"
        )
    network = _open_clip_model(backbone)
    load_state(network, state, f"{path} for {backbone.name}")
    import open_clip

    try:
        tokenize = open_clip.get_tokenizer(backbone.model)
    except Exception as error:  # some vocabularies come from the hub: no network, no such file, no permission
        raise CheckpointError(
            f"the vocabulary of {backbone.name} cannot be fetched ({type(error).__name__}); run once with a network, "
            "the file is kept"
        ) from error
    return TextEncoder(backbone, network.eval(), tokenize, _digest(path))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build(backbone: Backbone) -> tuple[nn.Module, Callable[[Any], Tensor], str]:
    """The architecture of an image encoder and its preprocessing.

    Parameters
    ----------
    backbone : Backbone

    Returns
    -------
    network : nn.Module
        At random weights.
    prepare : callable
        From an RGB picture of PIL to an input of the network, a tensor (3, height, width).
    preprocessing : str
        What `prepare` does, in JSON.
    """
    network, prepare, settings = _BUILDERS[backbone.library].build(backbone)
    return network, prepare, json.dumps(settings, sort_keys=True, default=str)


def load_by_order(network: nn.Module, stored: Mapping[str, Tensor], where: str) -> None:
    """Fill a network with tensors that come in its own order under other names.

    Parameters
    ----------
    network : nn.Module
    stored : mapping of str to tensor
    where : str
        Where the tensors are from, for messages.

    Raises
    ------
    CheckpointError
        Naming the first tensor of another shape.
    """
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {name: tensor for name, tensor in stored.items() if not name.endswith("num_batches_tracked")}
    for (name, mine), (other, theirs) in zip(own.items(), given.items(), strict=False):
        if mine.shape != theirs.shape:
            raise CheckpointError(
                f"{where}: tensor {other!r} has shape {tuple(theirs.shape)}, expected {tuple(mine.shape)} ({name!r}); "
                "the weights are of another architecture"
            )
    if len(own) != len(given):
        first = list(own if len(own) > len(given) else given)[min(len(own), len(given))]
        raise CheckpointError(
            f"{where}: {len(given)} tensors, expected {len(own)}; the first that has no counterpart is {first!r}"
        )
    network.load_state_dict(dict(zip(own, given.values(), strict=True)), strict=False)


def _find_weights(backbone: Backbone, weights: str | Path | None) -> Path:
    if weights is not None and not str(weights).startswith(HUB):
        return Path(weights)
    hub = backbone.hub if weights is None else str(weights).removeprefix(HUB)
    if not hub:
        raise CheckpointError(f"{backbone.name} has no weights on the hub; give a file of weights (--weights FILE)")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub, backbone.file or _OPEN_CLIP_FILE))
    except Exception as error:  # no network, no such repository, no such file, no permission
        raise CheckpointError(
            f"the weights of {backbone.name} cannot be fetched from {HUB}{hub} ({type(error).__name__}); without a "
            "network give a file of weights (--weights FILE)"
        ) from error


class _ImageSide(nn.Module):
    """The image side of a CLIP model under the name that it has in the whole."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.visual(images)
        return features


def _open_clip_model(backbone: Backbone) -> Any:
    """Both sides of the architecture, at random weights."""
    import open_clip

    root, quiet = logging.getLogger(), lambda record: "initialized randomly" not in record.msg
    root.addFilter(quiet)  # true, but the weights come right after
    try:
        return open_clip.create_model(backbone.model, pretrained=None, device=torch.get_default_device())
    finally:
        root.removeFilter(quiet)


class _OpenClip:
    @staticmethod
    def build(backbone: Backbone) -> tuple[nn.Module, Callable[[Any], Tensor], Any]:
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

        published = open_clip.get_pretrained_cfg(backbone.model, backbone.tag) if backbone.tag else {}
        model = _open_clip_model(backbone)
        size = {"size": model.visual.image_size}
        settings = merge_preprocess_dict(merge_preprocess_dict(PreprocessCfg(), published), size)
        return _ImageSide(model.visual), image_transform_v2(PreprocessCfg(**settings), is_train=False), settings

    @staticmethod
    def fill(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
        image_side = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
        load_state(network, image_side or state, where)


class _Timm:
    @staticmethod
    def build(backbone: Backbone) -> tuple[nn.Module, Callable[[Any], Tensor], Any]:
        timm: Any = import_module("timm")
        network = timm.create_model(backbone.model, pretrained=False, num_classes=0)
        settings = timm.data.resolve_model_data_config(network)
        return network, timm.data.create_transform(**settings, is_training=False), settings

    @staticmethod
    def fill(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
        # Classifiers and what only training needs are no part of the features.
        kept = {name: value for name, value in state.items() if not name.startswith(("head.", "mask_token"))}
        load_state(network, kept, where)


class _PooledFeatures(nn.Module):
    """The last feature map of a convolutional network, averaged over positions."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.features(images)
        return maps.mean(dim=(2, 3))


class _TwoMaps(_PooledFeatures):
    """The last feature map averaged over positions, and one from the middle averaged over 4 x 4 areas.

    The middle map keeps where things are: small pictures and visual areas below the top ask for it.
    """

    MIDDLE, SIDE, PIXELS = 13, 4, 112

    def forward(self, images: Tensor) -> Tensor:
        layers = list(self.features.children())
        middle = nn.Sequential(*layers[: self.MIDDLE + 1])(images)
        last = nn.Sequential(*layers[self.MIDDLE + 1 :])(middle)
        areas = nn.functional.adaptive_avg_pool2d(middle, self.SIDE)
        return torch.cat([last.mean(dim=(2, 3)), areas.flatten(1)], dim=1)


class _Torchvision:
    @staticmethod
    def build(backbone: Backbone) -> tuple[nn.Module, Callable[[Any], Tensor], Any]:
        from torchvision.models import get_model, get_model_weights

        published = next(iter(get_model_weights(backbone.model)))  # the first version, that of the paper
        two = backbone.tag == "two maps"
        sizes = {"crop_size": _TwoMaps.PIXELS, "resize_size": _TwoMaps.PIXELS} if two else {}
        prepare = published.transforms(**sizes)
        settings = {name: value for name, value in vars(prepare).items() if not name.startswith("_")}
        settings.pop("training", None)
        network = (_TwoMaps if two else _PooledFeatures)(get_model(backbone.model, weights=None).features)
        return network, prepare, settings

    @staticmethod
    def fill(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
        kept = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
        if kept.keys() == network.state_dict().keys():
            load_state(network, kept, where)
        else:  # copies of these weights are about whose tensors have other names in the same order
            load_by_order(network, kept, where)


_BUILDERS: dict[str, Any] = {"open_clip": _OpenClip, "timm": _Timm, "torchvision": _Torchvision}
