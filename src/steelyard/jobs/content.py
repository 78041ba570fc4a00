"""The bytes of files on the disk: one file of the data directory each, named by its id alone.

A worker writes them and brings them to the medium before the books put the row in that makes them visible; any worker
reads them. Only the books delete. Knows no database, and makes no path of anything a customer sent.
"""

import errno
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError, unavailable
from steelyard.metering.disk import Disk

_disk = Disk()


class Content:
    """The folder. Everything here blocks: call it in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, file_id: bytes) -> Path:
        return self._folder / file_id.hex()

    def receive(self, file_id: bytes) -> "Receiving":
        """Begin a file that is not there yet. Raises CallerError 503 when the disk refuses."""
        try:
            return Receiving(self, self.path(file_id))
        except OSError as error:
            raise disk_refuses(error) from error

    def check_space(self) -> None:
        """Raises OSError ENOSPC when what is left belongs to the journals and the books."""
        if shutil.disk_usage(self._folder).free < limits.FILES_FREE_BYTES_MIN:
            raise OSError(errno.ENOSPC, "the rest of the disk is kept free for the books")

    def sync_names(self) -> None:
        _disk.sync_directory(self._folder)

    def size(self, file_id: bytes) -> int | None:
        """Bytes of a file; None when there is none."""
        try:
            return self.path(file_id).stat().st_size
        except FileNotFoundError:
            return None

    def remove(self, file_id: bytes) -> None:
        """Whoever reads it at the moment reads on."""
        self.path(file_id).unlink(missing_ok=True)

    def sweep(self, known: Collection[bytes], now_ns: int) -> int:
        """Delete what no row names and nobody has written to for long: uploads whose worker died. How many those were.

        `known` was read before this is called, and content is older than its row: what is new is never taken for lost.
        """
        names = {file_id.hex() for file_id in known}
        swept = 0
        for path in self._folder.iterdir():
            if path.name not in names and path.stat().st_mtime_ns < now_ns - limits.FILE_UNKNOWN_S * NS_PER_S:
                path.unlink(missing_ok=True)
                swept += 1
        return swept


class Receiving:
    """One upload on its way to the disk. `finish` or `drop` it."""

    def __init__(self, content: Content, path: Path) -> None:
        self._content = content
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size_bytes = 0

    def write(self, block: bytes) -> None:
        """Raises CallerError 503 when the disk is full or refuses."""
        try:
            self._content.check_space()
            write_whole(self._fd, block, self.size_bytes)
        except OSError as error:
            raise disk_refuses(error) from error
        self.size_bytes += len(block)

    def finish(self) -> None:
        """Return when content and name are on the medium. Raises CallerError 503."""
        try:
            _disk.sync(self._fd)
            self._content.sync_names()
        except OSError as error:
            raise disk_refuses(error) from error
        finally:
            self._close()

    def drop(self) -> None:
        """Forget it."""
        self._close()
        self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def write_whole(fd: int, data: bytes, offset: int) -> None:
    """Write all of it at this place. Raises OSError; a part may stand then."""
    view = memoryview(data)
    while view:
        written = _disk.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def disk_refuses(error: OSError) -> CallerError:
    """503: nothing was kept."""
    reason = "The disk is full" if error.errno == errno.ENOSPC else "The disk cannot be written"
    return unavailable("disk_unavailable", f"{reason}; nothing was kept. Tell your operator.", 30)
