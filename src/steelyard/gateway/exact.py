"""uvicorn's HTTP protocol, set up so that a byte counted as sent has left user space.

Owns what stock uvicorn does not tell or bound: when its write buffer is empty, how large a head may be, how many
requests wait on one connection, who has fallen silent, and that a refusal waits for its turn. Heads are read here and
handed on whole, so that `fast.py` can take some of them for itself. Knows no URL.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from steelyard.gateway.wire import LEFT, Headers
from steelyard.kernel import limits
from steelyard.kernel.errors import ClientGone

NOTHING, BODY, HEAD = range(3)
"""What the client owes of a request."""
_UPGRADES = frozenset({b"upgrade", b"http2-settings"})


class _Deaf(list[tuple[bytes, bytes]]):
    """Where trailers go: nobody asked for them, and no header of a request may come after its body."""

    def append(self, field: tuple[bytes, bytes]) -> None:
        return None


_NOBODY = _Deaf()


class Unread(Exception):
    """Raised to the parser: what comes is not read any further. Carries the status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Quiet:
    """Stands for an event nobody waits for."""

    def set(self) -> None:
        return None


class Turn:
    """What uvicorn's protocol wants to know of an exchange it does not run itself: the attributes of its own."""

    response_started = False
    response_complete = False
    disconnected = False
    more_body = True
    keep_alive = True
    message_event = Quiet()

    async def run_asgi(self, app: object) -> None:
        """Its turn has come."""


class _Refusal(Turn):
    """The answer to what is no request. The connection ends with it."""

    more_body = False

    def __init__(self, protocol: "ExactProtocol", error: Unread) -> None:
        self._protocol = protocol
        self._error = error

    async def run_asgi(self, app: object) -> None:
        self.answer()

    def answer(self) -> None:
        self.response_started = self.response_complete = True
        self._protocol.close_with(self._error)


class ExactProtocol(HttpToolsProtocol):
    """uvicorn's protocol with no write buffer of its own; leaves `LEFT` in every scope."""

    _heard = True  # something came since the last sweep
    _quiet_s = 0.0  # how long nothing has come, by the sweeps
    _owed_s = 0.0  # how long the head that is owed has taken, by the sweeps
    _owes = HEAD
    _moved = False  # what came last began a request or a body, or belongs to a body
    _read_bytes = 0  # of one head, or behind one body, in reads that did nothing else
    _last_bytes = 0  # of the last read
    _upgrades = False
    _url = b""
    _fields: Headers = _NOBODY
    _asked: Sequence[Any] = ()  # uvicorn's own exchanges that are not over

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for cycle in self._asked:  # uvicorn tells the last one only
            cycle.disconnected = True
            cycle.message_event.set()
        # All know this connection: such circles would stay until the collector looks for them, which it does rarely.
        self.parser = self.cycle = self.scope = None  # type: ignore[assignment]
        self._asked = ()

    # --- what comes -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._moved = False
        self._last_bytes = len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as found:
            self._stay(data[found.args[0] :])
        except httptools.HttpParserError as error:
            told = error.__context__
            self._refuse(told if isinstance(told, Unread) else Unread(400, "Invalid HTTP request received."))
        else:
            if self._owes and not self._moved:
                self._read_bytes += len(data)
                if self._read_bytes > limits.HEADER_BYTES_MAX:
                    self._refuse(_head_too_large())

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= limits.PIPELINED_MAX:
            raise Unread(429, "Too many requests wait on this connection.")
        self._owes, self._moved = HEAD, True
        self._read_bytes = 0
        self._owed_s = 0.0
        self._url = b""
        self._fields = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            self._upgrades = True
            return
        fields, self._fields = self._fields, _NOBODY
        most = limits.HEADER_BYTES_MAX  # of one that came in several reads, the first is not in `_read_bytes`
        if (not self._moved or self._last_bytes > most) and _size(fields) > most:
            raise _head_too_large()
        self._owes, self._moved = BODY, True
        self._read_bytes = 0
        self.request(fields)

    def request(self, fields: Headers) -> None:
        """A head has come: let uvicorn have it, as if it had read it itself."""
        super().on_message_begin()
        self.scope[LEFT] = self._left  # type: ignore[literal-required]
        super().on_url(self._url)
        for name, value in fields:
            super().on_header(name, value)
        super().on_headers_complete()
        self._asked = [*(cycle for cycle in self._asked if not cycle.response_complete), self.cycle]

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._upgrades:
            self._owes = NOTHING
            super().on_message_complete()

    def _stay(self, rest: bytes) -> None:
        """A client that offers another protocol is answered in this one, and may go on in it. The parser has not even
        read the body of such a request: it reads it again, without the offer."""
        self._upgrades = False
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self._refuse(Unread(400, "This is no proxy."))
            return
        lines = [b"%b %b HTTP/%b\r\n" % (method, self._url, version.encode())]
        lines += [b"%b: %b\r\n" % field for field in self._fields if field[0].lower() not in _UPGRADES]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"".join((*lines, b"\r\n", rest)))

    # --- what is no request -----------------------------------------------------------------------------------------

    def _refuse(self, error: Unread) -> None:
        """Answer it when its turn comes, and read no more."""
        cycle = self.cycle
        if self.transport.is_closing():
            return
        if isinstance(cycle, _Refusal):
            self.flow.pause_reading()  # somebody resumed it
            return
        refusal = _Refusal(self, error)
        if self.pipeline or (self._owes != BODY and self._answering):
            if self._owes == BODY:  # it is the last of those that wait
                self.pipeline.popleft()
            self.pipeline.appendleft((refusal, self.app))  # type: ignore[arg-type]
            self.cycle = refusal  # type: ignore[assignment]
            self.flow.pause_reading()
        elif self._owes == BODY and (not self._answering or cycle.response_started):
            self.transport.close()  # it was answered before its end
        else:
            refusal.answer()

    def close_with(self, error: Unread) -> None:
        """Write a refusal and close."""
        lines = [STATUS_LINE[error.status]]
        lines += [b"%b: %b\r\n" % pair for pair in self.server_state.default_headers]
        lines.append(b"content-type: text/plain; charset=utf-8\r\n")
        lines.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(error.reason))
        self.transport.write(b"".join((*lines, error.reason.encode())))
        self.transport.close()

    # --- who has fallen silent, and what has left -------------------------------------------------------------------

    def sweep(self, elapsed_s: float) -> None:
        """Called at intervals: hang up if the rest of a request does not come, or no other one."""
        if self._owes == HEAD:
            self._owed_s += elapsed_s
        if self._heard or (not self._owes and self._answering):
            self._heard, self._quiet_s = False, 0.0
        else:
            self._quiet_s += elapsed_s
        if self._quiet_s:
            self.forget()
        if self._owes:
            late = self._owes == HEAD and self._owed_s > limits.CLIENT_HEAD_S
            if late or self._quiet_s >= limits.CLIENT_SILENCE_S:
                self.transport.abort()
        elif self._quiet_s >= limits.KEEP_ALIVE_S:
            self.transport.close()

    def forget(self) -> None:
        """Nothing has come for a while: what is only kept for speed can go."""

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    async def _left(self) -> None:
        while self.flow.write_paused:
            unsent = self.transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(limits.CLIENT_SILENCE_S):
                    await self.flow.drain()
            except TimeoutError:
                if self.transport.get_write_buffer_size() >= unsent:
                    self.transport.abort()
                    raise ClientGone("the client takes nothing any more") from None
        if self.transport.is_closing():
            raise ClientGone("the connection is closed")


def _size(fields: Headers) -> int:
    return sum(len(name) + len(value) + 4 for name, value in fields)


def _head_too_large() -> Unread:
    return Unread(431, f"The headers are larger than {limits.HEADER_BYTES_MAX // 1024} KB.")
