"""The simulated disk: what a power loss leaves of the real files, and every way in which a file operation can fail.

Owns which bytes and names are durable. The files themselves are real ones, so the program's readers need no disguise.
"""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.metering.disk import Disk

if TYPE_CHECKING:
    from tests.simulator.world import Process

SECTOR = 512


class Medium:
    """What would still be there after a power loss: bytes that were synced, names whose directory was."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bytes: dict[str, bytes] = {}
        self.names: set[str] = set()

    def lose_power(self, rng: random.Random) -> int:
        """Every process is dead. Of what was never synced, each sector and each name may be gone or not. Returns how
        many files kept a part of it only."""
        torn = 0
        for folder, folders, files in os.walk(self.root, topdown=False):
            for name in sorted(files):
                torn += self._forget(os.path.join(folder, name), rng)
            for name in sorted(folders):
                path = os.path.join(folder, name)
                if path not in self.names and rng.random() < 0.5:
                    for inner in os.listdir(path):
                        os.unlink(os.path.join(path, inner))
                    os.rmdir(path)
        return torn

    def _forget(self, path: str, rng: random.Random) -> bool:
        if path not in self.names and rng.random() < 0.5:
            os.unlink(path)
            return False
        with open(path, "r+b") as file:
            new = file.read()
            old = self.bytes.get(path, b"")
            size = len(new) if path in self.bytes or rng.random() < 0.7 else 0
            old = old[:size].ljust(size, b"\0")
            keep = rng.choice((0.0, 0.5, 0.5, 1.0))
            kept = bytearray(old)
            for start in range(0, size, SECTOR):
                if rng.random() < keep:
                    kept[start : start + SECTOR] = new[start : start + SECTOR]
            file.seek(0)
            file.write(kept)
            file.truncate()
        torn = bytes(kept) not in (new, old)
        self.bytes[path] = bytes(kept)
        self.names.add(path)
        return torn


class SimDisk(Disk):
    """The disk as one process sees it. Every call is a place where it may die, or be told that it failed."""

    def __init__(self, process: "Process", medium: Medium) -> None:
        self._process, self._medium = process, medium
        self.allocations_left: int | None = None  # None: as many as are asked for
        self.bytes_left: int | None = None
        self.readonly = self.sync_fails = False
        self.may_overlap: Callable[[], bool] = lambda: False

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._process.burn("write")
        if self.readonly:
            raise self._failure(errno.EROFS, "Read-only file system", "write")
        if self.bytes_left is not None:
            if self.bytes_left == 0:
                raise self._failure(errno.ENOSPC, "No space left on device", "write")
            if len(data) > self.bytes_left:
                self._note("short write")
            data = data[: self.bytes_left]
            self.bytes_left -= len(data)
        written = os.pwrite(fd, data, offset)
        self._process.burn("written")
        return written

    def sync(self, fd: int) -> None:
        self._process.burn("sync")
        path = path_of(fd)
        content = os.pread(fd, os.fstat(fd).st_size, 0)
        if self.may_overlap():
            self._process.world.overlap()
            self._process.burn("syncing")
        if self.sync_fails:
            raise self._failure(errno.EIO, "Input/output error", "sync")
        self._medium.bytes[path] = content
        self._process.burn("synced")

    def sync_directory(self, path: Path) -> None:
        self._process.burn("directory sync")
        self._medium.names.update(entry.path for entry in os.scandir(path))

    def allocate(self, fd: int, size: int) -> None:
        self._process.burn("allocation")
        path = path_of(fd)
        what = "slots" if path.endswith("slots") else "segment"
        if self.readonly:
            raise self._failure(errno.EROFS, "Read-only file system", what)
        if self.allocations_left is not None:
            if self.allocations_left == 0:
                raise self._failure(errno.ENOSPC, "No space left on device", what)
            self.allocations_left -= 1
        self._medium.bytes.pop(path, None)
        self._process.files[fd] = path
        super().allocate(fd, size)

    def heal(self) -> None:
        """What lasts is over; a full disk has room again."""
        self.allocations_left, self.bytes_left = None, None
        self.readonly = self.sync_fails = False

    def _note(self, what: str) -> None:
        self._process.world.tally[f"{self._process.kind}: {what}"] += 1

    def _failure(self, number: int, text: str, what: str) -> OSError:
        self._note(f"{errno.errorcode[number]} at {what}")
        return OSError(number, text)


def path_of(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""
