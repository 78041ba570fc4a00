"""Keeps posting: passes over the journals on a nudge or a timer, and settles workers that died.

Owns when a pass runs, what happens when the database refuses (journals are kept, tried again later, `trouble` says
why), and telling the teller what was posted right after its commit, in the order of the commits.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_MS, NS_PER_S, Clock
from steelyard.kernel.errors import BooksError, CallerError
from steelyard.kernel.money import INT64_MAX
from steelyard.ledger.gauges import Seed
from steelyard.ledger.purse import Purse
from steelyard.ledger.purses import read_purses
from steelyard.ledger.sublimits import used_of
from steelyard.processes.bookkeeper import Bookkeeper, Step
from steelyard.processes.books_metrics import BooksMetrics
from steelyard.processes.lending import Lending
from steelyard.processes.limiting import limit_seeds
from steelyard.processes.office import transaction

log = structlog.get_logger()
T = TypeVar("T")
Tell = Callable[[str, Sequence[tuple[bytes, int]]], None]
"""Tells the worker of a series which of its requests are settled."""


class Thread:
    """The one thread that owns the database. Continuations run in the order of the work, so whoever awaits it learns of
    commits in the order they happened."""

    def __init__(self, executor: Executor, engine: Engine) -> None:
        self._executor = executor
        self._engine = engine

    def shutdown(self) -> None:
        """Wait for what is under way and end the thread."""
        self._executor.shutdown()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    async def touch(self) -> None:
        """Raise what a connection to the database raises now."""
        await self.run(self._touch)

    def _touch(self) -> None:
        with self._engine.connect():
            pass

    async def purses(self) -> dict[int, Purse]:
        """All purses by the accounts."""
        return await self.run(self._read_purses)

    def _read_purses(self) -> dict[int, Purse]:
        with transaction(self._engine) as connection:
            return read_purses(connection)

    async def seeds(self, clock: Clock) -> list[Seed]:
        """All sub-limits in force and what the books say was used of them."""
        return await self.run(self._read_seeds, clock)

    def _read_seeds(self, clock: Clock) -> list[Seed]:
        with transaction(self._engine) as connection:
            return limit_seeds(connection, clock)


class PostingLoop:
    """One per books process. `run` until `stop`."""

    def __init__(self, bookkeeper: Bookkeeper, thread: Thread, lending: Lending, clock: Clock, tell: Tell) -> None:
        self._bookkeeper = bookkeeper
        self._thread = thread
        self._teller = lending.teller
        self._leases = lending.leases
        self._lending = lending
        self._clock = clock
        self._tell = tell
        self.metrics = BooksMetrics()
        self.trouble = ""
        self.in_doubt = False
        """Whether a commit has failed in a way that leaves its outcome open; purses and limits are then read again."""
        self._when_certain: list[Callable[[], None]] = []
        self.absent: dict[str, int | None] = {}
        """Series of workers that are not connected → their pid, if known."""
        self._looked_ns = clock.monotonic_ns()
        self._passed_ns = 0  # when the last pass ended
        self._noticed: dict[str, int] = {}  # series → closes its worker has announced
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._ended = False
        self._nudge: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self.on_settled_death: Callable[[str], None] = lambda series: None
        self.on_pass: Callable[[], Awaitable[None]] = _nothing
        self.on_certain: Callable[[], Awaitable[None]] = _nothing

    def stop(self) -> None:
        """Have `run` end after one more pass."""
        self._stop.set()
        self._wake.set()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def when_certain(self, act: Callable[[], None]) -> None:
        """Do this once purses were read again after a commit whose outcome is open."""
        self.in_doubt = True
        self._when_certain.append(act)

    def wake(self) -> None:
        """Begin a pass now."""
        self._wake.set()

    def seat(self, series: str) -> None:
        """A worker is connected; its closes are counted from here."""
        self.absent.pop(series, None)
        self._noticed[series] = self._bookkeeper.closes_read(series)

    def noticed_close(self, series: str, count: int) -> None:
        """A worker says that it has closed requests."""
        if series in self._noticed:
            self._noticed[series] += count
        self._nudge_soon()

    async def settled_now(self) -> None:
        """Return after a pass over all journals that began after this call."""
        if self._ended:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wake.set()
        await future

    async def run(self) -> None:
        """Post until `stop`, then once more. What is neither the database's nor the disk's fault ends the process."""
        try:
            await self._post_until_stopped()
            await self._pass()
        finally:
            self._ended = True  # nobody waits for a pass that will not come
            _resolve(self._waiting)

    async def _post_until_stopped(self) -> None:
        failures = 0
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((limits.POST_INTERVAL_MS if self._away else limits.POST_REST_MS) / 1000):
                    await self._wake.wait()
            self._wake.clear()
            if await self._pass():
                failures = 0
                continue
            delay_ms = limits.BOOKS_RETRY_MS[min(failures, len(limits.BOOKS_RETRY_MS) - 1)]
            failures += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_ms / 1000):
                    await self._stop.wait()

    @property
    def _away(self) -> bool:
        """Whether something is to be looked for that nobody announces."""
        return bool(self.absent or self.trouble or self.in_doubt)

    async def _pass(self) -> bool:
        """Post everything there is and settle what died. False when the books could not be written."""
        waiting, self._waiting = self._waiting, []
        try:
            await self._steps()
            await self._settle_dead()
            await self._look()
            await self.on_pass()
            if self.in_doubt:
                await self._make_certain()
            self._lending.recall_unfit()
            self.trouble = ""
        except (DBAPIError, BooksError, OSError, CallerError) as error:
            if not self.trouble:
                log.error("posting_failed", reason=str(error))
            self.trouble, self.in_doubt = str(error), True
        finally:
            _resolve(waiting)
            self._passed_ns = self._clock.monotonic_ns()
        if self._closes_outstanding():
            self._nudge_soon()
        return not self.trouble

    async def _make_certain(self) -> None:
        """Read purses and limits again, and what workers are told. A doubt that comes up meanwhile stays for the next
        pass."""
        self.in_doubt, waiting = False, len(self._when_certain)
        self._teller.correct(await self._thread.purses())
        self._teller.limit_anew(await self._thread.seeds(self._clock))
        await self.on_certain()
        for act in self._when_certain[:waiting]:
            act()
        del self._when_certain[:waiting]

    async def _look(self) -> None:
        """Notice while nothing is posted that the database is away: then nothing may be served either."""
        now_ns = self._clock.monotonic_ns()
        if self.trouble or now_ns - self._looked_ns >= limits.DATABASE_LOOK_S * NS_PER_S:
            await self._thread.touch()
            self._looked_ns = now_ns

    async def _steps(self) -> None:
        more = True
        while more:
            step = await self._thread.run(self._bookkeeper.step)
            self._apply(step)
            more = step.more

    def _apply(self, step: Step) -> None:
        """Tell the teller, the workers and the metrics what was posted."""
        if not step.posted and not step.known:
            return
        told: dict[str, list[tuple[bytes, int]]] = {}
        for rated in step.posted:
            opened = rated.settlement.opened
            used = used_of(rated.settlement)
            self._note_owner(opened.request_id, used.tokens, told)
            if opened.lease and self._leases.settle(
                opened.tenant_id, opened.lease, opened.request_id, opened.hold_nano, used
            ):
                told.setdefault(opened.lease, []).append((opened.request_id, used.tokens))
            elif self._teller.find(opened.request_id) is None:  # which limit counted? What is lent is no credit
                self.in_doubt |= self._teller.purse(opened.tenant_id).limit_nano > 0
            due = min(rated.charge_nano, opened.hold_nano)
            taken = self._teller.settle(opened.request_id, opened.tenant_id, opened.hold_nano, rated.charge_nano, used)
            self.in_doubt |= taken < due  # an earlier limit, which books that were restarted do not know, covered it
        for opened in step.known:
            self._note_owner(opened.request_id, INT64_MAX, told)
            if opened.lease:
                told.setdefault(opened.lease, []).append((opened.request_id, INT64_MAX))
            self._teller.release(opened.request_id)
        for series, settled in told.items():
            self._tell(series, settled)
        # What such a commit settled was not taken from its lease: only a new one is known to the nano.
        for tenant_id in {opened.tenant_id for opened in step.known if opened.lease}:
            self._lending.recall_soon(tenant_id)
        if step.posted:
            self.metrics.count(step.posted, self._clock.now_ns())
            log.debug("charges_posted", requests=len(step.posted), lag_ms=self.metrics.lag_ns // NS_PER_MS)

    def _note_owner(self, request_id: bytes, tokens: int, told: dict[str, list[tuple[bytes, int]]]) -> None:
        hold = self._teller.find(request_id)
        if hold is not None:
            told.setdefault(hold.owner, []).append((request_id, tokens))

    async def _settle_dead(self) -> None:
        """Recover every series whose worker is gone, then give back what it still held."""
        bookkeeper = self._bookkeeper
        for series, pid in list(self.absent.items()):
            if not await self._thread.run(bookkeeper.is_dead, series, pid) or series not in self.absent:
                continue
            await self._thread.run(bookkeeper.mark_dead, series)
            await self._steps()
            await self._thread.run(bookkeeper.recover, series)
            await self._steps()
            await self._thread.run(bookkeeper.finish, series)
            released = self._teller.owner_gone(series)
            self._lending.gone(series)
            log.info("worker_settled", series=series, holds_released=released)
            self.absent.pop(series, None)
            self._noticed.pop(series, None)
            self.on_settled_death(series)

    def _closes_outstanding(self) -> bool:
        """Whether a worker announced closes that were not read yet: they are on their way to the disk."""
        return any(count > self._bookkeeper.closes_read(series) for series, count in self._noticed.items())

    def _nudge_soon(self) -> None:
        """Begin a pass when the journal is on the medium: after a rest at once, in a flood with more in each batch."""
        if self._nudge is None:
            rested_ms = (self._clock.monotonic_ns() - self._passed_ns) // NS_PER_MS
            delay_ms = max(limits.SYNC_INTERVAL_MS, limits.POST_PAUSE_MS - rested_ms)
            self._nudge = asyncio.get_running_loop().call_later(delay_ms / 1000, self._nudged)

    def _nudged(self) -> None:
        self._nudge = None
        self._wake.set()

    async def all_settled(self) -> None:
        """Post what has ended. CallerError 409 while what a dead worker left is not settled."""
        await self.free_up()
        if self.absent or self.trouble:
            raise CallerError(409, "not_settled", "Requests of a worker that died are not settled yet. Try again soon.")

    async def free_up(self) -> None:
        """Settle what has just finished, closes that are announced but still on their way to the disk included."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + limits.CLOSED_AWAITED_MS / 1000
        await self.settled_now()
        while self._closes_outstanding() and not self.trouble and loop.time() < deadline_s:
            await asyncio.sleep(limits.SYNC_INTERVAL_MS / 1000)
            await self.settled_now()


async def _nothing() -> None:
    pass


def _resolve(waiting: Sequence["asyncio.Future[None]"]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
