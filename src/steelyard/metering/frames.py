"""The bytes of a journal: file names, the segment header and the frame around a record.

    segment   header of HEADER_BYTES, then frames, then zeros up to the pre-allocated size
    frame     u32 length of the body, u32 CRC-32 of the body seeded with the length, body = u8 version + msgpack array

A length of zero is the end of what was written. A frame never spans two segments. Little-endian throughout.
"""

import struct
import zlib
from pathlib import Path

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.settled import Entry, Position

FORMAT_VERSION = 1
HEADER_BYTES = 128
PREFIX = struct.Struct("<II")
_SEGMENT = struct.Struct("<8sHHI")  # magic, format version, length of the series name, segment number
_MAGIC = b"SYJOURN\n"
_VERSION_BYTE = bytes([FORMAT_VERSION])
_END_BYTE = b"\xc1"
"""Ends a frame's body since records may end in zeros: a segment is made of zeros, so of a frame that ended in some and
was written short the whole would stand there. msgpack never writes this byte, so the frames before it have none.
"""
_NAME_BYTES_MAX = HEADER_BYTES - _SEGMENT.size - 4

_encode, _prefix, _crc = msgspec.msgpack.Encoder().encode, PREFIX.pack, zlib.crc32
_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


def segment_path(directory: Path, segment: int) -> Path:
    return directory / f"{segment:08d}.journal"


def segments(directory: Path) -> list[int]:
    """The numbers of the segments that exist, ascending."""
    return sorted(int(path.stem) for path in directory.glob("*.journal") if path.stem.isdigit())


def segment_header(series: str, segment: int) -> bytes:
    """The first HEADER_BYTES of a segment; it names series and number, so that a misplaced file is not read."""
    name = series.encode()[:_NAME_BYTES_MAX]
    head = _SEGMENT.pack(_MAGIC, FORMAT_VERSION, len(name), segment) + name
    head = head.ljust(HEADER_BYTES - 4, b"\0")
    return head + zlib.crc32(head).to_bytes(4, "little")


def header_is_whole(header: bytes) -> bool:
    """Whether these are the first bytes of a segment, of whichever series and number."""
    return header.startswith(_MAGIC) and zlib.crc32(header[:-4]).to_bytes(4, "little") == header[-4:]


def frame_from(record: Entry) -> bytes:
    """One record as it stands in the file."""
    body = _VERSION_BYTE + _encode(record) + _END_BYTE
    length = len(body)
    return _prefix(length, _crc(body, length)) + body


def record_from(body: memoryview, crc: int) -> Entry | None:
    """The record of a frame's body; None when the body is not what was written."""
    if zlib.crc32(body, len(body)) != crc or body[0] != FORMAT_VERSION:
        return None
    try:
        return _decoder.decode(body[1:-1] if body[-1:] == _END_BYTE else body[1:])
    except msgspec.MsgspecError:
        return None


def length_is_possible(length: int) -> bool:
    return 1 < length <= limits.FRAME_BYTES_MAX - PREFIX.size


def word_from_position(position: Position) -> int:
    """A position in one u64, so that another process never sees half of it."""
    return position.segment << 32 | position.offset


def position_from_word(word: int) -> Position:
    return Position(word >> 32, word & 0xFFFFFFFF)
