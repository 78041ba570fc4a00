"""Who the live keys stand for, as a memory-mapped file that the books write and every worker reads.

Owns the layout and the order of stores. One store makes a key live and one ends it, so all workers know at once,
without a message. The file never shrinks and its space is allocated when it is made (a sparse one would kill a process,
SIGBUS, on a full disk). It is derived: the books make it anew from the database, so nothing of it is ever synced.
"""

import errno
import mmap
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError
from steelyard.kernel.records import Caller

# Numbers of words are the machine's own: the file never leaves it.
#
# header    8 words and room
# slots     6 words each, open-addressed by the digest's first word: digest (4), id of the key (0: not live; stored
#           last), where its project is (high half) and the next slot of the same project + 1 (low half)
# by key    a half word for each key id: its slot + 1
# by project  a half word for each project id: where its record is
# projects  records: first slot + 1, length, msgpack array of what a `Caller` says beside the key's id
_MAGIC = int.from_bytes(b"SYKEYS1\n", "little")
_HEADER_WORDS = 512  # a page
_SLOT_WORDS = 6
_ID, _LINKS = 4, 5  # words of a slot
_LOW = 0xFFFFFFFF
_SLOTS, _KEYS, _PROJECTS, _AREA, _USED, _LIVE, _FILLED = range(1, 8)  # words of the header; the last three change
_ORDER = sys.byteorder
_ZEROS = bytes(1024 * 1024)
_AT_ONCE, _PAUSE_S = 1000, 0.001  # of a copy: keys, and the rest others get before the next ones

_encode = msgspec.msgpack.Encoder().encode
_prefix_of = struct.Struct("=Q").unpack_from
_decode = msgspec.msgpack.Decoder(tuple[int, int, str, str, str]).decode


class Sizes(NamedTuple):
    """What a file has room for."""

    slots: int
    key_ids: int  # every id is smaller
    project_ids: int
    area_words: int  # of records of projects

    @classmethod
    def of(cls, keys: int, key_id_max: int, project_id_max: int, projects_bytes: int) -> "Sizes":
        """Room for twice as much as there is, and for a first few."""
        slots = 2 * keys + limits.KEY_TABLE_SLOTS_MIN
        ids = 2 * (key_id_max + limits.KEY_TABLE_SLOTS_MIN) & ~1, 2 * (project_id_max + limits.KEY_TABLE_SLOTS_MIN) & ~1
        return cls(slots, *ids, projects_bytes // 4 + limits.KEY_TABLE_SLOTS_MIN * 16)

    @property
    def bytes(self) -> int:
        halves = self.key_ids + self.project_ids
        return 8 * (_HEADER_WORDS + self.slots * _SLOT_WORDS + halves // 2 + self.area_words)


class KeyTable:
    """A reader's end; `Callers` of a snapshot."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Raises BooksError when there is no such file or it is another's."""
        try:
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise BooksError(f"the key table {path} cannot be opened: {error.strerror}") from error
        try:
            size = os.fstat(fd).st_size
            if size < _HEADER_WORDS * 8:
                raise BooksError(f"the key table {path} is damaged")
            self._map = mmap.mmap(fd, size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        finally:
            os.close(fd)
        self.path = path
        self._words = memoryview(self._map).cast("Q")
        self._halves = memoryview(self._map).cast("I")
        self.sizes = Sizes(*self._words[_SLOTS : _AREA + 1])
        if self._words[0] != _MAGIC or self.sizes.bytes > size:
            self.close()
            raise BooksError(f"the key table {path} is damaged or of another version")
        self._slots = self.sizes.slots
        self._end = _HEADER_WORDS + self._slots * _SLOT_WORDS
        self._key_at = 2 * (_HEADER_WORDS + self._slots * _SLOT_WORDS)
        self._project_at = self._key_at + self.sizes.key_ids
        self._seen: dict[bytes, tuple[int, int, Caller]] = {}

    def __len__(self) -> int:
        """How many keys are live."""
        return self._words[_LIVE]

    def get(self, digest: bytes) -> Caller | None:
        """Who the key with this SHA-256 stands for; None when none that is live has it. 2 µs, 0.2 for one just seen."""
        seen = self._seen.get(digest)
        if seen is not None:
            at, key_id, caller = seen
            return caller if self._words[at] == key_id else None
        words, (prefix,) = self._words, _prefix_of(digest)  # what `_find` and `_caller` do, half a µs sooner
        at = _HEADER_WORDS + prefix % self._slots * _SLOT_WORDS
        while (word := words[at]) != prefix or self._map[at * 8 : at * 8 + 32] != digest:
            if not word and not words[at + _LINKS]:
                return None
            at += _SLOT_WORDS
            if at == self._end:
                at = _HEADER_WORDS
        key_id = words[at + _ID]
        if not key_id:
            return None
        record = words[at + _LINKS] >> 32
        start = record * 8 + 16
        project_id, tenant_id, tenant, project, currency = _decode(self._map[start : start + words[record + 1]])
        caller = Caller(key_id, project_id, tenant_id, tenant, project, currency)
        if len(self._seen) >= limits.CALLERS_SEEN_MAX:
            self._seen.clear()
        self._seen[digest] = at + _ID, key_id, caller
        return caller

    def of_key(self, key_id: int) -> Caller | None:
        """Who the live key with this id stands for."""
        if not 0 < key_id < self.sizes.key_ids:
            return None
        slot = self._halves[self._key_at + key_id]
        return self._caller(_at(slot - 1)) if slot else None

    def of_project(self, project_id: int) -> Caller | None:
        """The project with its oldest live key."""
        if not 0 < project_id < self.sizes.project_ids:
            return None
        record = self._halves[self._project_at + project_id]
        slot = self._words[record] - 1 if record else -1
        oldest, key_id_min = 0, 0
        while slot >= 0:
            at = _at(slot)
            key_id = self._words[at + _ID]
            if key_id and (not oldest or key_id < key_id_min):
                oldest, key_id_min = at, key_id
            slot = (self._words[at + _LINKS] & _LOW) - 1
        return self._caller(oldest) if oldest else None

    def payers(self, count_max: int) -> list[Caller]:
        """Projects that have a live key, each with its oldest one; the oldest projects, and no more than so many."""
        found: list[Caller] = []
        for project_id in range(1, self.sizes.project_ids):
            if self._halves[self._project_at + project_id] and (caller := self.of_project(project_id)) is not None:
                found.append(caller)
                if len(found) >= count_max:
                    break
        return found

    def close(self) -> None:
        """Let the file go. Safe to call twice."""
        if not self._map.closed:
            self._words.release()
            self._halves.release()
            self._map.close()

    def _find(self, digest: bytes) -> int:
        """The word where the slot of a digest begins that is or was live. Without one, less than 0: where it may be."""
        words, prefix = self._words, int.from_bytes(digest[:8], _ORDER)
        at = _HEADER_WORDS + prefix % self._slots * _SLOT_WORDS
        while True:
            word = words[at]
            if word == prefix and self._map[at * 8 : at * 8 + 32] == digest:
                return at
            if not word and not words[at + _LINKS]:  # never used; at most three in four slots ever are
                return -at
            at += _SLOT_WORDS
            if at == self._end:
                at = _HEADER_WORDS

    def _caller(self, at: int) -> Caller | None:
        """Who the slot there is of; None when its key has ended."""
        words = self._words
        key_id = words[at + _ID]
        if not key_id:
            return None
        record = words[at + _LINKS] >> 32
        start = record * 8 + 16
        project_id, tenant_id, tenant, project, currency = _decode(self._map[start : start + words[record + 1]])
        return Caller(key_id, project_id, tenant_id, tenant, project, currency)


class KeyTableWriter(KeyTable):
    """The books' end. Use it from one thread at a time."""

    @classmethod
    def create(cls, path: Path, sizes: Sizes) -> "KeyTableWriter":
        """A new, empty file of the owner's. Raises BooksError when the disk has no room for it."""
        used = sizes.bytes // 8 - sizes.area_words
        header = b"".join(word.to_bytes(8, _ORDER) for word in (_MAGIC, *sizes, used, 0, 0))
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _allocate(fd, sizes.bytes)
                os.pwrite(fd, header, 0)
            finally:
                os.close(fd)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise BooksError(f"the key table {path} cannot be made: {error.strerror}") from error
        return cls(path, writable=True)

    @property
    def crowded(self) -> bool:
        """Whether it should be made anew with more room soon."""
        sizes, words = self.sizes, self._words
        area_left = sizes.bytes // 8 - words[_USED]
        return 8 * words[_FILLED] > 5 * sizes.slots or 4 * area_left < sizes.area_words

    def add(self, digest: bytes, caller: Caller) -> bool:
        """The key is live from here on, for every process. False when there is no room for it."""
        words, sizes = self._words, self.sizes
        at = self._find(digest)
        if at < 0:
            if 4 * words[_FILLED] >= 3 * sizes.slots or caller.key_id >= sizes.key_ids:
                return False
            record = self._record(caller)
            if not record:
                return False
            at = -at
            slot = (at - _HEADER_WORDS) // _SLOT_WORDS + 1
            words[at + _LINKS] = record << 32 | words[record]
            self._map[at * 8 : at * 8 + 32] = digest
            words[record] = slot
            words[_FILLED] += 1
            self._halves[self._key_at + caller.key_id] = slot
        if not words[at + _ID]:
            words[at + _ID] = caller.key_id
            words[_LIVE] += 1
        return True

    def end(self, key_id: int) -> None:
        """The key is live no more, for every process. Ending it again changes nothing."""
        slot = self._halves[self._key_at + key_id] if 0 < key_id < self.sizes.key_ids else 0
        if slot and self._words[_at(slot - 1) + _ID]:
            self._words[_at(slot - 1) + _ID] = 0
            self._words[_LIVE] -= 1

    def live(self) -> Iterator[tuple[bytes, Caller]]:
        """Every live key, in no order."""
        for at in range(_HEADER_WORDS, self._end, _SLOT_WORDS):
            caller = self._caller(at)
            if caller is not None:
                yield self._map[at * 8 : at * 8 + 32], caller

    def grown(self, path: Path, more: int) -> "KeyTableWriter":
        """A copy with room for `more` keys beside those that are live; made in pieces, for others to run between."""
        sizes = self.sizes
        used_bytes = 8 * (self._words[_USED] - (sizes.bytes // 8 - sizes.area_words))
        keys = len(self) + more
        key_id_max = max(self._highest(self._key_at, sizes.key_ids) + more, 1)
        project_id_max = self._highest(self._project_at, sizes.project_ids) + more
        per_project = limits.NAME_CHARACTERS_MAX * 8 + 64
        room = Sizes.of(keys, key_id_max, project_id_max, 2 * (used_bytes + more * per_project))
        made = KeyTableWriter.create(path, room)
        for count, (digest, caller) in enumerate(self.live()):
            made.add(digest, caller)
            if count % _AT_ONCE == 0:
                time.sleep(_PAUSE_S)
        return made

    def _record(self, caller: Caller) -> int:
        """Where the caller's project is, made now when it is new; 0 without room."""
        words, sizes = self._words, self.sizes
        if not 0 < caller.project_id < sizes.project_ids:
            return 0
        place = self._project_at + caller.project_id
        if self._halves[place]:
            return self._halves[place]
        told = _encode((caller.project_id, caller.tenant_id, caller.tenant, caller.project, caller.currency))
        at, length = words[_USED], 2 + -(-len(told) // 8)
        if at + length > sizes.bytes // 8:
            return 0
        self._map[at * 8 + 16 : at * 8 + 16 + len(told)] = told
        words[at + 1] = len(told)
        words[_USED] = at + length
        self._halves[place] = at
        return at

    def _highest(self, start: int, count: int) -> int:
        """The last place of a row of half words that is not empty."""
        for place in range(count - 1, 0, -1):
            if self._halves[start + place]:
                return place
        return 0


def _at(slot: int) -> int:
    return _HEADER_WORDS + slot * _SLOT_WORDS


def _allocate(fd: int, size: int) -> None:
    """Real space for `size` bytes. Raises OSError, ENOSPC above all."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    at = 0
    while at < size:
        at += os.pwrite(fd, _ZEROS[: size - at], at)
