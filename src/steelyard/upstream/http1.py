"""One HTTP/1.1 connection to an upstream: a request out, an answer in, pieces of one read joined.

Owns framing (httptools), back-pressure and the difference between an answer that ended and one that was cut. Knows no
pool, no retry and no dialect. Answers to HEAD are not understood.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import httptools

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError


@dataclass(frozen=True, slots=True)
class Request:
    """What to send where. `headers` is a block made by `header_block`; length and host are added here."""

    upstream: str
    host: str
    port: int
    method: str
    path: str
    headers: bytes = b""
    body: bytes = b""
    tls: bool = False

    def encoded(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != (443 if self.tls else 80):
            host = f"{host}:{self.port}"
        head = f"{self.method} {self.path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(self.body)}\r\n"
        return b"".join((head.encode("ascii"), self.headers, b"\r\n", self.body))


def header_block(headers: dict[str, str]) -> bytes:
    """Header lines as bytes. Raises ValueError for what would end a line early."""
    for name, value in headers.items():
        if not name.isascii() or any(character in name + value for character in "\r\n\0"):
            raise ValueError(f"the header {name!r} cannot be sent")
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items())


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    `on_lost` is called once when the connection is gone, whoever closed it.
    """

    def __init__(self, upstream: str, on_lost: Callable[["Connection"], None]) -> None:
        self.upstream = upstream
        self.used = False  # whether an exchange ran on it before: only then a silent loss may be staleness
        self.since_s = 0.0  # loop time of the last read, or of becoming idle
        self.over_s: float | None = None  # since when nothing but the end of its answer is awaited, by nobody
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.answered = False  # a byte of the current answer came
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = None  # None while idle
        self._head_bytes = 0
        self._head_done = False
        self._complete = False
        self._kept = False
        self._until_close = False
        self._pieces: list[bytes] = []
        self._piece_bytes = 0
        self._paused = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_end: Callable[[Connection], None] | None = None

    # --- what the pool and the response use

    @property
    def lost(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for bytes that do not come."""
        return self._waiter is not None

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end and the upstream keeps the connection."""
        return self._complete and self._kept and not self.lost

    def when_ended(self, then: Callable[["Connection"], None]) -> None:
        """Call back once the answer has come to its end; what still comes of it is thrown away."""
        if self._complete:
            then(self)
            return
        self._on_end = then
        self.over_s = self._loop.time()
        self._pieces.clear()
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    @property
    def resting(self) -> bool:
        """Whether no exchange runs on it."""
        return self._parser is None and not self.lost

    def send(self, request: Request) -> None:
        """Begin an exchange."""
        self.status = 0
        self.headers = {}
        self.answered = self._head_done = self._complete = self._kept = self._until_close = False
        self._head_bytes = 0
        self._error = None
        self._parser = httptools.HttpResponseParser(self)
        self.since_s = self._loop.time()
        if self._transport is None or self._transport.is_closing():
            self._error = UpstreamError(self.upstream, "closed the connection", retryable=True)
            return
        self._transport.write(request.encoded())

    async def head(self) -> None:
        """Return when status and headers are there. Raises UpstreamError; `answered` tells whether anything came."""
        while not self._head_done:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def read(self) -> bytes:
        """All body bytes that came since the last read; empty at the end of the body. Raises UpstreamError when cut."""
        while not self._pieces:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        pieces = self._pieces
        read = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._piece_bytes = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return read

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a later TLS connection to the same host may take up; None without TLS."""
        wrapped = self._transport and self._transport.get_extra_info("ssl_object")
        return wrapped.session if wrapped else None

    def rest(self) -> None:
        """Become idle: whatever comes now was not asked for and ends the connection."""
        self._parser = None
        self.used = True
        self.since_s = self._loop.time()

    def abort(self) -> None:
        """Close at once; unsent bytes are dropped."""
        if self._transport is not None:
            self._transport.abort()

    def fail(self, message: str) -> None:
        """End the exchange with an error."""
        self._error = UpstreamError(self.upstream, message, retryable=not self.answered)
        self.abort()
        self._wake()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream socket's transport reads and writes

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self.abort()
            return
        self.answered = True
        self.since_s = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail("switched protocols unasked")
            return
        except httptools.HttpParserError as error:
            self.fail(f"sent an answer that is not HTTP ({error})")
            return
        if not self._head_done:
            self._head_bytes += len(data)
            if self._head_bytes > limits.HEADER_BYTES_MAX:
                self.fail(f"sent headers of more than {limits.HEADER_BYTES_MAX} bytes")
            return
        if self._piece_bytes > limits.UPSTREAM_READ_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        if self._until_close and self._head_done:
            self._complete = True
            self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._parser is not None and not self._complete and self._error is None:
            told = "closed the connection in the middle of its answer" if self.answered else "closed the connection"
            self._error = UpstreamError(self.upstream, told, retryable=not self.answered)
        self._wake()
        self._on_lost(self)

    # --- called by the parser

    def on_message_begin(self) -> None:
        if self._complete:
            self._kept = False  # a second answer to one request: read no more from this upstream

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._complete:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._complete or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status < 200:  # "100 Continue" and its kin announce the answer, they are not it
            self.headers.clear()
            return
        self.status = status
        self._head_done = True
        self._kept = self._parser.should_keep_alive()
        framed = b"content-length" in self.headers or b"transfer-encoding" in self.headers
        self._until_close = not framed and status not in {204, 304}

    def on_body(self, body: bytes) -> None:
        if not self._complete and self._on_end is None:
            self._pieces.append(body)
            self._piece_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True
            if (then := self._on_end) is not None:
                self._on_end, self.over_s = None, None
                self._loop.call_soon(then, self)
