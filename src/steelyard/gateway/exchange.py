"""One paid exchange: binds a wire, a dialect and the flow. Decides nothing, knows no dialect's fields.

A `HotUrl` serves on whatever wire: over ASGI it is the application's callable, `fast.py` calls `serve` itself.
"""

import asyncio
from binascii import hexlify
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, Protocol

import structlog

from steelyard.flow import House, paid_request
from steelyard.gateway.admission import Admission
from steelyard.gateway.chat_answer import Bill
from steelyard.gateway.dialect import FALLBACKS, Asked, Dialect
from steelyard.gateway.errors import from_upstream, internal_error
from steelyard.gateway.left import balance_header
from steelyard.gateway.once import HEADER as KEY_HEADER
from steelyard.gateway.once import Once, RecordingWire
from steelyard.gateway.wire import AsgiWire, Body, Headers, Heads, Receive, Scope, Send, Wire, answered, lines_of
from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.errors import CallerError, ClientGone, UpstreamError, unavailable
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.money import text_from_nano
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, Event, Order, Quote
from steelyard.kernel.roles import Sending
from steelyard.rating.rate import charge_nano

SESSION_HEADER = b"x-steelyard-session"
FALLBACKS_HEADER = FALLBACKS.encode()
REUSE_HEADER = b"x-steelyard-cache"
_OWN_HEADERS = frozenset({SESSION_HEADER, FALLBACKS_HEADER, REUSE_HEADER, KEY_HEADER})
_STREAMED = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
_HEAD = b"content-type: %b\r\nx-request-id: %b\r\nrequest-id: %b\r\n%bopenai-processing-ms: %d\r\n%b"
Work = Coroutine[Any, Any, Any]
log = structlog.get_logger()


class Border:
    """Where one exchange ends: whatever its work raises becomes an answer of the dialect."""

    admission: Admission | None = None
    held_bytes = 0  # what its body counts for with `admission`

    def __init__(self, dialect: Dialect, wire: Wire, request_id: bytes) -> None:
        self._dialect = dialect
        self._wire = wire
        self._request_id = request_id

    def over(self, error: BaseException | None) -> Work | None:
        """The work has ended, with what it raised. What this returns is to be awaited: it raises nothing but what
        cancels it."""
        wire = self._wire
        if self.admission is not None:
            self.admission.leave(self.held_bytes)
        if error is None and not wire.gone:
            try:
                ending = wire.end()
            except BaseException as failed:  # noqa: BLE001 - many are told in one turn: one must not keep it from others
                return _told(self._dialect, wire, self._request_id, failed)
            return None if ending is None else _ended(self._dialect, wire, self._request_id, ending)
        if isinstance(error, UpstreamError):
            error = self.in_own_words(error)
        return _told(self._dialect, wire, self._request_id, error or ClientGone())

    def in_own_words(self, error: UpstreamError) -> UpstreamError:
        """Told about what the customer sent."""
        return error


class Exchange(Border):
    """One exchange as the flow sees it: Ask and Answer in one, because the body decides the answer's form."""

    caller: Caller | None = None
    asked: Asked
    holds_back = False
    reads_later: ClassVar[bool] = False
    """Whether its dialect's own way of reading has to be waited for: `_read`."""
    amended = False  # headers have a say in what is asked
    render: Callable[[int, Event], bytes]
    """The form's own: asked with every event."""
    _quote: Quote
    _lines = b""  # headers of its own, see `lines_of`
    _body_bytes = 0

    def __init__(
        self, dialect: Dialect, wire: Wire, heads: Heads, request_id: bytes, now_ns: Callable[[], int]
    ) -> None:
        self._dialect = dialect
        self._wire = wire
        self._heads = heads
        self.authorization = dialect.authorization(heads)
        self._request_id = request_id
        self._now_ns = now_ns
        self._created_ns = now_ns()

    def order(self) -> Order | Awaitable[Order]:
        body = self._wire.body()
        if self.reads_later or not isinstance(body, (bytes, memoryview)):
            return self._order_to_come(body)
        if self.admission is not None and len(body) != self.held_bytes:
            self._weigh(body)
        asked = self._dialect.read(body, self._heads, self._request_id, self._created_ns)
        if self.amended:
            asked = self._amend(asked)
        self.asked, self._form = asked, asked.form
        self.render = asked.form.render
        return asked.order

    async def _order_to_come(self, body: Body | Awaitable[Body]) -> Order:
        if not isinstance(body, (bytes, memoryview)):
            body = await body
            self._wire.watch()
        self._weigh(body)
        asked = await self._read(body)
        self.asked = asked = self._amend(asked) if self.amended else asked
        self._form = asked.form
        self.render = asked.form.render
        return asked.order

    async def _read(self, body: Body) -> Asked:
        return self._dialect.read(body, self._heads, self._request_id, self._created_ns)

    def _weigh(self, body: Body) -> None:
        if self.admission is not None:
            self.held_bytes += self.admission.add(len(body) - self.held_bytes)

    def _amend(self, asked: Asked) -> Asked:
        """As headers want it."""
        heads = self._heads
        if session := heads.get(SESSION_HEADER):
            asked = asked.in_session(session)
        if fallbacks := heads.get(FALLBACKS_HEADER):
            asked = asked.with_fallbacks(fallbacks)
        if reuse := heads.get(REUSE_HEADER):
            asked = asked.with_reuse(reuse)
        return asked

    def in_own_words(self, error: UpstreamError) -> UpstreamError:
        return self.asked.in_own_words(error)

    @property
    def gone(self) -> bool:
        return self._wire.gone

    def begin(self, order: Order, quote: Quote) -> None:
        self._quote = quote
        if (left := quote.left) is not None:
            if order.stream and left.available_nano is not None:  # its charge is not known yet, so the hold counts
                self._lines += lines_of([balance_header(left.available_nano)])
            if left.requests is not None or left.tokens is not None:
                self._lines += lines_of(self._dialect.rates(left, quote.priced_ns))
        if quote.lowered:
            self._lines += b"x-steelyard-max-tokens-lowered: %d\r\n" % quote.max_tokens
        if quote.model != order.model:  # an alias, or one that answered in its place
            self._lines += b"x-steelyard-model: %b\r\n" % _header_text(quote.model)
        if quote.reuse is not None:
            self._lines += b"%b: %b\r\n" % (REUSE_HEADER, quote.reuse.said.encode())
        if self.asked.unknown:
            self._lines += b"x-steelyard-ignored: %b\r\n" % _header_text(",".join(self.asked.unknown))

    def closing(self, usage: Usage) -> bytes:
        """Its bill is by the tariff the request was opened with; the posting says the same."""
        form, quote = self._form, self._quote
        bill = Bill(charge_nano(usage, quote.price), quote.price.currency) if form.shows_usage else None
        if bill is not None and not self.asked.order.stream:
            self._lines += b"x-steelyard-charge: %b\r\n" % text_from_nano(bill.charge_nano).encode()
            left = quote.left
            if left is not None and left.available_nano is not None:
                self._lines += lines_of([balance_header(left.available_nano + quote.hold_nano - bill.charge_nano)])
        self._wire.final = closing = form.closing(usage, bill)
        self._body_bytes = len(closing)
        return closing

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        body, last = self._form.parted(closing)
        self._wire.final = last or body
        return body, last

    def failing(self, error: UpstreamError) -> bytes:
        self._wire.final = said = self._form.failing(error)
        return said

    def send(self, piece: bytes) -> Sending:
        wire = self._wire
        if not wire.started:
            took_ns = self._now_ns() - self._created_ns
            took_ms = took_ns // NS_PER_MS if took_ns > 0 else 0  # a wall clock may step back
            request_id = b"req_" + hexlify(self._request_id)
            streams = self.asked.order.stream
            form = _STREAMED if streams else b"content-length: %d\r\n" % self._body_bytes
            wire.start(200, _HEAD % (self._form.content_type, request_id, request_id, self._lines, took_ms, form))
            if streams and not self.holds_back:
                self.send = wire.send  # type: ignore[method-assign]  # for all that follows
        return wire.send(piece)


def _header_text(text: str) -> bytes:
    """Customers' own words as a header: nothing in it can end the line, and it is not endless."""
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text[:512]).encode()


def id_headers(request_id: bytes) -> Headers:
    """The request's id under the name each family of clients reads."""
    text = text_from_id(request_id).encode()
    return [(b"x-request-id", text), (b"request-id", text)]


class Hot(Protocol):
    """A hot URL, for whoever has a wire."""

    def serve(self, wire: Wire, heads: Heads) -> tuple[Work, Border]:
        """The work of one exchange, to be awaited; and who must be told, whatever it has come to."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class HotUrl:
    """A URL that sells. Without `once` an Idempotency-Key means nothing; with it, it needs a wire that records."""

    def __init__(
        self,
        dialect: Dialect,
        house: House,
        next_id: Callable[[], bytes],
        once: Once | None = None,
        make: Callable[..., Exchange] = Exchange,
    ) -> None:
        self._dialect = dialect
        self._house = house
        self._next_id = next_id
        self._once = once
        self._make = make
        self._now_ns = house.clock.now_ns
        self.admission = Admission()
        """Set it to that of the worker, which counts all that it serves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        heads = dict(scope["headers"])
        records = self._once is not None and KEY_HEADER in heads
        wire = RecordingWire(self._dialect, scope, receive, send) if records else AsgiWire(scope, receive, send)
        await at_the_border(*self.serve(wire, heads))

    def serve(self, wire: Wire, heads: Heads) -> tuple[Work, Exchange]:
        """See `Hot`."""
        exchange = self._make(self._dialect, wire, heads, self._next_id(), self._now_ns)
        try:
            exchange.held_bytes = self.admission.enter(heads.get(b"content-length", b""))
        except CallerError as error:
            return _refused(error), exchange
        exchange.admission = self.admission
        if not _OWN_HEADERS.isdisjoint(heads):
            exchange.amended = True
            if self._once is not None and isinstance(wire, RecordingWire):
                return self._once.paid_request(wire, exchange, str(heads[KEY_HEADER], "latin-1")), exchange
        return paid_request(self._house, exchange, exchange), exchange


async def at_the_border(work: Work, border: Border) -> None:
    """Await the work, and what follows it."""
    try:
        await work
    except BaseException as error:  # noqa: BLE001 - what is no affair of the border is raised again
        rest = border.over(error)
    else:
        rest = border.over(None)
    if rest is not None:
        await rest


async def _refused(error: CallerError) -> None:
    try:
        raise error
    finally:
        del error  # whose traceback has this frame


async def _ended(dialect: Dialect, wire: Wire, request_id: bytes, ending: Awaitable[None]) -> None:
    """Await the end of the body."""
    try:
        await ending
    except BaseException as error:  # noqa: BLE001 - what is no affair of the border is raised again
        await _told(dialect, wire, request_id, error)


async def _told(dialect: Dialect, wire: Wire, request_id: bytes, error: BaseException) -> None:
    """An error becomes an answer of the dialect. Raises it again when it ends more than this exchange."""
    wire.unwatch()
    match error:
        case CallerError():
            await refuse(dialect, wire, error, request_id)
        case UpstreamError():
            log.warning("upstream_failed", request=text_from_id(request_id), status=error.status, reason=error.message)
            await refuse(dialect, wire, from_upstream(error), request_id)
        case ClientGone():
            return
        case asyncio.CancelledError():
            if not wire.gone:
                await refuse(dialect, wire, unavailable("draining", "This worker is stopping."), request_id)
                raise error
        case Exception():
            log.error("request_failed", request=text_from_id(request_id), exc_info=error)
            await refuse(dialect, wire, internal_error(), request_id)
        case _:
            raise error


async def refuse(dialect: Dialect, wire: Wire, error: CallerError, request_id: bytes) -> None:
    """An error answer; nothing was sold."""
    wire.unwatch()
    if wire.gone or wire.started:
        return
    status, headers, body = dialect.refusal(error, request_id)
    length = (b"content-length", str(len(body)).encode())
    wire.start(status, lines_of([*headers, *id_headers(request_id), length]))
    await answered(wire, body)
