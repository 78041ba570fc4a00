"""The lock that lets one books process write a data directory. Knows no database."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import StartError


@contextlib.contextmanager
def only_writer(data: DataDir) -> Iterator[None]:
    """There is one books process for a data directory, whoever started it."""
    descriptor = os.open(data.root / "books.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StartError(f"Another books process writes {data.root}. Stop it first.") from None
    finally:
        os.close(descriptor)
