"""The bookkeeper: tails the journals, pairs opens with closes, has them rated and posted, recovers dead series.

Runs in the one thread that owns the database; every public method is called there. Owns the journals' tails and the
requests that are open. Knows no wallet in memory and no socket: what it settled is returned to whoever keeps those.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import structlog
from sqlalchemy import Connection, Engine

from steelyard.catalog.store import tariffs_by_id
from steelyard.kernel import limits
from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import BooksError
from steelyard.kernel.settled import Closed, Moved, Opened, Position, Rated, Settlement
from steelyard.kernel.tariff import Tariff
from steelyard.ledger.posting import posted_ids, read_watermarks
from steelyard.metering.journal import Journal
from steelyard.metering.lock import LOCK_NAME
from steelyard.metering.reader import is_held, series
from steelyard.metering.recovery import make_durable, recover
from steelyard.processes.tail import Tail, is_settled

log = structlog.get_logger()

Settle = Callable[
    [Connection, Sequence[Settlement], Mapping[int, Tariff], Mapping[str, Position], Clock], Sequence[Rated]
]
"""`flow.settle`: rate and post in the caller's transaction; returns what was posted now."""
BOOKS_SERIES = "books-"


class Step(NamedTuple):
    """What one step did. `posted` is new in the books; `known` was posted before; `more` asks for another step."""

    posted: Sequence[Rated] = ()
    known: Sequence[Opened] = ()
    more: bool = False


class Bookkeeper:
    """One per books process. `epoch` names its own journal series, which exists only once something was recovered."""

    def __init__(self, engine: Engine, journals: Path, epoch: int, clock: Clock, settle: Settle) -> None:
        self._engine = engine
        self._journals = journals
        self._own_name = f"{BOOKS_SERIES}{epoch}"
        self._own: Journal | None = None
        self._clock = clock
        self._settle = settle
        self._tails: dict[str, Tail] = {}
        self._finished: set[str] = set()
        self._opened: dict[bytes, tuple[Opened, Tail]] = {}
        self._early: dict[bytes, tuple[Closed, Tail]] = {}  # closes whose open was not read yet
        self._pending: list[tuple[Settlement, Tail]] = []  # read, not posted: a failed transaction is tried again
        self._tariffs: dict[int, Tariff] = {}
        with engine.connect() as connection:
            self._marks = read_watermarks(connection)

    def start(self) -> None:
        """Settle all that earlier runs left, dead series included. Afterwards only living series have open requests."""
        self._settle_all()
        for name in [name for name, tail in self._tails.items() if not tail.live]:
            self.recover(name)
        self._settle_all()
        for name in [name for name, tail in self._tails.items() if tail.recovered]:
            self.finish(name)

    def _settle_all(self) -> None:
        while self.step().more:
            pass

    def opened(self, request_id: bytes) -> Opened | None:
        """The open record of a request that is not closed yet."""
        found = self._opened.get(request_id)
        return found[0] if found else None

    def open_requests(self) -> list[tuple[Opened, str]]:
        """Every open request with the series it is in."""
        return [(opened, tail.name) for opened, tail in self._opened.values()]

    def oldest_open(self) -> int | None:
        """When the oldest request that is not posted was opened."""
        settling = [settlement.opened.opened_ns for settlement, _ in self._pending]
        return min([opened.opened_ns for opened, _ in self._opened.values()] + settling, default=None)

    def live_series(self) -> frozenset[str]:
        """Series of living workers."""
        return frozenset(name for name, tail in self._tails.items() if tail.live and not name.startswith(BOOKS_SERIES))

    def closes_read(self, name: str) -> int:
        """How many closes were read from the series by this process."""
        tail = self._tails.get(name)
        return tail.closes if tail else 0

    def is_finished(self, name: str) -> bool:
        """Whether the series was settled as dead; its worker must not come back to it."""
        return name in self._finished or is_settled(self._journals / name)

    def posted(self, request_ids: Sequence[bytes]) -> set[bytes]:
        """Which of these requests are in the books, or read and about to be."""
        pending = {settlement.opened.request_id for settlement, _ in self._pending}
        with self._engine.connect() as connection:
            return posted_ids(connection, request_ids) | (pending & set(request_ids))

    def step(self) -> Step:
        """Read at most about one batch and post it. What cannot be posted stays for the next step."""
        more = self._read()
        if not self._pending:
            self._drop_strays(more)
            return Step(more=more)
        batch, marks = self._pending, {}
        for tail in self._tails.values():
            mark = tail.new_mark()
            if mark is not None:
                marks[tail.name] = mark
        settlements = [settlement for settlement, _ in batch]
        with self._engine.begin() as connection:
            self._learn_tariffs(connection, settlements)
            posted = self._settle(connection, settlements, self._tariffs, marks, self._clock)
        self._pending = []
        for name, mark in marks.items():
            self._tails[name].mark(mark)
        fresh = {one.settlement.opened.request_id for one in posted}
        self._drop_strays(more)
        known = [one.opened for one in settlements if one.opened.request_id not in fresh]
        return Step(posted, known, more)

    def is_dead(self, name: str, pid: int | None) -> bool:
        """Whether the series has lost its writer. One that never took its lock is as alive as its process `pid`."""
        directory = self._journals / name
        if (directory / LOCK_NAME).exists():
            return not is_held(directory)
        return pid is not None and not psutil.pid_exists(pid)

    def mark_dead(self, name: str) -> None:
        """From the next step on, read the series to its very end, behind what its writer had synced."""
        self._discover()
        if name in self._tails:
            make_durable(self._tails[name].directory)
            self._tails[name].live = False

    def recover(self, name: str) -> None:
        """Journal the closes that a dead writer owes, from its slots. The series must have been read to its end."""
        tail = self._tails.get(name)
        if tail is None or tail.recovered:
            return
        left = [self._opened[request_id][0] for request_id in tail.open_requests if request_id in self._opened]
        done = self.posted([one.request_id for one in left])  # by earlier books, whose journal is read no more
        for request_id in done:
            del self._opened[request_id]
            tail.resolve(request_id)
        left = [one for one in left if one.request_id not in done]
        if tail.owed is None:
            tail.owed = recover(tail.directory, left, self._clock)
        self._write_own(tail.owed)
        tail.recovered = True
        if left:
            log.info("series_recovered", series=name, requests=len(left))

    def finish(self, name: str) -> None:
        """Never read the recovered series again, now that all its requests are posted."""
        tail = self._tails.get(name)
        self._finished.add(name)
        if tail is None:
            return
        if tail.open_requests:
            raise BooksError(f"the series {name} still has open requests after its recovery")
        mark = tail.new_mark()
        if mark is not None:
            with self._engine.begin() as connection:
                self._settle(connection, [], self._tariffs, {name: mark}, self._clock)
        tail.finish()
        del self._tails[name]

    def close(self) -> None:
        """Let go of the own journal. Settle first."""
        if self._own is not None:
            self._own.close()
            self._own = None

    def _write_own(self, closes: Iterable[Closed]) -> None:
        closes = list(closes)
        if not closes:
            return
        if self._own is None or self._own.failed:
            self.close()
            self._own = Journal.create(self._journals / self._own_name, segment_bytes=limits.BOOKS_SEGMENT_BYTES)
        for closed in closes:
            self._own.append(closed)
        self._own.sync()

    def _discover(self) -> None:
        for directory in series(self._journals):
            name = directory.name
            if name in self._tails or name in self._finished or not (directory / LOCK_NAME).exists():
                continue  # without a lock nothing was ever written: its worker is about to begin, or died before it did
            if is_settled(directory):
                self._finished.add(name)
                continue
            live = name == self._own_name or is_held(directory)
            if not live:
                make_durable(directory)
            self._tails[name] = Tail(directory, self._marks.get(name, Position()), live=live)

    def _read(self) -> bool:
        """Read from every series in turn; true when there may be more. Books' own series come last, and only when the
        dead ones are read whole: their closes belong to requests opened there, and moved perhaps."""
        self._discover()
        more = dead_left = False
        for tail in sorted(self._tails.values(), key=lambda tail: tail.name.startswith(BOOKS_SERIES)):
            room = limits.POST_BATCH_MAX - len(self._pending)
            if room <= 0:
                return True
            if dead_left and tail.name.startswith(BOOKS_SERIES):
                continue
            batch, some_left = tail.read(room)
            more |= some_left
            dead_left |= some_left and not tail.live
            for record in batch.records:
                if isinstance(record, Opened):
                    self._take_opened(record, tail)
                elif isinstance(record, Moved):
                    self._take_moved(record)
                else:
                    self._take_closed(record, tail)
        return more

    def _take_opened(self, opened: Opened, tail: Tail) -> None:
        early = self._early.pop(opened.request_id, None)
        if early is None:
            self._opened[opened.request_id] = (opened, tail)
            tail.unresolved(opened.request_id)
            return
        early[1].resolve(opened.request_id)
        self._pending.append((Settlement(opened, early[0]), tail))

    def _take_moved(self, moved: Moved) -> None:
        """Of a request that is not open any more it was read before, and is in the books."""
        found = self._opened.get(moved.request_id)
        if found is not None:
            self._opened[moved.request_id] = (moved.moves(found[0]), found[1])

    def _take_closed(self, closed: Closed, tail: Tail) -> None:
        tail.closes += 1
        found = self._opened.pop(closed.request_id, None)
        if found is None:
            self._early[closed.request_id] = (closed, tail)
            tail.unresolved(closed.request_id)
            return
        opened, opener = found
        opener.resolve(closed.request_id)
        self._pending.append((Settlement(opened, closed), opener))

    def _drop_strays(self, more: bool) -> None:
        """Closes without an open: of requests that were posted before the watermark. Anything else is damage."""
        if more or not self._early:
            return
        with self._engine.connect() as connection:
            done = posted_ids(connection, list(self._early))
        for request_id, (_, tail) in self._early.items():
            tail.resolve(request_id)
            if request_id not in done:
                log.error("close_without_open_found", series=tail.name, request=request_id.hex())
        self._early.clear()

    def _learn_tariffs(self, connection: Connection, settlements: Iterable[Settlement]) -> None:
        """Versions are never edited, so a version read once is known for good."""
        wanted = {id for one in settlements for id in one.opened.tariff_ids}
        if wanted <= self._tariffs.keys():
            return
        self._tariffs = tariffs_by_id(connection)
        missing = wanted - self._tariffs.keys()
        if missing:
            raise BooksError(f"the tariffs {sorted(missing)} of journalled requests are not in the books")
