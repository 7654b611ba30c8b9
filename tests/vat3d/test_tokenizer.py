import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from make_tiny_model import DATA, golden_meshes

from vat3d import CodecError, MeshTokenizer, TokenStream, evaluate
from vat3d.bitstream.header import LEVELS, LEVELS_FLAG, POSE_FLAG, RESIDUAL_FLAG, VERSION
from vat3d.codec.decode import StreamDecoder, fit_box, without_specks
from vat3d.codec.token_budget import token_budget
from vat3d.errors import MeshError
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.fill import FILLS
from vat3d.mesh.solid import THICKER, Solid
from vat3d.placement.mirrored_view import frame_extents
from vat3d.tokenizer import tokenizer_for


@pytest.fixture(scope="module")
def tokenizer() -> MeshTokenizer:
    return MeshTokenizer.from_pretrained(DATA / "tiny")


@pytest.fixture
def ellipsoid() -> trimesh.Trimesh:
    return golden_meshes()["ellipsoid"]


def side_error(mesh: trimesh.Trimesh, decoded: trimesh.Trimesh) -> float:
    """Greatest disagreement of the bounding boxes, in units of the longest half-side."""
    return float(np.abs(mesh.bounds - decoded.bounds).max() / (mesh.extents.max() / 2))


@pytest.mark.parametrize("name", ["box", "ellipsoid", "torus"])
def test_golden_files_decode_as_ever(tokenizer: MeshTokenizer, name: str) -> None:
    golden = json.loads((DATA / "golden.json").read_text())[name]
    data = (DATA / f"{name}.vat").read_bytes()
    stream = TokenStream.from_bytes(data, tokenizer.model)
    assert [part.tolist() for part in stream.ids] == golden["ids"]
    assert stream.to_bytes() == data
    mesh = tokenizer.decode(stream, resolution=32)
    unit = stream.frame.half_side
    np.testing.assert_allclose(mesh.bounds, golden["bounds"], atol=1e-3 * unit)
    np.testing.assert_allclose(mesh.area, golden["area"], rtol=1e-3)
    np.testing.assert_allclose(mesh.volume, golden["volume"], rtol=1e-3)
    assert abs(len(mesh.faces) - golden["faces"]) <= 0.02 * golden["faces"]


@pytest.mark.parametrize("effort", ["fast", "normal"])
@pytest.mark.parametrize("budget", [60, 300])
def test_files_fit_and_decode_watertight_in_the_input_frame(
    tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh, budget: int, effort: str
) -> None:
    stream = tokenizer.encode(ellipsoid, budget, effort)
    data = stream.to_bytes()
    assert len(data) <= budget
    if stream.count < sum(tokenizer.model.scales):
        assert len(data) >= 0.97 * budget - 1
    mesh = tokenizer.decode(data, resolution=48)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    assert side_error(ellipsoid, mesh) < 0.02


def test_report_says_what_was_done(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh) -> None:
    report = tokenizer.encode(ellipsoid, 200, "fast").report
    assert report["watertight"]
    assert report["shell"] == 0
    assert report["reproducible"]
    assert report["bytes"] == report["header"] + report["payload"] <= 200
    assert 0 < report["f_score@0.02"] <= 1
    assert json.dumps(report)
    limited = tokenizer.encode(ellipsoid, 200, "normal", time_limit=0.0)
    assert not limited.report["reproducible"]


def test_order_of_vertices_and_faces_does_not_matter(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh) -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(ellipsoid.vertices))
    rank = np.argsort(order)
    faces = rank[ellipsoid.faces][rng.permutation(len(ellipsoid.faces))]
    shuffled = (np.asarray(ellipsoid.vertices)[order], faces)
    same = tokenizer.encode(ellipsoid, 150, "fast").to_bytes()
    assert tokenizer.encode(shuffled, 150, "fast").to_bytes() == same
    assert tokenizer.encode(ellipsoid, 150, "fast").to_bytes() == same


def test_open_sheets_become_shells(tokenizer: MeshTokenizer) -> None:
    sheet = trimesh.Trimesh([[0, 0, 0], [4, 0, 0], [4, 3, 0], [0, 3, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    stream = tokenizer.encode(sheet, 200, "fast")
    assert stream.report["shell"] == 0.008
    assert stream.report["open_components"] == 1
    mesh = tokenizer.decode(stream, resolution=64)
    assert mesh.is_watertight
    assert side_error(sheet, mesh) < 0.02


@pytest.mark.parametrize("effort", ["fast", "normal"])
def test_the_better_fill_rule_is_taken_where_parts_hide_others(tokenizer: MeshTokenizer, effort: str) -> None:
    parts = [trimesh.creation.box((2, 1.2, 1)), trimesh.creation.icosphere(3, 0.4), trimesh.creation.icosphere(2, 0.2)]
    given = trimesh.util.concatenate(parts)
    streams = {fill: tokenizer.encode(given, 300, effort, fill=fill) for fill in FILLS}
    found = tokenizer.encode(given, 300, effort)
    assert streams["nonzero"].to_bytes() != streams["even-odd"].to_bytes()
    assert found.to_bytes() == streams[found.report["fill"]].to_bytes()
    if effort == "fast":  # what is compared is an estimate of what is reported
        scores = {fill: stream.report["f_score@0.02"] for fill, stream in streams.items()}
        assert scores[found.report["fill"]] >= max(scores.values()) - 0.03


def test_parts_that_hide_nothing_are_one_body(tokenizer: MeshTokenizer) -> None:
    given = trimesh.util.concatenate([trimesh.creation.box((2, 1, 1)), trimesh.creation.icosphere(3, 0.4)])
    given.vertices[8:] += [0, 0, 1]
    found = tokenizer.encode(given, 200, "fast")
    assert found.report["fill"] == "nonzero"
    assert found.to_bytes() == tokenizer.encode(given, 200, "fast", fill="nonzero").to_bytes()


def test_parts_in_one_place_do_not_cancel(tokenizer: MeshTokenizer) -> None:
    """A box in a box, both twice: by the even-odd rule shells are left of them."""
    box = trimesh.creation.box((2, 1, 1))
    boxes = [box, box.subdivide()]
    given = trimesh.util.concatenate(boxes + [part.copy().apply_scale(0.7) for part in boxes])
    for fill in FILLS:
        assert tokenizer.encode(given, 200, "fast", fill=fill).report["fill"] == fill
    walls = Solid(canonical_mesh(np.asarray(given.vertices), np.asarray(given.faces))).filled("even-odd")
    np.testing.assert_allclose(walls.signed_distance(np.array([[1, 0.1, 0.2], [0.7, 0.1, 0.2]])), -THICKER, atol=1e-6)
    assert (walls.signed_distance(np.array([[0.9, 0.1, 0.2], [0.0, 0.1, 0.2]])) > 0.05).all()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_tiny_and_huge_meshes(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh, scale: float) -> None:
    moved = trimesh.Trimesh(np.asarray(ellipsoid.vertices) * scale, ellipsoid.faces, process=False)
    mesh = tokenizer.decode(tokenizer.encode(moved, 150, "fast"), resolution=32)
    assert side_error(moved, mesh) < 0.02


@pytest.mark.parametrize("effort", ["fast", "normal"])
@pytest.mark.parametrize("removed", [0, 2])
def test_the_reported_score_is_what_a_user_measures(tokenizer: MeshTokenizer, removed: int, effort: str) -> None:
    """Against the mesh as given: of an open one its sheet, not the shell that is encoded. `fast` estimates it."""
    box = golden_meshes()["box"]
    given = trimesh.Trimesh(box.vertices, box.faces[removed:], process=False)
    stream = tokenizer.encode(given, 300, effort)
    measured = evaluate(given, tokenizer.decode(stream))["f_score@0.02"]
    assert stream.report["f_score@0.02"] == pytest.approx(measured, abs=0.025 if effort == "fast" else 0.01)


@pytest.mark.parametrize("effort", ["fast", "normal"])
def test_without_a_size_all_tokens_are_there(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh, effort: str) -> None:
    stream = tokenizer.encode(ellipsoid, max_bytes=None, effort=effort)
    assert [len(ids) for ids in stream.ids] == list(tokenizer.network.config.scales)
    assert stream.residual_step is None
    assert tokenizer.decode(stream.to_bytes(), 32).is_watertight


def test_notebooks_show_tables(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh) -> None:
    stream = tokenizer.encode(ellipsoid, max_bytes=64, effort="fast")
    assert f"<td>bytes</td><td>{len(stream.to_bytes())}</td>" in stream._repr_html_()
    for shown in (stream, tokenizer):
        assert tokenizer.model.model_id in shown._repr_html_()
        assert len(shown._repr_html_()) < 1000


def test_truncation_decodes_coarser(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh) -> None:
    stream = tokenizer.encode(ellipsoid, 300, "fast")
    for scales in range(1, len(stream.ids) + 1):
        shorter = stream.truncate(scales)
        assert len(shorter.to_bytes()) <= len(stream.to_bytes())
        one, other = tokenizer.decode(shorter, resolution=24), tokenizer.decode(stream, resolution=24, scales=scales)
        assert np.array_equal(one.vertices, other.vertices)
        assert one.is_watertight


def test_what_tokens_leave_of_a_larger_budget_goes_to_a_residual(ellipsoid: trimesh.Trimesh) -> None:
    tokenizer = MeshTokenizer.from_pretrained()
    stream = tokenizer.encode(ellipsoid, 400, "normal")
    data = stream.to_bytes()
    assert data[2] & ~(LEVELS_FLAG | POSE_FLAG) == VERSION | RESIDUAL_FLAG
    without = len(stream.truncate(len(stream.tokens)).to_bytes())
    assert without + 100 < len(data) <= 400
    assert tuple(part.size for part in stream.tokens) == tokenizer.model.scales[: len(stream.tokens)]
    assert stream.residual is not None
    assert stream.residual.shape == tokenizer.model.latent
    read = TokenStream.from_bytes(data)
    assert np.array_equal(tokenizer.decode(read, 64).vertices, tokenizer.decode(stream, 64).vertices)
    shorter = stream.truncate(len(stream.ids) - 1)
    coarse = tokenizer.decode(stream, 64, scales=len(stream.ids) - 1)
    assert np.array_equal(tokenizer.decode(shorter, 64).vertices, coarse.vertices)
    assert shorter.residual is None
    scores = [evaluate(ellipsoid, mesh)["f_score@0.01"] for mesh in (coarse, tokenizer.decode(stream, 64))]
    assert scores[0] < scores[1]


@pytest.mark.parametrize(("budget", "base"), [(200, 0), (270, 0), (290, 144), (512, 144), (980, 144), (1024, 272)])
def test_a_residual_has_all_components_below_it_where_a_third_of_the_file_holds_them(
    ellipsoid: trimesh.Trimesh, budget: int, base: int
) -> None:
    tokenizer = MeshTokenizer.from_pretrained()
    frame = tokenizer.encode(ellipsoid, 200, "fast").frame
    found = token_budget(tokenizer.network.config, tokenizer.model, frame, budget)
    assert found.below_residual == base
    if base == 272:
        prefix = tokenizer.encode(ellipsoid, budget, "fast").truncate(6)
        assert prefix.count == base
        assert 3 * len(prefix.to_bytes()) <= budget


def test_fewest_scales_for_a_score(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh) -> None:
    full = tokenizer.encode(ellipsoid, 300, "fast")
    wanted = full.report["f_score@0.02"] / 2
    short = tokenizer.encode(ellipsoid, 300, "fast", min_f_score=wanted)
    assert short.report["f_score@0.02"] >= wanted
    assert len(short.ids) < len(full.ids)


def test_faces_are_decimated(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh) -> None:
    mesh = tokenizer.decode(tokenizer.encode(ellipsoid, 200, "fast"), resolution=48, faces=300)
    assert mesh.is_watertight
    assert len(mesh.faces) <= 330


def test_finer_grids_agree(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh) -> None:
    stream = tokenizer.encode(ellipsoid, 200, "fast")
    coarse, fine = tokenizer.decode(stream, resolution=48), tokenizer.decode(stream, resolution=96)
    assert evaluate(fine, coarse)["f_score@0.02"] > 0.9


def test_bad_requests(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh, tmp_path: Path) -> None:
    with pytest.raises(CodecError, match="first scale"):
        tokenizer.encode(ellipsoid, 20, "fast")
    with pytest.raises(CodecError, match="effort"):
        tokenizer.encode(ellipsoid, 200, "extreme")
    with pytest.raises(CodecError, match="fill"):
        tokenizer.encode(ellipsoid, 200, "fast", fill="odd")
    with pytest.raises(MeshError):
        tokenizer.encode((np.zeros((3, 3)), np.array([[0, 1, 2]])), 200, "fast")
    with pytest.raises(CodecError, match="a model folder of vat3d holds one"):
        MeshTokenizer.from_pretrained(tmp_path)
    with pytest.raises(CodecError, match="neither"):
        MeshTokenizer.from_pretrained("no-such-model")
    data = (DATA / "box.vat").read_bytes()
    with pytest.raises(CodecError, match=tokenizer.model.model_id):
        tokenizer_for(data)
    with pytest.raises(CodecError):
        tokenizer.decode(data[:-1])


def test_a_batch_makes_what_a_loop_makes_and_reports_bad_ones_in_their_places(
    tokenizer: MeshTokenizer, tmp_path: Path
) -> None:
    good = list(golden_meshes().values())
    sheet = (np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    meshes = [good[0], tmp_path / "absent.ply", *good[1:], (np.zeros((3, 3)), np.array([[0, 1, 2]])), sheet]
    streams = tokenizer.encode_batch(iter(meshes), 200, "fast", seed=3)
    bad = [number for number, found in enumerate(streams) if isinstance(found, MeshError)]
    assert bad == [1, len(meshes) - 2]
    assert "absent.ply" in str(streams[1])
    single = {k: tokenizer.encode(mesh, 200, "fast", seed=3) for k, mesh in enumerate(meshes) if k not in bad}
    assert {k: streams[k].to_bytes() for k in single} == {k: stream.to_bytes() for k, stream in single.items()}
    assert {k: streams[k].report for k in single} == {k: stream.report for k, stream in single.items()}

    given = [streams[0].to_bytes(), b"no token file", *streams[1:]]
    decoded = tokenizer.decode_batch(given, 32, scales=1)
    assert decoded[2] is streams[1]
    assert isinstance(decoded[1], CodecError)
    for found, stream in zip(decoded, given, strict=True):
        if isinstance(found, trimesh.Trimesh):
            alone = tokenizer.decode(stream, 32, scales=1)
            assert np.array_equal(found.vertices, alone.vertices)
            assert np.array_equal(found.faces, alone.faces)
    assert sum(isinstance(found, trimesh.Trimesh) for found in decoded) == len(single)
    assert tokenizer.encode_batch([]) == tokenizer.decode_batch([]) == []
    assert isinstance(tokenizer.encode_batch([good[0]], 3, "fast")[0], CodecError)  # one mesh's frame, one mesh's error
    with pytest.raises(CodecError, match="unknown effort"):
        tokenizer.encode_batch(meshes, effort="slow")


def test_a_higher_level_is_a_larger_solid(tokenizer: MeshTokenizer, ellipsoid: trimesh.Trimesh) -> None:
    stream = tokenizer.encode(ellipsoid, 300, "fast")
    scales = len(stream.ids)
    volumes = [tokenizer.decode(replace(stream, levels=(level,) * scales), 32).volume for level in LEVELS[::2]]
    assert sorted(set(volumes)) == volumes


def test_small_gaps_to_the_box_are_closed_by_the_layer_at_the_side() -> None:
    half = np.array([1.0, 0.7, 0.1])
    vertices = np.random.default_rng(0).uniform(-1, 1, (500, 3)) * (half - 0.004)
    vertices[:2] = half - 0.004, 0.008 - half
    fitted = fit_box(vertices, half)
    np.testing.assert_allclose(fitted.min(0), -half)
    np.testing.assert_allclose(fitted.max(0), half)
    for axis in range(3):
        assert (np.diff(fitted[vertices[:, axis].argsort(), axis]) >= 0).all()
    inner = np.abs(vertices) < half - 3 * 0.008
    np.testing.assert_array_equal(fitted[inner], vertices[inner])
    assert np.abs(fitted - vertices).max() <= 0.008 + 1e-12


def test_parts_smaller_than_a_cell_are_left_out_unless_all_are() -> None:
    large, leaf = trimesh.creation.box((1, 0.5, 0.2)), trimesh.creation.box((0.05, 0.05, 0.001))
    rod = trimesh.creation.box((0.001, 0.2, 0.001)).apply_translation((0, 2, 0))
    both = trimesh.util.concatenate([leaf.copy().apply_translation((3, 0, 0)), large, leaf, rod])
    vertices, faces = without_specks(both.vertices, both.faces, 0.1)
    expected = trimesh.util.concatenate([large, rod])
    np.testing.assert_array_equal(vertices[faces], expected.vertices[expected.faces])
    assert without_specks(leaf.vertices, leaf.faces, 0.1)[1] is leaf.faces


@pytest.mark.parametrize(("size", "gap", "kept"), [(0.05, 0.12, False), (0.05, 0.08, True), (0.07, 0.12, True)])
def test_small_parts_are_left_out_where_they_lie_alone(size: float, gap: float, kept: bool) -> None:
    """However fine the grid; a small part near a body is kept, and so is what is alone but not small."""
    body, alone = trimesh.creation.icosphere(4, 0.5), trimesh.creation.icosphere(2, size / 2)
    alone.apply_translation((0, 0.5 + gap + size / 2, 0))
    both = trimesh.util.concatenate([body, alone])
    vertices, faces = without_specks(both.vertices, both.faces, 0.004)
    expected = both if kept else body
    np.testing.assert_array_equal(vertices[faces], expected.vertices[expected.faces])
    one = trimesh.util.concatenate([alone, alone.copy().apply_translation((1, 0, 0))])
    assert without_specks(one.vertices, one.faces, 0.004)[1] is one.faces


def test_a_speck_that_reaches_the_box_is_kept_and_nothing_is_stretched_to_it(tokenizer, ellipsoid, monkeypatch) -> None:
    """It may be what the grid left of a thin handle; another one just below it, further in, is left out."""
    stream = tokenizer.encode(ellipsoid, 300, "fast")
    half = frame_extents(stream.frame)
    body = trimesh.creation.box(bounds=[-half, half - (0, 0, 0.02)]).subdivide_to_size(0.1)
    speck = trimesh.creation.box(bounds=[half - (0.5, 0.3, 0.003), half - (0.497, 0.297, 0)])
    inner = speck.copy().apply_translation((0.2, 0.1, -0.005))
    both = trimesh.util.concatenate([body, inner, speck])
    monkeypatch.setattr(StreamDecoder, "surface", lambda *_: (np.array(both.vertices), np.array(both.faces)))
    decoded = tokenizer.decode(stream, 64)
    expected = trimesh.util.concatenate([body, speck])
    np.testing.assert_array_equal(decoded.faces, expected.faces)
    np.testing.assert_allclose(decoded.vertices, stream.frame.to_mesh(np.array(expected.vertices)), atol=1e-6)


def test_sides_that_lost_a_part_stay_where_they_are() -> None:
    half = np.array([1.0, 0.7, 0.1])
    decoded = np.random.default_rng(0).uniform(-0.5, 0.5, (500, 3)) * half
    np.testing.assert_array_equal(fit_box(decoded, half), decoded)


def test_a_surface_wholly_outside_of_the_box_is_pressed_to_its_side() -> None:
    half = np.array([1.0, 0.7, 0.1])
    decoded = np.random.default_rng(0).uniform(-0.5, 0.5, (500, 3)) * half + np.array([9, 0, 0])
    fitted = fit_box(decoded, half)
    assert fitted[:, 0].max() == pytest.approx(1)
    assert fitted[:, 0].min() > 0
    assert (np.diff(fitted[decoded[:, 0].argsort(), 0]) > 0).all()
    np.testing.assert_array_equal(fitted[:, 1:], decoded[:, 1:])


def test_info_counts_everything(tokenizer: MeshTokenizer) -> None:
    info = tokenizer.info()
    assert info["parameters"] == sum(p.numel() for p in tokenizer.network.parameters())
    assert info["model"] == tokenizer.model.model_id
    assert len(info["perplexity"]) == len(info["scales"])


def test_decoding_leaves_no_gradients(tokenizer: MeshTokenizer) -> None:
    assert not any(parameter.requires_grad for parameter in tokenizer.network.parameters())
    assert torch.is_grad_enabled()


def test_what_lies_beyond_the_box_is_pressed_into_it_and_stays_apart() -> None:
    half = np.array([1.0, 0.6, 0.01])
    above = np.array([0.1, 0.2, 0.995, 1.002, 1.006])
    column = np.stack([above, np.full(5, 0.3), np.full(5, 0.002)], axis=1)
    corners = np.array([[-1.0, -0.6, -0.017], [0.0, 0.6, 0.017], [0.0, 0.0, 0.016]])
    fitted = fit_box(np.concatenate([column, corners]), half)
    assert (np.abs(fitted) <= half).all()
    np.testing.assert_allclose(fitted.max(0), half)
    np.testing.assert_allclose(fitted.min(0), -half)
    assert np.array_equal(fitted[:2, 0], above[:2])
    assert (np.diff(fitted[:5, 0]) > 0).all()
    assert fitted[6, 2] > fitted[7, 2]


def test_a_mesh_that_stands_askew_is_kept_as_well_as_one_that_does_not() -> None:
    """A table of five boxes, turned by some angle: the file says so, and decodes where the mesh is."""
    tokenizer = MeshTokenizer.from_pretrained()
    legs = [
        trimesh.creation.box((0.15, 0.15, 0.8)).apply_translation((x, y, -0.4))
        for x in (-0.9, 0.7)
        for y in (-0.5, 0.6)
    ]
    table = trimesh.util.concatenate([trimesh.creation.box((2.2, 1.4, 0.15)), *legs])
    rotation = trimesh.transformations.euler_matrix(0.4, -0.3, 0.5)
    scores = []
    for given, turned in ((table, False), (table.copy().apply_transform(rotation), True)):
        stream = TokenStream.from_bytes(tokenizer.encode(given, 300, "fast").to_bytes(), tokenizer.model)
        assert (stream.frame.turned_degrees > 0) == turned
        scores.append(evaluate(given, tokenizer.decode(stream, resolution=96))["f_score@0.02"])
    assert min(scores) > 0.8
    assert abs(scores[0] - scores[1]) < 0.05
