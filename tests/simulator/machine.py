"""What the program asks the system for by name, simulated: process ids, its database, its log, its journals and locks.

Owns the replacing of those names while a simulation runs, and the database that every seed begins with.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import structlog
from tests.simulator.customers import CONTEXT, MODEL, OUTPUT_MAX, SECRETS, UPSTREAM
from tests.simulator.vendor import COSTS
from tests.simulator.world import World

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.records import Use
from steelyard.ledger.leases import Leases, Lent
from steelyard.ledger.salt import ensure_secret
from steelyard.ledger.shares import Share
from steelyard.metering import journal, lock
from steelyard.processes import bookkeeper, books, lending
from steelyard.processes import replay as replaying
from steelyard.processes.office import Office
from steelyard.processes.teller_server import Session
from steelyard.storage.database import migrate, open_database

if TYPE_CHECKING:
    from tests.simulator.simulation import Simulation

BEGIN_NS = 1_790_006_396 * NS_PER_S  # four seconds before midnight in Shanghai
TENANTS_MAX = 4
PRICES = f"""
[[price]]
model = "{MODEL}"
currency = "CNY"
effective_from = 2020-01-01T00:00:00Z
per = "1M tokens"
input = "3.0005"
cached_input = "0.3"
output = "15.0015"
source = "before"

[[price]]
model = "{MODEL}"
currency = "CNY"
effective_from = 2026-09-21T16:00:00Z
per = "1M tokens"
input = "4"
cached_input = "0.4"
output = "20"
source = "at midnight"
"""


@functools.cache
def template(root: Path) -> Path:
    """A database with tenants, prices and a model, made once by the real office and copied for every seed."""
    path = root / "template.db"
    path.unlink(missing_ok=True)
    engine = open_database(path)
    migrate(engine)
    office = Office(engine, ManualClock(BEGIN_NS - NS_PER_S))
    for number in range(1, TENANTS_MAX + 1):
        office.command("tenant.add", {"name": f"t{number}"})
        SECRETS[number] = office.command("key.add", {"tenant": f"t{number}", "name": "one"})["key"]
    with engine.begin() as connection:
        ensure_secret(connection, bytes)
    office.command("prices.load", {"text": PRICES + COSTS})
    registration = {"name": MODEL, "upstream": UPSTREAM, "address": "127.0.0.1:1", "upstream_model": MODEL}
    counts = {"context_tokens": CONTEXT, "max_output_tokens": OUTPUT_MAX, "default_max_tokens": OUTPUT_MAX // 2}
    office.command("model.register", registration | counts)
    engine.dispose()  # the last connection takes the write-ahead log into the file
    return path


class _Journals:
    """Stands where the books make their own journal: it gets the simulated disk and no thread."""

    def __init__(self, sim: "Simulation") -> None:
        self._sim = sim

    def create(self, directory: Path, *, segment_bytes: int) -> object:
        assert self._sim.house.books is not None
        return self._sim.house.books.create_journal(directory, segment_bytes=segment_bytes)


def _locks(world: World) -> type[lock.SeriesLock]:
    """The real lock, known to its process, so that the kernel lets go of it when that dies."""

    class KnownLock(lock.SeriesLock):
        def __init__(self, fd: int) -> None:
            super().__init__(fd)
            if world.current is not None:
                world.current.locks.append(self)
            self._released = False

        def release(self) -> None:
            if not self._released:
                self._released = True
                super().release()

    return KnownLock


def _leases(sim: "Simulation") -> type[Leases]:
    """The real leases, counted."""
    tally = sim.world.tally

    class CountedLeases(Leases):
        def lend(self, tenant_id: int, series: str, worst_nano: int, use: Use | None = None) -> Lent:
            lent = super().lend(tenant_id, series, worst_nano, use)
            tally["lease lent"] += lent.amount_nano > 0
            tally["lease lent with a share of limits"] += lent.share is not None
            return lent

        def call_back(self, tenant_id: int) -> list[str]:
            tally["lease called back"] += any(
                lease.settled is None for lease in self._leases.get(tenant_id, {}).values()
            )
            return super().call_back(tenant_id)

        def give_back(self, tenant_id: int, series: str, amount_nano: int, shares: Sequence[Share] = ()) -> None:
            tally["lease went back unused"] += self.amount(tenant_id, series) > 0
            super().give_back(tenant_id, series, amount_nano, shares)

        def settle(
            self, tenant_id: int, series: str, request_id: bytes, hold_nano: int, used: Use | None = None
        ) -> bool:
            done = super().settle(tenant_id, series, request_id, hold_nano, used)
            tally["request settled out of a lease"] += done
            return done

        def drop(self, series: str) -> None:
            if any(series in of_tenant for of_tenant in self._leases.values()):
                named = [
                    one for one in (*sim.house.workers, *sim.house.replaced) if one and one.teller.series == series
                ]
                tally["lease void at a greeting" if any(not one.process.dead for one in named) else HOLDER_DIED] += 1
            super().drop(series)

    return CountedLeases


HOLDER_DIED = "lease of a dead worker went back"


class SharedCache(dict[Any, Any]):
    """Compiled statements for all engines of all processes: the first part of the key names the engine's dialect."""

    one: "SharedCache"

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key[1:], default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key[1:], value)


SharedCache.one = SharedCache()


class NumberedSession(Session):
    """Sessions are kept in sets: walked in the order in which they came, not in that of their addresses."""

    _numbers = itertools.count()

    def __init__(self, counter: books.Books) -> None:
        super().__init__(counter)
        self._number = next(self._numbers)

    def __hash__(self) -> int:
        return self._number


@contextlib.contextmanager
def machine(sim: "Simulation") -> Iterator[None]:
    """What the program asks the system for by name: process ids, its database, its log, journals."""
    real_pid, real_exists, real_log = os.getpid, psutil.pid_exists, structlog.get_config()
    real = {name: getattr(books, name) for name in ("open_database", "migrate")}
    real["make_durable"] = bookkeeper.make_durable

    def pid() -> int:
        return sim.world.current.pid if sim.world.current else real_pid()

    def exists(number: int) -> bool:
        return any(process.pid == number and not process.dead for process in sim.world.processes)

    def open_instrumented(path: Path, *, readonly: bool = False) -> object:
        engine = real["open_database"](path, readonly=readonly)
        assert sim.house.books is not None
        engine._compiled_cache = SharedCache.one
        return engine if readonly else sim.house.books.instrument(engine)

    def open_scratch(path: Path) -> object:
        engine = real["open_database"](path)
        engine._compiled_cache = SharedCache.one
        return engine

    def make_durable(directory: Path) -> None:
        real["make_durable"](directory, sim.world.current.disk)

    os.getpid, psutil.pid_exists = pid, exists  # type: ignore[assignment]
    replaying.open_database, bookkeeper.make_durable = open_scratch, make_durable
    books.open_database, books.migrate = open_instrumented, lambda engine: None  # type: ignore[assignment]
    books.Session, NumberedSession._numbers = NumberedSession, itertools.count()  # type: ignore[misc]
    journal.SeriesLock, real_lock = _locks(sim.world), journal.SeriesLock  # type: ignore[misc]
    bookkeeper.Journal, real_journal = _Journals(sim), bookkeeper.Journal  # type: ignore[misc,assignment]
    lending.Leases = _leases(sim)  # type: ignore[misc]
    bounds = {name: getattr(limits, name) for name in sim.leasing}
    for name, value in sim.leasing.items():
        setattr(limits, name, value)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    try:
        yield
    finally:
        os.getpid, psutil.pid_exists = real_pid, real_exists
        books.open_database, books.migrate = real["open_database"], real["migrate"]
        replaying.open_database, bookkeeper.make_durable = real["open_database"], real["make_durable"]
        books.Session, lending.Leases = Session, Leases  # type: ignore[misc]
        for name, value in bounds.items():
            setattr(limits, name, value)
        bookkeeper.Journal, journal.SeriesLock = real_journal, real_lock  # type: ignore[misc]
        structlog.configure(**real_log)
