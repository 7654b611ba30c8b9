"""The header of a token file."""

from __future__ import annotations

import zlib

from vat3d.bitstream.frame import Frame
from vat3d.bitstream.token_model import COUNT_BITS, ID_BYTES
from vat3d.errors import CodecError

MAGIC, VERSIONS, POSED = b"V\xb3", (1, 2, 3, 4), 4
"""The version of a file whose frame has a pose is `POSED` larger than it would be otherwise."""
CRC_BYTES, COUNT_BYTES = 4, 2
HEADER_LIMIT = 26
SMALLEST_FILE = len(MAGIC) + 1 + ID_BYTES + COUNT_BYTES + CRC_BYTES + 6


def header_bytes(frame: Frame) -> int:
    """Bytes of header and checksum for `frame`: 19 to `HEADER_LIMIT`, more only far from the origin."""
    return len(MAGIC) + 1 + ID_BYTES + COUNT_BYTES + len(frame.to_bytes()) + CRC_BYTES


def parse_file(data: bytes) -> tuple[str, int, bool, int, int, int, Frame, bytes]:
    """Model id, version, whether there is a pose, width, token count, level, frame and payload of a file whose checksum
    is right."""
    if not data.startswith(MAGIC):
        raise CodecError("not a vat3d token file (its first two bytes are wrong)" if data else "the file is empty")
    if len(data) < SMALLEST_FILE:
        raise CodecError(f"the file ends after {len(data)} bytes; it is truncated, copy it again")
    body, checksum = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if zlib.crc32(body) != int.from_bytes(checksum, "little"):
        raise CodecError("the checksum is wrong: the file is truncated or altered; copy it again")
    width, version = divmod(body[len(MAGIC)], 16)
    posed = version > POSED
    if (plain := version - POSED * posed) not in VERSIONS:
        newest = VERSIONS[-1] + POSED
        raise CodecError(f"the file has format version {version}; this package reads up to {newest}, update it")
    position = len(MAGIC) + 1
    model_id = body[position : position + ID_BYTES].hex()
    position += ID_BYTES
    count = int.from_bytes(body[position : position + COUNT_BYTES], "little")
    level = 0
    if plain > 1:
        count, level = count % (1 << COUNT_BITS), count >> COUNT_BITS
        if plain == 2 and level == 0:
            raise CodecError(f"the file is of version {version} and asks for no level; it is damaged")
    frame, position = Frame.read(body, position + COUNT_BYTES)
    return model_id, plain, posed, width, count, level, frame, body[position:]
