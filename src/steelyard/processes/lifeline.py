"""What a process hangs on: its parent, with whom it ends."""

import asyncio
import contextlib
import os
import stat
import sys
import threading
from collections.abc import Callable


def word_came() -> bool:
    """Wait for the parent's word that one may begin. False: the parent is gone. Past Python's own buffer, as below."""
    return bool(os.read(sys.stdin.fileno(), 1))


def watch_parent(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Stop when standard input ends: the parent is gone. Only a pipe or socket says so.

    Read past Python's own buffer: a thread that waits in it when the process ends makes the interpreter abort.
    """
    kind = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        return

    def wait_for_end() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(stop)

    threading.Thread(target=wait_for_end, name="parent", daemon=True).start()
