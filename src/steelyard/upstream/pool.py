"""Keep-alive connections to upstreams: a request goes out on an idle one, and its answer comes back.

Owns the only retry: once, when a reused connection turns out to be gone before a byte of answer came. Knows no dialect.
Nothing here makes a task, a timer or a future for a request that finds an idle connection.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, Self, cast

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.run import Signal, Watch
from steelyard.upstream.addresses import Resolve, resolve
from steelyard.upstream.dial import Dial
from steelyard.upstream.head import header_of
from steelyard.upstream.host import Host
from steelyard.upstream.http1 import Connection, Patience, Request
from steelyard.upstream.http2 import Http2Host, is_http2
from steelyard.upstream.proxy import Proxy, proxy_of
from steelyard.upstream.trust import Trust
from steelyard.upstream.wheel import Wheel

__all__ = ["Destination", "Pool", "Request", "Response"]


class Destination(NamedTuple):
    """Whom requests go to, and all of their head that is the same for each; see `Pool.destination`."""

    host: Host
    head: bytes


_HERE: Signal[None] = Signal()
_HERE.give(None)


class Response(msgspec.Struct, eq=False):
    """An answer whose head is there. Read it to its end or close it; `async with` closes."""

    _host: Host
    _connection: Connection
    status: int = 0
    head: bytes = b""
    over: bool = False  # all of the body was read, or it was closed: the connection is given back already

    def header(self, name: bytes) -> bytes:
        """The value of a header, of repeated ones the last; empty when there is none. `name` in lower case."""
        return header_of(self.head, name)

    async def read(self) -> bytes:
        """All body bytes since the last read, waiting for at least one; empty at the end. Raises UpstreamError."""
        while (read := self.take()) is None:
            await self.more()
        return read

    def take(self) -> bytes | None:
        """The same without waiting: None when nothing has come, and more may."""
        connection = self._connection
        if self.over:
            return b""
        pieces, read = connection.pieces, None
        if pieces:
            read = pieces.pop()
            if pieces:
                pieces.append(read)
                read = b"".join(pieces)
                pieces.clear()
            if connection.unread_bytes:
                connection.was_read()
        if connection.complete:
            self.over = True
            self._host.give_back(connection)
            return read or b""
        return read

    def more(self) -> Signal[None]:
        """To be awaited until `take` has something. Raises UpstreamError when nothing more will come."""
        connection = self._connection
        if self.over or connection.pieces or connection.complete:
            return _HERE
        return connection.more()

    def attend(self, watch: Watch[Any] | None) -> None:
        """Have it given to for each read, until None is said; to be asked for when `take` has nothing. Raises
        UpstreamError when nothing more will come."""
        if not self.over:
            self._connection.attend(watch)

    async def body(self, bytes_max: int) -> bytes:
        """What is left of the body, cut at `bytes_max`."""
        pieces: list[bytes] = []
        room = bytes_max
        while room > 0 and not self.over:
            read = self.take()
            if read is None:
                await self.more()
                continue
            if self.over and not pieces:  # as most have it: it came in one piece
                return read[:room]
            pieces.append(read[:room])
            room -= len(read)
        return b"".join(pieces)

    def close(self) -> None:
        """Give the connection back; one whose answer is not at its end is closed, which cancels at the upstream."""
        if not self.over:
            self.over = True
            self._host.give_back(self._connection)

    def release(self) -> None:
        """Close what has said all it has to say: the bytes that end it may come when nobody waits for them."""
        if not self.over:
            self.over = True
            self._host.let_end(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Pool:
    """Connections of one event loop. `close()` ends them all. Without `trust` the system's CAs are trusted."""

    def __init__(
        self,
        trust: Trust | None = None,
        *,
        connections_max: int = limits.CONNECTIONS_PER_UPSTREAM_MAX,
        connect_s: float = limits.UPSTREAM_CONNECT_S,
        patience: Patience | None = None,
        resolve: Resolve = resolve,
        proxy_of: Callable[[str], Proxy | None] = proxy_of,
    ) -> None:
        self._trust = trust
        self._connections_max = connections_max
        self._connect_s = connect_s
        self._patience = patience or Patience()
        self._wheel = Wheel(min(limits.UPSTREAM_SWEEP_S, self._patience.idle_s / 2))
        self._hosts: dict[tuple[str, str, int, bool], Host] = {}
        self._destinations: dict[tuple[str, str, int, bool, str, str, bytes], Destination] = {}
        self._resolve = resolve
        self._proxy_of = proxy_of
        self._closed = False

    async def request(self, request: Request) -> Response:
        """Send and return when the head of the answer is there. Raises UpstreamError."""
        return await self.ask(self.destination(request), request.body)

    async def ask(self, to: Destination, body: bytes) -> Response:
        """The same for one whose destination is known."""
        connection = await self.answering(to, body)
        return Response(to.host, connection, connection.status, connection.head)

    async def answering(self, to: Destination, body: bytes, asked: Connection | None = None) -> Connection:
        """The connection on which the head of an answer is there; `asked`: the one on which all was sent already, and
        was waited for once. Raises UpstreamError."""
        host, head = to
        for again in (False, True):
            connection = asked
            try:
                if connection is None:
                    connection = (None if again else host.free()) or await host.next(fresh=again)
                    await connection.send(head, body)
                while not connection.head_done:
                    await connection.more()
            except UpstreamError:
                if connection is not None:
                    host.give_back(connection)
                if again or connection is None or connection.answered or not connection.used:
                    raise
            except BaseException:
                if connection is not None:
                    host.give_back(connection)
                raise
            else:
                return connection
            asked = None
        raise AssertionError("the second try returns or raises")

    async def close(self) -> None:
        """Close every connection; requests in flight fail."""
        self._closed = True
        self._wheel.stop()
        await asyncio.gather(*(host.close() for host in self._hosts.values()))

    def destination(self, request: Request) -> Destination:
        """Where it goes, whatever its body is: good for all that are alike, as long as the pool is open. Raises
        UpstreamError."""
        place = (request.upstream, request.host, request.port, request.tls)
        key = (*place, request.method, request.path, request.headers)
        known = self._destinations.get(key)
        if known is not None:
            return known
        if self._closed:
            raise UpstreamError(request.upstream, "is no longer asked: the platform stops", retryable=True)
        host = self._hosts.get(place)
        if host is None:
            host = self._hosts[place] = self._host_at(request)
        if len(self._destinations) >= limits.UPSTREAM_HEADS_KNOWN_MAX:
            self._destinations.clear()
        known = self._destinations[key] = Destination(host, request.head())
        return known

    def _host_at(self, request: Request) -> Host:
        patience, proxy, http2 = self._patience, self._proxy_of(request.upstream), is_http2(request.upstream)
        trusting = None
        if request.tls:
            trusting = self._trusting_http2 if http2 else self._trusting
            patience = patience._replace(idle_s=limits.UPSTREAM_TLS_IDLE_S)
        dial = Dial(request.upstream, request.host, request.port, trusting, self._resolve)
        if proxy is not None:
            dial.through(proxy)
        make = cast(type[Host], Http2Host) if http2 else Host  # it offers what is asked of one here
        bound = min(self._connections_max, request.connections_max)
        return make(dial, self._wheel, patience, bound, self._connect_s)

    async def _trusting(self) -> Trust:
        if self._trust is None:
            self._trust = await asyncio.to_thread(Trust.of)  # reads a hundred certificates: streams would stand still
        return self._trust

    async def _trusting_http2(self) -> Trust:
        return await asyncio.to_thread((await self._trusting()).over, "h2")
