"""The worker's side of the teller's socket: holds, releases, commands, and a snapshot that is kept fresh.

Owns one persistent connection, its reconnecting, and the list of holds the worker has, which is told again on every
reconnect so that none is lost or doubled. Gives out of a lease what the books have lent, else decides nothing: without
books no hold is given (fail closed).
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError, CallerError, StartError, perhaps_done, unavailable
from steelyard.kernel.key_table import KeyTable
from steelyard.kernel.records import CallersKept, Granted, HoldAsk, Snapshot
from steelyard.ledger import wire
from steelyard.ledger.leases import DRY, LOW, Pools
from steelyard.ledger.sublimits import use_of
from steelyard.ledger.telling import Gathering

log = structlog.get_logger()
_NO_SNAPSHOT = Snapshot(0, CallersKept(), frozenset(), {}, {}, {})
_SWEEP_S = 1.0


def _books_away() -> CallerError:
    return unavailable("books_unavailable", "The books are not reachable, so nothing is served. Try again in a moment.")


class _Lost(CallerError):
    """The books went away before they answered, or take too long; a command may be carried out all the same."""

    def __init__(self) -> None:
        away = _books_away()
        super().__init__(away.status, away.code, away.message, retry_after_s=away.retry_after_s)


class _Question(NamedTuple):
    future: "asyncio.Future[msgspec.Raw]"
    deadline_s: float


class _ClientLink(wire.Link):
    """The connection: questions by number, and what books push."""

    def __init__(self, on_push: Callable[[str, msgspec.Raw], None]) -> None:
        super().__init__()
        self._on_push = on_push
        self._questions: dict[int, _Question] = {}
        self._next = 1
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def ask(self, op: str, payload: object, patience_s: float) -> "asyncio.Future[msgspec.Raw]":
        future: asyncio.Future[msgspec.Raw] = self._loop.create_future()
        if not self.alive:
            future.set_exception(_books_away())
            return future
        number, self._next = self._next, self._next + 1
        self.send(number, op, payload)
        self._questions[number] = _Question(future, self._loop.time() + patience_s)
        return future

    def on_message(self, number: int, op: str, payload: msgspec.Raw) -> None:
        if number == wire.NOTICE:
            self._on_push(op, payload)
            return
        question = self._questions.pop(number, None)
        if question is None or question.future.done():
            return
        if op == wire.OK:
            question.future.set_result(payload)
        else:
            question.future.set_exception(wire.error_from(payload))

    def on_gone(self) -> None:
        self._sweeper.cancel()
        for question in self._questions.values():
            if not question.future.done():
                question.future.set_exception(_Lost())
        self._questions.clear()

    def _sweep(self) -> None:
        """One timer for all questions: a time-out for each would cost more than the question."""
        now_s = self._loop.time()
        for number, question in list(self._questions.items()):
            if question.deadline_s < now_s:
                del self._questions[number]
                if not question.future.done():
                    question.future.set_exception(_Lost())
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)


class TellerClient:
    """One per process. `epoch` and `series` name the journal this worker writes; they survive a restart of books."""

    def __init__(self) -> None:
        self.epoch = 0
        self.series = ""
        self.snapshot = _NO_SNAPSHOT
        self.fenced = asyncio.Event()
        """Set when books have settled this worker's journal as dead: the process must end and start anew."""
        self.errands: dict[str, Callable[[dict[str, Any]], Any]] = {}
        """What this worker tells of itself when somebody asks the books; each may raise CallerError."""
        self._worker: int | None = None
        self._path = Path()
        self._link: _ClientLink | None = None
        self._loop: asyncio.AbstractEventLoop
        self._keeper: asyncio.Task[None] | None = None
        self._idler: asyncio.Task[None] | None = None
        self._holds: dict[bytes, wire.Held] = {}  # what the books gave, or know of by now; `_pools` has the rest
        self._now_s = 0  # when leases were last looked at
        self._closes = 0  # that books were not told yet
        self._pools = Pools()
        self._gathering = Gathering()
        self._keys = Path()

    @property
    def connected(self) -> bool:
        return self._link is not None and self._link.alive

    @property
    def open_holds(self) -> int:
        return len(self._holds) + len(self._pools.holds)

    async def connect(
        self, socket_path: Path, worker: int | None, *, patience_s: float = limits.TELLER_CONNECT_S
    ) -> None:
        """Connect and say hello; from then on reconnect by itself. `worker` None: only commands.

        Raises StartError when books do not answer within `patience_s`.
        """
        self._path, self._worker = socket_path, worker
        self._loop = asyncio.get_running_loop()
        self._now_s = int(self._loop.time())
        greeted = self._loop.create_future()
        self._keeper = asyncio.create_task(self._keep_connected(greeted))
        self._idler = asyncio.create_task(self._return_idle())
        welcomed = False
        try:
            async with asyncio.timeout(patience_s):
                await greeted
            welcomed = True
        except TimeoutError:
            raise StartError("The books do not answer. See the log of the books process.") from None
        finally:
            if not welcomed:
                await self.close()

    async def close(self) -> None:
        """End the connection. Holds this worker still has are released by books once its journal is settled."""
        for task in (self._keeper, self._idler):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._keeper = self._idler = None
        if self._link is not None:
            self._tell_closed()
            self._link.close()
            await self._link.gone.wait()
            self._link = None

    def draw(self, ask: HoldAsk) -> Granted | None:
        """Set it aside out of a lease: nothing is awaited, made or sent that can wait. None: no lease covers it."""
        link = self._link
        if link is None or not link.alive:
            return None
        drawn = self._pools.draw(ask, self._now_s)
        if drawn == DRY:
            return None
        if drawn == LOW:
            self._want_lease(link, ask, round_trip=False)
        left = self._pools.left(ask) if self._pools.bound else None
        return Granted(ask.want_nano, ask.max_tokens, self.series, False, left)

    async def hold(self, ask: HoldAsk) -> Granted:
        """Have the books set money aside, and room in the sub-limits, because no lease covers it. Raises CallerError
        when one refuses, and 503 without books."""
        link = self._link
        if link is None or not link.alive:
            raise _books_away()
        granted = await self._asked(link, ask)
        if granted.amount_nano:
            use = use_of(ask, granted.max_tokens)
            self._holds[ask.request_id] = wire.Held(ask.request_id, ask.tenant_id, granted.amount_nano, use)
            self._want_lease(link, ask, round_trip=True)
        return granted

    def _want_lease(self, link: _ClientLink, ask: HoldAsk, *, round_trip: bool) -> None:
        if self._pools.wants(ask, int(self._loop.time()), round_trip=round_trip):
            use = use_of(ask, ask.max_tokens)
            link.send(wire.NOTICE, "lease", wire.LeaseAsk(ask.tenant_id, ask.want_nano, use))

    async def _asked(self, link: _ClientLink, ask: HoldAsk) -> Granted:
        self._tell_closed()
        answer: msgspec.Raw | None = None
        try:
            answer = await link.ask("hold", ask, limits.TELLER_REPLY_S)
        finally:
            if answer is None:  # cancelled, refused or given up: whatever books granted meanwhile goes back
                link.send(wire.NOTICE, "release", ask.request_id)
        return wire.decode_granted(answer)

    def release(self, request_id: bytes) -> None:
        """Give back a hold that never led to an opened request."""
        if self._pools.release(request_id):
            return
        self._holds.pop(request_id, None)
        if self._link is not None:
            self._link.send(wire.NOTICE, "release", request_id)

    def closed(self) -> None:
        """Tell books that a request was closed in the journal; soon, together with others."""
        if self._link is None:
            return
        if not self._closes:
            self._loop.call_later(limits.CLOSED_TOLD_MS / 1000, self._tell_closed)
        self._closes += 1

    def _tell_closed(self) -> None:
        count, self._closes = self._closes, 0
        if count and self._link is not None:
            self._link.send(wire.NOTICE, "closed", count)

    async def command(self, op: str, payload: dict[str, Any]) -> Any:
        """Have books carry out a command of the office. Raises its CallerError, or 503 without books, which says so
        where they may have done it."""
        link = self._link
        if link is None:
            raise _books_away()
        self._tell_closed()
        try:
            return wire.decode_any(await link.ask(op, payload, limits.COMMAND_REPLY_S))
        except _Lost:
            raise perhaps_done("The books went away before they answered.") from None

    async def _keep_connected(self, greeted: "asyncio.Future[None]") -> None:
        attempt = 0
        while True:
            try:
                self._gathering = Gathering()
                _, link = await self._loop.create_unix_connection(lambda: _ClientLink(self._on_push), str(self._path))
                await self._greet(link)
                attempt = 0
                if not greeted.done():
                    greeted.set_result(None)
                await link.gone.wait()
                self._link = None
                log.warning("books_lost")
            except CallerError as error:
                if error.code == "stale_epoch":
                    log.error("worker_fenced", series=self.series)
                    self.fenced.set()
                    return
            except OSError:
                pass
            delay_ms = limits.RECONNECT_DELAYS_MS[min(attempt, len(limits.RECONNECT_DELAYS_MS) - 1)]
            attempt += 1
            await asyncio.sleep(delay_ms / 1000)

    async def _greet(self, link: _ClientLink) -> None:
        self._are_known(self._pools.void())  # books that greet know of no lease: all holds are told
        hello = wire.Hello(self._worker, os.getpid(), self.epoch, self.series, tuple(self._holds.values()))
        welcome: wire.Welcome | None = None
        try:
            welcome = wire.decode_welcome(await link.ask("hello", hello, limits.TELLER_REPLY_S))
        finally:
            if welcome is None:
                link.abort()
        self.epoch, self.series = welcome.epoch, welcome.series
        self._link, self._closes = link, 0  # books count closes from the greeting on

    def _on_push(self, op: str, payload: msgspec.Raw) -> None:
        if op == "part":
            self._gathering.take(wire.decode_part(payload))
        elif op == "snapshot":
            head = wire.decode_head(payload)
            self._take_snapshot(self._gathering.whole(head, self.snapshot.callers))
            self._map_keys(head.keys)
            self._tell_known()
        elif op == "keys":
            self._map_keys(wire.decode_text(payload))
            self._tell_known()
        elif op == "settled":
            for request_id in self._pools.settled(wire.decode_settled(payload)):
                self._holds.pop(request_id, None)
        elif op == "lease":
            lease = wire.decode_lease(payload)
            if not self._pools.lend(lease.tenant_id, lease.amount_nano, int(self._loop.time()), lease.share):
                shares = () if lease.share is None else (lease.share,)
                self._return(wire.Returned(lease.tenant_id, lease.amount_nano, shares=shares))
        elif op == "recall":
            tenant_id = wire.decode_count(payload)
            told = self._are_known(self._pools.dissolve(tenant_id, int(self._loop.time())))
            self._return(wire.Returned(tenant_id, 0, told))
        elif op == "errand" and self._link is not None:
            self._link.send(wire.NOTICE, "done", self._run(wire.decode_errand(payload)))

    def _are_known(self, asks: Sequence[HoldAsk]) -> tuple[wire.Held, ...]:
        """What was held out of leases is held by the books one by one from here on, and told them so."""
        told = tuple(_told(ask) for ask in asks)
        self._holds.update((held.request_id, held) for held in told)
        return told

    def _run(self, errand: wire.Errand) -> wire.Done:
        run = self.errands.get(errand.op)
        try:
            if run is None:
                raise CallerError(404, "unknown_command", f"There is no command {errand.op!r}.")
            return wire.Done(errand.ticket, run(errand.payload))
        except CallerError as error:
            return wire.Done(errand.ticket, refusal=wire.refusal(error))

    def _return(self, returned: wire.Returned) -> None:
        if self._link is not None:
            self._link.send(wire.NOTICE, "returned", returned)

    async def _return_idle(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._now_s = int(self._loop.time())
            for tenant_id, amount_nano, shares in self._pools.idle(self._now_s):
                self._return(wire.Returned(tenant_id, amount_nano, shares=shares))

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        if snapshot.version >= self.snapshot.version:
            self.snapshot = snapshot

    def _map_keys(self, path: str) -> None:
        """Look keys up in this table from here on."""
        if Path(path) == self._keys:
            return
        try:
            table = KeyTable(Path(path))
        except BooksError as error:  # it has moved again, and the notice of that is on its way
            log.warning("key_table_missed", reason=str(error))
        else:
            self._keys = Path(path)
            self.snapshot = msgspec.structs.replace(self.snapshot, callers=table)

    def _tell_known(self) -> None:
        if self._link is not None:
            self._link.send(wire.NOTICE, "known", wire.Known(self.snapshot.version, str(self._keys)))


def _told(hold: HoldAsk) -> wire.Held:
    """A hold as books are told it."""
    return wire.Held(hold.request_id, hold.tenant_id, hold.want_nano, use_of(hold, hold.max_tokens))
