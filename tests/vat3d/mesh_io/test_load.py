"""Reading and writing mesh files: round trips, the same arrays as trimesh reads, notes on what is lost."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import trimesh

from vat3d.errors import MeshError
from vat3d.mesh_io.load import load_mesh
from vat3d.mesh_io.save import save_mesh

TORUS = trimesh.creation.torus(1.0, 0.3, 12, 7)
VERTICES, FACES = np.asarray(TORUS.vertices, np.float64), np.asarray(TORUS.faces, np.int64)


def corners(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    return vertices[faces]


@pytest.mark.parametrize("kind", ["obj", "ply", "stl", "glb"])
def test_what_is_written_is_read(tmp_path, kind):
    path = tmp_path / f"torus.{kind}"
    save_mesh(path, VERTICES, FACES)
    vertices, faces, notes = load_mesh(path)
    tolerance = 0 if kind == "obj" else 1e-6
    np.testing.assert_allclose(corners(vertices, faces), corners(VERTICES, FACES), atol=tolerance)
    assert notes == []
    assert (vertices.dtype, faces.dtype) == (np.float64, np.int64)


@pytest.mark.parametrize("options", [{}, {"encoding": "ascii"}])
def test_ply_as_trimesh_writes_it(tmp_path, options):
    path = tmp_path / "torus.ply"
    path.write_bytes(TORUS.export(file_type="ply", **options))
    vertices, faces, _ = load_mesh(path)
    np.testing.assert_allclose(vertices, VERTICES, atol=1e-6)
    np.testing.assert_array_equal(faces, FACES)


@pytest.mark.parametrize("kind", ["off", "obj", "stl", "stl_ascii", "glb"])
def test_other_formats_as_trimesh_writes_them(tmp_path, kind):
    path = tmp_path / f"torus.{kind.split('_')[0]}"
    data = TORUS.export(file_type=kind)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    vertices, faces, _ = load_mesh(str(path))
    np.testing.assert_allclose(corners(vertices, faces), corners(VERTICES, FACES), atol=1e-6)


def test_development_meshes_are_read_as_trimesh_reads_them(shared_data):
    for path in sorted((shared_data / "meshes_dev").glob("*.ply"))[::9]:
        vertices, faces, _ = load_mesh(path)
        mesh = trimesh.load(path, process=False)
        np.testing.assert_array_equal(vertices, mesh.vertices)
        np.testing.assert_array_equal(faces, mesh.faces)


def test_obj_with_polygons_negative_indices_and_texture(tmp_path):
    path = tmp_path / "a.OBJ"
    path.write_text(
        "# comment\nmtllib a.mtl\nv 0 0 0\nv 1 0 0 0.5 0.5 0.5\nv 1 1 0\nv 0 1 0\nvt 0 0\nvn 0 0 1\n"
        "usemtl x\nf 1/1/1 2/1/1 \\\n 3//1 4\nf 1 2\nf -4 -3 -2\n"
    )
    vertices, faces, notes = load_mesh(path)
    assert vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    assert notes == ["materials and texture are dropped", "1 faces of fewer than three corners are dropped"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_binary_ply_with_polygons_of_different_length(tmp_path, order):
    name = {"<": "little", ">": "big"}[order]
    header = (
        f"ply\nformat binary_{name}_endian 1.0\ncomment hello\nelement vertex 5\nproperty double x\nproperty double y\n"
        "property double z\nproperty uchar red\nelement face 2\nproperty list uchar uint vertex_indices\n"
        "property short label\nelement edge 1\nproperty int a\nend_header\n"
    )
    points = np.arange(15).reshape(5, 3) / 7
    body = b"".join(struct.pack(f"{order}3dB", *row, 9) for row in points)
    body += struct.pack(f"{order}B3Ih", 3, 0, 1, 2, -1) + struct.pack(f"{order}B4Ih", 4, 1, 2, 3, 4, 5)
    path = tmp_path / "mixed.ply"
    path.write_bytes(header.encode() + body + struct.pack(f"{order}i", 3))
    vertices, faces, notes = load_mesh(path)
    np.testing.assert_array_equal(vertices, points)
    assert faces.tolist() == [[0, 1, 2], [1, 2, 3], [1, 3, 4]]
    assert notes == ["colours are dropped"]


@pytest.mark.parametrize("head", ["OFF\n4 2 0\n", "OFF 4 2 0\n", "OFF4 2 0\n", "# note\nCOFF\n\n4 2 0 # counts\n"])
def test_off_headers(tmp_path, head):
    path = tmp_path / "a.off"
    path.write_text(head + "0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n3 0 1 2 255 0 0\n")
    vertices, faces, notes = load_mesh(path)
    assert vertices.shape == (4, 3)
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    assert notes == ["colours are dropped"]


def test_glb_instances_are_merged_in_place(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(TORUS, transform=trimesh.transformations.translation_matrix([5, 0, 0]))
    scene.add_geometry(TORUS, transform=trimesh.transformations.scale_matrix(2))
    path = tmp_path / "two.glb"
    path.write_bytes(scene.export(file_type="glb"))
    for source in (path, scene):
        vertices, faces, _ = load_mesh(source)
        assert len(faces) == 2 * len(FACES)
        np.testing.assert_allclose(vertices.max(0)[0], 6.3, atol=1e-5)
        np.testing.assert_allclose(vertices.min(0)[0], -2.6, atol=1e-5)


def test_meshes_from_memory():
    quads = np.array([[0, 1, 2, 3]])
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    vertices, faces, notes = load_mesh((square, quads))
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert (vertices.dtype, notes) == (np.float64, [])
    painted = TORUS.copy()
    painted.visual.vertex_colors = [255, 0, 0, 255]
    assert load_mesh(painted)[2] == ["texture and colours are dropped"]
    np.testing.assert_array_equal(load_mesh(TORUS)[1], FACES)


@pytest.mark.parametrize(
    "source",
    [
        None,
        3,
        np.zeros((3, 3)),
        (np.zeros((3, 2)), FACES),
        (VERTICES, FACES.astype(float)),
        (VERTICES, FACES + len(VERTICES)),
        (VERTICES * np.nan, FACES),
        (VERTICES, FACES[:0]),
        ([[0, 0], [1]], FACES),
        trimesh.Scene(),
    ],
)
def test_unusable_things_from_memory(source):
    with pytest.raises(MeshError):
        load_mesh(source)


def test_far_from_the_origin_stl_is_refused_and_glb_keeps_the_offset_in_its_node(tmp_path):
    far = VERTICES + np.array([5e5, -4.5e6, 100.7])
    with pytest.raises(MeshError, match="so far from the origin"):
        save_mesh(tmp_path / "far.stl", far, FACES)
    save_mesh(tmp_path / "far.glb", far, FACES)
    vertices, faces, _ = load_mesh(tmp_path / "far.glb")
    np.testing.assert_allclose(vertices, far, atol=1e-7)
    np.testing.assert_array_equal(faces, FACES)
    assert trimesh.load_mesh(tmp_path / "far.glb", process=False).is_watertight
    for kind in ("stl", "glb"):
        with pytest.raises(MeshError, match="too large"):
            save_mesh(tmp_path / f"huge.{kind}", VERTICES * 1e300, FACES)
    assert [p.name for p in tmp_path.iterdir()] == ["far.glb"]


def test_no_format_makes_two_vertices_one(tmp_path):
    """Two corners that float32 cannot tell apart at 3,000 times the extent."""
    near = VERTICES.copy()
    near[1] = near[0] + 1e-5
    far = near + 3000
    with pytest.raises(MeshError, match="would tear it"):
        save_mesh(tmp_path / "a.stl", far, FACES)
    for kind in ("obj", "ply", "glb"):
        save_mesh(tmp_path / f"a.{kind}", far, FACES)
        assert len(np.unique(load_mesh(tmp_path / f"a.{kind}")[0], axis=0)) == len(VERTICES)


def test_stl_that_float32_would_open_is_refused(tmp_path):
    """Two tetrahedra with an edge each that float32 makes one: the edge would have four faces."""
    tetra = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    other = tetra * (1, -1, 1) + 1e-12
    two = np.concatenate([tetra, other]) + 1.0, np.concatenate([faces, faces[:, ::-1] + 4])
    with pytest.raises(MeshError, match="would tear it"):
        save_mesh(tmp_path / "two.stl", *two)
    save_mesh(tmp_path / "two.glb", *two)


@pytest.mark.parametrize("kind", ["obj", "ply"])
@pytest.mark.parametrize("scale", [1e-12, 1e12, 1e300])
def test_obj_and_ply_keep_any_coordinates(tmp_path, kind, scale):
    far = (VERTICES + 1e5) * scale
    save_mesh(tmp_path / f"far.{kind}", far, FACES)
    np.testing.assert_array_equal(load_mesh(tmp_path / f"far.{kind}")[0], far)


def test_bad_destinations(tmp_path):
    with pytest.raises(MeshError, match="not written"):
        save_mesh(tmp_path / "a.off", VERTICES, FACES)
    with pytest.raises(ValueError, match="does not exist"):
        save_mesh(tmp_path / "no" / "a.obj", VERTICES, FACES)


def test_ply_is_read_by_trimesh(tmp_path):
    save_mesh(tmp_path / "a.ply", VERTICES + 1e6, FACES)
    mesh = trimesh.load(io.BytesIO((tmp_path / "a.ply").read_bytes()), file_type="ply", process=False)
    np.testing.assert_array_equal(mesh.vertices, VERTICES + 1e6)
