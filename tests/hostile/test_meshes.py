"""Broken, lying and absurd mesh files: each is one MeshError that names the file, or a valid mesh; never a hang."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vat3d.data.sampling import sample_solid
from vat3d.errors import MeshError
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.solid import Solid
from vat3d.mesh_io.gltf import read_gltf
from vat3d.mesh_io.load import EXTENSIONS, load_mesh

BOX = trimesh.creation.box((2, 1, 0.5))


def exported(kind: str) -> bytes:
    data = BOX.export(file_type=kind)
    return data.encode() if isinstance(data, str) else data


FILES = {kind: exported(kind) for kind in ("ply", "obj", "stl", "off", "glb", "stl_ascii")}
FILES["ply_ascii"] = BOX.export(file_type="ply", encoding="ascii")


def glb(tree: dict, binary: bytes = b"") -> bytes:
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    if binary:
        chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


def refused(tmp_path, name: str, data: bytes) -> str:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(MeshError) as caught:
        load_mesh(path)
    message = str(caught.value)
    assert name in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("kind", EXTENSIONS)
@pytest.mark.parametrize("data", [b"", b"\0", b"\n\n\n", b"hello world", b"\xff" * 300, b"PK\x03\x04" + b"\0" * 40])
def test_files_that_are_no_mesh(tmp_path, kind, data):
    refused(tmp_path, f"a{kind}", data)


def test_a_zip_with_a_mesh_name_is_called_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.obj", "w") as archive:
        archive.writestr("a.obj", FILES["obj"])
    assert "zip archive" in refused(tmp_path, "a.obj", (tmp_path / "a.obj").read_bytes())


def test_names_that_are_not_read(tmp_path):
    for name in ("a.txt", "a.dae", "a", "a.zip", "a.obj.gz"):
        assert "is not read" in refused(tmp_path, name, FILES["obj"])
    (tmp_path / "folder.obj").mkdir()
    for path in (tmp_path / "absent.obj", tmp_path / "folder.obj"):
        with pytest.raises(MeshError):
            load_mesh(path)


def test_files_over_the_limit_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("vat3d.mesh_io.load.MAX_BYTES", 100)
    assert "more than 100" in refused(tmp_path, "a.obj", FILES["obj"])


@pytest.mark.parametrize("kind", ["ply", "ply_ascii", "stl", "stl_ascii", "off", "glb"])
def test_truncated_anywhere(tmp_path, kind):
    data, name = FILES[kind], f"a.{kind.split('_')[0]}"
    whole = len(data.rstrip())
    for end in range(0, whole - 1, max(1, whole // 150)):
        path = tmp_path / name
        path.write_bytes(data[:end])
        try:
            _, faces, _ = load_mesh(path)
        except MeshError:
            continue
        # text that is cut within its last number or its closing word can still be whole
        assert kind.endswith("ascii") or kind == "off"
        assert len(faces) == len(BOX.faces)
        assert end >= whole - 20


def test_truncated_obj_is_caught_where_indices_tell(tmp_path):
    lines = FILES["obj"].decode().split("\n")
    vertices, faces = ([line for line in lines if line.startswith(key)] for key in ("v ", "f "))
    refused(tmp_path, "a.obj", "\n".join(faces + vertices[:-1]).encode())
    refused(tmp_path, "a.obj", "\n".join(vertices).encode())
    refused(tmp_path, "a.obj", "\n".join([*vertices, *faces[:-1], "f 1 2"]).encode())
    refused(tmp_path, "a.obj", "\n".join([*vertices[:-1], "v 1 2"]).encode())
    refused(tmp_path, "a.obj", "\n".join([*vertices, "f 1 2 x"]).encode())
    refused(tmp_path, "a.obj", "\n".join([*vertices, "f 0 1 2"]).encode())
    refused(tmp_path, "a.obj", "\n".join([*vertices, "f -99 1 2"]).encode())
    refused(tmp_path, "a.obj", "\n".join([*vertices, "f 1 2 99"]).encode())
    refused(tmp_path, "a.obj", "\n".join(["v 0 0 nan", *vertices[1:], *faces]).encode())
    refused(tmp_path, "a.obj", "\n".join(["v 0 0 1e999", *vertices[1:], *faces]).encode())


DRAWN = {"meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}], "nodes": [{"mesh": 0}]}
CLAIMS = {
    "a.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
    b"property float z\nelement face 10000000\nproperty list uchar int vertex_indices\nend_header\n" + bytes(700),
    "b.ply": b"ply\nformat ascii 1.0\nelement vertex 99999999999999\nproperty float x\nend_header\n1\n2\n",
    "c.ply": b"ply\nformat binary_big_endian 1.0\nelement vertex 99999999999999\nend_header\n" + bytes(700),
    "d.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
    b"property float z\nelement face 1\nproperty list uint int vertex_indices\nend_header\n" + bytes(12) + b"\xff" * 20,
    "e.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex -3\nproperty float x\nend_header\n",
    "a.stl": bytes(80) + struct.pack("<I", 10_000_000) + bytes(900),
    "a.off": b"OFF\n3 10000000 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
    "b.off": b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n1000000000 0 1 2\n",
    "a.glb": glb(
        {
            "buffers": [{"byteLength": 1 << 40}],
            "bufferViews": [{"buffer": 0, "byteLength": 1 << 40}],
            "accessors": [{"bufferView": 0, "componentType": 5126, "type": "VEC3", "count": 10_000_000}],
            **DRAWN,
        },
        bytes(64),
    ),
    "b.glb": glb({"accessors": [{"componentType": 5126, "type": "VEC3", "count": 10_000_000_000}], **DRAWN}),
}


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_claimed_counts_cost_no_memory(tmp_path, name):
    tracemalloc.start()
    refused(tmp_path, name, CLAIMS[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


@pytest.mark.parametrize("uri", ["http://example.org/a.bin", "../../etc/passwd", "a.bin", "x" * 5000 + ".bin"])
def test_glb_with_outside_buffers(tmp_path, uri):
    (tmp_path / "a.bin").write_bytes(bytes(12))
    accessor = {"bufferView": 0, "componentType": 5126, "type": "VEC3", "count": 1}
    tree = {
        "buffers": [{"byteLength": 12, "uri": uri}],
        "bufferViews": [{"buffer": 0, "byteLength": 12}],
        "accessors": [accessor],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "nodes": [{"mesh": 0}],
    }
    assert "embed everything" in refused(tmp_path, "a.glb", glb(tree))
    if uri != "a.bin":
        assert "embed everything" in refused(tmp_path, "a.gltf", json.dumps(tree).encode())


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {},
        {"buffers": 3},
        {"buffers": [3]},
        {"nodes": [{"children": [0]}], "scenes": [{"nodes": [0]}], "scene": 0},
        {"nodes": [{"children": [1, 1]}, {}]},
        {"meshes": [{"primitives": [{"attributes": {"POSITION": 5}}]}], "nodes": [{"mesh": 0}]},
        {"extensionsRequired": ["KHR_draco_mesh_compression"]},
        {"accessors": [{"bufferView": 0, "componentType": 1, "type": "VEC3", "count": 1}], "bufferViews": []},
        {"bufferViews": [{"buffer": 0, "byteOffset": -8, "byteLength": 4}]},
    ],
)
def test_glb_scenes_that_make_no_sense(tmp_path, tree):
    refused(tmp_path, "a.glb", glb(tree))


def test_glb_instances_are_counted():
    accessor = {"bufferView": 0, "componentType": 5126, "type": "VEC3", "count": 1000}
    tree = {
        "buffers": [{"byteLength": 12_000}],
        "bufferViews": [{"buffer": 0, "byteLength": 12_000}],
        "accessors": [accessor],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}] * 1000}],
        "nodes": [{"mesh": 0}] * 100,
    }
    with pytest.raises(MeshError, match="add up to over"):
        read_gltf(glb(tree, bytes(12_000)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["ply", "ply_ascii", "obj", "stl", "stl_ascii", "off", "glb"]),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 10**6),
)
def test_damaged_bytes_give_a_mesh_or_one_error(tmp_path, kind, edits, cut):
    data = bytearray(FILES[kind])
    for position, value in edits:
        data[position % len(data)] = value
    path = tmp_path / f"a.{kind.split('_')[0]}"
    path.write_bytes(bytes(data[: len(data) - cut % 50]))
    try:
        vertices, faces, _ = load_mesh(path)
        canonical_mesh(vertices, faces)
    except MeshError:
        return
    assert faces.max() < len(vertices)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(EXTENSIONS),
    head=st.sampled_from([b"", b"ply\n", b"OFF\n", b"solid\n", b"glTF"]),
    data=st.binary(max_size=200),
)
def test_any_bytes_give_a_mesh_or_one_error(tmp_path, kind, head, data):
    path = tmp_path / f"a{kind}"
    path.write_bytes(head + data)
    try:
        _, faces, _ = load_mesh(path)
    except MeshError:
        return
    assert len(faces)


SPHERE = trimesh.creation.icosphere(subdivisions=1)
COUNT = len(SPHERE.vertices)


def many(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    vertices = [SPHERE.vertices * 0.05 + rng.uniform(-2, 2, 3) for _ in range(count)]
    return np.concatenate(vertices), np.concatenate([SPHERE.faces + COUNT * k for k in range(count)])


STRANGE = {
    "one triangle": (np.eye(3), np.array([[0, 1, 2]])),
    "a needle": (np.array([[0, 0, 0], [1, 0, 0], [1, 1e-5, 0]]), np.array([[0, 1, 2]])),
    "tiny": (BOX.vertices * 1e-12, BOX.faces),
    "huge": (BOX.vertices * 1e12, BOX.faces),
    "far away": (BOX.vertices + 1e7, BOX.faces),
    "every face doubled and flipped": (BOX.vertices, np.concatenate([BOX.faces, BOX.faces[:, ::-1]])),
    "half of the faces flipped": (BOX.vertices, np.concatenate([BOX.faces[:6], BOX.faces[6:, ::-1]])),
    "500 components": many(500),
    "three sheets on one edge": (
        np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [-1, 1, 0], [-1, -1, 0]], float),
        np.array([[0, 1, 2], [0, 1, 3], [0, 1, 4]]),
    ),
}


@pytest.mark.parametrize("name", sorted(STRANGE))
def test_strange_but_valid_meshes_can_be_sampled(name):
    vertices, faces = STRANGE[name]
    mesh = canonical_mesh(np.asarray(vertices, np.float64), np.asarray(faces, np.int64))
    samples = sample_solid(Solid(mesh), seed=0, points=200)
    assert all(np.isfinite(values).all() for values in samples.values())
