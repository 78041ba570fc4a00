"""The customer's side of one HTTP exchange: read the body, send pieces, notice a hang-up.

Owns framing limits and the moment a piece counts as sent (when it has left user space). `Wire` is what an exchange
needs, `AsgiWire` has it from any ASGI server; `fast.py` from the connection itself. Knows no dialect.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, ClientGone, bad_request
from steelyard.kernel.roles import Sending

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Heads = Mapping[bytes, bytes]
"""The headers of a request by lower-case name. Of one that stands there twice the last counts."""

Body = bytes | memoryview
"""A request's body. A long one may be a view of the end of what was read: it is not copied once more."""

_DIGITS = 20  # of any length in bytes; noughts before it are not counted, and Python would not read thousands of them

LEFT = "steelyard.left"
"""Scope key under which our server leaves a coroutine function: it returns when every byte written has left user space
and raises ClientGone when the connection was lost before."""


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a request header (lower-case name), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def text_of(heads: Heads, name: bytes) -> str | None:
    """The value of a request header (lower-case name), or None."""
    value = heads.get(name)
    return None if value is None else str(value, "latin-1")


def lines_of(headers: Headers) -> bytes:
    """As they are sent, each with the end of its line."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def headers_of(lines: bytes) -> Headers:
    """What `lines_of` has made lines of. No name has a colon in it."""
    found = [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]
    return [(name, value) for name, _, value in found]


class Wire(Protocol):
    """One exchange, whatever carries it. `gone` turns true when the client hangs up; who serves is then cancelled."""

    started: bool  # the head of the answer is fixed
    gone: bool
    final: bytes | None  # the very piece after which nothing will be sent: set it before that one is

    def body(self) -> Body | Awaitable[Body]:
        """The whole request body, at once if it is here. Raises CallerError 413 beyond the bound, 400 when the client
        leaves half-way."""
        ...

    def watch(self) -> None:
        """From now on a hang-up cancels whoever serves. Call it once the body was waited for: a wire that has it at
        once watches by itself."""

    def start(self, status: int, lines: bytes) -> None:
        """Fix the head of the answer, its headers as `lines_of` makes them. It leaves with the first piece, or at the
        end."""

    def send(self, piece: bytes) -> Sending:
        """Send one piece of the body. Raises ClientGone, or its await does, when it may not have left user space."""

    def end(self) -> Sending:
        """End the body, and watch no more. Safe to call when the client is gone."""

    def unwatch(self) -> None: ...


async def answered(wire: Wire, body: bytes) -> None:
    """Send the whole body, and end it."""
    wire.final = body
    if sending := wire.send(body):
        await sending
    if ending := wire.end():
        await ending


async def body_of(wire: Wire) -> bytes:
    """The whole body, whether it is here or not."""
    body = wire.body()
    return bytes(body if isinstance(body, (bytes, memoryview)) else await body)


class AsgiWire:
    """A `Wire` over ASGI. On a server without LEFT a piece counts as sent once the server has taken it."""

    final: bytes | None = None

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._left: Callable[[], Awaitable[None]] | None = scope.get(LEFT)
        self._watcher: asyncio.Task[None] | None = None
        self._declared = header(scope, b"content-length")
        self._head: MutableMapping[str, Any] | None = None
        self.started = False
        self.gone = False

    async def body(self) -> bytes:
        if self._declared is not None and is_too_large(self._declared):
            raise too_large()
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
                raise too_large()
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)

    def watch(self) -> None:
        self._watcher = asyncio.ensure_future(self._await_hang_up(asyncio.current_task()))

    async def _await_hang_up(self, task: "asyncio.Task[Any] | None") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if task is not None:
            task.cancel()

    def start(self, status: int, lines: bytes) -> None:
        self.started = True
        self._head = {"type": "http.response.start", "status": status, "headers": headers_of(lines)}

    async def send(self, piece: bytes) -> None:
        await self._begin()
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        try:
            if self._left is not None:
                await self._left()
            elif self.gone:
                raise ClientGone("the connection is closed")
        except ClientGone:
            self.gone = True
            raise

    async def end(self) -> None:
        self.unwatch()
        await self._begin()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            await self._send(head)

    def unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None


def is_too_large(declared: str) -> bool:
    """Whether a body of this Content-Length is refused unread."""
    return declared.isdigit() and int(declared.lstrip("0")[:_DIGITS] or 0) > limits.BODY_BYTES_MAX


def too_large() -> CallerError:
    size_mb = limits.BODY_BYTES_MAX // (1024 * 1024)
    return CallerError(413, "body_too_large", f"The body is larger than {size_mb} MB. Send a shorter prompt.")
