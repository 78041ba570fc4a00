"""The books process: the only writer of the database, and the socket in front of it.

The loop keeps the teller and the sessions; one thread owns the database and the journals' tails. Owns who is seated
(epochs, series, the holds a worker tells) and when holds may be given; posting itself is `PostingLoop`, commands are
`Office`. Fails closed: while the database refuses, nobody gets a hold.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog
import uvloop

from steelyard import flow
from steelyard.jobs.content import Content
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_MS, Clock, SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import BooksError, CallerError, StartError, WriterLost
from steelyard.kernel.records import Granted, HoldAsk
from steelyard.ledger import wire
from steelyard.ledger.salt import ensure_secret
from steelyard.ledger.sublimits import running
from steelyard.ledger.teller import Teller
from steelyard.processes import rerating
from steelyard.processes.bookkeeper import Bookkeeper, Settle
from steelyard.processes.collector import look_less_often
from steelyard.processes.desks import OPS, Desks, Kept
from steelyard.processes.engine_metrics import engine_text
from steelyard.processes.errands import Errands
from steelyard.processes.key_register import KeyRegister
from steelyard.processes.lending import Lending
from steelyard.processes.lifeline import watch_parent
from steelyard.processes.logs import to_stderr
from steelyard.processes.office import Office, transaction
from steelyard.processes.only_writer import only_writer
from steelyard.processes.outcome import Outcome
from steelyard.processes.paying import PAYING, pay
from steelyard.processes.posting_loop import PostingLoop, Thread
from steelyard.processes.publishing import Publishing
from steelyard.processes.second_look import decide_hold
from steelyard.processes.snapshot import EPOCH, bump, read_snapshot
from steelyard.processes.teller_server import Session
from steelyard.processes.timekeeper import Timekeeper
from steelyard.storage.database import migrate, open_database

log = structlog.get_logger()


class Books:
    """Teller, bookkeeper and office behind one socket. Make it with `open`, then `serve` until `stop`."""

    def __init__(self, data: DataDir, clock: Clock, settle: Settle, executor: ThreadPoolExecutor) -> None:
        """Runs in the database's thread: recovers what earlier runs left. Raises StartError or BooksError."""
        self._data = data
        self._engine = open_database(data.database)
        try:
            migrate(self._engine)
            with self._engine.begin() as connection:
                self._epoch = bump(connection, EPOCH)
                ensure_secret(connection)
            self._bookkeeper = Bookkeeper(self._engine, data.journals, self._epoch, clock, settle)
            self._bookkeeper.start()
            self.teller = Teller()
            self._office = Office(
                self._engine,
                clock,
                holds=self.teller,
                opened=self._bookkeeper.opened,
                oldest_open=self._bookkeeper.oldest_open,
                journals=data.journals,
            )
            with self._engine.connect() as connection:
                self._publishing = Publishing(KeyRegister.make(data.keys, connection), read_snapshot(connection))
        except BaseException:  # whatever it was, whoever tries again finds no connection of ours at the database
            self._engine.dispose()
            raise
        self._clock = clock
        self._thread = Thread(executor, self._engine)
        self._auditor = ThreadPoolExecutor(1, "books-auditor")
        self._sessions: dict[str, Session] = {}
        self.store_days = limits.STORE_DAYS
        """How long responses are stored; set it before `serve`."""
        self._listeners: set[Session] = set()
        self._awaited: set[str] = set()  # series that were alive at the start and have not told their holds yet

    @classmethod
    async def open(cls, data: DataDir, clock: Clock, settle: Settle) -> "Books":
        executor = ThreadPoolExecutor(1, "books-database")
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, cls, data, clock, settle, executor)
        except BaseException:  # also who is cancelled in between leaves no thread behind
            executor.shutdown()
            raise

    async def serve(self) -> None:
        """Open the socket. Requests that living workers have open keep their holds."""
        self._publishing.begin(self._listeners, self._sessions)
        for tenant_id, purse in (await self._thread.purses()).items():
            self.teller.open_wallet(tenant_id, purse)
        self.lending = Lending(self.teller, self._sessions)
        self.errands = Errands(self._sessions)
        self._posting = PostingLoop(self._bookkeeper, self._thread, self.lending, self._clock, self._tell)
        kept = Kept(Content(self._data.files), self.store_days)
        self._desks = Desks(self._engine, self._thread, self._clock, kept, self._sessions, self._posting)
        await self._desks.start(self._bookkeeper.live_series())
        self._posting.on_settled_death = self._settled_death
        self._timekeeper = Timekeeper(self.teller, self._thread, self._office, self._clock)
        self._posting.on_pass = self._timekeeper.tick
        self._posting.on_certain = self._tell_untold
        for seed in await self._thread.run(self._office.seeds):
            self.teller.limit(seed)
        for opened, series in self._bookkeeper.open_requests():
            self.teller.hold(opened.request_id, opened.tenant_id, opened.hold_nano, 0, series, running(opened))
        self._greeted = asyncio.Event()
        self._awaited = set(self._bookkeeper.live_series())
        self._posting.absent.update(dict.fromkeys(self._awaited))
        loop = asyncio.get_running_loop()
        if not self._awaited:
            self._greeted.set()
        self._patience = loop.call_later(limits.WORKERS_AWAITED_MS / 1000, self._lose_patience)
        path = self._data.socket
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)  # the socket is born private
        try:
            self._server = await loop.create_unix_server(lambda: Session(self), str(path))
        finally:
            os.umask(mask)
        self._running = asyncio.create_task(self._posting.run())
        log.info("books_opened", epoch=self._epoch, awaited=sorted(self._awaited))

    async def run(self) -> None:
        """Return after `stop`, when all is settled and closed. A bug in posting ends it too, and is raised."""
        try:
            await self._running
        finally:
            await self._close()

    def stop(self) -> None:
        """Give no more holds, settle once more, close."""
        self._greeted.set()
        self._posting.stop()

    async def _close(self) -> None:
        self._patience.cancel()
        self._server.close()
        await self._desks.close()
        for session in list(self._listeners):
            await session.finish()
            session.close()
        for session in list(self._listeners):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.RETRY_AFTER_S):
                    await session.gone.wait()
            session.abort()
        await self._desks.finish()
        await self._publishing.close()
        await self._thread.run(self._bookkeeper.close)
        await self._thread.run(self._engine.dispose)
        self._thread.shutdown()
        self._auditor.shutdown()
        self._data.socket.unlink(missing_ok=True)
        log.info("books_closed", epoch=self._epoch)

    def _tell(self, series: str, settled: Sequence[tuple[bytes, int]]) -> None:
        if series in self._sessions:
            self._sessions[series].send(wire.NOTICE, "settled", settled)

    # --- what sessions ask --------------------------------------------------------------------------------------

    @property
    def open_for_holds(self) -> bool:
        """False while the database refuses, while living workers have not told their holds, and at the end."""
        return not self._posting.trouble and self._greeted.is_set() and not self._posting.stopping

    def session_opened(self, session: Session) -> None:
        self._listeners.add(session)

    def session_gone(self, session: Session) -> None:
        self._listeners.discard(session)
        if session.series and self._sessions.get(session.series) is session:
            del self._sessions[session.series]
            self._publishing.session_moved()
            self._posting.absent[session.series] = session.pid
            self._posting.wake()

    def noticed_close(self, series: str, count: int) -> None:
        self._posting.noticed_close(series, count)

    async def decide_hold(self, ask: HoldAsk, session: Session) -> Granted:
        """A hold that is short of money, room or time."""
        await self._greeted.wait()
        return await decide_hold(ask, session, self._posting, self.lending, lambda: self.open_for_holds)

    async def greet(self, session: Session, hello: wire.Hello) -> wire.Welcome:
        """Give a new worker its epoch and series, or take a returning one back with its holds."""
        session.pid = hello.pid
        if hello.worker is None:
            self._publishing.greet(session)
            return wire.Welcome(0, "")
        if hello.series:
            return await self._greet_again(session, hello)
        epoch = await self._thread.run(self._next_epoch)
        series = f"w{hello.worker}-{epoch}"
        self._seat(session, series)
        return wire.Welcome(epoch, series)

    def _next_epoch(self) -> int:
        with transaction(self._engine) as connection:
            return bump(connection, EPOCH)

    async def _greet_again(self, session: Session, hello: wire.Hello) -> wire.Welcome:
        """A hold is kept if it was told, or if the journal has it open; told ones that are posted are told so."""
        series, told = hello.series, {held.request_id: held for held in hello.holds}
        await self._posting.settled_now()
        posted, opened, finished = await self._thread.run(self._known_of, series, list(told))
        expected = series in self._posting.absent or series in self._sessions or self._unborn(hello)
        if finished or not expected:
            raise CallerError(409, "stale_epoch", f"The journal {series} was settled as that of a dead worker.")
        self.lending.gone(series)
        for request_id, held in told.items():
            if request_id not in posted:
                self.teller.release(request_id)  # its worker knows better what it takes
                self.teller.hold(request_id, held.tenant_id, held.amount_nano, 0, series, held.use)
        for request_id in self.teller.owned(series) - told.keys() - opened:
            self.teller.release(request_id)
        self._seat(session, series)
        session.send(wire.NOTICE, "settled", [(request_id, 0) for request_id in sorted(posted)])
        return wire.Welcome(hello.epoch, series)

    def _unborn(self, hello: wire.Hello) -> bool:
        """A worker that got its series from books that died before it began its journal."""
        return 0 < hello.epoch < self._epoch and hello.series == f"w{hello.worker}-{hello.epoch}"

    def _known_of(self, series: str, request_ids: list[bytes]) -> tuple[set[bytes], set[bytes], bool]:
        opened = {opened.request_id for opened, owner in self._bookkeeper.open_requests() if owner == series}
        return self._bookkeeper.posted(request_ids), opened, self._bookkeeper.is_finished(series)

    def _seat(self, session: Session, series: str) -> None:
        before = self._sessions.get(series)
        session.series = series
        self._sessions[series] = session
        self._publishing.greet(session)
        self._posting.seat(series)
        self._await_no_more(series)
        if before is not None:
            before.abort()

    def _await_no_more(self, series: str) -> None:
        self._awaited.discard(series)
        if not self._awaited:
            self._greeted.set()

    def _settled_death(self, series: str) -> None:
        self._await_no_more(series)
        self._desks.series_settled(series)

    def _lose_patience(self) -> None:
        if self._awaited:
            log.warning("workers_not_heard_from", series=sorted(self._awaited))
        self._greeted.set()

    # --- commands -----------------------------------------------------------------------------------------------

    async def command(self, op: str, payload: dict[str, Any]) -> object:
        """A command of the office, or one of those that ask about this process."""
        match op:
            case "status":
                return self._status()
            case "metrics":
                text = self._posting.metrics.text(self.teller, len(self._sessions), bool(self._posting.trouble))
                return text + engine_text(self._data, self._clock.now_ns())
            case "verify":
                return await self._verify(replayed=payload.get("replay") is not False)
            case _ if op.startswith(OPS):
                return await self._desks.command(op, payload)
            case "rerate.post":
                await self.lending.recall_all()
                return self._take(await rerating.correct(self.teller, payload, self._execute))
            case _ if op in PAYING:
                return self._take(await pay(self.lending, self._posting, op, payload, self._execute))
            case "ledger.close":
                await self._posting.all_settled()
            case "receipt.export":
                await self._posting.free_up()
            case "receipt":
                with contextlib.suppress(CallerError):
                    reply = (await self._thread.run(self._office.execute, op, payload)).reply
                    if reply["state"] == "posted":
                        return reply
                await self._posting.free_up()  # perhaps it has just finished
        outcome = await self._execute(op, payload)
        reply = self._take(outcome)
        for seed in outcome.limited:
            await self.lending.recall(seed.limit.tenant_id)
        await self._publishing.known(outcome)
        return reply

    async def _execute(self, op: str, payload: dict[str, Any]) -> Outcome:
        try:
            return await self._thread.run(self._office.execute, op, payload)
        except CallerError as error:
            self._posting.in_doubt |= error.status == 503
            raise

    async def _tell_untold(self) -> None:
        """What a command changed whose commit was done and not answered."""
        self._publishing.tell(await self._thread.run(self._office.untold, self._publishing.version))

    def session_moved(self) -> None:
        self._publishing.session_moved()

    def _take(self, outcome: Outcome) -> Any:
        self.teller.correct(outcome.purses)
        if outcome.purses:
            self._timekeeper.wake()  # an allowance may have begun
        for seed in outcome.limited:
            self.teller.limit(seed)
        self.lending.recall_unfit()
        self._publishing.tell(outcome)
        return outcome.reply

    async def _verify(self, *, replayed: bool) -> object:
        """Reads on a connection of its own, beside the posting; the teller is compared at one and the same moment."""
        await self._posting.settled_now()
        complaints = self.teller.complaints(await self._thread.purses())
        complaints += self.lending.leases.complaints(self._sessions.keys() | self._posting.absent.keys())
        return await asyncio.get_running_loop().run_in_executor(self._auditor, self._audit, tuple(complaints), replayed)

    def _audit(self, complaints: tuple[str, ...], replayed: bool) -> object:
        engine = open_database(self._data.database, readonly=True)
        try:
            with transaction(engine) as connection:
                return self._office.verify(connection, complaints, replayed=replayed)
        finally:
            engine.dispose()

    def _status(self) -> dict[str, object]:
        return {
            "epoch": self._epoch,
            "workers": sorted(self._sessions),
            "absent": sorted(self._posting.absent),
            "holds": self.teller.open_holds,
            "lag_ms": self._posting.metrics.lag_ns // NS_PER_MS,
            "trouble": self._posting.trouble,
            "snapshot": self._publishing.version,
            "keys": self._publishing.live_keys,
        }


async def _run(data: DataDir, store_days: int) -> None:
    books = await Books.open(data, SystemClock(), flow.settle)
    books.store_days = store_days
    await books.serve()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, books.stop)
    watch_parent(loop, books.stop)
    look_less_often()
    print("ready", flush=True)
    await books.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or until the parent is gone. One line on stderr and 1 when it cannot start."""
    parser = argparse.ArgumentParser(prog="steelyard.processes.books")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store-days", type=int, default=limits.STORE_DAYS)
    options = parser.parse_args(arguments)
    data = DataDir.of_child(options.data)
    to_stderr()
    try:
        data.prepare()
        with only_writer(data):
            uvloop.run(_run(data, options.store_days))
    except (StartError, BooksError, WriterLost) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
