"""braincl: linear encoders for the voxels of a new subject, from a model meta-learned on other subjects.

Names are loaded when first used, so that ``import braincl`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "ImageError": "braincl.errors",
    "InContextEncoder": "braincl.estimators.in_context",
    "ModelError": "braincl.errors",
    "PriorRidge": "braincl.estimators.prior_ridge",
    "ResponseError": "braincl.errors",
    "RidgeCV": "braincl.estimators.ridge",
    "average_duplicates": "braincl.data.responses",
    "convert_published": "braincl.models.per_voxel",
    "embed_images": "braincl.embedding.embed",
    "evaluate": "braincl.evaluation.scores",
    "join_embeddings": "braincl.data.responses",
    "mean_explained_variance": "braincl.estimators.base",
    "meta_train": "braincl.training.train",
    "open_responses": "braincl.data.responses",
    "picture_selectivity": "braincl.analysis.maps",
    "query_text": "braincl.analysis.text_query",
    "save_responses": "braincl.data.responses",
    "select_images": "braincl.analysis.image_selection",
    "to_nifti": "braincl.data.nifti",
    "voxel_maps": "braincl.analysis.maps",
    "voxel_table": "braincl.data.nifti",
    "write_maps": "braincl.analysis.maps",
    "write_surface": "braincl.analysis.maps",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'braincl' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
