"""The connections to one upstream at one address: which are idle, who waits for one, when another is opened.

Owns the bound on how many there are, first come, first served, and that what a host no longer is at is not used again.
Connections are opened in tasks of their own, so whoever waits may be cancelled, or be no task at all.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.outbox import Outbox
from steelyard.kernel.run import Signal
from steelyard.upstream.dial import Dial
from steelyard.upstream.http1 import Connection, Patience
from steelyard.upstream.wheel import Wheel


class _Waiter:
    """One who waits for a connection. It may have been brought to him before he knows."""

    __slots__ = ("connection", "fresh", "signal")

    def __init__(self, fresh: bool) -> None:
        self.fresh = fresh
        self.connection: Connection | None = None
        self.signal: Signal[None] = Signal()


class Host:
    """One upstream at one address."""

    def __init__(self, dial: Dial, wheel: Wheel, patience: Patience, connections_max: int, connect_s: float) -> None:
        self.idle: list[Connection] = []
        self.connections: set[Connection] = set()
        self.waiters: deque[_Waiter] = deque()
        self.dial = dial
        self._wheel = wheel
        self._outbox = Outbox()
        self._patience = patience
        self._connections_max = connections_max
        self._connect_s = connect_s
        self._connecting = 0
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty: Signal[None] | None = None

    @property
    def open(self) -> int:
        return len(self.connections) + self._connecting

    def free(self) -> Connection | None:
        """An idle connection, unless somebody waits for one: the youngest, which is the least likely to be stale."""
        if not self.waiters:
            idle = self.idle
            while idle:
                connection = idle.pop()
                if not connection.lost():
                    return connection
        return None

    async def next(self, *, fresh: bool = False) -> Connection:
        """A new connection, or the first that becomes free. Raises UpstreamError.

        `fresh`: none that was used, as long as the bound leaves room for a new one.
        """
        if self._closed:
            raise self._ended()
        if len(self.waiters) >= limits.UPSTREAM_WAITERS_MAX:
            raise UpstreamError(self.dial.upstream, "has too many requests waiting", retryable=True)
        waiter = _Waiter(fresh)
        self.waiters.append(waiter)
        self._open_more()
        try:
            await waiter.signal
        except BaseException:
            if waiter.connection is not None:  # the turn was ours already: pass it on
                self.give_back(waiter.connection)
            elif waiter in self.waiters:
                self.waiters.remove(waiter)
            raise
        assert waiter.connection is not None  # noqa: S101 - a signal is given with one, and fails without
        return waiter.connection

    def give_back(self, connection: Connection) -> None:
        """Let the next have it; one whose answer is not at its end is closed, which cancels at the upstream."""
        if connection.lost():
            return  # `_lost` was called, or follows
        is_free = connection.resting or (connection.complete and connection.kept)
        if self._closed or connection.stale or not is_free:
            connection.abort()
            return
        if not connection.resting:
            if self.dial.tls and not connection.used and (session := connection.session) is not None:
                self.dial.keep(session)
            connection.rest()
        waiter = self._next_for(connection) if self.waiters else None
        if waiter is None:
            self.idle.append(connection)
            return
        self.waiters.remove(waiter)
        waiter.connection = connection
        waiter.signal.give(None)

    def _next_for(self, connection: Connection) -> "_Waiter | None":
        """Who met a dead connection is not given another one that may be dead as well."""
        if not connection.used or self.open >= self._connections_max:
            return self.waiters[0]
        return next((one for one in self.waiters if not one.fresh), None)

    def let_end(self, connection: Connection) -> None:
        """The same for an answer that has said all it has to say: the bytes that end it may come later."""
        if connection.complete or connection.lost() or self._closed:
            self.give_back(connection)
        else:
            connection.when_ended(self.give_back)

    def look(self, now_s: float) -> None:
        """See `Watched.look`: whether the host is still where we are connected to."""
        if self.connections and self.dial.addresses.is_due(now_s):
            self._begin(self._refresh(now_s))

    async def close(self) -> None:
        """Close every connection; who waits for one is told."""
        self._closed = True
        self._wheel.discard(self)
        for task in self._tasks:
            task.cancel()
        for connection in tuple(self.connections):
            connection.abort()
        while self.waiters:
            self.waiters.popleft().signal.fail(self._ended())
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.connections:
            self._empty = Signal()
            await self._empty  # the loop reports each loss in its next turns

    def _ended(self) -> UpstreamError:
        return UpstreamError(self.dial.upstream, "is no longer asked: the platform stops", retryable=True)

    def _open_more(self) -> None:
        """Open a connection for each who waits, as far as the bound allows."""
        while len(self.waiters) > self._connecting < limits.CONNECTIONS_OPENING_MAX and not self._closed:
            if self.open >= self._connections_max:
                if self.idle:  # of those that were idle when one of them was found dead
                    self.idle.pop(0).abort()
                return
            self._connecting += 1
            self._begin(self._open())

    async def _open(self) -> None:
        connection, failure = None, UpstreamError(self.dial.upstream, "closed the connection", retryable=True)
        try:
            connection = await self.dial.open(self._made, self._connect_s)
        except UpstreamError as error:
            failure = error
        finally:
            self._connecting -= 1
            if connection is not None and not connection.lost():
                if not self.connections:
                    self._wheel.add(self)
                self.connections.add(connection)
                self._wheel.add(connection)
                connection.since_s = self._wheel.now_s
            elif self.waiters:
                self.waiters.popleft().signal.fail(failure)
        if connection is not None:
            self.give_back(connection)
        self._open_more()

    def _made(self) -> Connection:
        return Connection(self.dial.upstream, self._wheel, self._patience, self._outbox, self._lost)

    def _lost(self, connection: Connection) -> None:
        self._wheel.discard(connection)
        self.connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        if not self.connections:
            self._wheel.discard(self)
            if self._empty is not None:
                self._empty.give(None)
        self._open_more()

    async def _refresh(self, now_s: float) -> None:
        await self.dial.addresses.refresh(now_s)
        for connection in self.connections:
            connection.stale = not self.dial.addresses.has(connection.peer)
        for connection in tuple(self.idle):
            if connection.stale:
                connection.abort()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
