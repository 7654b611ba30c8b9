"""The pose in which a mesh is encoded, against boxes that were turned by known rotations."""

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from vat3d.bitstream.coordinate_frame import NO_TURN, TURN_LIMIT, turn_rotations
from vat3d.mesh.canonical import canonical_mesh
from vat3d.placement.pose import best_turn, nearest_turn, turned

BOX = trimesh.creation.box((1.0, 0.5, 0.3))
QUARTER_TURNS = Rotation.create_group("O").as_matrix()


def posed(mesh, rotation, scale=1.0, shift=(0.0, 0.0, 0.0)):
    return canonical_mesh(scale * np.asarray(mesh.vertices) @ rotation.T + shift, mesh.faces)


def angle_to_axes(rotation):
    """The least angle in degrees by which a rotation differs from one of 24 by quarter turns."""
    traces = np.einsum("gij,ij->g", QUARTER_TURNS, rotation)
    return np.degrees(np.arccos(np.clip((traces.max() - 1) / 2, -1, 1)))


@pytest.mark.parametrize("seed", range(12))
def test_a_turned_box_is_turned_back(seed):
    rotation = Rotation.random(random_state=seed).as_matrix()
    turn = best_turn(posed(BOX, rotation, 40.0, (3.0, -200.0, 7.0)))
    assert angle_to_axes(turn_rotations(np.array(turn)) @ rotation) < 0.4
    assert max(map(abs, turn)) <= TURN_LIMIT
    back = turned(posed(BOX, rotation), turn)
    half = np.abs(back.vertices).max(0)
    np.testing.assert_allclose(np.sort(half), [0.3, 0.5, 1.0], atol=0.01)


@pytest.mark.parametrize(
    "mesh", [BOX, trimesh.creation.icosphere(3), trimesh.creation.cone(0.4, 1.0), trimesh.creation.icosahedron()]
)
@pytest.mark.parametrize("quarter", [0, 5, 17])
def test_what_stands_along_the_axes_or_gains_little_is_not_turned(mesh, quarter):
    assert best_turn(posed(mesh, QUARTER_TURNS[quarter])) == NO_TURN


def test_the_order_of_vertices_and_faces_and_the_units_change_nothing():
    vertices, faces = (
        np.asarray(BOX.vertices) @ Rotation.from_euler("xyz", (20, 5, -31), degrees=True).as_matrix(),
        BOX.faces,
    )
    order = np.random.default_rng(0).permutation(len(vertices))
    shuffled = np.argsort(order)[faces][::-1]
    turns = [
        best_turn(canonical_mesh(vertices, faces)),
        best_turn(canonical_mesh(vertices[order], shuffled)),
        best_turn(canonical_mesh(1024.0 * vertices, faces)),
    ]
    assert turns[0] != NO_TURN
    assert turns == turns[:1] * 3


def test_many_faces_are_looked_at_by_area():
    """A fine ball that weighs little does not hide how the large faces of a box lie."""
    rotation = Rotation.from_euler("zx", (33, 12), degrees=True).as_matrix()
    ball = trimesh.creation.icosphere(5, 0.05).apply_translation((1.0, 1.0, 1.0))
    turn = best_turn(posed(trimesh.util.concatenate([BOX, ball]), rotation))
    assert angle_to_axes(turn_rotations(np.array(turn)) @ rotation) < 0.4


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_turn_differs_by_quarter_turns_and_less_than_a_step(seed):
    rotation = Rotation.random(random_state=seed).as_matrix()
    turn = nearest_turn(rotation)
    assert max(map(abs, turn)) <= TURN_LIMIT
    assert angle_to_axes(turn_rotations(np.array(turn)) @ rotation.T) < 0.35  # degrees; half a step in three numbers
    assert nearest_turn(QUARTER_TURNS[seed]) == NO_TURN
    small = (seed, -4 * seed, 40)
    assert nearest_turn(turn_rotations(np.array(small))) == small


def test_a_turned_mesh_is_the_same_mesh():
    mesh = posed(BOX, Rotation.from_euler("xyz", (20, 5, -31), degrees=True).as_matrix(), 3.0, (5.0, 6.0, 7.0))
    turn = (30, -100, 7)
    back = turned(mesh, turn)
    rotation = turn_rotations(np.array(turn))
    given = mesh.vertices * mesh.half_side + mesh.centre
    np.testing.assert_allclose((back.vertices * back.half_side + back.centre) @ rotation, given, atol=1e-12)
    np.testing.assert_allclose(np.abs(back.vertices).max(), 1)
    np.testing.assert_allclose(back.vertices.min(0), -back.vertices.max(0))
    assert turned(mesh, NO_TURN) is mesh
