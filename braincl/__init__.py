"""braincl: linear encoders for the voxels of a new subject, from a model meta-learned on other subjects.

Names are loaded when first used, so that ``import braincl`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setcore.package import lazy_exports

if TYPE_CHECKING:  # for type checkers and editors; the table below is what runs
    from braincl import datasets as datasets
    from braincl import plot as plot
    from braincl.analysis.identify import identify_pictures as identify_pictures
    from braincl.analysis.image_selection import select_images as select_images
    from braincl.analysis.maps import picture_selectivity as picture_selectivity
    from braincl.analysis.maps import voxel_maps as voxel_maps
    from braincl.analysis.maps import write_maps as write_maps
    from braincl.analysis.names import fit_name_map as fit_name_map
    from braincl.analysis.names import top_names as top_names
    from braincl.analysis.partition import partition_variance as partition_variance
    from braincl.analysis.text_query import query_text as query_text
    from braincl.data.arrays import from_arrays as from_arrays
    from braincl.data.nifti import to_nifti as to_nifti
    from braincl.data.nifti import voxel_table as voxel_table
    from braincl.data.responses import average_duplicates as average_duplicates
    from braincl.data.responses import join_embeddings as join_embeddings
    from braincl.data.responses import open_responses as open_responses
    from braincl.data.responses import save_responses as save_responses
    from braincl.data.surfaces import write_surface as write_surface
    from braincl.embedding.embed import embed_images as embed_images
    from braincl.errors import ImageError as ImageError
    from braincl.errors import ModelError as ModelError
    from braincl.errors import ResponseError as ResponseError
    from braincl.estimators.banded_ridge import BandedRidgeCV as BandedRidgeCV
    from braincl.estimators.base import mean_explained_variance as mean_explained_variance
    from braincl.estimators.in_context import InContextEncoder as InContextEncoder
    from braincl.estimators.prior_ensemble import PriorEnsemble as PriorEnsemble
    from braincl.estimators.prior_kernel import PriorKernelRidge as PriorKernelRidge
    from braincl.estimators.prior_ridge import PriorRidge as PriorRidge
    from braincl.estimators.ridge import RidgeCV as RidgeCV
    from braincl.evaluation.scores import evaluate as evaluate
    from braincl.models.published_checkpoint import convert_published as convert_published
    from braincl.training.train import meta_train as meta_train

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "BandedRidgeCV": "braincl.estimators.banded_ridge",
        "ImageError": "braincl.errors",
        "InContextEncoder": "braincl.estimators.in_context",
        "ModelError": "braincl.errors",
        "PriorEnsemble": "braincl.estimators.prior_ensemble",
        "PriorKernelRidge": "braincl.estimators.prior_kernel",
        "PriorRidge": "braincl.estimators.prior_ridge",
        "ResponseError": "braincl.errors",
        "RidgeCV": "braincl.estimators.ridge",
        "average_duplicates": "braincl.data.responses",
        "convert_published": "braincl.models.published_checkpoint",
        "embed_images": "braincl.embedding.embed",
        "fit_name_map": "braincl.analysis.names",
        "from_arrays": "braincl.data.arrays",
        "evaluate": "braincl.evaluation.scores",
        "identify_pictures": "braincl.analysis.identify",
        "join_embeddings": "braincl.data.responses",
        "mean_explained_variance": "braincl.estimators.base",
        "meta_train": "braincl.training.train",
        "open_responses": "braincl.data.responses",
        "partition_variance": "braincl.analysis.partition",
        "picture_selectivity": "braincl.analysis.maps",
        "query_text": "braincl.analysis.text_query",
        "save_responses": "braincl.data.responses",
        "select_images": "braincl.analysis.image_selection",
        "top_names": "braincl.analysis.names",
        "to_nifti": "braincl.data.nifti",
        "voxel_maps": "braincl.analysis.maps",
        "voxel_table": "braincl.data.nifti",
        "write_maps": "braincl.analysis.maps",
        "write_surface": "braincl.data.surfaces",
    },
    modules=("plot", "datasets"),
)
