"""The reader of journal series: what `books` tails, and what recovery scans.

Owns following the segments and deciding where trustworthy bytes end. Writes nothing. Never passes the published synced
position of a living writer (I8); of a dead one it takes every frame that is whole.
"""

import os
from pathlib import Path

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError
from steelyard.kernel.frozen import Record
from steelyard.kernel.settled import Entry, Position
from steelyard.metering.frames import (
    HEADER_BYTES,
    PREFIX,
    header_is_whole,
    length_is_possible,
    record_from,
    segment_header,
    segment_path,
    segments,
)
from steelyard.metering.lock import is_held, synced

__all__ = ["Batch", "is_held", "read", "series", "synced"]


class Batch(Record, frozen=True):
    """What one read found. Fewer records than asked for means that there are no more to be had now.

    `torn`: a segment ended in bytes that are no whole record (its writer died in mid-write, or the file is damaged).
    """

    records: list[Entry]
    end: Position
    torn: bool = False


def series(journal: Path) -> list[Path]:
    """The directories of all series under the journal directory, by name."""
    return sorted(path for path in journal.iterdir() if path.is_dir()) if journal.is_dir() else []


def read(directory: Path, position: Position, *, until: Position | None, max_records: int) -> Batch:
    """Up to `max_records` records from `position`, following the rotation of segments.

    `until` bounds the read; None means all that can be trusted: the synced position of a living writer, every whole
    frame of a dead one. Raises BooksError when anything before the synced position is damaged or missing.
    """
    if until is None and is_held(directory):
        until = synced(directory)
    safe = _published(directory) if until is None else min(until, _published(directory))
    records: list[Entry] = []
    torn = False
    while until is None or position < until:
        last = until is not None and until.segment == position.segment
        path = segment_path(directory, position.segment)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if position < safe or any(number > position.segment for number in segments(directory)):
                raise BooksError(f"the segment {path.name} of the journal {directory.name} is missing") from None
            break
        try:
            scan = _Scan(fd, max(position.offset, HEADER_BYTES), until.offset if until is not None and last else None)
            if scan.begins(directory.name, position.segment):
                scan.take(records, max_records)
        finally:
            os.close(fd)
        position = Position(position.segment, scan.offset)
        if len(records) >= max_records:
            break
        # A rotated segment was cut to its data before anything behind it was published.
        if position < safe and (position.segment == safe.segment or not scan.ended):
            raise BooksError(f"the journal {directory.name} is damaged at {path.name}, byte {scan.offset}")
        torn = torn or scan.torn
        if last or not (position < safe or segment_path(directory, position.segment + 1).exists()):
            break
        position = Position(position.segment + 1, HEADER_BYTES)
    return Batch(records, position, torn)


def _published(directory: Path) -> Position:
    """The synced position; a lock file that a power loss has blanked promises nothing."""
    try:
        return synced(directory)
    except BooksError:
        return Position()


def ends_of_data(directory: Path) -> dict[Path, int]:
    """Where the data of a dead writer's last segments ends: those from the synced position on, by their path.

    A segment without a header ends at 0. Raises BooksError when one is missing or ends before what was synced.
    """
    safe, ends = _published(directory), {}
    if safe > Position() and not segment_path(directory, safe.segment).exists():
        raise BooksError(f"the segment {safe.segment} of the journal {directory.name} is missing")
    for segment in segments(directory):
        if segment < safe.segment:
            continue
        path = segment_path(directory, segment)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            scan = _Scan(fd, HEADER_BYTES, None)
            begun = scan.begins(directory.name, segment)
            if begun:
                scan.take([], 1 << 62)
        finally:
            os.close(fd)
        if Position(segment, scan.offset) < safe:
            raise BooksError(f"the journal {directory.name} is damaged at {path.name}, byte {scan.offset}")
        ends[path] = scan.offset if begun else 0
    return ends


class _Scan:
    """One pass over a segment from `offset`, ending at `bound`, at the end of the data or at damage."""

    def __init__(self, fd: int, offset: int, bound: int | None) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._bound = self._size if bound is None else bound
        self.offset = offset
        self.torn = bound is not None and bound > self._size

    @property
    def ended(self) -> bool:
        """Whether every byte of the segment was understood."""
        return not self.torn and self.offset >= self._size

    def begins(self, series: str, segment: int) -> bool:
        """Whether this is the segment it should be. A blank one was being made when its writer died."""
        header = os.pread(self._fd, HEADER_BYTES, 0)
        if header == segment_header(series, segment):
            return True
        if header_is_whole(header):
            raise BooksError(f"a file in the place of segment {segment} of the journal {series} belongs elsewhere")
        self.torn = self.torn or not _is_blank(header)
        return False

    def take(self, records: list[Entry], max_records: int) -> None:
        """Append whole records; `offset` ends behind the last of them."""
        while len(records) < max_records and self.offset < self._bound:
            want = min(limits.JOURNAL_READ_BYTES, self._bound - self.offset)
            chunk = os.pread(self._fd, want, self.offset)
            used = self._take_chunk(memoryview(chunk), records, max_records)
            self.offset += used
            if self.torn or len(records) >= max_records:
                return
            if used == 0:  # no frame is whole: the zeros behind the data, or a frame cut by the end of the file
                self.torn = not _is_blank(chunk) or self._any_byte_from(self.offset + len(chunk))
                return

    def _take_chunk(self, chunk: memoryview, records: list[Entry], max_records: int) -> int:
        """Bytes used up. A frame that the chunk cuts is left for the next one."""
        at, size = 0, len(chunk)
        room = max_records - len(records)
        while room and size - at >= PREFIX.size:
            length, crc = PREFIX.unpack_from(chunk, at)
            body = at + PREFIX.size
            if not length_is_possible(length) or body + length > size:
                break
            record = record_from(chunk[body : body + length], crc)
            if record is None:
                self.torn = True
                break
            records.append(record)
            at = body + length
            room -= 1
        return at

    def _any_byte_from(self, offset: int) -> bool:
        while offset < self._bound:
            chunk = os.pread(self._fd, min(limits.JOURNAL_READ_BYTES, self._bound - offset), offset)
            if not chunk:  # its writer has just cut the unused tail off
                return False
            if not _is_blank(chunk):
                return True
            offset += len(chunk)
        return False


def _is_blank(chunk: bytes) -> bool:
    return chunk.count(0) == len(chunk)
