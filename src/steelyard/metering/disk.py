"""The few file operations that metering trusts, as one object, so that tests can make each of them fail.

Owns pre-allocation (a mapped or journaled file never meets a full disk later). Knows nothing of what the bytes mean.
"""

import errno
import os
from pathlib import Path

_ZERO_CHUNK = bytes(1024 * 1024)


class Disk:
    """The machine's own disk."""

    pwrite = staticmethod(os.pwrite)
    """(fd, data, offset) → bytes written, possibly fewer than given. Raises OSError."""

    def sync(self, fd: int) -> None:
        """Return when the file's bytes are on the medium; stores through a shared mapping of it included (Linux).

        Releases the GIL, which `mmap.flush` of CPython 3.11 does not.
        """
        _fdatasync(fd)

    def allocate(self, fd: int, size: int) -> None:
        """Give the file `size` bytes of real space, zeros where nothing stood. Raises OSError, ENOSPC above all."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, 0, size)
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
        start = os.fstat(fd).st_size
        while start < size:
            start += os.pwrite(fd, _ZERO_CHUNK[: size - start], start)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
