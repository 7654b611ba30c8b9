"""braincl: linear encoders for the voxels of a new subject, from a model meta-learned on other subjects.

Names are loaded when first used, so that ``import braincl`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "ImageError": "braincl.errors",
    "InContextEncoder": "braincl.encoder",
    "ModelError": "braincl.errors",
    "PriorRidge": "braincl.prior_ridge",
    "ResponseError": "braincl.errors",
    "RidgeCV": "braincl.ridge",
    "average_duplicates": "braincl.responses",
    "convert_published": "braincl.published",
    "embed_images": "braincl.embed",
    "evaluate": "braincl.evaluation",
    "join_embeddings": "braincl.responses",
    "mean_explained_variance": "braincl.base",
    "meta_train": "braincl.train",
    "open_responses": "braincl.responses",
    "picture_selectivity": "braincl.maps",
    "query_text": "braincl.query",
    "save_responses": "braincl.responses",
    "select_images": "braincl.select",
    "to_nifti": "braincl.nifti",
    "voxel_maps": "braincl.maps",
    "voxel_table": "braincl.nifti",
    "write_maps": "braincl.maps",
    "write_surface": "braincl.maps",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'braincl' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
