"""OBJ, OFF, PLY and STL as real programs write them: spellings of one box or prism, whose measures are known."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
import trimesh

from vat3d.errors import MeshError
from vat3d.mesh_io.load import load_mesh
from vat3d.mesh_io.polygons import triangulate

BOX = trimesh.creation.box((2, 4, 6))
POINTS, FACES = np.asarray(BOX.vertices, np.float64), np.asarray(BOX.faces, np.int64)
OBJ = "".join(f"v {x:g} {y:g} {z:g}\n" for x, y, z in POINTS) + "".join(f"f {a} {b} {c}\n" for a, b, c in FACES + 1)
OFF_BODY = "".join(f"{x:g} {y:g} {z:g}\n" for x, y, z in POINTS) + "".join(f"3 {a} {b} {c}\n" for a, b, c in FACES)
L_SHAPE = [(0, 0), (3, 0), (3, 1), (1, 1), (1, 4), (0, 4)]  # area 3 + 3, perimeter 14


def prism(base):
    """The prism of height 2 over a counter-clockwise polygon."""
    n = len(base)
    sides = [(k, (k + 1) % n, (k + 1) % n + n, k + n) for k in range(n)]
    points = np.array([(x, y, z) for z in (0, 2) for x, y in base], float)
    return points, [tuple(range(n))[::-1], tuple(range(n, 2 * n)), *sides]


def measures(vertices, faces) -> tuple[float, float]:
    mesh = trimesh.Trimesh(vertices, faces, process=True)
    assert mesh.is_watertight
    return mesh.area, mesh.volume


def rewritten(tmp_path, name: str, data: bytes | str):
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return load_mesh(path)


@pytest.mark.parametrize("turn", [np.eye(3), trimesh.transformations.rotation_matrix(2, (1, 2, 3))[:3, :3]])
@pytest.mark.parametrize("first", range(6))
def test_concave_polygons(turn, first):
    """Every corner is kept, also three in line: so the neighbours share their edges, and the mesh is closed."""
    base = L_SHAPE[first:] + L_SHAPE[:first]
    for corners in (base, [p for a, b in zip(base, base[1:] + base[:1], strict=True) for p in (a, np.add(a, b) / 2)]):
        points, polygons = prism(corners)
        area, volume = measures(points @ turn.T * 1e-3 + 50, triangulate(points @ turn.T * 1e-3 + 50, polygons))
        assert (area * 1e6, volume * 1e9) == (pytest.approx(2 * 6 + 2 * 14), pytest.approx(2 * 6))


def test_a_polygon_that_walks_to_a_hole_and_back():
    ring = [(0, 0), (6, 0), (6, 6), (0, 6), (2, 2), (4, 2), (4, 4), (2, 4)]
    walk = [0, 1, 2, 3, 0, 4, 7, 6, 5, 4]
    points = np.array([(x, y, 1.0) for x, y in ring])
    faces = triangulate(points, [walk, walk[::-1]])
    half = trimesh.Trimesh(points, faces[:8], process=False)
    assert half.area == pytest.approx(36 - 4)
    assert half.face_normals[:, 2].tolist() == [1] * 8


def test_order_of_polygons_is_kept_and_what_is_flat_or_too_short_does_no_harm():
    points = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (2, 0, 0), (3, 0, 0)], float)
    polygons = [(0, 1), (0, 1, 2, 3), (0, 1, 2), (0, 1, 4, 5), ()]
    assert triangulate(points, polygons).tolist() == [
        [0, 1, 2], [0, 2, 3], [0, 1, 2], [0, 1, 4], [0, 4, 5],
    ]  # fmt: skip
    assert triangulate(points, []).shape == (0, 3)
    assert triangulate(points, [(0, 1, 2, 99)]).max() == 99


@pytest.mark.parametrize("kind", ["obj", "off", "ply"])
def test_formats_share_the_triangulation(tmp_path, kind):
    points, polygons = prism(L_SHAPE)
    if kind == "obj":
        data = "".join(f"v {x} {y} {z}\n" for x, y, z in points)
        data += "".join(f"f {' '.join(str(k + 1) for k in p)}\n" for p in polygons)
    else:
        data = "".join(f"{x} {y} {z}\n" for x, y, z in points)
        data += "".join(f"{len(p)} {' '.join(map(str, p))}\n" for p in polygons)
        head = "OFF\n12 8 0\n"
        if kind == "ply":
            head = "ply\nformat ascii 1.0\nelement vertex 12\n" + "".join(f"property float {x}\n" for x in "xyz")
            head += "element face 8\nproperty list uchar int vertex_indices\nend_header\n"
        data = head + data
    vertices, faces, _ = rewritten(tmp_path, f"prism.{kind}", data)
    assert measures(vertices, faces) == (pytest.approx(2 * 6 + 2 * 14), pytest.approx(2 * 6))


@pytest.mark.parametrize(
    "data",
    [
        OBJ.replace("\n", "\r"),
        OBJ.replace("\n", "\r\n"),
        OBJ.replace("v ", "v\t").replace("f ", "f\t"),
        "o box\n  " + OBJ.replace("\n", "\n\t "),
        OBJ.replace("\n", " # a comment that ends in \\\n"),
        "mtllib C:\\models\\\n" + OBJ,
        OBJ.replace("v ", "v \\\r\n").replace("f ", "f \\  \n"),
        b"\xff\xfe" + OBJ.encode("utf-16-le"),
        b"\xfe\xff" + OBJ.encode("utf-16-be"),
        b"\xef\xbb\xbf" + OBJ.encode(),
    ],
)
def test_obj(tmp_path, data):
    vertices, faces, _ = rewritten(tmp_path, "box.obj", data)
    np.testing.assert_array_equal(vertices, POINTS)
    np.testing.assert_array_equal(faces, FACES)


def test_text_that_is_not_what_its_mark_says(tmp_path):
    with pytest.raises(MeshError, match="begins as UTF-16"):
        rewritten(tmp_path, "box.obj", b"\xff\xfe\x00\xd8" + OBJ.encode())


@pytest.mark.parametrize(("prefix", "extra"), [("", 0), ("C", 4), ("N", 3), ("STCN", 9)])
@pytest.mark.parametrize("colours", [0, 3])
def test_binary_off(tmp_path, prefix, extra, colours):
    rows = np.pad(POINTS, ((0, 0), (0, extra)), constant_values=7).astype(">f4").tobytes()
    faces = b"".join(struct.pack(">5i", 3, *face, colours) + bytes(4 * colours) for face in FACES)
    data = f"{prefix}OFF BINARY\n".encode() + struct.pack(">3i", 8, 12, 0) + rows + faces
    vertices, found, notes = rewritten(tmp_path, "box.off", data)
    np.testing.assert_array_equal(vertices, POINTS)
    np.testing.assert_array_equal(found, FACES)
    assert bool(notes) == ("C" in prefix or colours > 0)
    for end in (20, 60, len(data) - 1):
        with pytest.raises(MeshError, match="cut off"):
            rewritten(tmp_path, "cut.off", data[:end])


@pytest.mark.parametrize("head", ["off\n", "Off ", "coff\r", "NOFF ", "OFF # note\n"])
def test_off_heads(tmp_path, head):
    body = ("8\n12 0\n" if "#" in head else "8 12 0\n") + OFF_BODY
    vertices, faces, _ = rewritten(tmp_path, "box.off", head + (body.replace("\n", "\r") if "\r" in head else body))
    np.testing.assert_array_equal(vertices, POINTS)
    np.testing.assert_array_equal(faces, FACES)


def test_off_of_four_dimensions_is_refused(tmp_path):
    with pytest.raises(MeshError, match="4OFF, of other than three dimensions"):
        rewritten(tmp_path, "box.off", "4OFF\n8 12 0\n" + OFF_BODY)


@pytest.mark.parametrize("change", [str.upper, str.title, lambda text: "\ufeff" + text, lambda text: "\n " + text])
def test_text_stl(tmp_path, change):
    vertices, faces, _ = rewritten(tmp_path, "box.stl", change(BOX.export(file_type="stl_ascii")))
    np.testing.assert_allclose(vertices[faces], POINTS[FACES], atol=1e-6)


@pytest.mark.parametrize("head", [b"solid by a program", b"\xff\xfe", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("tail", [b"", b"\0", b"\r\n"])
def test_binary_stl_whose_header_looks_like_text(tmp_path, head, tail):
    data = head + BOX.export(file_type="stl")[len(head) :] + tail
    vertices, faces, _ = rewritten(tmp_path, "box.stl", data)
    np.testing.assert_array_equal(vertices[faces], POINTS[FACES])


def test_text_stl_whose_name_holds_its_words(tmp_path):
    text = BOX.export(file_type="stl_ascii").replace("solid", "solid Vertex Group A 1 endfacet")
    vertices, faces, _ = rewritten(tmp_path, "box.stl", text)
    np.testing.assert_allclose(vertices[faces], POINTS[FACES], atol=1e-6)


def ply(lists, end="\n", text=False, index="int", size="uchar", element="face", points=POINTS) -> bytes:
    kind = "ascii" if text else "binary_big_endian"
    head = ["ply", f"format {kind} 1.0", f"element vertex {len(points)}", *(f"property double {x}" for x in "xyz")]
    head += [f"element {element} {len(lists)}", f"property list {size} {index} vertex_index", "end_header", ""]
    if text:
        rows = [*points.tolist(), *([len(row), *row] for row in lists)]
        return (end.join(head) + end.join(" ".join(map(str, row)) for row in rows)).encode()
    kinds = {"uchar": ">u1", "int": ">i4", "float": ">f4", "double": ">f8"}
    data = points.astype(">f8").tobytes()
    for row in lists:
        data += np.array(len(row), kinds[size]).tobytes() + np.array(row, kinds[index]).tobytes()
    return end.join(head).encode() + data


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("index", ["int", "float", "double"])
def test_ply_line_ends_and_kinds_of_indices(tmp_path, end, text, index):
    vertices, faces, _ = rewritten(tmp_path, "box.ply", ply(FACES.tolist(), end, text, index))
    np.testing.assert_array_equal(vertices, POINTS)
    np.testing.assert_array_equal(faces, FACES)


def test_ply_indices_that_are_not_whole(tmp_path):
    for bad in (0.5, np.nan, np.inf):
        for text in (True, False):
            with pytest.raises(MeshError, match="no whole numbers"):
                rewritten(tmp_path, "box.ply", ply([*FACES.tolist(), [0, 1, bad]], text=text, index="float"))


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("cut", [True, False])
def test_ply_triangle_strips(tmp_path, text, cut):
    """Two tetrahedra of volume 1 as strips: in one list with -1 between them, or in two."""
    tetra = np.array([(0, 0, 0), (0, 2, 0), (1, 0, 0), (0, 0, 3)], float)
    strip = [0, 1, 2, 3, 0, 1]
    other = [k + 4 for k in strip]
    lists = [[*strip, -1, *other]] if cut else [strip, [-1, *other, -1]]
    points = np.concatenate([tetra, tetra + np.array([10, 0, 0])])
    data = ply(lists, text=text, size="int", element="tristrips", points=points)
    vertices, faces, _ = rewritten(tmp_path, "two.ply", data)
    assert measures(vertices, faces)[1] == pytest.approx(2)


def test_a_vertex_number_beyond_all_bounds(tmp_path):
    with pytest.raises(MeshError, match="over 18 digits"):
        rewritten(tmp_path, "box.obj", OBJ + "f 1 2 " + "9" * 30)


def test_one_word_of_a_million_digits_costs_no_memory(tmp_path):
    tracemalloc.start()
    digits = "1" * 1_000_000
    with contextlib.suppress(MeshError):
        rewritten(tmp_path, "box.obj", f"v 1 2 {digits}\n{OBJ}f 1 2 {digits}\n")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e7


PLY_HEAD = (
    f"ply\nformat ascii 1.0\nelement vertex {len(POINTS)}\nproperty float x\nproperty float y\nproperty float z\n"
    f"element face {len(FACES)}\nproperty list uchar int vertex_indices\nend_header\n"
)


@pytest.mark.parametrize("separator", [" ", "\n", " \n\n  "])
@pytest.mark.parametrize(("name", "head"), [("b.off", f"OFF\n{len(POINTS)} {len(FACES)} 0\n"), ("b.ply", PLY_HEAD)])
def test_rows_however_they_are_broken_into_lines(tmp_path, name, head, separator):
    vertices, faces, _ = rewritten(tmp_path, name, head + separator.join(OFF_BODY.split()))
    np.testing.assert_array_equal(vertices, POINTS)
    np.testing.assert_array_equal(faces, FACES)
    for damaged in (OFF_BODY.split()[:-1], ["7", *OFF_BODY.split()]):
        with pytest.raises(MeshError, match=r"cut off|damaged"):
            rewritten(tmp_path, name, head + separator.join(damaged))


def test_strips_of_unsigned_indices_end_at_the_greatest_one(tmp_path):
    head = (
        "ply\nformat binary_little_endian 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
        "element tristrips 1\nproperty list int uint vertex_indices\nend_header\n"
    )
    points = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)], "<f4")
    strip = np.array([0, 1, 2, 2**32 - 1, 1, 3, 2], "<u4")
    data = head.encode() + points.tobytes() + struct.pack("<i", len(strip)) + strip.tobytes()
    assert rewritten(tmp_path, "s.ply", data).faces.tolist() == [[0, 1, 2], [1, 3, 2]]
