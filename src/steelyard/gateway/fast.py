"""The fast front: hot URLs are served from the connection itself, without ASGI, task or future.

Owns the wire of such an exchange: its body, the framing of its answer, its turn on the connection. Whatever is unusual
about a request (another place, a key that makes it happen once, a web page that asks) goes uvicorn's ordinary way.
Knows no dialect: what is served is a `Hot`.
"""

from collections.abc import Awaitable, Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from steelyard.gateway.cors import ORIGIN
from steelyard.gateway.exact import NOTHING, ExactProtocol, Turn
from steelyard.gateway.exchange import Border, Hot
from steelyard.gateway.known_head import KnownHead, learnt
from steelyard.gateway.once import HEADER as ONCE
from steelyard.gateway.wire import Body, Headers, Heads, is_too_large, lines_of, too_large
from steelyard.kernel import limits
from steelyard.kernel.errors import ClientGone
from steelyard.kernel.outbox import Outbox
from steelyard.kernel.roles import Sending
from steelyard.kernel.run import Run, Signal

_ORDINARY = frozenset({ONCE, ORIGIN})
"""Headers of requests that the ordinary way serves."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_END = b"0\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "  # no value has the end of a line in it


class FastFront:
    """Makes a protocol for each connection, as uvicorn asks for it. One per server."""

    def __init__(self, hot: Mapping[str, Hot]) -> None:
        self.hot = {path.encode(): place for path, place in hot.items()}
        self.outbox = Outbox()
        self.headers: Headers = []
        """The server's own. uvicorn makes them anew every second."""
        self.lines = b""
        """They, as they are sent."""

    def __call__(self, **given: Any) -> "FastProtocol":
        return FastProtocol(self, **given)

    def renew(self, headers: Headers) -> None:
        """The server has others now."""
        self.headers, self.lines = headers, lines_of(headers)


class FastProtocol(ExactProtocol):
    """One connection. Exchanges of its own and uvicorn's take their turns in one queue."""

    def __init__(self, front: FastFront, **given: Any) -> None:
        super().__init__(**given)
        self.front = front
        self.active: FastWire | None = None  # the one of ours whose turn it is
        self._known: KnownHead | None = None
        self._lessons = limits.HEADS_LEARNT_MAX

    def data_received(self, data: bytes) -> None:
        if (known := self._known) is not None and not self._owes and self.cycle.response_complete:
            body = known.body_of(data)
            if body is not None:
                self._heard = True
                if self.timeout_keep_alive_task is not None:
                    self._unset_keepalive_if_required()
                fast = FastWire(self, known.hot, known.heads, True)
                self.cycle = self.active = fast  # type: ignore[assignment]
                fast.more_body = False
                fast.whole = body
                fast.begin()
                return
        cycle, begins = self.cycle, not self._owes or not self._last_bytes
        super().data_received(data)
        wire = self.active
        if wire is not None and not wire.begun and not self.transport.is_closing():
            wire.begin()  # the rest of its body is to come: who has no key is refused before
        elif begins and self._lessons and self.cycle is not cycle and isinstance(self.cycle, FastWire):
            self._lessons -= 1
            self._known = self.cycle.learnt(data)

    def forget(self) -> None:
        self._known, self._lessons = None, limits.HEADS_LEARNT_MAX

    def request(self, fields: Headers) -> None:
        parser = self.parser
        url = self._url
        hot = self.front.hot.get(url) or self.front.hot.get(url.partition(b"?")[0])
        heads = {name.lower(): value for name, value in fields}
        if hot is None or parser.get_method() != b"POST" or not heads.keys().isdisjoint(_ORDINARY):
            super().request(fields)
            return
        is_new = parser.get_http_version() == "1.1"
        wire = FastWire(self, hot, heads, is_new)
        wire.keep_alive = is_new and parser.should_keep_alive()
        if self._answering:
            self.flow.pause_reading()
            self.pipeline.appendleft((wire, self.app))  # type: ignore[arg-type]
        else:
            self.active = wire
        self.cycle = wire  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        wire = self.cycle
        if isinstance(wire, FastWire):
            self._moved = True
            wire.take(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        wire = self.cycle
        if isinstance(wire, FastWire) and not self._upgrades:
            self._owes = NOTHING
            wire.complete()
        else:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._known = None
        if self.active is not None:
            self.active.hang_up()

    def turn_of(self, wire: "FastWire") -> None:
        """It waited behind another one."""
        self.active = wire

    def is_turn_of(self, wire: "FastWire") -> bool:
        return self.active is wire

    def cut(self) -> None:
        """The server has waited long enough for the exchange that runs."""
        if self.active is not None:
            self.active.cancel()

    async def left(self) -> None:
        """See `LEFT`."""
        await self._left()


class FastWire(Turn):
    """A `Wire` without ASGI. Also the `Turn` that uvicorn's protocol sees."""

    begun = started = gone = False
    final: bytes | None = None
    whole: Body | None = None
    """The body, if it came with the head and all at once."""
    _run: Run | None = None
    _border: Border | None = None
    _pieces: list[Body]  # of a body that is coming
    _size = 0
    _arrival: Signal[None] | None = None  # of the whole body, or of too much of it
    leaving: Signal[None]  # the last piece
    _head = b""  # of the answer, until it leaves
    _chunked = _ended = False

    def __init__(self, protocol: FastProtocol, hot: Hot, heads: Heads, is_new: bool) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        self._hot = hot
        self._heads = heads
        self._is_new = is_new  # HTTP/1.1: it knows chunks, and what 100 means

    # --- what the protocol tells ------------------------------------------------------------------------------------

    def take(self, body: bytes) -> None:
        """A piece of the body. Beyond the bound, and when the answer is whole already, it is thrown away."""
        if self.response_complete or self._size > limits.BODY_BYTES_MAX:
            return
        if not self._size:
            self._pieces = []
        self._size += len(body)
        if self._size <= limits.BODY_BYTES_MAX:
            self._pieces.append(body)
            return
        self._pieces.clear()
        if self._arrival is not None:
            self._arrival.give(None)

    def complete(self) -> None:
        """The request is whole."""
        self.more_body = False
        if self._arrival is not None:
            self._arrival.give(None)
        elif not self.begun and self._protocol.is_turn_of(self):
            self.begin()

    def begin(self) -> None:
        """Serve it, here and now."""
        self.begun = True
        work, self._border = self._hot.serve(self, self._heads)
        self._run = run = Run(work, self._protocol.loop, self._over)
        run.start()

    def learnt(self, data: bytes) -> KnownHead | None:
        """What to know of its head, if it came whole in this one read."""
        return learnt(data, self._hot, self._heads) if self.keep_alive and not self.more_body else None

    async def run_asgi(self, app: object) -> None:
        self._protocol.turn_of(self)
        self.begin()

    def hang_up(self) -> None:
        """The client has gone."""
        self.gone = True
        self.cancel()

    def cancel(self) -> None:
        if self._run is not None:
            self._run.cancel()

    def _over(self, run: Run) -> None:
        """The work has ended; what follows may take its time."""
        rest, border, self._border = None, self._border, None
        error, run.error = run.error, None  # its traceback knows the run
        try:
            if border is not None and (rest := border.over(error)) is not None:
                self._run = run = Run(rest, self._protocol.loop, self._over)
                run.start()
        finally:
            if rest is None:
                self._run = None
                if self._protocol.active is self:
                    self._protocol.active = None
                if not self.response_complete:
                    self._transport.close()  # it ends visibly

    # --- what the exchange asks (see Wire) --------------------------------------------------------------------------

    def body(self) -> Body | Awaitable[Body]:
        if (whole := self.whole) is not None:
            self.whole = None
            return whole
        return self._arriving() if self.more_body and self._size <= limits.BODY_BYTES_MAX else self._arrived()

    async def _arriving(self) -> Body:
        if is_too_large(str(self._heads.get(b"content-length", b""), "latin-1")):
            raise too_large()
        if self._is_new and not self._size and self._heads.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(_CONTINUE)
        self._arrival = Signal()
        await self._arrival
        return self._arrived()

    def _arrived(self) -> Body:
        if self._size > limits.BODY_BYTES_MAX:
            raise too_large()
        if not self._size:
            return b""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def watch(self) -> None:
        """The protocol does, all the time."""

    def unwatch(self) -> None:
        return None

    def start(self, status: int, lines: bytes) -> None:
        self.started = self.response_started = True
        protocol = self._protocol
        front, own = protocol.front, protocol.server_state.default_headers
        if front.headers is not own:
            front.renew(own)
        head = STATUS_LINE[status] + front.lines + lines
        if not self.keep_alive:
            head += b"connection: close\r\n"
        if self._is_new and _LENGTH not in head:
            self._chunked = True
            head += b"transfer-encoding: chunked\r\n"
        self._head = head + b"\r\n"

    def send(self, piece: bytes) -> Sending:
        transport, protocol = self._transport, self._protocol
        if not transport.is_closing():
            head, self._head = self._head, b""
            if self._chunked:
                ends = piece is self.final
                piece = b"%b%x\r\n%b\r\n" % (head, len(piece), piece) if piece else head
                if ends:
                    self._ended = True
                    piece += _END
            elif head:
                piece = head + piece
            leaving = self.leaving = Signal()
            return None if protocol.front.outbox.send(transport, piece, self) else leaving
        return self._left()

    def late(self) -> None:
        """See `Sender`."""
        Run(self._tell_left(self.leaving), self._protocol.loop, _let_go).start()

    async def _tell_left(self, leaving: Signal[None]) -> None:
        try:
            await self._left()
        except ClientGone:
            leaving.fail(ClientGone())  # one that knows nobody yet
        else:
            leaving.give()

    async def _left(self) -> None:
        try:
            await self._protocol.left()
        except ClientGone:
            self.gone = True
            raise

    def end(self) -> Sending:
        rest, self._head = self._head, b""
        if self._chunked and not self._ended:
            rest += _END
        if rest and not self._transport.is_closing():
            self._transport.write(rest)
        self.response_complete, protocol = True, self._protocol
        if not self.keep_alive:
            self._transport.close()
        if protocol.pipeline or protocol.flow.read_paused:
            protocol.on_response_complete()
        else:
            protocol.server_state.total_requests += 1
        return None


def _let_go(run: Run) -> None:
    """It has told whoever waited."""
