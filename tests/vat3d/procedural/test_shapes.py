"""Procedural shapes: closed, outward, reproducible, varied; parts against their analytic volumes."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from manifold3d import CrossSection
from toy_shapes import volume_fraction

from setcore.seeding import numpy_generator
from vat3d.errors import MeshError
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.solid import Solid
from vat3d.mesh.triangles import signed_volumes
from vat3d.procedural import furniture
from vat3d.procedural.notes import NotingRng
from vat3d.procedural.parts import (
    Blend,
    ball,
    box,
    cross_section,
    lathe,
    limb,
    plate,
    ring,
    rod,
    rotation,
    superquadric,
    tube,
)
from vat3d.procedural.shapes import ASKED_FOR, FAMILIES, SILENT, deform, shape, shape_notes


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    return float(signed_volumes(vertices, faces, np.zeros(len(faces), np.int64))[0])


@pytest.mark.parametrize("family", sorted(FAMILIES | ASKED_FOR))
def test_every_family_is_closed_and_outward(family):
    vertices, faces, name = shape(11, family)
    assert name == family
    mesh = canonical_mesh(vertices, faces)
    assert Solid(mesh).report["closed"]
    assert mesh.report["open_edges"] <= 0.001 * mesh.report["faces"]
    assert volume(mesh.vertices, mesh.faces) > 0
    assert 0.001 < volume_fraction(Solid(mesh)) < 0.999 or family == "basic"
    assert len(faces) < 60_000


@pytest.mark.parametrize("seed", [0, 1, 6, 15, 27])
def test_slivers_and_wedges_of_a_union_are_no_sheets(seed):
    mesh = canonical_mesh(*shape(seed, "bed")[:2])
    assert Solid(mesh).report["loose_faces"] == 0


def test_seeds_decide_everything():
    first, again = shape(5), shape(5)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert len({shape(seed, "blade")[0].tobytes() for seed in range(8)}) == 8


def test_unknown_family():
    with pytest.raises(MeshError, match="no procedural shape"):
        shape(0, "unicorn")


@pytest.mark.parametrize("seed", range(4))
def test_deformed_solids_stay_solids(seed):
    solid = deform(box((2, 1, 0.5)) + ball((1, 0, 0), 0.4), numpy_generator(seed))
    assert solid.volume() > 0
    assert solid.genus() == 0
    assert len(solid.decompose()) == 1


def test_parts_have_their_volumes():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    for solid, expected in (
        (box((2, 3, 4)), 24),
        (ball((1, 2, 3), (1, 2, 3), 96), 4 / 3 * np.pi * 6),
        (rod((0, 0, 1), (3, 4, 1), 0.5, segments=96), np.pi * 0.25 * 5),
        (limb((0, 0, 0), (0, 2, 0), 0.5, segments=96), np.pi * 0.25 * 2 + np.pi / 6),
        (lathe([(1, 0), (1, 2)], 96), 2 * np.pi),
        (ring(2, 0.5, 96, 96), 2 * np.pi**2 * 2 * 0.25),
        (plate(cross_section(square[::-1]), 3), 3),
        (plate(CrossSection.square((1, 1)), 1, top=0.5), 7 / 12),
        (superquadric((1, 1, 1), 1, 1, 96), 4 / 3 * np.pi),
        (tube(np.linspace([0, 0, 0], [1, 2, 2], 9), 0.3, sides=96), np.pi * 0.09 * 3),
    ):
        np.testing.assert_allclose(solid.volume(), expected, rtol=0.005)
    assert box((2, 1, 1), bevel=0.1).volume() < 2


def test_a_closed_tube_is_a_torus():
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    path = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    torus = tube(path, 0.2, closed=True, sides=48)
    np.testing.assert_allclose(torus.volume(), 2 * np.pi**2 * 0.04, rtol=0.005)
    assert torus.genus() == 1


def test_blends_melt_and_mirror():
    body = Blend(0.02)
    body.blob((0, 0.5, 0), (0.3, 0.2, 0.1), rotation("z", 30))
    np.testing.assert_allclose(body.solid().volume(), 4 / 3 * np.pi * 0.006, rtol=0.03)
    body.mirror()
    body.bone((0, -0.5, 0), (0, 0.5, 0), 0.08)
    solid = body.solid()
    assert solid.genus() == 0
    assert len(solid.decompose()) == 1
    np.testing.assert_allclose((solid - solid.mirror((0, 1, 0))).volume(), 0, atol=0.02 * solid.volume())


def test_rotations_turn_the_named_axis():
    for k, axis in enumerate("xyz"):
        matrix = rotation(axis, 90)
        np.testing.assert_allclose(matrix @ np.eye(3)[k], np.eye(3)[k], atol=1e-12)
        np.testing.assert_allclose(matrix @ np.eye(3)[(k + 1) % 3], np.eye(3)[(k + 2) % 3], atol=1e-12)


def test_listening_changes_no_shape():
    for family in ("table", "vessel", "gear", "ship", "rocket"):
        alone, heard = (FAMILIES[family][0](rng) for rng in (numpy_generator(5), NotingRng(numpy_generator(5))))
        assert alone.volume() == heard.volume()
        assert alone.bounding_box() == heard.bounding_box()


def test_silent_families_are_those_that_note_nothing():
    silent = {
        family
        for family, (builder, _) in (FAMILIES | ASKED_FOR).items()
        if "note(rng" not in inspect.getsource(builder)
    }
    assert silent == SILENT


def test_tables_say_whether_they_are_round():
    seen = set()
    for seed in range(24):
        rng = NotingRng(numpy_generator(seed))
        low, high = np.reshape(furniture.table(rng).bounding_box(), (2, 3))
        wide, deep, _ = high - low
        assert ("round table" in rng.notes) == (abs(wide - deep) < 1e-3)
        seen.add("round table" in rng.notes)
    assert seen == {True, False}


def test_what_a_seed_shows_is_known_without_its_mesh():
    assert shape_notes(3)[0] == shape(3)[2]
    assert shape_notes(3, "ship")[0] == "ship"
    assert shape_notes(3, "fish") == ("fish",)
