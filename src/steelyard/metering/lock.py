"""The lock file of a journal series: who writes it, and how far its writer has synced.

Owns `<series>/lock`: a held flock means a living writer, the second word is the synced position. The lock is taken
before the file gets its name, so a lock file without a holder always means a dead writer. Never fork while one is open:
a child that does not exec would keep the lock of its dead parent (the descriptor is close-on-exec).
"""

import errno
import fcntl
import mmap
import os
import time
from pathlib import Path

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError
from steelyard.kernel.settled import Position
from steelyard.metering.frames import position_from_word, word_from_position

LOCK_NAME = "lock"
_MAGIC = int.from_bytes(b"SYLOCK 1", "little")
_BYTES = 64
_MAGIC_WORD = 0
_SYNCED_WORD = 1
_RETRY_S = 0.005


class SeriesLock:
    """The writer's side: holds the flock and publishes the synced position."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, _BYTES)
        self._words = memoryview(self._map).cast("Q")

    @classmethod
    def take(cls, directory: Path) -> "SeriesLock":
        """Become the series' only writer. Raises BooksError when another one lives, OSError when the disk refuses."""
        path = directory / LOCK_NAME
        born = directory / f"{LOCK_NAME}.{os.getpid()}"
        if not path.exists():
            fd = os.open(born, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                if os.pwrite(fd, _MAGIC.to_bytes(8, "little").ljust(_BYTES, b"\0"), 0) != _BYTES:
                    raise OSError(errno.ENOSPC, "no room for the lock")
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.link(born, path)
                return cls(fd)
            except FileExistsError:
                os.close(fd)
            except OSError:
                os.close(fd)
                raise
            finally:
                born.unlink()
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not _locked_within_tries(fd):
                raise BooksError(f"the journal {directory.name} is being written by another process")
            return cls(fd)
        except (BooksError, OSError, ValueError):  # the last by mmap, of a lock that is too short
            os.close(fd)
            raise

    def publish(self, position: Position) -> None:
        """One aligned 8-byte store: a reader sees the old position or the new one, never a mixture."""
        self._words[_SYNCED_WORD] = word_from_position(position)

    def release(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self._fd)


def _locked_within_tries(fd: int) -> bool:
    for _ in range(limits.JOURNAL_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_RETRY_S)
    return False


def is_held(directory: Path) -> bool:
    """Whether the series' writer is alive. A series without a lock file is just being born and counts as held."""
    try:
        fd = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def synced(directory: Path) -> Position:
    """How far the series is on the medium, as its writer last published; the start when there is none yet.

    Read through a mapping: a plain read of eight bytes is not promised to be one load.
    """
    try:
        fd = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Position()
    try:
        if os.fstat(fd).st_size < _BYTES:
            raise BooksError(f"the lock file of the journal {directory.name} is damaged")
        with mmap.mmap(fd, _BYTES, access=mmap.ACCESS_READ) as mapped, memoryview(mapped).cast("Q") as words:
            if words[_MAGIC_WORD] != _MAGIC:
                raise BooksError(f"the lock file of the journal {directory.name} is damaged")
            return position_from_word(words[_SYNCED_WORD])
    finally:
        os.close(fd)
