"""braincl: linear encoders for the voxels of a new subject, from a model meta-learned on other subjects.

Names are loaded when first used, so that ``import braincl`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "InContextEncoder": "braincl.encoder",
    "ModelError": "braincl.errors",
    "PriorRidge": "braincl.prior",
    "ResponseError": "braincl.errors",
    "RidgeCV": "braincl.ridge",
    "average_duplicates": "braincl.responses",
    "convert_published": "braincl.published",
    "evaluate": "braincl.evaluation",
    "join_embeddings": "braincl.responses",
    "mean_explained_variance": "braincl.base",
    "meta_train": "braincl.train",
    "open_responses": "braincl.responses",
    "save_responses": "braincl.responses",
    "to_nifti": "braincl.nifti",
    "voxel_table": "braincl.nifti",
}
__all__ = list(_EXPORTS)

if TYPE_CHECKING:
    from braincl.base import mean_explained_variance
    from braincl.encoder import InContextEncoder
    from braincl.errors import ModelError, ResponseError
    from braincl.evaluation import evaluate
    from braincl.nifti import to_nifti, voxel_table
    from braincl.prior import PriorRidge
    from braincl.published import convert_published
    from braincl.responses import average_duplicates, join_embeddings, open_responses, save_responses
    from braincl.ridge import RidgeCV
    from braincl.train import meta_train


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'braincl' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
