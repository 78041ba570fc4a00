"""The flight recorder: one memory-mapped cell per request in flight, readable after its writer was killed.

Owns the layout and the order of stores; knows no journal. What makes others valid is an aligned 8-byte store through
`memoryview.cast("Q")` (others tear when the process is killed), and no two stores are ever assumed to land together:

    state, id     claim: state=0, counts reset, id, state=1 last; free: state=0 first, id and counts stay readable
    bank 0, 1     input, cached input, output, CPU, cache write, reasoning, estimated of one generation each
    intent        generation whose counts were handed to the connection: stored after its bank is full
    commit        generation whose bytes have left user space: stored after the send was drained

A commit is therefore one store that makes all counts of a bank valid at once, and the next intent fills the other bank:
the committed bank is whole and was delivered whole. A thread syncs the cells, so that power loss costs one interval.
"""

import contextlib
import errno
import mmap
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError
from steelyard.kernel.frozen import Record
from steelyard.kernel.quantities import Usage
from steelyard.kernel.run import Signal
from steelyard.kernel.settled import Opened
from steelyard.metering.disk import Disk
from steelyard.metering.energy import EnergyGauge

FREE, CLAIMED = 0, 1

_MAGIC = int.from_bytes(b"SYSLOTS\n", "little")
_VERSION = 2
_HEADER_WORDS = 4  # it has the room of a slot
_SLOT_WORDS = 32  # 256 bytes, so that no slot straddles a sector of the medium
_STATE, _ID_HIGH, _ID_LOW, _INTENT, _COMMIT, _FIRST_TOKEN_NS, _LAST_NS, _WATTS_MILLI = range(8)
_BANK = 8
_BANK_WORDS = 8
_REUSED = 2  # beside `estimated` in its word: input and output are those of an answer that was given before
_halves = struct.Struct(">QQ").unpack  # of an id, as two words
_void = struct.Struct("=32xQ").pack_into  # neither intent nor commit, no time, and the watts behind these
_put = struct.Struct("=7Q").pack_into  # a bank, no word of which counts before its generation is announced
_SYSTEM_DISK = Disk()
_NOTHING = Usage()


class _Layout(NamedTuple):
    """What differs between versions of the file: the newest is written, what an older one left behind is read as well.

    Banks begin at word 8 of a slot.
    """

    slot_words: int
    bank_words: int


_LAYOUTS = {1: _Layout(16, 4), _VERSION: _Layout(_SLOT_WORDS, _BANK_WORDS)}


class SlotState(Record, frozen=True):
    """One cell as it stands. Exact when the writer is dead; of a living writer the banks may be in motion."""

    state: int
    request_id: bytes
    intended: Usage  # handed to the connection at last; CPU in ns, no energy
    committed: Usage  # left user space
    first_token_ns: int  # since the open; 0 when nothing was delivered
    last_ns: int  # the last commit, since the open
    watts_milli: int
    estimated: bool = False  # what is committed was not counted by the upstream

    @property
    def short_by_one_read(self) -> bool:
        """Tokens may have left that were not committed any more."""
        return _tokens(self.intended) != _tokens(self.committed)


def _tokens(usage: Usage) -> tuple[int, ...]:
    counts = usage.input, usage.cached_input, usage.cache_write, usage.output, usage.reasoning
    return *counts, usage.reused_input, usage.reused_output


class Slots:
    """Made by `create` (the worker, once per series) or `open` (recovery, metrics). Use from one thread."""

    def __init__(self, path: Path, fd: int, readonly: bool, disk: Disk = _SYSTEM_DISK) -> None:
        self._fd = fd
        try:
            size = os.fstat(fd).st_size
            if size < _HEADER_WORDS * 8 or size % 8:
                raise BooksError(f"the slot file {path} is damaged")
            access = mmap.ACCESS_READ if readonly else mmap.ACCESS_WRITE
            self._map = mmap.mmap(fd, size, access=access)
        except (BooksError, OSError):
            os.close(fd)
            raise
        self._path = path
        self._disk = disk
        self._dirty = False
        self.failed = False
        """The medium refused the counts: they survive a kill, but no power loss any more."""
        self._claimed = threading.Event()  # the syncer sleeps while nothing is in flight
        self._told = False  # it was woken, and has not looked yet
        self._stopping = threading.Event()
        self._syncer: threading.Thread | None = None
        self._words = memoryview(self._map).cast("Q")
        magic, version, count, slot_words = self._words[:4]
        layout = _LAYOUTS.get(version)
        if (
            magic != _MAGIC
            or layout is None
            or slot_words != layout.slot_words
            or size < _size(count, slot_words)
            or not (readonly or version == _VERSION)
        ):
            self.close()
            raise BooksError(f"the slot file {path} is damaged or of another version")
        self.count = count
        self._layout = layout
        self._free = [] if readonly else [index for index in reversed(range(count)) if not self._state(index)]

    @classmethod
    def create(cls, path: Path, count: int, *, disk: Disk = _SYSTEM_DISK, threaded: bool = True) -> "Slots":
        """A new file with all its space allocated: a sparse one would kill the process (SIGBUS) on a full disk.

        Without a thread of its own, whoever made the slots calls `tend`. Raises BooksError when the file exists or the
        disk has no room.
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
            disk.sync(fd)
            disk.sync_directory(path.parent)
        except OSError as error:
            os.close(fd)
            path.unlink()
            raise BooksError(f"cannot allocate the slot file {path}: {error.strerror}") from error
        slots = cls(path, fd, readonly=False, disk=disk)
        if threaded:
            slots._syncer = threading.Thread(target=slots._sync_while_claimed, name="syncer-slots", daemon=True)
            slots._syncer.start()
        return slots

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

    def sync(self) -> None:
        """Return when all counts stored so far are on the medium. Raises BooksError when the disk says no."""
        self._dirty = False
        try:
            self._disk.sync(self._fd)
        except OSError as error:
            self.failed = True  # never tried again: a second fsync may succeed although the pages are lost
            raise BooksError(f"the slot file {self._path} cannot sync: {error.strerror}") from error

    def tend(self) -> None:
        """One turn of the syncer."""
        if self._dirty and not self.failed:
            with contextlib.suppress(BooksError):  # `failed` is set: the worker is replaced
                self.sync()

    def claim(self, request_id: bytes, watts_milli: int = 0) -> int | None:
        """The index of a cell that is now this request's; None when all are taken."""
        if not self._free:
            return None
        index = self._free.pop()
        words, at = self._words, (1 + index) * _SLOT_WORDS
        words[at + _STATE] = FREE
        _void(self._map, (at + _INTENT) * 8, watts_milli)  # before the id is there: it never vouches for others' counts
        words[at + _ID_HIGH], words[at + _ID_LOW] = _halves(request_id)
        words[at + _STATE] = CLAIMED
        self._dirty = True
        if not self._told:
            self._told = True
            self._claimed.set()
        return index

    def power(self, index: int, watts_milli: int) -> None:
        """The request is served elsewhere from here on, where a busy core draws this."""
        self._words[(1 + index) * _SLOT_WORDS + _WATTS_MILLI] = watts_milli

    def free(self, index: int) -> None:
        """Give the cell back; only after the close record is in the journal."""
        self.free_all([index])

    def free_all(self, indexes: list[int]) -> None:
        """The same of several."""
        words = self._words
        for index in indexes:
            words[(1 + index) * _SLOT_WORDS + _STATE] = FREE
        self._free += indexes

    def read_slot(self, index: int) -> SlotState:
        words, at = self._words, _at(index, self._layout.slot_words)
        high, low = words[at + _ID_HIGH], words[at + _ID_LOW]
        intended, committed = self._bank(at, words[at + _INTENT]), self._bank(at, words[at + _COMMIT])
        return SlotState(
            state=words[at + _STATE],
            request_id=high.to_bytes(8, "big") + low.to_bytes(8, "big"),
            intended=_usage_of(intended),
            committed=_usage_of(committed),
            first_token_ns=words[at + _FIRST_TOKEN_NS],
            last_ns=words[at + _LAST_NS],
            watts_milli=words[at + _WATTS_MILLI],
            estimated=bool(committed[6] & ~_REUSED),
        )

    def close(self) -> None:
        """Let the file go. Cells still claimed are left to recovery, on the medium. Safe to call twice."""
        if self._map.closed:
            return
        self._stopping.set()
        self._claimed.set()
        if self._syncer is not None:
            self._syncer.join()
            self.tend()
        self._words.release()
        self._map.close()
        os.close(self._fd)

    def _sync_while_claimed(self) -> None:
        while not self._stopping.is_set():
            self._claimed.wait()
            self._claimed.clear()
            self._told = False  # before it looks: who claims from here on wakes it again
            while len(self._free) < self.count and not self._stopping.wait(limits.SLOTS_SYNC_INTERVAL_MS / 1000):
                self.tend()

    def _state(self, index: int) -> int:
        return self._words[_at(index) + _STATE]

    def _bank(self, at: int, generation: int) -> list[int]:
        """Its words; what an older layout has none for is zero."""
        words = self._layout.bank_words
        if generation == 0:  # nothing announced yet, whatever an earlier request left in the banks
            return [0] * _BANK_WORDS
        bank = at + _BANK + (generation & 1) * words
        return [*self._words[bank : bank + words], *(0 for _ in range(words, _BANK_WORDS))]


class Cell(msgspec.Struct, eq=False):
    """The cell of a request in flight, as its worker fills it: `intend`, send, `commit` for every piece.

    A struct, because one is made for every request and most of what it keeps begins as nothing.
    """

    opened: Opened
    _slots: Slots
    _gauge: EnergyGauge
    _monotonic_ns: Callable[[], int]
    _opened_mono_ns: int
    _running: int = 0  # of its sequences, where the upstream has a clock
    _starts_ns: int = 0  # what the clock said when each of them began, summed, less what it said when one stopped
    delivered: Usage = _NOTHING  # tokens that have left user space, summed over the sequences
    started: bool = False  # a piece was handed to the connection: the answer's head can no longer change
    guessed: frozenset[int] = frozenset()  # sequences whose latest counts are ours, not their upstream's
    _intended: Usage = _NOTHING
    _guesses: bool = False  # in what was intended
    _estimated: bool = False  # of what was delivered
    _first_token_ns: int = 0  # since the open
    _leaving: Signal[None] | None = None  # of a piece that was passed on

    def intend(self, usage: Usage) -> None:
        """Before the send: cumulative counts over all sequences, the piece about to be sent included."""
        cpu_ns, guesses = 0 if self._gauge.stands_still else self._cpu_ns(), bool(self.guessed)
        self._intended, self._guesses = usage, guesses
        slots, at = self._slots, (1 + self.opened.slot) * _SLOT_WORDS
        words, fresh, output, flags = slots._words, usage.input, usage.output, int(guesses)
        if usage.reused_output or usage.reused_input:  # it has nothing in the other buckets
            fresh, output, flags = usage.reused_input, usage.reused_output, flags | _REUSED
        generation = words[at + _COMMIT] + 1
        bank = (at + _BANK + (generation & 1) * _BANK_WORDS) * 8
        _put(slots._map, bank, fresh, usage.cached_input, output, cpu_ns, usage.cache_write, usage.reasoning, flags)
        words[at + _INTENT] = generation
        self.started = True

    def commit(self, usage: Usage | None = None) -> None:
        """After the piece has left user space: what was intended is delivered. `usage` is that; anything else is a bug
        of the caller.

        Without it: what was passed on has left, or it never will, which the next one to wait is told."""
        if usage is None:
            leaving, usage = self._leaving, self._intended
            if leaving is None or leaving.error is not None:
                return
            self._leaving = None
        elif usage is not self._intended and usage != self._intended:
            raise ValueError(f"committed {usage}, but {self._intended} was intended")
        slots, elapsed_ns = self._slots, self._monotonic_ns() - self._opened_mono_ns
        words, at = slots._words, (1 + self.opened.slot) * _SLOT_WORDS
        if not self._first_token_ns:
            self._first_token_ns = words[at + _FIRST_TOKEN_NS] = elapsed_ns or 1
        words[at + _LAST_NS] = elapsed_ns
        words[at + _COMMIT] = words[at + _INTENT]
        slots._dirty = True
        self.delivered, self._estimated = usage, self._guesses

    def _cpu_ns(self) -> int:
        return max(0, self._gauge.per_sequence_ns() * self._running - self._starts_ns)


def _usage_of(bank: list[int]) -> Usage:
    fresh, cached, output, cpu_ns, cache_write, reasoning, flags, *_ = bank
    if flags & _REUSED:
        return Usage(0, 0, 0, cpu_ns, reused_input=fresh, reused_output=output)
    return Usage(fresh, cached, output, cpu_ns, 0, cache_write, reasoning)


def _at(index: int, slot_words: int = _SLOT_WORDS) -> int:
    return (1 + index) * slot_words


def _size(count: int, slot_words: int = _SLOT_WORDS) -> int:
    return _at(count, slot_words) * 8
