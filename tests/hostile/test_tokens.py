"""Token files that are damaged or made to hurt: one CodecError each, and nothing in proportion to a claim."""

import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from streams import sparse_stream, token_model, token_stream

from vat3d.bitstream.coordinate_frame import MIRRORS, TURNS
from vat3d.bitstream.header import (
    COUNT_BYTES,
    CRC_BYTES,
    ID_BYTES,
    LEVELS,
    LEVELS_FLAG,
    MAGIC,
    POSE_FLAG,
    RESIDUAL_FLAG,
    THICKNESS_FLAG,
    VERSION,
)
from vat3d.bitstream.stream import THICKNESSES, TokenStream, read_model_id
from vat3d.errors import CodecError

DATA, SPARSE = token_stream().to_bytes(), sparse_stream().to_bytes()
POSED_SPARSE = replace(sparse_stream(), frame=replace(sparse_stream().frame, turn=(5, -80, 127), mirror=5)).to_bytes()
COUNT_AT = len(MAGIC) + 1 + ID_BYTES
FRAME_AT = COUNT_AT + COUNT_BYTES


def sealed(body):
    """A file with a right checksum, as someone who wants to hurt would make it."""
    return body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")


def refused(data, match=None):
    with pytest.raises(CodecError, match=match):
        TokenStream.from_bytes(data, token_model())


def test_truncated_at_every_byte():
    for end in range(len(DATA)):
        refused(DATA[:end])
        with pytest.raises(CodecError):
            read_model_id(DATA[:end])


def test_every_single_bit_flipped():
    for bit in range(8 * len(DATA)):
        broken = bytearray(DATA)
        broken[bit // 8] ^= 1 << bit % 8
        refused(bytes(broken))


@pytest.mark.parametrize("tail", [b"\0", b"\xff", b"\n", DATA, bytes(1000)])
def test_trailing_bytes(tail):
    refused(DATA + tail, "checksum")


@pytest.mark.parametrize("tail", [b"\0", b"\1", bytes(1000), b"\xff" * 1000])
@pytest.mark.parametrize("data", [DATA, SPARSE, POSED_SPARSE])
def test_trailing_bytes_under_a_right_checksum(data, tail):
    refused(sealed(data[:-CRC_BYTES] + tail))


@pytest.mark.parametrize("data", [DATA, SPARSE])
def test_truncated_under_a_right_checksum(data):
    for end in range(len(data) - CRC_BYTES):
        refused(sealed(data[:end]))


def as_written_or_refused(data):
    try:
        read = TokenStream.from_bytes(data, token_model())
    except CodecError:
        return
    assert read.to_bytes() == data


def test_a_pose_cut_short_under_a_right_checksum():
    """What is left may be another pose: then the file is the one of that pose."""
    for end in range(len(POSED_SPARSE) - CRC_BYTES):
        as_written_or_refused(sealed(POSED_SPARSE[:end]))


@pytest.mark.parametrize("data", [SPARSE, POSED_SPARSE])
def test_a_residual_that_was_altered_under_a_right_checksum(data):
    """It is refused, or what it says is written so and not otherwise."""
    header = sparse_stream().sizes["header"] - CRC_BYTES
    for bit in range(8 * header, 8 * (len(data) - CRC_BYTES)):
        broken = bytearray(data[:-CRC_BYTES])
        broken[bit // 8] ^= 1 << bit % 8
        as_written_or_refused(sealed(bytes(broken)))


@pytest.mark.parametrize("count", [0, 1, 41, 43, 255, 256, 65535])
@pytest.mark.parametrize("data", [DATA, SPARSE, POSED_SPARSE])
def test_absurd_counts(data, count):
    body = bytearray(data[:-CRC_BYTES])
    body[COUNT_AT:FRAME_AT] = count.to_bytes(COUNT_BYTES, "little")
    refused(sealed(bytes(body)))


@pytest.mark.parametrize("version", [0, VERSION + 1, 15])
def test_versions_to_come(version):
    body = bytearray(DATA[:-CRC_BYTES])
    body[len(MAGIC)] = version
    refused(sealed(bytes(body)), "update")


@pytest.mark.parametrize(
    "pose", [2, MIRRORS - 1, MIRRORS, 2 * MIRRORS, TURNS - 1, TURNS + TURNS // 2, 2 * TURNS, 1 << 200]
)
def test_a_pose_that_is_none(pose):
    """Mirrors that are not among the seven, a turn of nothing, or more than a pose."""
    body = bytearray(DATA[: token_stream().sizes["header"] - CRC_BYTES])
    body[len(MAGIC)] |= POSE_FLAG
    payload = token_stream().model.tables.encode(np.concatenate(token_stream().ids), pose)
    refused(sealed(bytes(body) + payload))


def test_a_pose_that_was_not_announced():
    body = DATA[: token_stream().sizes["header"] - CRC_BYTES]
    payload = token_stream().model.tables.encode(np.concatenate(token_stream().ids), MIRRORS + 1)
    refused(sealed(body + payload), "does not hold what its header names")


@pytest.mark.parametrize("flag", [LEVELS_FLAG, THICKNESS_FLAG, POSE_FLAG, RESIDUAL_FLAG])
@pytest.mark.parametrize("data", [DATA, SPARSE, POSED_SPARSE])
def test_a_header_that_names_what_is_not_there_or_does_not_name_what_is(data, flag):
    body = bytearray(data[:-CRC_BYTES])
    body[len(MAGIC)] ^= flag
    as_written_or_refused(sealed(bytes(body)))
    if data is DATA:
        refused(sealed(bytes(body)))


def with_payload_above(stream, flag, start):
    """A file whose header has a flag, and whose tokens stand on a number."""
    body = bytearray(stream.to_bytes()[: stream.sizes["header"] - CRC_BYTES])
    body[len(MAGIC)] |= flag
    return bytes(body), stream.model.tables.encode(np.concatenate(stream.ids), start)


def test_levels_that_are_alike_are_said_once():
    """No two files say the same."""
    stream = replace(token_stream(), levels=(2, 2, 2))
    start = len(LEVELS) ** 2 + LEVELS.index(2) * (1 + len(LEVELS))  # of the two scales before the last
    body, payload = with_payload_above(stream, LEVELS_FLAG, start)
    refused(sealed(body + payload), "does not hold")
    other = bytearray(body)
    other[COUNT_AT + 1] ^= 0x20  # another level of the last scale, which makes them differ
    assert TokenStream.from_bytes(sealed(bytes(other) + payload), token_model()).levels == (2, 2, 3)


@pytest.mark.parametrize(("thickness", "match"), [(0, "does not hold"), (8, "thickness")])
def test_a_thickness_that_is_none(thickness, match):
    body, payload = with_payload_above(token_stream(), THICKNESS_FLAG, THICKNESSES + thickness)
    refused(sealed(body + payload), match)


def test_a_fourth_axis():
    body = bytearray(DATA[:-CRC_BYTES])
    body[FRAME_AT + 2] |= 0x0C
    refused(sealed(bytes(body)), "axis")


@pytest.mark.parametrize("width", [0, 1, 30, 63])
def test_centres_of_another_width(width):
    body = bytearray(DATA[:-CRC_BYTES])
    body[FRAME_AT + 5] = width << 2 | body[FRAME_AT + 5] & 3
    refused(sealed(bytes(body)))


@pytest.mark.parametrize("data", [b"", b"V", MAGIC, b"PK\3\4" + bytes(40), b"ply\nformat", bytes(64)])
def test_files_of_other_kinds(data):
    refused(data)


def test_a_large_file_costs_no_more_than_itself():
    body = DATA[:-CRC_BYTES] + bytes(2_000_000)
    data = sealed(body)
    tracemalloc.start()
    refused(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(data)


def test_random_bytes_behind_a_right_header():
    """Whatever decodes is a file that this package writes; everything else is refused."""
    rng = np.random.default_rng(0)
    header = DATA[: len(DATA) - CRC_BYTES - token_stream().sizes["payload"]]
    for size in range(40):
        data = sealed(header + rng.bytes(size))
        try:
            stream = TokenStream.from_bytes(data, token_model())
        except CodecError:
            continue
        assert stream.to_bytes() == data
