"""braincl: linear encoders for the voxels of a new subject, from a model meta-learned on other subjects.

Names are loaded when first used, so that ``import braincl`` stays quick.
"""

from __future__ import annotations

from setcore.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "ImageError": "braincl.errors",
        "InContextEncoder": "braincl.estimators.in_context",
        "ModelError": "braincl.errors",
        "PriorRidge": "braincl.estimators.prior_ridge",
        "ResponseError": "braincl.errors",
        "RidgeCV": "braincl.estimators.ridge",
        "average_duplicates": "braincl.data.responses",
        "convert_published": "braincl.models.published_checkpoint",
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
        "write_surface": "braincl.data.surfaces",
    },
)
