"""Shapes on which codecs trip: far small parts, thin rods and plates, double walls, boxes askew."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from setcore.evaluation.mesh_metrics import Surface
from vat3d.bitstream.header import LEVEL_STEP
from vat3d.codec.decode import StreamDecoder
from vat3d.mesh.compare import evaluate
from vat3d.mesh.isosurface import extract_surface
from vat3d.placement.mirrored_view import MirroredView
from vat3d.tokenizer import MeshTokenizer


def cube_and_far_sphere() -> trimesh.Trimesh:
    sphere = trimesh.creation.icosphere(2, 0.02).apply_translation((1.5, 0, 0))
    return trimesh.util.concatenate([trimesh.creation.box((1, 1, 1)), sphere])


def four_tetrahedra() -> trimesh.Trimesh:
    one = trimesh.Trimesh(
        [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)], process=False
    )
    places = ((0, 0, 0), (3, 0, 0), (0, 3, 0), (3, 3, 2))
    return trimesh.util.concatenate([one.copy().apply_translation(place) for place in places])


def double_walled_sphere() -> trimesh.Trimesh:
    inner = trimesh.creation.icosphere(3, 0.8)
    inner.invert()
    return trimesh.util.concatenate([trimesh.creation.icosphere(3, 1.0), inner])


def box_askew() -> trimesh.Trimesh:
    turn = trimesh.transformations.rotation_matrix(np.radians(37), (1, 2, 3))
    return trimesh.creation.box((2, 1, 0.6)).apply_transform(turn)


SHAPES = {
    "cube and far sphere": cube_and_far_sphere(),
    "four tetrahedra": four_tetrahedra(),
    "double-walled sphere": double_walled_sphere(),
    "rod": trimesh.creation.box((500, 1, 1)),
    "box askew": box_askew(),
    "plate": trimesh.creation.box((2, 1.4, 0.01)),
}
LEAST_BYTES = {"four tetrahedra": 512}
"""Fewer bytes say too little of that shape at this effort: at 96 and 256 they are .28 and .13 off."""
CASES = [(name, size) for name in SHAPES for size in (96, 256, 512) if size >= LEAST_BYTES.get(name, 0)]


@pytest.fixture(scope="module")
def tokenizer() -> MeshTokenizer:
    return MeshTokenizer.from_pretrained()


@pytest.mark.parametrize(("name", "max_bytes"), CASES)
def test_no_vertex_is_decoded_far_from_the_surface(tokenizer: MeshTokenizer, name: str, max_bytes: int) -> None:
    given = SHAPES[name]
    stream = tokenizer.encode(given, max_bytes, "fast")
    decoded = tokenizer.decode(stream, 64)
    middle, side = given.bounds.mean(0), np.ptp(given.bounds, axis=0).max() / 2
    surface = Surface((given.vertices - middle) / side, given.faces, 10)
    reach = 0.05 if name == "box askew" else 0.1
    assert surface.nearest((decoded.vertices - middle) / side)[0].max() < reach


@pytest.mark.parametrize("name", SHAPES)
def test_the_hierarchical_surface_is_that_of_the_dense_grid(tokenizer: MeshTokenizer, name: str) -> None:
    stream = tokenizer.encode(SHAPES[name], 128, "fast")
    decoder = StreamDecoder(tokenizer.network, MirroredView(stream.frame))
    field, saturation = decoder.field(stream), 3 * tokenizer.network.config.sharpness
    iso = stream.level * LEVEL_STEP
    hierarchical = extract_surface(field, 64, iso=iso, saturation=saturation)
    dense = extract_surface(field, 64, 64, iso=iso, saturation=saturation)
    np.testing.assert_array_equal(hierarchical[1], dense[1])
    np.testing.assert_allclose(hierarchical[0], dense[0], atol=1e-6)


def test_a_rod_is_closed_and_a_plate_is_kept_on_a_rough_grid(tokenizer: MeshTokenizer) -> None:
    rod = tokenizer.encode(SHAPES["rod"], 128, "fast")
    assert (rod.report["closed"], rod.report["open_components"]) == (True, 0)
    plate = tokenizer.encode(SHAPES["plate"], 256, "fast")
    assert evaluate(SHAPES["plate"], tokenizer.decode(plate, 64))["f_score@0.02"] > 0.98
