"""Pictures: shape and place of what is drawn."""

import numpy as np
import pytest
import trimesh
from PIL import Image

from vat3d.errors import MeshError
from vat3d.mesh.render import render_mesh, save_gallery


def test_a_sphere_is_a_disc():
    """The picture's half width is the half diagonal of the box (sqrt 3) with a margin of 5 %."""
    image = render_mesh(trimesh.creation.icosphere(4), size=120)
    drawn = (image < 255).any(2)
    radius = 60 / (np.sqrt(3) * 1.05)
    assert drawn.sum() == pytest.approx(np.pi * (radius + 0.5) ** 2, rel=0.02)
    rows, columns = np.nonzero(drawn)
    assert rows.mean() == pytest.approx(59.5, abs=0.6)
    assert columns.mean() == pytest.approx(59.5, abs=0.6)
    assert image.dtype == np.uint8
    assert image.shape == (120, 120, 3)


def test_the_nearest_surface_wins_and_up_is_up():
    """From the front, a wide plate in front hides the block behind it but for its top."""
    front = trimesh.creation.box((2, 1, 0.1)).apply_translation([0, 0, 1])
    behind = trimesh.creation.box((0.5, 2, 0.1)).apply_translation([0, 0, -1])
    both = trimesh.util.concatenate([front, behind])
    alone = render_mesh(front, 100, 0, 0, box=(both.bounds[0], both.bounds[1]))
    image = render_mesh(both, 100, 0, 0)
    covered = (alone < 255).any(2)
    inner = np.logical_and.reduce([np.roll(covered, (i, j), (0, 1)) for i in (-2, 0, 2) for j in (-2, 0, 2)])
    assert np.abs(image[inner].astype(int) - alone[inner]).max() <= 1
    raised = trimesh.util.concatenate([front, trimesh.creation.box((0.2, 0.2, 0.2)).apply_translation([0, 3, 0])])
    picture = (render_mesh(raised, 100, 0, 0) < 255).any(2)
    assert picture[:50].sum() < picture[50:].sum()


def test_gallery(tmp_path):
    ball, box = trimesh.creation.icosphere(2), trimesh.creation.box()
    path = tmp_path / "gallery.png"
    save_gallery(path, [[ball, box, ball], [box, box, ball]], [["a", "b", "c"], ["d", "e", "f"]], size=40)
    with Image.open(path) as image:
        assert image.size == (120, 2 * (40 + 18))
    save_gallery(path, [[ball, None]], size=50)
    with Image.open(path) as image:
        assert image.size == (100, 50)
        drawn = np.asarray(image).min(2) < 255
        assert drawn[:, :50].any()
        assert not drawn[:, 50:].any()


def test_what_cannot_be_drawn(tmp_path):
    ball = trimesh.creation.icosphere(1)
    with pytest.raises(MeshError):
        render_mesh((np.zeros((3, 3)), np.array([[0, 1, 2]])))
    for rows in ([], [[]], [[ball], [ball, ball]]):
        with pytest.raises(MeshError, match="rows"):
            save_gallery(tmp_path / "x.png", rows)
    assert not list(tmp_path.iterdir())
