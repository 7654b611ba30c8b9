"""Language: what voxels are selective for, asked in words, through CLIP's text tower or a bank of names.

CLIP puts texts and pictures into one space, so that a voxel's weights can be compared with the embedding of a text as
with that of a picture. The bias is left out: it is the same for all texts.

Axes: p prompt, t text, V voxel, E feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from braincl.analysis.names import name_directions
from braincl.data.responses import EMBEDDING_ATTRIBUTES, check_model_backbone
from braincl.data.stores.blocks import VoxelBlocks
from braincl.data.torch_settings import plain_torch
from braincl.embedding.backbones import BACKBONES, Backbone, TextEncoder, find_backbone, load_text_encoder
from braincl.errors import ModelError, ResponseError
from braincl.estimators.base import LinearEncoder
from braincl.estimators.in_blocks import fit_blocks
from setcore.devices import find_device
from setcore.evaluation.bootstrap import bootstrap_mean

TEMPLATES = ("{}",)
SIMILARITIES = ("cosine", "dot")


@plain_torch()
def query_text(
    encoder: LinearEncoder,
    context: xr.Dataset,
    prompts: Sequence[str],
    weights: str | Path | None = None,
    *,
    backbone: str | Backbone | None = None,
    templates: Sequence[str] = TEMPLATES,
    similarity: str = "cosine",
    contrast: bool = False,
    bank: str | None = None,
    map_to_names: bool = False,
) -> xr.Dataset:
    """Fit an encoder to a context and ask what its voxels are selective for.

    Parameters
    ----------
    encoder : InContextEncoder or any other linear encoder
    context : response set with embeddings of a CLIP model
    prompts : sequence of str
        Such as "a photo of a face".
    weights : path or str, optional
        Weights of the whole CLIP model, those that the embeddings were made with; as in `braincl.embed_images`.
    backbone : str or Backbone, optional
        The CLIP model, for embeddings that do not state it.
    templates : sequence of str
        Each holds ``{}`` once, where a prompt goes; see `embed_prompts`.
    similarity : {"cosine", "dot"}
        Of weights and text embedding. The dot product is the predicted response to a picture whose embedding is that
        of the text, but for the bias, in the units of the responses; the cosine tells direction from strength.
    contrast : bool
        Of exactly two prompts: one map, the first minus the second.
    bank : {"names"}, optional
        Take the prompts for names of `setcore.name_bank`, whose text vectors are at hand, in place of a text tower.
    map_to_names : bool
        With a bank: learn from the context's pictures whose names are known where the names lie in its embedding, which
        need not be CLIP's. See `braincl.analysis.names`.

    Returns
    -------
    Dataset
        ``selectivity (prompt, voxel)`` with the coordinate `prompt` and those of the voxels; attributes `similarity`,
        `templates` or `bank` and those of the embedding; of a map `map_names`, `map_explained_variance` and
        `map_two_alternative`, cross-validated. 0 for voxels that are constant in the context.

    Raises
    ------
    ModelError
        The embeddings have no text tower, or come from another model or other weights.
    CheckpointError
        The weights cannot be read.
    ResponseError
        The context, the prompts or the templates cannot be used.

    Examples
    --------
    >>> import json
    >>> from pathlib import Path
    >>> import braincl
    >>> import numpy as np
    >>> import open_clip
    >>> from braincl.embedding.backbones import Backbone
    >>> from setcore.checkpoint import save_tensors
    >>> vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    >>> words = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    >>> tiny = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": words}  # stands in for a CLIP model
    >>> _ = Path("tiny-clip.json").write_text(json.dumps(tiny))
    >>> open_clip.add_model_config("tiny-clip.json")
    >>> save_tensors("clip.safetensors", open_clip.create_model("tiny-clip").state_dict())
    >>> rng = np.random.default_rng(0)
    >>> context = braincl.from_arrays(rng.normal(size=(40, 5)), rng.normal(size=(40, 32)), subject="S1")
    >>> encoder, clip = braincl.InContextEncoder(), Backbone("tiny-clip", "open_clip", "tiny-clip")
    >>> found = braincl.query_text(encoder, context, ["a photo of a face"], "clip.safetensors", backbone=clip)
    >>> found["selectivity"].dims, found["selectivity"].shape
    (('prompt', 'voxel'), (1, 5))
    """
    prompts, templates = list(prompts), list(templates)
    _check_question(prompts, templates, similarity, contrast)
    if bank not in (None, "names") or (bank and weights) or (map_to_names and not bank):
        raise ResponseError("give the weights of a CLIP model or bank='names'; only the latter can be mapped to")
    check_model_backbone(encoder, context=context)
    blocks = VoxelBlocks(context)
    if bank:
        directions, name_map = name_directions(blocks.head, prompts, map_to_names)
        source: dict[str, Any] = {"bank": bank}
        if name_map is not None:
            source |= {"map_names": len(name_map.names), "map_explained_variance": name_map.explained_variance,
                       "map_two_alternative": name_map.two_alternative}  # fmt: skip
            if similarity == "cosine":
                directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    else:
        text = load_text_encoder(_backbone_of(context, backbone), weights)
        _check_same_weights(context, text)
        text.network.to(find_device(encoder.device))
        directions, source = embed_prompts(text, prompts, templates), {"templates": " | ".join(templates)}
    parts = [_text_selectivity(np.asarray(f.coef_), directions, similarity) for _, f in fit_blocks(encoder, blocks)]
    values = np.concatenate(parts, axis=1)
    names = prompts
    if contrast:
        values, names = values[:1] - values[1:], [f"{prompts[0]} - {prompts[1]}"]
    kept = ("subject", *EMBEDDING_ATTRIBUTES, "affine", "grid_shape", "space")
    return xr.Dataset(
        {"selectivity": (("prompt", "voxel"), values.astype(np.float32))},
        coords={
            "prompt": ("prompt", np.array(names)),
            **{name: c for name, c in blocks.head.coords.items() if c.dims == ("voxel",)},
        },
        attrs={name: context.attrs[name] for name in kept if name in context.attrs}
        | {"similarity": similarity, **source},
    )


def embed_prompts(
    text: TextEncoder, prompts: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Float[NDArray[np.float32], "p e"]:
    """Unit-norm embeddings of prompts, each the mean over templates (Radford et al. 2021, section 3.1.4).

    The embedding of each filled-in template is brought to unit norm, they are averaged, and so is the mean.

    Parameters
    ----------
    text : TextEncoder
    prompts : sequence of str
    templates : sequence of str
        Each holds ``{}`` once, where a prompt goes.

    Returns
    -------
    array of shape (p, E)
    """
    rows = []
    with torch.inference_mode():
        for prompt in prompts:
            tokens = text.tokenize([template.replace("{}", prompt) for template in templates])
            tokens = tokens.to(next(text.network.parameters()).device)
            features = torch.nn.functional.normalize(text.network.encode_text(tokens).float(), dim=-1)
            rows.append(torch.nn.functional.normalize(features.mean(dim=0), dim=-1))
    return torch.stack(rows).cpu().numpy()


def _text_selectivity(weights: NDArray[Any], directions: NDArray[Any], similarity: str = "cosine") -> NDArray[Any]:
    """Similarity (p, V) of voxel weights (V, E) and unit-norm text embeddings (p, E), 0 where the weights are 0.

    Raises
    ------
    ModelError
        Their widths differ.
    """
    if weights.shape[1] != directions.shape[1]:
        raise ModelError(
            f"the weights have {weights.shape[1]} features, the text embeddings {directions.shape[1]}; the context's "
            "embedding must be that of the CLIP model itself, not a projection of it"
        )
    values = directions @ weights.T
    if similarity == "dot":
        return np.asarray(values)
    norms = np.linalg.norm(weights, axis=1)
    return np.where(norms > 0, values / np.where(norms > 0, norms, 1), 0)


def roi_summary(found: xr.Dataset, seed: int = 0) -> list[dict[str, Any]]:
    """Mean selectivity of each area for each prompt, with its 95 % bootstrap interval over voxels.

    Parameters
    ----------
    found : Dataset
        From `query_text`.
    seed : int
        Of the bootstrap.

    Returns
    -------
    list of dict
        ``roi, prompt, voxels, mean, interval_low, interval_high``; the area is "all" where the voxels have none.
    """
    roi = found["roi"].values if "roi" in found.coords else np.full(found.sizes["voxel"], "all")
    rows = []
    for area in sorted(set(roi.tolist())):
        for prompt, values in zip(found["prompt"].values.tolist(), found["selectivity"].values, strict=True):
            of_area = values[(roi == area) & np.isfinite(values)]  # a voxel beyond the range of numbers has no value
            if not len(of_area):
                continue
            low, high = bootstrap_mean(of_area, seed=seed)
            rows.append({"roi": area, "prompt": prompt, "voxels": len(of_area), "mean": float(of_area.mean()),
                         "interval_low": low, "interval_high": high})  # fmt: skip
    return rows


def _check_same_weights(context: xr.Dataset, text: TextEncoder) -> None:
    """Refuse texts and pictures that were embedded with different weights: their spaces have nothing in common.

    Raises
    ------
    ModelError
    """
    stated = str(context.attrs.get("weights_sha256", ""))
    if stated and stated != text.weights_sha256:
        raise ModelError(
            f"the context was embedded with weights of SHA-256 {stated[:12]}.., the text tower is of "
            f"{text.weights_sha256[:12]}..; give the file that `braincl embed` was given"
        )


def _backbone_of(context: xr.Dataset, given: str | Backbone | None) -> Backbone:
    stated = str(context.attrs.get("backbone", ""))
    name = given.name if isinstance(given, Backbone) else given
    if name and stated and name != stated:
        raise ModelError(
            f"the context's embedding has backbone {stated!r}, the text tower is that of {name!r}; use the same model "
            "for both"
        )
    if isinstance(given, Backbone):
        return given
    if name:
        return find_backbone(name)
    if not stated:
        raise ModelError("the context does not state its backbone; name the CLIP model of its embedding (--backbone)")
    if stated not in BACKBONES:
        raise ModelError(
            f"the context's embedding has backbone {stated[:60]!r}, which has no text tower that is known here; embed "
            "the pictures with a CLIP model (`braincl embed --backbone clip-vit-b-32`)"
        )
    return BACKBONES[stated]


def _check_question(prompts: list[str], templates: list[str], similarity: str, contrast: bool) -> None:
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ResponseError('a prompt is empty; ask for something, such as "a photo of a face"')
    if contrast and len(prompts) != 2:
        raise ResponseError(f"a contrast is of exactly 2 prompts, the first minus the second; there are {len(prompts)}")
    if not templates or not all(template.count("{}") == 1 for template in templates):
        raise ResponseError("each template must hold {} once, where the prompt goes, such as 'a photo of {}'")
    if similarity not in SIMILARITIES:
        raise ResponseError(f"similarity is {similarity!r}; it must be one of {', '.join(SIMILARITIES)}")
