"""The writer of a journal series: append-only, pre-allocated, one process per series.

Owns the segments and the syncer thread; `append` belongs to one thread. Knows nothing of what the records are worth.
A record is in the page cache when `append` returns (survives kill -9) and on the medium when `synced` has passed it
(survives power loss; books never read further, I8). After a failed write or sync nothing more is accepted.
"""

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError
from steelyard.kernel.settled import Closed, Entry, Opened, Position
from steelyard.metering.disk import Disk
from steelyard.metering.frames import HEADER_BYTES, frame_from, segment_header, segment_path, segments
from steelyard.metering.lock import LOCK_NAME, SeriesLock
from steelyard.metering.reader import ends_of_data

_SYSTEM_DISK = Disk()


class Journal:
    """Made by `create`. Use from one thread; the syncer inside has its own."""

    def __init__(
        self, directory: Path, lock: SeriesLock, segment: int, segment_bytes: int, disk: Disk, threaded: bool
    ) -> None:
        self._directory = directory
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._disk = disk
        self._segment = segment
        self._fd = self._new_segment(segment)
        self._offset = HEADER_BYTES
        self._open_requests = 0
        self._late: list[bytes] = []  # frames of closes that wait for the next write
        self._late_slots: list[int] = []  # ... of which slots
        self.written: Callable[[list[int]], object] = len
        """Is told of slots whose closes, having waited, are in the file now."""
        self._failed = False
        self._closed = False
        self._retired: list[tuple[int, int]] = []  # rotated segments the syncer still has to finish: (fd, end)
        self._spare: int | None = None  # the next segment, allocated ahead of need by the syncer
        self._spare_refused = False
        self._turn = threading.Lock()  # guards (segment, fd, offset, retired) while a rotation changes them together
        self._syncing = threading.Lock()
        self._growing = threading.Lock()  # guards the making of segments, the spare one above all
        self._dirty = False  # there is something to sync, or somebody waits, since the syncer looked
        self._bell: SimpleQueue[None] = SimpleQueue()  # wakes it, once for each time that this becomes so
        self._open = threading.Lock()  # held until `close`
        self._open.acquire()
        self._waiters: list[tuple[Position, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._synced = Position(segment, HEADER_BYTES)
        lock.publish(self._synced)
        self._syncer: threading.Thread | None = None
        if threaded:
            self._syncer = threading.Thread(target=self._sync_when_dirty, name=f"syncer-{directory.name}", daemon=True)
            self._syncer.start()

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        segment_bytes: int = limits.SEGMENT_BYTES,
        disk: Disk = _SYSTEM_DISK,
        threaded: bool = True,
    ) -> "Journal":
        """Begin a series, or continue one whose writer is dead in a fresh segment (never behind a torn tail).

        Without a thread of its own, whoever made the journal calls `tend` (the simulator does, step by step). Raises
        BooksError when another writer lives or the disk has no room for a segment.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            disk.sync_directory(directory.parent)  # or the whole series may be gone after a power loss
            lock = SeriesLock.take(directory)
        except OSError as error:
            raise BooksError(f"cannot open the journal {directory.name}: {error.strerror}") from error
        try:
            _sync_path(directory / LOCK_NAME, disk)
            disk.sync_directory(directory)  # no segment may outlive its lock: without one the series counts as unborn
            before = segments(directory)
            for path, end in ends_of_data(directory).items():
                os.truncate(path, end)  # as after a rotation: behind it would be damage
                _sync_path(path, disk)  # what was left in the page cache is durable before we publish past it
            return cls(directory, lock, before[-1] + 1 if before else 0, segment_bytes, disk, threaded)
        except BooksError:
            lock.release()
            raise
        except OSError as error:
            lock.release()
            raise BooksError(f"cannot open the journal {directory.name}: {error.strerror}") from error

    @property
    def failed(self) -> bool:
        return self._failed

    @property
    def end(self) -> Position:
        """The first byte not yet written."""
        return Position(self._segment, self._offset)

    @property
    def due(self) -> Position:
        """The first byte behind what is written and what waits to be."""
        return Position(self._segment, self._offset + sum(map(len, self._late)))

    @property
    def synced(self) -> Position:
        """Everything before this position is on the medium."""
        return self._synced

    def append(self, record: Entry) -> None:
        """Write one record. Raises BooksError and leaves no trace of it when that fails.

        Whatever is no close needs room for those of all requests still open, its own included, so that on a full disk
        it is refused first and every request under way can still be closed in space allocated long before. The closes
        that wait leave in the same write.
        """
        frame = frame_from(record)
        size = len(frame)
        if self._failed or self._closed or size > limits.FRAME_BYTES_MAX:
            raise self._takes_none()
        opening, closing = type(record) is Opened, type(record) is Closed
        reserved = 0 if closing else (self._open_requests + opening) * limits.CLOSED_FRAME_BYTES_MAX
        if self._offset + size + reserved > self._segment_bytes:
            self.flush()  # into the room that was kept for them here
            if self._failed:
                raise self._takes_none()
            self._rotate(HEADER_BYTES + size + reserved)
        self._write(frame, size)
        if opening:
            self._open_requests += 1
        elif closing and self._open_requests:
            self._open_requests -= 1

    def append_soon(self, record: Closed, slot: int) -> bool:
        """Write a close with the next record that is appended, or at `flush`; True: it is the first that waits.

        `written` is told of the slot when it is; never, when that fails. Raises BooksError when nothing can be written
        any more. Whoever may be killed in between needs a slot that says the same.
        """
        frame = frame_from(record)
        if self._failed or self._closed or len(frame) > limits.FRAME_BYTES_MAX:
            raise self._takes_none()
        is_first = not self._late
        self._late.append(frame)
        self._late_slots.append(slot)
        return is_first

    def flush(self) -> None:
        """Write the closes that wait. Safe to call when none does, and when the journal has failed."""
        if self._late:
            with contextlib.suppress(BooksError):  # `failed` is set, and nobody is told that his close was written
                self._write(b"", 0)

    def _takes_none(self) -> BooksError:
        return BooksError(f"the journal {self._directory.name} takes no more records")

    def sync(self) -> None:
        """Return when all that was appended is on the medium. Raises BooksError when the disk says no."""
        with self._syncing:
            if self._failed:
                raise BooksError(f"the journal {self._directory.name} has failed")
            with self._turn:
                fd, end, retired = self._fd, Position(self._segment, self._offset), self._retired
                self._retired = []
            try:
                for old_fd, old_end in retired:
                    self._finish_segment(old_fd, old_end)
                self._disk.sync(fd)
            except OSError as error:
                # A second fsync may succeed although the kernel has dropped the pages, so there is no second one.
                self._failed = True
                self._wake(None)
                raise BooksError(f"the journal {self._directory.name} cannot sync: {error.strerror}") from error
            self._synced = end
            self._lock.publish(end)
            if self._waiters:  # who comes to be one right now rings for the next round
                self._wake(end)

    async def wait_synced(self) -> None:
        """Wait until all that was appended before this call is on the medium. Raises BooksError when it never will."""
        self.flush()
        end = self.end
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._turn:
            if self._synced >= end:
                return
            if self._failed:
                raise BooksError(f"the journal {self._directory.name} has failed")
            self._waiters.append((end, loop, future))
        self._ring()
        await future

    def tend(self) -> None:
        """One turn of the syncer: sync what was appended, and allocate the next segment when it is time."""
        if not self._dirty:
            return
        self._dirty = False  # before it looks how far to sync: what is written from here on wakes it again
        if self._failed:
            return
        try:
            self.sync()
        except BooksError:
            return  # `failed` is set, and every append and waiter hears of it
        if 2 * self._offset >= self._segment_bytes:
            self._grow_ahead()

    def close(self) -> None:
        """Sync, publish, cut the unused tail off, let the series go. Safe to call twice and after a failure."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._open.release()
        self._bell.put(None)
        if self._syncer is not None:
            self._syncer.join()
        with contextlib.suppress(BooksError):
            self.sync()
        for fd, _ in self._retired:
            os.close(fd)
        if self._spare is not None:
            os.close(self._spare)
            segment_path(self._directory, self._segment + 1).unlink()
        if not self._failed:
            os.ftruncate(self._fd, self._offset)
        os.close(self._fd)
        self._lock.release()

    def _write(self, frame: bytes, size: int) -> None:
        """Write what waits and then the frame; all of it has its room."""
        slots = self._late_slots
        if slots:
            frame = b"".join(self._late) + frame
            self._late, self._late_slots = [], []
            size = len(frame)
        try:
            written = self._disk.pwrite(self._fd, frame, self._offset)
        except OSError as error:
            self._fail(0)
            raise BooksError(f"the journal {self._directory.name} cannot write: {error.strerror}") from error
        if written != size:
            self._fail(written)
            raise BooksError(f"the journal {self._directory.name} cannot write: {written} of {size} bytes fitted")
        self._offset += size
        if not self._dirty:
            self._ring()
        if slots:
            self._open_requests = max(0, self._open_requests - len(slots))
            self.written(slots)

    def _ring(self) -> None:
        if not self._dirty:
            self._dirty = True
            if self._syncer is not None:
                self._bell.put(None)

    def _fail(self, torn_bytes: int) -> None:
        """Wipe what a short write left, so that no reader meets half a frame; were that refused, its CRC is wrong."""
        self._failed = True
        if torn_bytes:
            with contextlib.suppress(OSError):
                self._disk.pwrite(self._fd, bytes(torn_bytes), self._offset)
        self._wake(None)

    def _rotate(self, need_bytes: int) -> None:
        if need_bytes > self._segment_bytes:
            raise BooksError(f"a segment of {self._segment_bytes} bytes is too small for {need_bytes}")
        with self._growing:
            try:
                fd = self._new_segment(self._segment + 1) if self._spare is None else self._spare
            except OSError as error:  # the old segment stays usable: closes still have their reserved room in it
                raise BooksError(f"the journal {self._directory.name} cannot grow: {error.strerror}") from error
            with self._turn:
                self._retired.append((self._fd, self._offset))
                self._segment, self._fd, self._offset = self._segment + 1, fd, HEADER_BYTES
            self._spare, self._spare_refused = None, False

    def _grow_ahead(self) -> None:
        """Allocate the next segment in the syncer, so that the rotation costs the requests nothing.

        It is also the reserve that carries the platform on when the disk fills up. A refusal is no failure yet.
        """
        with self._growing:
            if self._spare is not None or self._spare_refused or 2 * self._offset < self._segment_bytes:
                return  # it may have been rotated meanwhile
            try:
                self._spare = self._new_segment(self._segment + 1)
            except OSError:
                self._spare_refused = True

    def _new_segment(self, segment: int) -> int:
        """A pre-allocated segment under its final name, made durable before it is used."""
        path = segment_path(self._directory, segment)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._disk.allocate(fd, self._segment_bytes)
            header = segment_header(self._directory.name, segment)
            if self._disk.pwrite(fd, header, 0) != HEADER_BYTES:
                raise OSError(errno.ENOSPC, "no room for the segment header")
            self._disk.sync(fd)
            self._disk.sync_directory(self._directory)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        return fd

    def _finish_segment(self, fd: int, end: int) -> None:
        """A rotated segment is cut to its data: a zero length in it is then damage, not an end."""
        try:
            os.ftruncate(fd, end)
            self._disk.sync(fd)
        finally:
            os.close(fd)

    def _sync_when_dirty(self) -> None:
        """By plain locks and a queue: it comes by 200 times a second, and holds up who serves as long as it takes."""
        while True:
            self._bell.get()
            self.tend()
            if self._failed or self._open.acquire(timeout=limits.SYNC_INTERVAL_MS / 1000):
                return

    def _wake(self, end: Position | None) -> None:
        """Tell those who wait: up to `end` is durable, or (None) nothing more will be."""
        with self._turn:
            waiting = self._waiters
            self._waiters = [waiter for waiter in waiting if end is not None and waiter[0] > end]
        for wanted, loop, future in waiting:
            if end is None or wanted <= end:
                with contextlib.suppress(RuntimeError):  # its loop has closed: nobody waits any more
                    loop.call_soon_threadsafe(_resolve, future, end is not None)


def _resolve(future: "asyncio.Future[None]", durable: bool) -> None:
    if future.done():
        return
    if durable:
        future.set_result(None)
    else:
        future.set_exception(BooksError("the journal has failed"))


def _sync_path(path: Path, disk: Disk) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        disk.sync(fd)
    finally:
        os.close(fd)
