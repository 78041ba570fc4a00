"""Who may write in a data directory: the running platform, or one command at a time while it is down.

Owns the flock on `<data>/lock` and the sentence a second one gets. The file names the holder's process id.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import StartError
from steelyard.kernel.process import lives

_RETRY_S = 0.05
_STOP_IT = "Stop it first, or name another directory with --data."


@contextmanager
def directory_lock(data: DataDir, clock: Clock, what_to_do: str = _STOP_IT) -> Iterator[int]:
    """Hold the data directory; yields the descriptor. Raises StartError when another process holds it.

    A platform that was killed keeps the lock until its books have noticed: that moment is waited for.
    """
    try:
        descriptor = os.open(data.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"The data directory {data.root} is not writable: {error.strerror}.") from None
    try:
        try:
            _take(descriptor, data.root, clock, what_to_do)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except OSError as error:
            raise StartError(f"The data directory {data.root} cannot be used: {error.strerror}.") from None
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(data: DataDir) -> bool:
    """Whether somebody writes in the data directory now."""
    try:
        descriptor = os.open(data.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def _take(descriptor: int, root: Path, clock: Clock, what_to_do: str) -> None:
    deadline_ns = clock.monotonic_ns() + limits.OLD_LOCK_S * NS_PER_S
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        if (holder.isdigit() and lives(int(holder))) or clock.monotonic_ns() > deadline_ns:
            running = f"a running instance (process {holder or 'unknown'})"
            raise StartError(f"The data directory {root} is in use by {running}. {what_to_do}")
        time.sleep(_RETRY_S)
