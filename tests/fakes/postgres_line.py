"""A line to PostgreSQL that breaks at a commit: before the server hears of it, or when it is done and not yet told."""

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from steelyard.kernel.directory import DatabaseUrl

_NAME = ".s.PGSQL.5432"


class Line:
    """Forwards a Unix socket. `cut` arms it: the next COMMIT is where the line breaks, once."""

    def __init__(self, place: DatabaseUrl) -> None:
        there = make_url(place.text)
        self._there = str(Path(str(there.query["host"])) / _NAME)
        self._folder = tempfile.mkdtemp(prefix="steelyard-line-")
        self.url = DatabaseUrl(there.set(query={"host": self._folder}).render_as_string(hide_password=False))
        self.cut = ""
        """"before" or "after" the server has done it; empty: the line holds."""
        self.cuts = 0
        self._sockets = [socket.socket(socket.AF_UNIX)]
        self._threads: list[threading.Thread] = []
        self._sockets[0].bind(str(Path(self._folder) / _NAME))
        self._sockets[0].listen()
        self._start(self._accept)

    def close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._sockets[0].accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            self._sockets += [near, far]
            far.connect(self._there)
            self._start(self._forward, near, far, True)
            self._start(self._forward, far, near, False)

    def _forward(self, source: socket.socket, target: socket.socket, asking: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if self._breaks(piece, asking):
                    self.cut, self.cuts = "", self.cuts + 1
                    break
                target.sendall(piece)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _breaks(self, piece: bytes, asking: bool) -> bool:
        if asking:
            return self.cut == "before" and b"COMMIT" in piece
        return self.cut == "after" and b"COMMIT\0" in piece  # the server's answer: it is done
