"""Token files: header, frame, prefixes, models on disk."""

import itertools
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from streams import CODES, LATENT, SCALES, sparse_stream, token_model, token_stream, uniform_tables

import vat3d
from setcore.errors import InputError
from vat3d.bitstream.coordinate_frame import NO_TURN, TURN_STEP, Frame
from vat3d.bitstream.header import (
    LEVELS,
    LEVELS_FLAG,
    POSE_FLAG,
    RESIDUAL_FLAG,
    THICKNESS_FLAG,
    VERSION,
    header_bytes,
)
from vat3d.bitstream.residual import residual_ids
from vat3d.bitstream.stream import TokenStream, read_model_id, tokens_within
from vat3d.bitstream.token_model import TokenModel, load_token_model, model_hash, save_token_model
from vat3d.errors import CodecError


def same(a, b):
    return a.frame == b.frame and len(a.ids) == len(b.ids) and all(map(np.array_equal, a.ids, b.ids))


@pytest.mark.parametrize("count", [1, 3, 4, 15, 16, 41, 42])
def test_round_trip(count):
    stream = token_stream(count)
    data = stream.to_bytes()
    back = TokenStream.from_bytes(data, stream.model)
    assert same(stream, back)
    assert back.to_bytes() == data
    assert back.count == count
    assert stream.sizes["bytes"] == len(data)
    assert stream.sizes["header"] + stream.sizes["payload"] == len(data)
    assert stream.sizes["header"] == header_bytes(stream.frame) <= 26
    assert read_model_id(data) == stream.model_id


def flags(data):
    """What a file's header says that its payload holds, beside the tokens."""
    assert data[2] & 15 == VERSION
    return data[2] & ~15


def small_model(latent=(3, 2, 2, 1)):
    """The model of the worked example in FORMAT.md."""
    return TokenModel("00c0ffee", (3, 4), uniform_tables(7, 10), latent)


BOX = {
    "scale_code": 129232, "longest": 2, "aspect_codes": (1489, 744), "centre_codes": (-12, 0, 2800),
}  # fmt: skip


def example(**parts):
    return TokenStream([np.array([9, 0, 3]), np.array([7, 7, 1, 4])], Frame(**BOX), small_model(), **parts)


def example_residual():
    residual = np.zeros((3, 2, 2, 1), np.int64)
    residual[1, 0, 1, 0], residual[2, 1, 0, 0] = -2, 1
    return residual_ids(residual)


def example_with_everything():
    plain = example()
    return replace(
        plain, ids=[*plain.ids, example_residual()], frame=Frame(**BOX, turn=(-8, 127, 40), mirror=2),
        levels=(4, 0, 1), residual_step=10, thickness=13,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (example(), "b3560100c0ffee0700d0f8195d7435f40f00c26b10f7d22be4e231"),
        (example(levels=(2, 2)), "b3560100c0ffee0740d0f8195d7435f40f00c26b10f7d2569f19fb"),
        (example(levels=(9, 4), thickness=5), "b3563100c0ffee0780d0f8195d7435f40f00c26bbef7f467b6d8a6be"),
        (example_with_everything(), "b356f100c0ffee0720d0f8195d7435f40f00c26bf9e74b068b89604c05c901ffc22773"),
    ],
)
def test_pinned_files(stream, data):
    """A change of the format changes these, FORMAT.md and the golden files of the tests, in one commit."""
    data = bytes.fromhex(data)
    assert stream.to_bytes().hex() == data.hex()
    back = TokenStream.from_bytes(data, stream.model)
    assert same(back, stream)
    assert (back.levels, back.thickness, back.residual_step) == (stream.levels, stream.thickness, stream.residual_step)


def test_the_worked_example_of_the_documentation_is_a_file():
    """FORMAT.md takes the file that holds everything apart."""
    text = (Path(vat3d.__file__).parent / "FORMAT.md").read_text()
    assert bytes.fromhex(re.search(r"```hex\n(.*?)```", text, re.S)[1]) == example_with_everything().to_bytes()


def test_one_level_for_all_takes_no_byte():
    plain = token_stream(20)
    for level in LEVELS:
        stream = replace(plain, levels=(level, level, level))
        data = stream.to_bytes()
        assert len(data) == len(plain.to_bytes())
        assert flags(data) == 0
        back = TokenStream.from_bytes(data, stream.model)
        assert back.level == back.truncate(1).level == back.prefix(5).level == level
        assert same(back, plain)


def test_levels_of_their_own_take_three_bits_a_scale_before_the_last():
    plain = token_stream(20)
    for levels in itertools.product(LEVELS, repeat=3):
        stream = replace(plain, levels=levels)
        data = stream.to_bytes()
        assert len(plain.to_bytes()) <= len(data) <= len(plain.to_bytes()) + 1
        assert stream.sizes["header"] == plain.sizes["header"]
        assert flags(data) == LEVELS_FLAG * (len(set(levels)) > 1)
        back = TokenStream.from_bytes(data, stream.model)
        assert same(back, plain)
        assert back.levels == levels
        for scales in (1, 2):
            part = back.truncate(scales)
            assert part.levels == levels[:scales]
            assert TokenStream.from_bytes(part.to_bytes(), stream.model).levels == part.levels
        assert back.prefix(7).levels == levels[:2]


@pytest.mark.parametrize("levels", [(8, 8, 8), (5, 5, 5), (14, 0, 0), (5, 5, 0), (-1, -1, -1), (1, 1), (2, 2, 2, 2)])
def test_levels_that_a_file_cannot_say(levels):
    with pytest.raises(CodecError, match="levels"):
        replace(token_stream(20), levels=levels)


@pytest.mark.parametrize("thickness", [1, 3, 15])
@pytest.mark.parametrize("plain", [token_stream(20), replace(token_stream(20), levels=(9, 4, 1)), sparse_stream()])
def test_a_thickness_takes_four_bits_and_stays_with_every_part(plain, thickness):
    stream = replace(plain, thickness=thickness)
    data = stream.to_bytes()
    assert len(plain.to_bytes()) <= len(data) <= len(plain.to_bytes()) + 1
    assert flags(data) == flags(plain.to_bytes()) | THICKNESS_FLAG
    back = TokenStream.from_bytes(data, stream.model)
    assert same(back, plain)
    assert back.to_bytes() == data
    for part in (back, back.truncate(2), back.prefix(7), back.fit(len(data))):
        assert part.thickness == thickness


@pytest.mark.parametrize("thickness", [-1, 8, 16])
def test_a_thickness_that_a_file_cannot_say(thickness):
    with pytest.raises(CodecError, match="thickness"):
        replace(token_stream(20), thickness=thickness)


@pytest.mark.parametrize(
    "plain",
    [
        token_stream(20),
        *(replace(token_stream(20), levels=levels) for levels in ((2, 2, 2), (9, 4, 1))),
        sparse_stream(),
    ],
)
@pytest.mark.parametrize(
    ("pose", "bits"),
    [
        ({"mirror": 1}, 4),
        ({"mirror": 7}, 4),
        ({"turn": (0, 0, 1)}, 24),
        ({"turn": (-127, 127, -127)}, 24),
        ({"turn": (127, -3, 0), "mirror": 6}, 28),
    ],
)
def test_a_pose_takes_some_bits_of_payload_and_stays_with_every_part(plain, pose, bits):
    stream = replace(plain, frame=replace(plain.frame, **pose))
    data = stream.to_bytes()
    assert bits - 8 <= 8 * (len(data) - len(plain.to_bytes())) <= bits + 7
    assert stream.sizes["header"] == plain.sizes["header"]
    assert flags(data) == flags(plain.to_bytes()) | POSE_FLAG
    back = TokenStream.from_bytes(data, stream.model)
    assert same(back, stream)
    assert (back.levels, back.to_bytes()) == (plain.levels, data)
    for part in (back.truncate(1), back.truncate(2), back.prefix(7), back.fit(len(data) - 1)):
        assert len(part.to_bytes()) < len(data)
        assert TokenStream.from_bytes(part.to_bytes(), stream.model).frame == stream.frame


@pytest.mark.parametrize(
    ("pose", "degrees", "axes"),
    [({}, 0.0, ""), ({"turn": (127, 0, 0), "mirror": 5}, 45.0, "xz"), ({"turn": (0, -127, 0), "mirror": 2}, 45.0, "y")],
)
def test_a_frame_says_its_pose(pose, degrees, axes):
    frame = replace(token_stream().frame, **pose)
    assert (frame.turned_degrees, frame.mirrored_axes) == (degrees, axes)
    assert frame.with_pose(frame.pose) == frame
    np.testing.assert_allclose(np.linalg.det(frame.rotation), 1)


def test_turned_points_come_back_by_the_rotation_of_the_frame():
    frame = Frame(**BOX, turn=(-8, 127, 40))
    rotation = Rotation.from_rotvec(2 * np.arctan(np.linalg.norm(vector := np.array(frame.turn) * TURN_STEP)) * (
        vector / np.linalg.norm(vector)
    )).as_matrix()  # fmt: skip
    np.testing.assert_allclose(frame.rotation, rotation, atol=1e-12)
    points = np.random.default_rng(0).uniform(-1, 1, (7, 3))
    plain = replace(frame, turn=NO_TURN).to_mesh(points)
    np.testing.assert_allclose(frame.to_mesh(points), plain @ rotation, rtol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 9, 15, 42])
def test_a_residual_round_trips_as_the_last_scale(count):
    stream = sparse_stream(count)
    data = stream.to_bytes()
    back = TokenStream.from_bytes(data, stream.model)
    assert flags(data) == RESIDUAL_FLAG | LEVELS_FLAG
    assert same(back, stream)
    assert back.to_bytes() == data
    assert (back.count, back.levels, back.residual_step) == (count, stream.levels, 10)
    assert back.ids[-1].size == np.prod(LATENT)
    assert np.array_equal(back.residual, stream.residual)
    assert back.residual.shape == LATENT
    assert set(np.unique(back.residual)) >= {-1, 0, 1}
    assert stream.sizes["bytes"] == len(data) == stream.sizes["header"] + stream.sizes["payload"]


def test_without_its_residual_a_file_is_one_of_tokens():
    stream = sparse_stream()
    assert same(stream.truncate(3), stream)
    assert stream.truncate(3).to_bytes() == stream.to_bytes()
    shorter = stream.truncate(2)
    assert same(shorter, replace(token_stream(15), levels=stream.levels[:2]))
    assert shorter.residual is None
    assert flags(shorter.to_bytes()) == LEVELS_FLAG
    size = len(stream.to_bytes())
    assert stream.fit(size) is stream
    assert same(stream.fit(size - 1), shorter)
    assert same(stream.prefix(7), token_stream(7))
    assert same(stream.fit(len(stream.prefix(7).to_bytes())), stream.prefix(7))


def test_damaged_residuals_are_refused():
    stream = sparse_stream()
    data = stream.to_bytes()
    for body in (data[:-4] + b"\1", data[:-5], data[:-4] + bytes(3000) + b"\1"):
        with pytest.raises(CodecError):
            TokenStream.from_bytes(body + zlib.crc32(body).to_bytes(4, "little"), stream.model)
    with pytest.raises(CodecError, match="does not fit a latent"):
        replace(stream, model=replace(stream.model, latent=(3, 4, 4, 4)))
    for change in ({"residual_step": 16}, {"ids": [*stream.tokens, stream.ids[-1][1:]]}, {"levels": (5, 5, 5)}):
        with pytest.raises(CodecError):
            replace(stream, **change)
    for ids in (np.zeros_like(stream.ids[-1]), stream.ids[-1] + 15):
        with pytest.raises(CodecError, match="empty"):
            replace(stream, ids=[*stream.tokens, ids])


def test_files_of_before_the_first_release_are_named():
    data = bytes.fromhex("56b30100c0ffee05001a7fe88aae2cfd0320af019db402d1698b45")
    for read in (TokenStream.from_bytes, read_model_id):
        with pytest.raises(CodecError, match="before the first release; encode the mesh again"):
            read(data)


def test_truncate_is_a_file_of_its_own():
    stream = token_stream(40)
    assert [part.size for part in stream.ids] == [3, 12, 25]
    for scales in (1, 2, 3):
        part = stream.truncate(scales)
        assert len(part.ids) == scales
        assert same(TokenStream.from_bytes(part.to_bytes(), stream.model), part)
    for scales in (0, 4, -1):
        with pytest.raises(CodecError, match="choose 1"):
            stream.truncate(scales)


@pytest.mark.parametrize("levels", [(0, 0, 0), (2, 2, 0), (13, 2, 0)])
def test_fit_takes_the_longest_prefix_that_fits(levels):
    stream = replace(token_stream(), levels=levels)
    sizes = [len(stream.prefix(count).to_bytes()) for count in range(1, 43)]
    for limit in range(sizes[2], sizes[-1] + 3):
        fitted = stream.fit(limit)
        assert len(fitted.to_bytes()) <= limit
        assert fitted.count == max(count for count, size in enumerate(sizes, 1) if size <= limit)
    with pytest.raises(CodecError, match="allow more bytes"):
        stream.fit(sizes[0] - 1)
    with pytest.raises(CodecError, match="allow more bytes"):
        tokens_within(np.concatenate(stream.ids), stream.frame, stream.model, 3)


def test_scales_that_are_not_the_models():
    model, frame = token_model(), token_stream().frame
    for sizes in ([], [2, 12], [3, 13], [3, 12, 27, 1], [3, 0], [4]):
        with pytest.raises(CodecError, match="scales"):
            TokenStream([np.zeros(size, int) for size in sizes], frame, model)
    with pytest.raises(CodecError, match="outside"):
        TokenStream([np.full(3, CODES)], frame, model)


def test_another_model_is_named():
    data = token_stream().to_bytes()
    with pytest.raises(CodecError, match=r"0badcafe.*deadbeef"):
        TokenStream.from_bytes(data, token_model("deadbeef"))
    with pytest.raises(CodecError, match="0badcafe, which is not here"):
        TokenStream.from_bytes(data)


def test_models_on_disk(tmp_path):
    model = token_model()
    save_token_model(tmp_path, model)
    back = load_token_model(tmp_path)
    assert (back.model_id, back.scales) == (model.model_id, model.scales)
    stream = token_stream()
    assert same(TokenStream.from_bytes(stream.to_bytes(), back), stream)
    path = tmp_path / "tables.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CodecError, match="fetch it again"):
        load_token_model(tmp_path)
    path.unlink()
    with pytest.raises(CodecError, match="does not exist"):
        load_token_model(tmp_path)
    path.with_name("tokens.safetensors").touch()
    with pytest.raises(CodecError, match="before the first release"):
        load_token_model(tmp_path)


def test_model_hash_covers_tensors_scales_and_tables():
    tensors = {"decoder.weight": np.arange(6, dtype=np.float16).reshape(2, 3), "codebook": np.ones(4, np.float16)}
    tables = uniform_tables(7, 10)
    known = model_hash(tensors, (3, 4), tables)
    assert known == model_hash(dict(reversed(tensors.items())), [3, 4], tables)
    changed = [
        model_hash(tensors | {"codebook": np.zeros(4, np.float16)}, (3, 4), tables),
        model_hash(tensors | {"codebook": np.ones((2, 2), np.float16)}, (3, 4), tables),
        model_hash(tensors, (4, 3), tables),
        model_hash(tensors, (3, 4), uniform_tables(7, 11)),
    ]
    assert len({known, *changed}) == 5


@pytest.mark.parametrize("model_id", ["", "xyzxyzxy", "0badcafe00", "0bad"])
def test_ids_of_models_are_eight_digits(model_id):
    with pytest.raises(CodecError, match="digits"):
        TokenModel(model_id, SCALES, token_model().tables, LATENT)


@pytest.mark.parametrize("size", [1e-19, 1e-12, 0.37, 1.0, 1e12, 9e18])
@pytest.mark.parametrize("offset", [0.0, 0.4, -7.3, 900.0, 1e6, -1e12])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 0, 0), (0.2, 1, 0.003), (0, 0.5, 1)])
def test_boxes_agree_within_a_thousandth_of_the_half_side(size, offset, shape):
    """Of scale, centre and aspect each 1/4096 is lost at most, for any size, place and aspect."""
    centre = size * offset * np.array([1, -0.7, 0.1])
    half = size * np.array(shape)
    frame = Frame.from_corners(centre - half, centre + half)
    low, high = frame.to_mesh(-frame.aspect[None])[0], frame.to_mesh(frame.aspect[None])[0]
    tolerance = 3 / 4096 * size + 1e-15 * np.abs(centre).max()
    np.testing.assert_allclose(low, centre - half, rtol=0, atol=tolerance)
    np.testing.assert_allclose(high, centre + half, rtol=0, atol=tolerance)
    assert frame.aspect.max() == 1
    if abs(offset) <= 2000:
        assert header_bytes(frame) <= 29
    back, size = Frame.read(frame.to_bytes() + b"yyy")
    assert back == frame
    assert size == len(frame.to_bytes())


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ([0, 0, 0], [0, 0, 0]),
        ([0, 0, np.nan], [1, 1, 1]),
        ([0, 0, 0], [np.inf, 1, 1]),
        ([0, 0, 0], [1e-20, 0, 0]),
        ([0, 0, 0], [2e19, 0, 0]),
        ([1e30, 0, 0], [1e30, 1, 0]),
    ],
)
def test_boxes_that_a_header_cannot_hold(low, high):
    with pytest.raises(CodecError):
        Frame.from_corners(np.array(low, float), np.array(high, float))


def test_a_stream_on_disk(tmp_path):
    stream = example_with_everything()
    stream.save(tmp_path / "s.vat")
    assert (tmp_path / "s.vat").read_bytes() == stream.to_bytes()
    assert TokenStream.load(tmp_path / "s.vat", stream.model).to_bytes() == stream.to_bytes()
    assert repr(stream).startswith(f"TokenStream({len(stream.to_bytes())} bytes: {stream.count} tokens in ")
    with pytest.raises(InputError, match=r"cannot read .*none\.vat: No such file"):
        TokenStream.load(tmp_path / "none.vat")
    (tmp_path / "cut.vat").write_bytes(stream.to_bytes()[:-2])
    with pytest.raises(CodecError, match=r"cut\.vat"):
        TokenStream.load(tmp_path / "cut.vat", stream.model)
