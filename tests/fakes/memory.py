"""Where the files of tests lie: in memory where the machine has plenty. A test waits for a disk it makes no use of."""

import os
import shutil
from pathlib import Path

import psutil

_MEMORY = Path("/dev/shm")


def place_for(bytes_: int) -> Path | None:
    """A folder in memory with room for so much; None where there is none, or programs in it may not be run."""
    if not _MEMORY.is_dir() or os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC:
        return None
    room = min(shutil.disk_usage(_MEMORY).free, psutil.virtual_memory().available)
    return _MEMORY if room > bytes_ and os.access(_MEMORY, os.W_OK | os.X_OK) else None
