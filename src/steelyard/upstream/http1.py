"""One HTTP/1.1 connection to an upstream: a request out, an answer in, pieces of one read joined.

Owns framing (httptools), back-pressure and the difference between an answer that ended and one that was cut. Of a head
only what is asked for is looked at. Knows no pool, no retry and no dialect. Answers to HEAD are not understood.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

import httptools

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.frozen import Record
from steelyard.kernel.outbox import Outbox
from steelyard.kernel.run import Signal, Watch
from steelyard.upstream.head import KnownAnswer, header_of, known_of
from steelyard.upstream.wheel import Wheel

_ONE = (None,)
_JOINED_BYTES = 16 * 1024  # a body below this is copied behind its head: one buffer is cheaper than two


class Request(Record, frozen=True, gc=False):
    """What to send where. `headers` is a block made by `header_block`; length and host are added here."""

    upstream: str
    host: str
    port: int
    method: str
    path: str
    headers: bytes = b""
    body: bytes = b""
    tls: bool = False
    connections_max: int = limits.CONNECTIONS_PER_UPSTREAM_MAX

    @property
    def authority(self) -> str:
        """The host and, where it is not the usual one, the port, as a URL has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def head(self) -> bytes:
        """All of the head but the number of bytes that follow it, and the end: the same for every body."""
        first = f"{self.method} {self.path} HTTP/1.1\r\nhost: {self.authority}\r\n"
        return b"".join((first.encode("ascii"), self.headers, b"content-length: "))


class Patience(NamedTuple):
    """How long a connection may be silent, in seconds."""

    first_byte_s: float = limits.UPSTREAM_FIRST_BYTE_S
    silence_s: float = limits.UPSTREAM_SILENCE_S  # within an answer
    idle_s: float = limits.UPSTREAM_IDLE_S  # between two


def _gone() -> bool:
    return True


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    `on_lost` is called once when the connection is gone, whoever closed it.
    """

    __slots__ = (
        *(
            "alive",
            "answered",
            "complete",
            "form",
            "head",
            "head_done",
            "kept",
            "lost",
            "on_body",
            "on_message_begin",
            "over_s",
        ),
        *("pieces", "resting", "since_s", "stale", "status", "unread_bytes", "upstream", "used", "_failed", "_feed"),
        *("_head", "_may_begin", "_on_end", "_on_lost", "_outbox", "_parser", "_patience", "_paused", "_signal"),
        *("_interim", "_interims", "_known", "_learns", "_transport", "_wheel"),
    )

    def __init__(
        self,
        upstream: str,
        wheel: Wheel,
        patience: Patience,
        outbox: Outbox,
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self.upstream = upstream
        self.lost: Callable[[], bool] = _gone  # whether it is closed, or closing; the transport's own word
        self.used = False  # an exchange ran on it before, and this one has no sign of life: its loss may be staleness
        self.stale = False  # not to be used again: the upstream is elsewhere now
        self.since_s = 0.0  # loop time of the last read, or of becoming idle
        self.over_s: float | None = None  # since when nothing but the end of its answer is awaited, by nobody
        self.status = 0
        self.head = b""  # of the answer as it came, and maybe what came with it; see `header_of`
        self.form = b""  # of its body, see `form_in`; empty: ask for it
        self.answered = False  # a byte of the current answer came
        self.alive = False  # the upstream said that it is at work on it, if nothing else yet
        self.head_done = False
        self.complete = False
        self.pieces: list[bytes] = []  # of the body, not yet read
        self.resting = True  # no exchange runs on it
        self.kept = False  # the upstream keeps it open behind this answer
        self._on_lost = on_lost
        self._outbox = outbox
        self._wheel = wheel
        self._patience = patience
        self._transport: asyncio.Transport | None = None
        self._may_begin: list[None] = []  # one for the answer that was asked for, until it begins
        # Called by the parser without a frame of ours; the second raises where an answer begins that nobody asked for.
        self.on_body, self.on_message_begin = self.pieces.append, self._may_begin.pop
        self._parser = httptools.HttpResponseParser(self)  # one for all answers: it begins anew behind each
        self._feed: Callable[[bytes], None] = self._parser.feed_data
        self._known: KnownAnswer | None = None  # what heads looked like that are not read again
        self._learns = limits.UPSTREAM_LOOKS_LEARNT_MAX
        self._head = b""  # what came until it was whole
        self._interim = self._interims = 0  # answers before the answer: in what came, and in all
        self.unread_bytes = 0
        self._paused = False
        self._failed: str | None = None  # in words: an error that was raised keeps whoever it met
        self._signal: Signal[Any] | None = None
        self._on_end: Callable[[Connection], None] | None = None

    # --- what the pool and the response use

    def send(self, head: bytes, body: bytes) -> Signal[None]:
        """Begin an exchange. `head` is `Request.head()`. What is returned is to be awaited as that of `more`. Raises
        UpstreamError when the connection is gone."""
        self.status = self._interim = self._interims = 0
        self._head = b""
        self._may_begin[:] = _ONE
        self.alive = self.answered = self.head_done = self.complete = self.resting = False
        self.since_s = self._wheel.now_s
        transport = self._transport
        if transport is None or self.lost():
            raise UpstreamError(self.upstream, "closed the connection", retryable=True)
        size = len(body)
        if size < _JOINED_BYTES:
            self._outbox.send(transport, b"%b%d\r\n\r\n%b" % (head, size, body))
        else:
            transport.writelines((b"%b%d\r\n\r\n" % (head, size), body))
        signal = self._signal = Signal()
        return signal

    def more(self) -> Signal[None]:
        """To be awaited for what is not there yet. Raises UpstreamError when nothing more will come."""
        if self._failed is not None:
            raise self._failure()
        signal: Signal[None] = Signal()
        self._signal = signal
        return signal

    def attend(self, watch: Watch[Any] | None) -> None:
        """Have it given to for each read, until None is said. Raises UpstreamError when nothing more will come."""
        if watch is not None and self._failed is not None:
            raise self._failure()
        self._signal = watch

    def was_read(self) -> None:
        """What had come without being asked for was taken out of `pieces`: more of it may come."""
        self.unread_bytes = 0
        if self._paused:
            self._go_on_reading()

    def when_ended(self, then: Callable[["Connection"], None]) -> None:
        """Call back once the answer has come to its end; what still comes of it is thrown away."""
        if self.complete:
            then(self)
            return
        self._on_end, self._signal = then, None
        self.over_s = self._wheel.now_s
        self._let_unread_go()

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a later TLS connection to the same host may take up; None without TLS."""
        wrapped = self._transport and self._transport.get_extra_info("ssl_object")
        return wrapped.session if wrapped else None

    @property
    def peer(self) -> str:
        """The address at the other end."""
        name = self._transport and self._transport.get_extra_info("peername")
        return name[0] if name else ""

    def rest(self) -> None:
        """Become idle: whatever comes now was not asked for and ends the connection."""
        self.resting = self.used = True
        self._signal = None
        self.since_s = self._wheel.now_s
        if self.pieces or self.unread_bytes:  # nobody wanted them
            self._let_unread_go()

    def abort(self) -> None:
        """Close at once; unsent bytes are dropped."""
        if self._transport is not None:
            self._transport.abort()

    def fail(self, message: str) -> None:
        """End the exchange with an error."""
        self._failed = message
        self.used = False  # it was there: we gave it up
        self.abort()
        self._wake()

    def _failure(self) -> UpstreamError:
        return UpstreamError(self.upstream, self._failed or "", retryable=not self.answered)

    def look(self, now_s: float) -> None:
        """See `Watched.look`."""
        quiet_s = now_s - self.since_s
        if self.resting:
            if quiet_s > self._patience.idle_s:
                self.abort()
        elif self._signal is not None:
            begun = self.answered or self.alive
            patience_s = self._patience.silence_s if begun else self._patience.first_byte_s
            if quiet_s > patience_s:
                self.fail(f"said nothing for {patience_s} s")
        elif self.over_s is not None and now_s - self.over_s > limits.UPSTREAM_END_S:
            self.abort()

    def _let_unread_go(self) -> None:
        self.pieces.clear()
        self.unread_bytes = 0
        if self._paused:
            self._go_on_reading()

    def _go_on_reading(self) -> None:
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()

    def _wake(self) -> None:
        """Let whoever waits go on. He may close this connection or use it again at once: to be called last."""
        signal = self._signal
        if signal is not None:
            if not signal.stays:
                self._signal = None
            signal.give(None)

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream socket's transport reads and writes
        self.lost = transport.is_closing

    def data_received(self, data: bytes) -> None:
        if self.resting:
            self.abort()
            return
        self.since_s = self._wheel.now_s
        begins = not self.head_done
        if begins:
            self.answered = True
            self._head = self._head + data if self._head else data
        known = self._known if begins and self._head is data else None
        seen = None if known is None else known.head.match(data)
        if known is not None and seen is not None and len(data) - (end := seen.end()) == int(seen[1]):
            self._may_begin.clear()
            self.pieces.append(data[end:])
            self.status, self.head, self.form = 200, data, known.form
            self.head_done = self.kept = self.complete = True
        else:
            try:
                self._feed(data)
            except httptools.HttpParserUpgrade:
                self.fail("switched protocols unasked")
                return
            except httptools.HttpParserError as error:
                self._misread(error)
        signal = self._signal
        if begins and not self.head_done:
            self._await_head()
        elif signal is not None:
            if begins or self.pieces or self.complete:
                if not signal.stays:
                    self._signal = None
                signal.give(None)
        elif self._on_end is not None:
            self._throw_away()
        else:
            self._keep_unread(len(data))

    def _keep_unread(self, bytes_: int) -> None:
        """Nobody waits for what came: he who sends too much of it has to."""
        self.unread_bytes += bytes_
        if self.unread_bytes > limits.UPSTREAM_READ_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _await_head(self) -> None:
        """It is not whole; behind interim answers it may not even have begun."""
        if self._interim:
            self._head = self._behind_interim()
            self._interims += self._interim
            self._interim = 0
            self.alive, self.answered, self.used = True, bool(self._head), False
        if self._interims > limits.UPSTREAM_INTERIMS_MAX:
            self.fail(f"sent more than {limits.UPSTREAM_INTERIMS_MAX} interim answers and no answer")
        elif len(self._head) > limits.HEADER_BYTES_MAX:
            self.fail(f"sent headers of more than {limits.HEADER_BYTES_MAX} bytes")

    def _behind_interim(self) -> bytes:
        head = self._head
        for _ in range(self._interim):
            head = head[head.find(b"\r\n\r\n") + 4 :]
        return head

    def _misread(self, error: httptools.HttpParserError) -> None:
        if self.complete:
            self.kept = False  # an answer to no request follows: read no more from this upstream
        else:
            self.fail(f"sent an answer that is not HTTP ({error})")

    def _throw_away(self) -> None:
        """Nobody wants what still comes; when it has come to its end, the connection is free."""
        self.pieces.clear()
        then = self._on_end
        if self.complete and then is not None:
            self._on_end = self.over_s = None
            then(self)

    def eof_received(self) -> bool:
        if self.head_done and not self.complete:  # without framing it ends with the connection
            head = self.head
            self.complete = not header_of(head, b"content-length") and not header_of(head, b"transfer-encoding")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self.lost = None, _gone
        if not self.resting and not self.complete and self._failed is None:
            told = "closed the connection in the middle of its answer" if self.answered else "closed the connection"
            self._failed = told
            self.used = self.used and self._wheel.now_s - self.since_s <= limits.UPSTREAM_STALE_S
        del self._parser, self._feed  # which know this connection
        self._on_lost(self)
        self._wake()

    # --- called by the parser

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # "100 Continue" and its kin announce the answer, they are not it
            self._interim += 1
            self._may_begin[:] = _ONE
            return
        self.status, self.form = status, b""
        self.head = self._behind_interim() if self._interim else self._head
        self.head_done = True
        self.kept = self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        if self.head_done:
            self.complete = True
            if self._learns and self.kept and self.status == 200 and len(self.pieces) == 1:
                self._learns -= 1
                self._known = known_of(self.head)
