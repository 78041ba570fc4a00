"""Whether anybody is connected to a server in this process that is not ours, and waiting until somebody comes.

Who is not connected asks nothing, so until then nobody needs to look at what the server uses. Only Linux tells;
elsewhere somebody is always there. Knows no engine.
"""

import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")


class Visitors:
    """Of the server that listens on `port`. `over`: a descriptor that can be read when nobody is to be waited for."""

    def __init__(self, port: int, over: int) -> None:
        self._port = port
        listening = [descriptor for descriptor, listens in _sockets(port) if listens]
        self._listener = os.dup(listening[0]) if listening else None
        if self._listener is not None:
            self._epoll = select.epoll()
            self._epoll.register(self._listener, select.EPOLLIN | select.EPOLLET)  # it is the server that accepts
            self._epoll.register(over, select.EPOLLIN)

    def any(self) -> bool:
        """Whether somebody is connected. One who is not accepted yet may be missed; the next `wait` meets him."""
        return self._listener is None or not all(listens for _, listens in _sockets(self._port))

    def wait(self, seconds: float) -> None:
        """Return when somebody comes or waits to be accepted, and after `seconds` at the latest: who was accepted in
        the microseconds between `any` and this call is met then."""
        if self._listener is not None:
            self._epoll.poll(seconds)

    def close(self) -> None:
        if self._listener is not None:
            self._epoll.close()
            os.close(self._listener)


def _sockets(port: int) -> Iterator[tuple[int, bool]]:
    """This process's descriptors of sockets on that port, and whether each is the one that listens."""
    if not sys.platform.startswith("linux"):
        return
    for entry in list(_DESCRIPTORS.iterdir()):
        with suppress(OSError):  # it is gone meanwhile
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as found:
                if found.family == socket.AF_INET and found.getsockname()[1] == port:
                    listens = bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                    yield int(entry.name), listens
