"""Keep-alive connections to upstreams.

Owns how many there are per host, who waits for one, when an idle one is closed, and the only retry: once, when a reused
connection turns out to be gone before a byte of answer came. Knows no dialect. One coarse timer watches all connections
instead of one timer per read.
"""

import asyncio
import ssl
from collections import deque
from typing import Self

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.http1 import Connection, Request
from steelyard.upstream.trust import Trust, distrust

__all__ = ["Pool", "Request", "Response"]


class Response:
    """An answer whose head is there. Read it to its end or close it; `async with` closes."""

    def __init__(self, pool: "Pool", host: "_Host", connection: Connection) -> None:
        self.status = connection.status
        self.headers = connection.headers  # names in lower case; of repeated ones the last
        self._pool = pool
        self._host = host
        self._connection: Connection | None = connection

    async def read(self) -> bytes:
        """All body bytes since the last read, waiting for at least one; empty at the end. Raises UpstreamError."""
        if self._connection is None:
            return b""
        read = await self._connection.read()
        if not read:
            self.close()
        return read

    async def body(self, bytes_max: int) -> bytes:
        """What is left of the body, cut at `bytes_max`."""
        pieces: list[bytes] = []
        room = bytes_max
        while room > 0 and (read := await self.read()):
            pieces.append(read[:room])
            room -= len(read)
        return b"".join(pieces)

    def close(self) -> None:
        """Give the connection back; one whose answer is not at its end is closed, which cancels at the upstream."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool._give_back(self._host, connection)

    def release(self) -> None:
        """Close what has said all it has to say: the bytes that end it may come when nobody waits for them."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool._let_end(self._host, connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class _Host:
    """The connections of one upstream address. `tls_name` is whom its certificate must name; empty: plain HTTP."""

    def __init__(self, tls_name: str = "") -> None:
        self.tls_name = tls_name
        self.idle: deque[Connection] = deque()
        self.busy: set[Connection] = set()
        self.connecting = 0
        self.waiters: deque[asyncio.Future[Connection | None]] = deque()

    @property
    def open(self) -> int:
        return len(self.idle) + len(self.busy) + self.connecting

    def next_turn(self, connection: Connection | None = None) -> bool:
        """Let the first waiter have this connection, or try for a new one. False when nobody waits."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False


class Pool:
    """Connections of one event loop. `close()` ends them all. Without `trust` the system's CAs are trusted."""

    def __init__(
        self,
        trust: Trust | None = None,
        *,
        connections_max: int = limits.CONNECTIONS_PER_UPSTREAM_MAX,
        connect_s: float = limits.UPSTREAM_CONNECT_S,
        first_byte_s: float = limits.UPSTREAM_FIRST_BYTE_S,
        silence_s: float = limits.UPSTREAM_SILENCE_S,
        idle_s: float = limits.UPSTREAM_IDLE_S,
    ) -> None:
        self._trust = trust
        self._connections_max = connections_max
        self._connect_s = connect_s
        self._first_byte_s = first_byte_s
        self._silence_s = silence_s
        self._idle_s = idle_s
        self._hosts: dict[tuple[str, int, bool], _Host] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._empty = asyncio.Event()

    async def request(self, request: Request) -> Response:
        """Send and return when the head of the answer is there. Raises UpstreamError."""
        place = (request.host, request.port, request.tls)
        host = self._hosts.get(place)
        if host is None:
            host = self._hosts[place] = _Host(request.host if request.tls else "")
        connection = await self._take(host, request)
        try:
            connection.send(request)
            await connection.head()
        except UpstreamError:
            self._give_back(host, connection)
            if connection.answered or not connection.used:
                raise
        except BaseException:
            self._give_back(host, connection)
            raise
        else:
            return Response(self, host, connection)
        connection = await self._take(host, request, fresh=True)
        try:
            connection.send(request)
            await connection.head()
        except BaseException:
            self._give_back(host, connection)
            raise
        return Response(self, host, connection)

    async def close(self) -> None:
        """Close every connection; requests in flight fail."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for host in self._hosts.values():
            for connection in [*host.idle, *host.busy]:
                connection.abort()
            while host.next_turn():
                pass
        if any(host.open for host in self._hosts.values()):
            await self._empty.wait()  # the loop reports each loss in its next turns

    async def _take(self, host: _Host, request: Request, *, fresh: bool = False) -> Connection:
        """An idle connection, a new one, or the first that becomes free. First come, first served."""
        waited = False
        while True:
            if self._closed:
                raise UpstreamError(request.upstream, "is no longer asked: the platform stops", retryable=True)
            if waited or not host.waiters:
                while host.idle and not fresh:
                    connection = host.idle.pop()  # the youngest: it is the least likely to be stale
                    host.busy.add(connection)
                    if not connection.lost:
                        return connection
                if host.open >= self._connections_max and host.idle:
                    host.idle.popleft().abort()
                if host.open < self._connections_max:
                    return await self._connect(host, request)
            handed = await self._queue(host, request, first=waited)
            if handed is not None and not handed.lost:
                return handed
            waited = True

    async def _queue(self, host: _Host, request: Request, *, first: bool) -> Connection | None:
        if len(host.waiters) >= limits.UPSTREAM_WAITERS_MAX:
            raise UpstreamError(request.upstream, "has too many requests waiting", retryable=True)
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        if first:  # its turn came, but the connection was gone or taken: it keeps its place
            host.waiters.appendleft(waiter)
        else:
            host.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # the turn was ours already: pass it on
                if (connection := waiter.result()) is None:
                    host.next_turn()
                else:
                    self._give_back(host, connection)
            raise

    async def _connect(self, host: _Host, request: Request) -> Connection:
        loop = asyncio.get_running_loop()
        host.connecting += 1
        try:
            tls = await self._trusting() if host.tls_name else None
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(request.upstream, lambda lost: self._lost(host, lost)),
                    request.host,
                    request.port,
                    ssl=tls,
                    server_hostname=host.tls_name or None,
                )
        except TimeoutError:
            host.next_turn()
            message = f"did not accept a connection within {self._connect_s} s"
            raise UpstreamError(request.upstream, message, retryable=True) from None
        except ssl.SSLError as error:
            host.next_turn()
            raise UpstreamError(request.upstream, distrust(error)) from None
        except OSError as error:
            host.next_turn()
            message = f"cannot be reached: {error.strerror or error}"
            raise UpstreamError(request.upstream, message, retryable=True) from None
        finally:
            host.connecting -= 1
            self._note_empty()
        host.busy.add(connection)
        if self._closed:
            connection.abort()
        elif self._sweeper is None:
            self._sweeper = loop.call_later(self._sweep_s, self._sweep)
        return connection

    async def _trusting(self) -> Trust:
        if self._trust is None:
            self._trust = await asyncio.to_thread(Trust.of)  # reads a hundred certificates: streams would stand still
        return self._trust

    def _give_back(self, host: _Host, connection: Connection) -> None:
        if connection not in host.busy:
            return  # lost meanwhile
        if self._closed or not (connection.resting or connection.reusable):
            connection.abort()  # `_lost` follows and gives the next turn
            return
        if self._trust is not None and not connection.used and (session := connection.session) is not None:
            self._trust.sessions[host.tls_name] = session
        connection.rest()
        if not host.next_turn(connection):
            host.busy.discard(connection)
            host.idle.append(connection)

    def _let_end(self, host: _Host, connection: Connection) -> None:
        if connection.reusable or connection.lost or self._closed:
            self._give_back(host, connection)
        else:
            connection.when_ended(lambda ended: self._give_back(host, ended))

    def _lost(self, host: _Host, connection: Connection) -> None:
        host.busy.discard(connection)
        if connection in host.idle:
            host.idle.remove(connection)
        host.next_turn()
        self._note_empty()

    def _note_empty(self) -> None:
        if self._closed and not any(host.open for host in self._hosts.values()):
            self._empty.set()

    @property
    def _sweep_s(self) -> float:
        return min(limits.UPSTREAM_SWEEP_S, self._idle_s / 2)

    def _sweep(self) -> None:
        """Close what idles too long, fail what is silent too long. Stops itself when nothing is left."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for host in self._hosts.values():
            idle_s = limits.UPSTREAM_TLS_IDLE_S if host.tls_name else self._idle_s
            for connection in [*host.idle]:
                if now_s - connection.since_s > idle_s:
                    connection.abort()
            for connection in [*host.busy]:
                patience_s = self._silence_s if connection.answered else self._first_byte_s
                if connection.waiting and now_s - connection.since_s > patience_s:
                    connection.fail(f"said nothing for {patience_s} s")
                elif connection.over_s is not None and now_s - connection.over_s > limits.UPSTREAM_END_S:
                    connection.abort()
        alive = any(host.open for host in self._hosts.values())
        self._sweeper = loop.call_later(self._sweep_s, self._sweep) if alive else None
