"""The flight recorder: one memory-mapped cell per request in flight, readable after its writer was killed.

Owns the layout and the order of stores; knows no journal. Only aligned 8-byte stores through `memoryview.cast("Q")`
are used (others tear when the process is killed), and no two of them are ever assumed to land together:

    state, id     claim: state=0, counts reset, id, state=1 last; free: state=0 first, id and counts stay readable
    bank 0, 1     input, cached input, output, CPU of one generation each
    intent        generation whose counts were handed to the connection: stored after its bank is full
    commit        generation whose bytes have left user space: stored after the send was drained

A commit is therefore one store that makes all counts of a bank valid at once, and the next intent fills the other bank.
Whenever the process dies, the committed bank is whole and was delivered whole: never over, at most one read short.
"""

import errno
import mmap
import os
from pathlib import Path

from steelyard.kernel.errors import BooksError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Record
from steelyard.metering.disk import Disk

FREE, CLAIMED = 0, 1

_MAGIC = int.from_bytes(b"SYSLOTS\n", "little")
_VERSION = 1
_HEADER_WORDS = 16
_SLOT_WORDS = 16  # 128 bytes, so that no slot straddles a sector of the medium
_STATE, _ID_HIGH, _ID_LOW, _INTENT, _COMMIT, _FIRST_TOKEN_NS, _LAST_NS, _WATTS_MILLI = range(8)
_BANK = 8
_BANK_WORDS = 4
_SYSTEM_DISK = Disk()


class SlotState(Record, frozen=True):
    """One cell as it stands. Exact when the writer is dead; of a living writer the banks may be in motion."""

    state: int
    request_id: bytes
    intended: Usage  # handed to the connection at last; CPU in ns, no energy
    committed: Usage  # left user space
    first_token_ns: int  # since the open; 0 when nothing was delivered
    last_ns: int  # the last commit, since the open
    watts_milli: int

    @property
    def short_by_one_read(self) -> bool:
        """Tokens may have left that were not committed any more."""
        return _tokens(self.intended) != _tokens(self.committed)


def _tokens(usage: Usage) -> tuple[int, int, int]:
    return usage.input, usage.cached_input, usage.output


class Slots:
    """Made by `create` (the worker, once per series) or `open` (recovery, metrics). Use from one thread."""

    def __init__(self, path: Path, fd: int, readonly: bool) -> None:
        try:
            size = os.fstat(fd).st_size
            if size < _HEADER_WORDS * 8 or size % 8:
                raise BooksError(f"the slot file {path} is damaged")
            access = mmap.ACCESS_READ if readonly else mmap.ACCESS_WRITE
            self._map = mmap.mmap(fd, size, access=access)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        magic, version, count, slot_words = self._words[:4]
        if (magic, version, slot_words) != (_MAGIC, _VERSION, _SLOT_WORDS) or size < _size(count):
            self.close()
            raise BooksError(f"the slot file {path} is damaged or of another version")
        self.count = count
        self._free = [] if readonly else [index for index in reversed(range(count)) if not self._state(index)]

    @classmethod
    def create(cls, path: Path, count: int, *, disk: Disk = _SYSTEM_DISK) -> "Slots":
        """A new file with all its space allocated: a sparse one would kill the process (SIGBUS) on a full disk.

        Raises BooksError when the file exists or the disk has no room.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BooksError(f"cannot create the slot file {path}: {error.strerror}") from error
        try:
            disk.allocate(fd, _size(count))
            header = b"".join(word.to_bytes(8, "little") for word in (_MAGIC, _VERSION, count, _SLOT_WORDS))
            if disk.pwrite(fd, header, 0) != len(header):
                raise OSError(errno.ENOSPC, "no room for the header")
        except OSError as error:
            os.close(fd)
            path.unlink()
            raise BooksError(f"cannot allocate the slot file {path}: {error.strerror}") from error
        return cls(path, fd, readonly=False)

    @classmethod
    def open(cls, path: Path, *, readonly: bool = True) -> "Slots":
        """An existing file. Raises BooksError when it is missing or damaged."""
        try:
            fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
        except OSError as error:
            raise BooksError(f"cannot open the slot file {path}: {error.strerror}") from error
        return cls(path, fd, readonly)

    @property
    def free_count(self) -> int:
        return len(self._free)

    def claim(self, request_id: bytes, watts_milli: int = 0) -> int | None:
        """The index of a cell that is now this request's; None when all are taken."""
        if not self._free:
            return None
        index = self._free.pop()
        words, at = self._words, _at(index)
        words[at + _STATE] = FREE
        words[at + _COMMIT] = 0  # the counts are void before the id is there: an id never vouches for another's counts
        words[at + _INTENT] = 0
        words[at + _FIRST_TOKEN_NS] = 0
        words[at + _LAST_NS] = 0
        words[at + _WATTS_MILLI] = watts_milli
        words[at + _ID_HIGH] = int.from_bytes(request_id[:8], "big")
        words[at + _ID_LOW] = int.from_bytes(request_id[8:], "big")
        words[at + _STATE] = CLAIMED
        return index

    def free(self, index: int) -> None:
        """Give the cell back; only after the close record is in the journal."""
        self._words[_at(index) + _STATE] = FREE
        self._free.append(index)

    def intend(self, index: int, output: int, input: int, cached: int, cpu_ns: int = 0) -> None:
        """Before the send: cumulative counts of all that will have been delivered when it is done."""
        words, at = self._words, _at(index)
        generation = words[at + _COMMIT] + 1
        bank = at + _BANK + (generation & 1) * _BANK_WORDS
        words[bank] = input
        words[bank + 1] = cached
        words[bank + 2] = output
        words[bank + 3] = cpu_ns
        words[at + _INTENT] = generation

    def commit(self, index: int, last_ns: int = 0) -> None:
        """After the bytes have left user space: what was intended is delivered, `last_ns` after the open."""
        words, at = self._words, _at(index)
        words[at + _LAST_NS] = last_ns
        words[at + _COMMIT] = words[at + _INTENT]

    def first_token(self, index: int, ns: int) -> None:
        """How long after the open the first piece left; before its commit."""
        self._words[_at(index) + _FIRST_TOKEN_NS] = ns

    def read_slot(self, index: int) -> SlotState:
        words, at = self._words, _at(index)
        high, low = words[at + _ID_HIGH], words[at + _ID_LOW]
        return SlotState(
            state=words[at + _STATE],
            request_id=high.to_bytes(8, "big") + low.to_bytes(8, "big"),
            intended=self._bank(at, words[at + _INTENT]),
            committed=self._bank(at, words[at + _COMMIT]),
            first_token_ns=words[at + _FIRST_TOKEN_NS],
            last_ns=words[at + _LAST_NS],
            watts_milli=words[at + _WATTS_MILLI],
        )

    def close(self) -> None:
        self._words.release()
        self._map.close()

    def _state(self, index: int) -> int:
        return self._words[_at(index) + _STATE]

    def _bank(self, at: int, generation: int) -> Usage:
        if generation == 0:  # nothing announced yet, whatever an earlier request left in the banks
            return Usage()
        bank = at + _BANK + (generation & 1) * _BANK_WORDS
        fresh, cached, output, cpu_ns = self._words[bank : bank + _BANK_WORDS]
        return Usage(fresh, cached, output, cpu_ns)


def _at(index: int) -> int:
    return _HEADER_WORDS + index * _SLOT_WORDS


def _size(count: int) -> int:
    return _at(count) * 8
