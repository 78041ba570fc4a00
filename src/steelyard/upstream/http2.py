"""The odd upstream that is to be spoken to over HTTP/2: framed by a library (h2, extra `http2`), beside the hot path.

Stands where a `Host` and its connections do: an `Exchange` offers what the pool and a response use of a `Connection`.
Closing one that is not at its end resets its stream, which cancels at the upstream, and no other. A reader who does
not read holds up his own stream only.
"""

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.extras import how_to_get
from steelyard.kernel.run import Signal, Watch
from steelyard.upstream.dial import Dial
from steelyard.upstream.http1 import Patience
from steelyard.upstream.proxy import variable_of
from steelyard.upstream.wheel import Wheel

if TYPE_CHECKING:
    import h2.connection
    import h2.events

_REFUSED_STREAM = 7  # RFC 9113 section 8.7: nothing was done
_WINDOW_BYTES = 2**31 - 1 - 65_535  # what a whole connection may have on its way, beside what it may from the start


def is_http2(upstream: str) -> bool:
    """Whether the environment says so: `STEELYARD_UPSTREAM_HTTP2_MY_VLLM=1`."""
    return os.environ.get(variable_of("HTTP2", upstream), "").strip().lower() in {"1", "true", "yes"}


class Exchange:
    """One request and its answer. See `Connection` for what each of these is."""

    def __init__(self, line: "Line") -> None:
        self.status = self.stream = 0
        self.head = self.unsent = b""
        self.used = self.answered = self.head_done = self.complete = False
        self.form = b""
        self.pieces: list[bytes] = []
        self.unread_bytes = 0  # as flow control counts them
        self.since_s = 0.0
        self.error: UpstreamError | None = None
        self.signal: Signal[Any] | None = None
        self.line = line

    def send(self, head: bytes, body: bytes) -> Signal[None]:
        self.line.send(self, head, body)
        return self.more()

    def more(self) -> Signal[None]:
        if self.error is not None:
            raise self.error
        signal: Signal[None] = Signal()
        self.signal = signal
        return signal

    def attend(self, watch: Watch[Any] | None) -> None:
        if watch is not None and self.error is not None:
            raise self.error
        self.signal = watch

    def was_read(self) -> None:
        self.line.read(self)

    def fail(self, told: str, *, retryable: bool = True) -> None:
        """End it with an error. Who waits is told with `wake`."""
        if not self.complete and self.error is None:
            self.error = UpstreamError(self.line.upstream, told, retryable=retryable and not self.answered)

    def wake(self) -> None:
        signal = self.signal
        if signal is not None:
            if not signal.stays:
                self.signal = None
            signal.give(None)


class Line(asyncio.Protocol):
    """One connection with its exchanges."""

    def __init__(self, host: "Http2Host") -> None:
        import h2.config
        import h2.connection

        self.upstream = host.upstream
        self.exchanges: dict[int, Exchange] = {}
        self.since_s = 0.0  # when the last exchange ended
        self.settled: Signal[None] = Signal()  # it has said how many exchanges it takes
        self._host = host
        self._used = False
        self._transport: asyncio.Transport | None = None
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._speaks = h2.connection.H2Connection(config)

    @property
    def lost(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    @property
    def agreed(self) -> str | None:
        """The protocol that both ends agreed on with TLS."""
        wrapped = self._transport and self._transport.get_extra_info("ssl_object")
        return wrapped.selected_alpn_protocol() if wrapped else None

    @property
    def has_room(self) -> bool:
        """Whether one more exchange may begin."""
        most = min(limits.UPSTREAM_STREAMS_MAX, self._speaks.remote_settings.max_concurrent_streams)
        return not self.lost and len(self.exchanges) < most

    def send(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Begin an exchange. `head` is `Request.head()`. Raises UpstreamError when there is no room any more."""
        if not self.has_room:
            raise UpstreamError(self.upstream, "closed the connection", retryable=True)
        exchange.used = self._used and not self.exchanges  # only of one that was idle a silent loss may be staleness
        exchange.stream = self._speaks.get_next_available_stream_id()
        exchange.since_s = self._host.wheel.now_s
        self.exchanges[exchange.stream] = exchange
        self._used = True
        self._speaks.send_headers(exchange.stream, self._fields(head, body), end_stream=not body)
        exchange.unsent = body
        self._send_more(exchange)
        self._flush()

    def read(self, exchange: Exchange) -> None:
        """What came of it was taken: the upstream may send as much again."""
        if exchange.unread_bytes and not self.lost:
            self._speaks.acknowledge_received_data(exchange.unread_bytes, exchange.stream)
            self._flush()
        exchange.unread_bytes = 0

    def end(self, exchange: Exchange) -> None:
        """Have no more of it: its stream is reset unless it has come to its end."""
        if self.exchanges.pop(exchange.stream, None) is None:
            return
        self.since_s = self._host.wheel.now_s
        if not self.lost:
            self.read(exchange)  # the window is the whole connection's as well
            if not exchange.complete or exchange.unsent:
                self._speaks.reset_stream(exchange.stream, error_code=8)  # CANCEL, RFC 9113 section 7
            self._flush()
        self._host.freed()

    def look(self, now_s: float) -> None:
        """See `Watched.look`."""
        patience = self._host.patience
        if not self.exchanges and now_s - self.since_s > patience.idle_s:
            self.abort()
        for exchange in tuple(self.exchanges.values()):
            patience_s = patience.silence_s if exchange.answered else patience.first_byte_s
            if exchange.signal is not None and now_s - exchange.since_s > patience_s:
                exchange.used = False  # its connection was there
                exchange.fail(f"said nothing for {patience_s} s")
                self.end(exchange)
                exchange.wake()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        from h2.settings import SettingCodes, Settings

        self._transport = transport  # type: ignore[assignment]  # a stream socket's transport reads and writes
        ours = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: limits.UPSTREAM_READ_BYTES}
        self._speaks.local_settings = Settings(client=True, initial_values=ours)
        self._speaks.initiate_connection()
        self._speaks.increment_flow_control_window(_WINDOW_BYTES)
        self._flush()

    def data_received(self, data: bytes) -> None:
        import h2.events
        import h2.exceptions

        try:
            events = self._speaks.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._fail_all(f"sent an answer that is not HTTP/2 ({error})")
            return
        touched: dict[int, Exchange] = {}
        for event in events:
            if (exchange := self._heard(event)) is not None:
                touched[exchange.stream] = exchange
        kinds = {type(event) for event in events}
        if h2.events.ConnectionTerminated in kinds:  # after this word the library reads nothing more
            self._fail_all("closed the connection")
            for exchange in touched.values():  # whose end came before it are no longer among them
                exchange.wake()
            return
        if not kinds.isdisjoint({h2.events.WindowUpdated, h2.events.RemoteSettingsChanged}):
            for waiting in self.exchanges.values():  # not before all is heard: what has ended takes nothing more
                self._send_more(waiting)
        self._flush()
        for exchange in touched.values():
            exchange.wake()
        if h2.events.RemoteSettingsChanged in kinds:
            self.settled.give(None)
        self._host.freed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.settled.give(None)
        self._host.lost(self)
        self._fail_all("closed the connection")

    def _fail_all(self, told: str) -> None:
        self.abort()
        exchanges = list(self.exchanges.values())
        self.exchanges.clear()
        late_s = self._host.wheel.now_s - limits.UPSTREAM_STALE_S
        for exchange in exchanges:
            exchange.used = exchange.used and exchange.since_s >= late_s
            exchange.fail(f"{told} in the middle of its answer" if exchange.answered else told)
        for exchange in exchanges:
            exchange.wake()

    def _heard(self, event: "h2.events.Event") -> Exchange | None:
        """Take one event in; the exchange it is about, if somebody may wait for it."""
        import h2.events

        exchange = self.exchanges.get(getattr(event, "stream_id", 0) or 0)
        match event:
            case h2.events.ResponseReceived() if exchange is not None:
                fields = dict(event.headers)
                exchange.status = int(fields.get(b":status", b"0"))
                exchange.head = b"\r\n".join(
                    (b"", *(b"%b:%b" % (name, value) for name, value in event.headers), b"", b"")
                )
                exchange.answered = exchange.head_done = True
            case h2.events.DataReceived() if exchange is not None:
                exchange.pieces.append(event.data)
                exchange.unread_bytes += event.flow_controlled_length
            case h2.events.DataReceived():  # of one that was reset while this was on its way
                self._speaks.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded() if exchange is not None:
                exchange.complete = True
            case h2.events.StreamReset() if exchange is not None:
                exchange.used = event.error_code == _REFUSED_STREAM  # then it may be asked for again
                exchange.fail(f"ended the answer early (HTTP/2 error {int(event.error_code or 0)})")
                del self.exchanges[exchange.stream]
            case _:
                return None
        if exchange is not None:
            exchange.since_s = self._host.wheel.now_s
        return exchange

    def _send_more(self, exchange: Exchange) -> None:
        """As much of a body as the upstream takes now."""
        while exchange.unsent:
            window = self._speaks.local_flow_control_window(exchange.stream)
            size = min(window, self._speaks.max_outbound_frame_size)
            if size <= 0:
                return
            piece, exchange.unsent = exchange.unsent[:size], exchange.unsent[size:]
            self._speaks.send_data(exchange.stream, piece, end_stream=not exchange.unsent)

    def _fields(self, head: bytes, body: bytes) -> list[tuple[bytes, bytes]]:
        first, *lines, length = head.split(b"\r\n")
        method, path, _ = first.split(b" ")
        fields = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
        authority = fields.pop(0)[1]  # the host stands first
        scheme = b"https" if self._host.tls else b"http"
        pseudo = [(b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", path)]
        return [*pseudo, *fields, (length.rstrip(b": "), b"%d" % len(body))]

    def _flush(self) -> None:
        if self._transport is not None and (out := self._speaks.data_to_send()):
            self._transport.write(out)


class Http2Host:
    """One upstream at one address. Stands where a `Host` does."""

    def __init__(self, dial: Dial, wheel: Wheel, patience: Patience, connections_max: int, connect_s: float) -> None:
        self.upstream = dial.upstream
        self.tls = dial.tls
        self.wheel = wheel
        self.patience = patience
        self._dial = dial
        self._connections_max = connections_max
        self._connect_s = connect_s
        self._lines: set[Line] = set()
        self._waiters: deque[Signal[None]] = deque()
        self._opening: asyncio.Task[None] | None = None
        self._empty: Signal[None] | None = None
        self._closed = False

    def free(self) -> Exchange | None:
        """One on a connection that is open and has room."""
        for line in self._lines:
            if line.has_room:
                return Exchange(line)
        return None

    async def next(self, *, fresh: bool = False) -> Exchange:
        """One as soon as there is a connection with room; each is an exchange of its own. Raises UpstreamError."""
        while (exchange := self.free()) is None:
            if self._closed:
                raise UpstreamError(self.upstream, "is no longer asked: the platform stops", retryable=True)
            if len(self._waiters) >= limits.UPSTREAM_WAITERS_MAX:
                raise UpstreamError(self.upstream, "has too many requests waiting", retryable=True)
            waiter: Signal[None] = Signal()
            self._waiters.append(waiter)
            if self._opening is None and len(self._lines) < self._connections_max:
                self._opening = asyncio.ensure_future(self._open())
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return exchange

    def give_back(self, exchange: Exchange) -> None:
        exchange.line.end(exchange)

    let_end = give_back

    def freed(self) -> None:
        """There may be room: let who waits look for it."""
        for _ in range(len(self._waiters)):
            if self.free() is None:
                return
            if self._waiters:
                self._waiters.popleft().give(None)

    def lost(self, line: Line) -> None:
        self._lines.discard(line)
        self.wheel.discard(line)
        self._wake_all()
        if self._empty is not None and not self._lines:
            self._empty.give(None)

    async def close(self) -> None:
        """Close every connection; who waits for one is told."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for line in tuple(self._lines):
            line.abort()
        self._wake_all()
        if self._lines:
            self._empty = Signal()
            await self._empty

    async def _open(self) -> None:
        failure: UpstreamError | None = None
        try:
            line = await self._opened()
        except UpstreamError as error:
            failure = error
        else:
            self._lines.add(line)
            self.wheel.add(line)
            line.since_s = self.wheel.now_s
        finally:
            self._opening = None
        self._wake_all(failure)

    async def _opened(self) -> Line:
        """A connection whose other end has said that it speaks HTTP/2, and how much of it. Raises UpstreamError."""
        try:
            import h2.connection  # noqa: F401 - before anything is connected
        except ImportError:
            told = f"is to be spoken to over HTTP/2, for which an extra is missing: {how_to_get('steelyard[http2]')}"
            raise UpstreamError(self.upstream, told) from None
        line = await self._dial.open(lambda: Line(self), self._connect_s)
        try:
            if self.tls and line.agreed != "h2":
                told = f"does not speak HTTP/2: unset {variable_of('HTTP2', self.upstream)}"
                raise UpstreamError(self.upstream, told)
            async with asyncio.timeout(self._connect_s):
                await line.settled
            if line.lost:
                raise UpstreamError(self.upstream, "closed the connection", retryable=True)
        except TimeoutError:
            line.abort()
            raise UpstreamError(self.upstream, "does not speak HTTP/2, or takes too long to", retryable=True) from None
        except BaseException:
            line.abort()
            raise
        return line

    def _wake_all(self, failure: UpstreamError | None = None) -> None:
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if failure is None:
                waiter.give(None)
            else:
                waiter.fail(failure)
