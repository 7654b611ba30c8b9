"""Open procedural shapes: every kind has a rim or a thin wall, and can be sampled; sheets lie where they should."""

from __future__ import annotations

import numpy as np
import pytest
from toy_shapes import volume_fraction

from vat3d.errors import MeshError
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.components import PROBE
from vat3d.mesh.solid import THICKER, Solid
from vat3d.mesh.triangles import face_areas_normals
from vat3d.procedural.open_shapes import KINDS, open_shape, sheet, together, walled


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("seed", range(3))
def test_every_kind_is_open_or_thin(kind, seed):
    vertices, faces, name = open_shape(seed, kind)
    assert name == kind
    solid = Solid(canonical_mesh(vertices, faces))
    if kind == "cut_away":  # what is left may close again, where the cut is small
        assert solid.report["open_components"] or solid.report["holed_components"]
    else:
        assert solid.report["open_components"] or kind == "turned_sheet"
        assert volume_fraction(solid) < 0.35
    points, normals = solid.surface_samples(500)
    distance = np.abs(solid.signed_distance(points))
    assert (distance <= PROBE).mean() > 0.98  # next to a sharp edge, what is thin for a face is not for a point
    assert distance.max() <= THICKER
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)


def test_seeds_decide_everything():
    for first, again in zip(open_shape(5)[:2], open_shape(5)[:2], strict=True):
        np.testing.assert_array_equal(first, again)
    assert len({open_shape(seed, "waving")[0].tobytes() for seed in range(8)}) == 8


def test_unknown_kind():
    with pytest.raises(MeshError, match="no procedural shape"):
        open_shape(0, "unicorn")


def cylinder(radius: float, rows: int, columns: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    z = np.broadcast_to(np.linspace(0, 3, rows)[:, None], (rows, columns))
    return np.stack([radius * np.cos(angle) + 0 * z, radius * np.sin(angle) + 0 * z, z], -1)


def test_sheets_have_their_areas():
    flat = np.stack(np.meshgrid(np.linspace(0, 2, 5), np.linspace(0, 3, 7), [1.0], indexing="ij"), -1)[:, :, 0]
    for (vertices, faces), area in ((sheet(flat), 6), (sheet(cylinder(1, 4, 400), around=True), 6 * np.pi)):
        assert face_areas_normals(vertices, faces)[0].sum() == pytest.approx(area, rel=1e-3)
    both = together([sheet(flat), sheet(cylinder(1, 4, 400), around=True)])
    assert face_areas_normals(*both)[0].sum() == pytest.approx(6 + 6 * np.pi, rel=1e-3)


def test_a_walled_cylinder_is_a_closed_pipe():
    pipe = Solid(canonical_mesh(*sheet(walled(cylinder(2, 4, 300), 0.5), around=True)))
    assert pipe.report["closed"]
    box = 4 * 4 * 3
    assert volume_fraction(pipe, 200_000) == pytest.approx(np.pi * (2**2 - 1.5**2) * 3 / box, rel=0.02)
