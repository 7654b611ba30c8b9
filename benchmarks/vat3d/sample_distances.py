"""The older measure: distances from samples of one surface to samples of the other, for comparison with older tables.

A mesh does not score 1 against itself by it, the less so the larger its surface is.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from setcore.evaluation.mesh_metrics import f_score_of, sample_surface
from vat3d.mesh.compare import Reference


def f_score_of_samples(reference: Reference, vertices: np.ndarray, faces: np.ndarray, threshold: float) -> float:
    """F-score of a mesh in the reference's units, from as many samples of it to those of the reference."""
    first = reference.surface.samples.points
    second = sample_surface((vertices - reference.centre) / reference.half_side, faces, len(first), 1).points
    return f_score_of(cKDTree(first).query(second)[0], cKDTree(second).query(first)[0], threshold)
