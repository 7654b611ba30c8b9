"""glTF as the standard has it: the shape at rest, by hand-made files of a box whose place is known in closed form."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest
import trimesh

from vat3d.errors import MeshError
from vat3d.mesh_io.gltf import read_gltf
from vat3d.mesh_io.load import load_mesh

BOX = trimesh.creation.box((2, 4, 6))
POINTS, FACES = np.asarray(BOX.vertices, np.float64), np.asarray(BOX.faces, np.int64)
KINDS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "f4": 5126}
SHAPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}


class File:
    """A glTF file in the making, whose node 0 draws mesh 0."""

    def __init__(self, *nodes: dict, **more) -> None:
        self.data = b""
        self.tree = {"accessors": [], "bufferViews": [], "meshes": [{"primitives": []}], **more}
        self.tree["nodes"] = list(nodes or [{"mesh": 0}])

    def view(self, data: bytes, **more) -> int:
        self.data += bytes(-len(self.data) % 4)
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data), **more})
        self.data += data
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values, kind: str = "f4", **more) -> int:
        values = np.asarray(values, "<" + kind)
        shape = SHAPES[values.shape[1:]]
        rows = values.swapaxes(1, 2) if values.ndim == 3 else values  # matrices are stored by columns
        more = {"bufferView": self.view(rows.tobytes()), **more}
        self.tree["accessors"].append({"componentType": KINDS[kind], "count": len(values), "type": shape, **more})
        return len(self.tree["accessors"]) - 1

    def part(self, points: int | None = None, faces=FACES, attributes: dict | None = None, **more) -> File:
        position = self.accessor(POINTS) if points is None else points
        part = {"attributes": {"POSITION": position, **(attributes or {})}, **more}
        part |= {} if faces is None else {"indices": self.accessor(np.ravel(faces), "u2")}
        self.tree["meshes"][0]["primitives"].append(part)
        return self

    def glb(self) -> bytes:
        data = self.data + bytes(-len(self.data) % 4)
        text = json.dumps({"buffers": [{"byteLength": len(data)}], **self.tree}).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
        return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def read(file: File) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces, _ = read_gltf(file.glb())
    return vertices, faces


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    return float(np.linalg.det(vertices[faces]).sum() / 6)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2"])
@pytest.mark.parametrize("normalised", [True, False])
def test_quantised_positions(kind, normalised):
    """A normalised integer c stands for c / its largest, and not below -1."""
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    file = File(extensionsRequired=["KHR_mesh_quantization"])
    stored = np.where(POINTS > 0, high, low)
    padded = np.pad(stored, ((0, 0), (0, 1))).astype(kind)  # 4 bytes or 8 a vertex, as the standard asks
    view = file.view(padded.tobytes(), byteStride=4 * padded.itemsize)
    file.tree["accessors"].append({"bufferView": view, "componentType": KINDS[kind], "count": 8, "type": "VEC3"})
    file.tree["accessors"][0]["normalized"] = normalised
    vertices, faces = read(file.part(0))
    lowest = (-1.0 if low else 0.0) if normalised else float(low)
    np.testing.assert_array_equal(vertices, np.where(POINTS > 0, 1.0 if normalised else high, lowest))
    np.testing.assert_array_equal(faces, FACES)


def test_nodes_are_moved_turned_scaled_and_nested():
    quarter = [0, 0, 0.5**0.5, 0.5**0.5]  # about z: x goes to y
    file = File({"children": [1], "translation": [10, 0, 0], "rotation": quarter}, {"mesh": 0, "scale": [1, 2, 3]})
    vertices, faces = read(file.part())
    x, y, z = POINTS.T * [[1], [2], [3]]
    np.testing.assert_allclose(vertices, np.stack([10 - y, x, z], 1), atol=1e-12)
    matrix = np.eye(4)
    matrix[:3, 3] = 1, 2, 3
    vertices, _ = read(File({"mesh": 0, "matrix": matrix.T.ravel().tolist()}).part())
    np.testing.assert_array_equal(vertices, POINTS + np.array([1, 2, 3]))
    assert volume(vertices, faces) == pytest.approx(48)


def test_a_mirrored_node_keeps_its_faces_outward():
    vertices, faces = read(File({"mesh": 0, "scale": [-1, 1, 1], "translation": [5, 0, 0]}).part())
    assert volume(vertices, faces) == pytest.approx(48)


def test_a_skin_places_vertices_by_its_joints_and_the_node_of_the_mesh_does_not_count():
    """Half of the weight of every vertex with the second joint, which is 4 above where it was bound."""
    file = File(
        {"mesh": 0, "skin": 0, "scale": [100, 100, 100]},
        {"children": [2], "translation": [0, 0, 1]},
        {"translation": [0, 0, 5]},
    )
    inverse = np.tile(np.eye(4), (2, 1, 1))
    inverse[0, 2, 3], inverse[1, 2, 3] = -1, -2
    joints, weights = np.tile([0, 1, 0, 0], (8, 1)), np.tile([128, 128, 0, 0], (8, 1))
    attributes = {
        "JOINTS_0": file.accessor(joints, "u1"),
        "WEIGHTS_0": file.accessor(weights, "u1", normalized=True),
    }
    file.tree["skins"] = [{"joints": [1, 2], "inverseBindMatrices": file.accessor(inverse)}]
    vertices, _ = read(file.part(attributes=attributes))
    np.testing.assert_allclose(vertices, POINTS + np.array([0, 0, 2]), atol=1e-6)


def test_instances_are_all_drawn():
    file = File(extensionsRequired=["EXT_mesh_gpu_instancing"])
    at = {
        "TRANSLATION": file.accessor([(0, 0, 0), (20, 0, 0)]),
        "SCALE": file.accessor([(1, 1, 1), (2, 2, -2)]),
    }
    file.tree["nodes"] = [
        {"mesh": 0, "translation": [0, 0, 1], "extensions": {"EXT_mesh_gpu_instancing": {"attributes": at}}}
    ]
    vertices, faces = read(file.part())
    np.testing.assert_allclose(vertices[:8], POINTS + np.array([0, 0, 1]))
    np.testing.assert_allclose(vertices[8:], POINTS * [2, 2, -2] + [20, 0, 1])
    assert volume(vertices, faces) == pytest.approx(48 + 8 * 48)


@pytest.mark.parametrize("own", [True, False])
def test_morph_targets_at_rest(own):
    """A node's own weights go before those of its mesh."""
    file = File({"mesh": 0, "weights": [0.5]} if own else {"mesh": 0})
    targets = [{"POSITION": file.accessor(np.where(POINTS[:, 2:] > 0, (0, 0, 4), 0))}]
    file.part(targets=targets).tree["meshes"][0]["weights"] = [9.0 if own else 0.5]
    np.testing.assert_array_equal(read(file)[0], POINTS + np.where(POINTS[:, 2:] > 0, (0, 0, 2), 0))


def test_strips_fans_and_primitives_without_indices():
    file = File()
    octahedron = np.array([(1, 0, 0), (0, 2, 0), (-1, 0, 0), (0, -2, 0), (0, 0, 3), (0, 0, -3)], float)
    points = file.accessor(octahedron)
    for fan in ([4, 0, 1, 2, 3, 0], [5, 0, 3, 2, 1, 0]):
        file.part(points, fan, mode=6)
    assert volume(*read(file)) == pytest.approx(8)  # 4 abc / 3
    file = File()
    file.part(file.accessor([(0, 0, 0), (0, 2, 0), (1, 0, 0), (0, 0, 3)]), [0, 1, 2, 3, 0, 1], mode=5)
    assert volume(*read(file)) == pytest.approx(1)
    file = File()
    file.part(file.accessor(POINTS[FACES].reshape(-1, 3)), None)
    file.part(mode=1)
    vertices, faces, notes = read_gltf(file.glb())
    assert (volume(vertices, faces), notes) == (pytest.approx(48), ["1 parts of points or lines are dropped"])


def test_sparse_accessors():
    file = File()
    indices, values = file.view(np.array([0, 7], "<u2").tobytes()), file.view(np.full((2, 3), 9, "<f4").tobytes())
    sparse = {"count": 2, "indices": {"bufferView": indices, "componentType": 5123}, "values": {"bufferView": values}}
    expected = POINTS.copy()
    expected[[0, 7]] = 9
    np.testing.assert_array_equal(read(file.part(file.accessor(POINTS, sparse=sparse)))[0], expected)
    file.tree["accessors"][0].pop("bufferView")  # all that is not replaced is zero
    expected[1:7] = 0
    np.testing.assert_array_equal(read(file)[0], expected)
    sparse["indices"]["bufferView"] = file.view(np.array([0, 8], "<u2").tobytes())
    with pytest.raises(MeshError, match="replaces an item that is not there"):
        read(file)


def test_an_extension_that_changes_the_shape_unknown_to_us_is_named():
    for name in ("VENDOR_squashed", "KHR_draco_mesh_compression", "EXT_meshopt_compression"):
        with pytest.raises(MeshError, match=f"needs the extension {name}"):
            read(File(extensionsRequired=[name]).part())
    read(File(extensionsRequired=["KHR_texture_transform", "KHR_materials_unlit"]).part())


def test_a_part_in_an_extension_alone_is_refused_though_the_file_does_not_require_it():
    file = File()
    file.part(file.accessor(POINTS), extensions={"KHR_draco_mesh_compression": {}})
    read(file)  # here the plain data are there, too
    file.tree["accessors"][0].pop("bufferView")
    with pytest.raises(MeshError, match="lies in the extension KHR_draco_mesh_compression"):
        read(file)


def test_primitives_without_positions_are_not_drawn():
    file = File().part()
    file.tree["meshes"][0]["primitives"] += [{"attributes": {}}, {"attributes": {"NORMAL": 0}}]
    np.testing.assert_array_equal(read(file)[0], POINTS)


@pytest.mark.parametrize(
    "uri", ["data:,{plain}", "DATA:application/octet-stream;BASE64,{text}", "./box.bin", "a%20b.bin"]
)
def test_spellings_of_buffers(tmp_path, uri):
    file = File().part()
    for name in ("box.bin", "a%20b.bin"):
        (tmp_path / name).write_bytes(file.data)
    text = base64.encodebytes(file.data).decode()  # with line breaks
    uri = uri.format(plain="".join(f"%{byte:02x}" for byte in file.data), text=text)
    tree = {**file.tree, "buffers": [{"byteLength": len(file.data), "uri": uri}]}
    (tmp_path / "box.gltf").write_text(json.dumps(tree))
    np.testing.assert_array_equal(load_mesh(tmp_path / "box.gltf")[0], POINTS)


def test_gltf_with_its_buffer_beside_it_or_within(tmp_path):
    file = File().part()
    tree = {**file.tree, "buffers": [{"byteLength": len(file.data), "uri": "box%20data.bin"}]}
    path = tmp_path / "box.gltf"
    path.write_text(json.dumps(tree))
    with pytest.raises(MeshError, match="no file beside it"):
        load_mesh(path)
    (tmp_path / "box data.bin").write_bytes(file.data)
    np.testing.assert_array_equal(load_mesh(path)[0], POINTS)
    with pytest.raises(MeshError, match="lies outside"):
        read_gltf(path.read_bytes())
    (tmp_path / "box data.bin").write_bytes(file.data[:-9])
    with pytest.raises(MeshError, match="cut off"):
        load_mesh(path)
    uri = "data:application/octet-stream;base64," + base64.b64encode(file.data).decode()
    path.write_text(json.dumps({**tree, "buffers": [{"byteLength": len(file.data), "uri": uri}]}))
    np.testing.assert_array_equal(load_mesh(path)[0], POINTS)
    path.write_text(json.dumps({**tree, "buffers": [{"byteLength": 9, "uri": "data:;base64,!"}]}))
    with pytest.raises(MeshError, match="no base64"):
        load_mesh(path)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    file = File().part()
    (tmp_path / "secret").write_bytes(file.data)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bin").symlink_to(tmp_path / "secret")
    tree = {**file.tree, "buffers": [{"byteLength": len(file.data), "uri": "a.bin"}]}
    (tmp_path / "in" / "a.gltf").write_text(json.dumps(tree))
    with pytest.raises(MeshError, match="no file beside it"):
        load_mesh(tmp_path / "in" / "a.gltf")
