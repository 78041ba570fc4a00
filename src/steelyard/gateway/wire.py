"""The customer's side of one HTTP exchange over ASGI: read the body, send pieces, notice a hang-up.

Owns framing limits and the moment a piece counts as sent (when it has left user space). Knows no dialect.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

DRAINED = "steelyard.drained"
"""Scope key under which the server leaves a coroutine function that returns when its write buffer is empty."""


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a request header (lower-case name), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


async def _nothing_buffered() -> None:
    return None


class Wire:
    """One exchange. `gone` turns true when the client hangs up; the task given to `watch` is then cancelled."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._drained: Callable[[], Awaitable[None]] = scope.get(DRAINED, _nothing_buffered)
        self._watcher: asyncio.Task[None] | None = None
        self._declared = header(scope, b"content-length")
        self.started = False
        self.gone = False

    async def body(self) -> bytes:
        """The whole request body. Raises CallerError 413 beyond the bound, 400 when the client leaves half-way."""
        if self._declared is not None and self._declared.isdigit() and int(self._declared) > limits.BODY_BYTES_MAX:
            raise _too_large()
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise bad_request("The connection closed before the whole body had arrived.")
            piece = message.get("body", b"")
            size += len(piece)
            if size > limits.BODY_BYTES_MAX:
                raise _too_large()
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)

    def watch(self, task: "asyncio.Task[Any]") -> None:
        """From now on a hang-up cancels `task`. Call it once the body is read."""
        self._watcher = asyncio.ensure_future(self._await_hang_up(task))

    async def _await_hang_up(self, task: "asyncio.Task[Any]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        task.cancel()

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, piece: bytes) -> None:
        """Send one piece of the body; returns when it has left user space."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._drained()

    async def end(self) -> None:
        """End the body. Safe to call when the client is gone."""
        self.unwatch()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None


def _too_large() -> CallerError:
    size_mb = limits.BODY_BYTES_MAX // (1024 * 1024)
    return CallerError(413, "body_too_large", f"The body is larger than {size_mb} MB. Send a shorter prompt.")
