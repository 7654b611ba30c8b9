"""The header of a token file: what can be known of it without its model. `FORMAT.md` describes it byte by byte."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from vat3d.bitstream.bounding_box import FIXED_BYTES, BoundingBox
from vat3d.bitstream.coordinate_frame import Frame
from vat3d.errors import CodecError

MAGIC, VERSION = b"\xb3V", 1
BEFORE_RELEASE = b"V\xb3"
"""The first two bytes of files that versions before the first release wrote."""
VERSION_BITS = 4
LEVELS_FLAG, THICKNESS_FLAG, POSE_FLAG, RESIDUAL_FLAG = 16, 32, 64, 128
ID_BYTES, COUNT_BYTES, CRC_BYTES = 4, 2, 4
COUNT_BITS = 13
"""Of the two bytes of the token count; the others number the level."""
SMALLEST_FILE = len(MAGIC) + 1 + ID_BYTES + COUNT_BYTES + FIXED_BYTES + CRC_BYTES
LEVEL_STEP = 0.001
"""What a level counts, in half-sides."""
LEVELS = (0, 1, 2, 3, 4, 6, 9, 13)
"""The levels that a file can name."""


@dataclass(frozen=True)
class Header:
    """What stands before the payload.

    Parameters
    ----------
    model_id : str
        Eight hexadecimal digits.
    count : int
        Tokens in the file.
    level : int
        One of `LEVELS`, at which the whole file decodes.
    frame : Frame
        Only its box counts; a reader finds the pose in the payload.
    flags : int
        Sum of the flags for what else the payload holds: levels of scales, a thickness, a pose, a residual.
    """

    model_id: str
    count: int
    level: int
    frame: Frame
    flags: int = 0

    def to_bytes(self) -> bytes:
        """The bytes before the payload.

        Returns
        -------
        bytes
        """
        return (
            MAGIC
            + bytes([VERSION | self.flags])
            + bytes.fromhex(self.model_id)
            + (self.count | LEVELS.index(self.level) << COUNT_BITS).to_bytes(COUNT_BYTES, "little")
            + self.frame.to_bytes()
        )


def sealed(header: Header, payload: bytes) -> bytes:
    """A file: header, payload and the checksum over both.

    Parameters
    ----------
    header : Header
    payload : bytes

    Returns
    -------
    bytes
    """
    body = header.to_bytes() + payload
    return body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")


def header_bytes(box: BoundingBox) -> int:
    """Bytes of header and checksum.

    Parameters
    ----------
    box : BoundingBox

    Returns
    -------
    int
        19 to 29, more only far from the origin.
    """
    return SMALLEST_FILE - FIXED_BYTES + len(box.to_bytes())


def read_header(data: bytes) -> tuple[Header, bytes]:
    """Header and payload of a file.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    header : Header
    payload : bytes

    Raises
    ------
    CodecError
        This is no token file, or it is truncated, altered, or of another version.
    """
    if data.startswith(BEFORE_RELEASE):
        raise CodecError("the file was made by a version before the first release; encode the mesh again")
    if not data.startswith(MAGIC):
        raise CodecError("not a vat3d token file (its first two bytes are wrong)" if data else "the file is empty")
    if len(data) < SMALLEST_FILE:
        raise CodecError(f"the file ends after {len(data)} bytes; it is truncated, copy it again")
    body, checksum = data[:-CRC_BYTES], data[-CRC_BYTES:]
    if zlib.crc32(body) != int.from_bytes(checksum, "little"):
        raise CodecError("the checksum is wrong: the file is truncated or altered; copy it again")
    position = len(MAGIC)
    version, flags = body[position] % (1 << VERSION_BITS), body[position] >> VERSION_BITS << VERSION_BITS
    if version != VERSION:
        raise CodecError(f"the file has format version {version}; this package reads version {VERSION}, update it")
    position += 1
    model_id = body[position : position + ID_BYTES].hex()
    position += ID_BYTES
    count = int.from_bytes(body[position : position + COUNT_BYTES], "little")
    position += COUNT_BYTES
    frame, size = Frame.read(body[position:])
    level = LEVELS[count >> COUNT_BITS]
    return Header(model_id, count % (1 << COUNT_BITS), level, frame, flags), body[position + size :]
