"""One seed: draws a world, lets it run with faults, brings it to rest, and compares the books with the customers.

Owns the supervisor (what died is started again), the checks while it runs, and the final ones: `steelyard verify` and
the oracle must both be content, and no hold may be left.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import structlog
from sqlalchemy import select
from tests.simulator.actors import BooksProcess, Desk, Habits, House, Worker, end_quietly
from tests.simulator.customers import CONTEXT as CONTEXT_TOKENS
from tests.simulator.customers import MODEL, OUTPUT_MAX, UPSTREAM
from tests.simulator.faults import FAIR_WEATHER, FAULTS
from tests.simulator.world import World

from steelyard.catalog.store import tariffs_by_id
from steelyard.kernel.clock import NS_PER_MS, NS_PER_S, ManualClock
from steelyard.kernel.records import Tariff
from steelyard.ledger.chain import UsageRow
from steelyard.ledger.purses import wallet_balances
from steelyard.ledger.salt import ensure_secret
from steelyard.ledger.verify import verify
from steelyard.metering import journal, lock
from steelyard.processes import bookkeeper, books
from steelyard.processes import replay as replaying
from steelyard.processes.office import Office
from steelyard.processes.teller_server import Session
from steelyard.rating.rate import rate
from steelyard.storage import tables
from steelyard.storage.database import migrate, open_database

BEGIN_NS = 1_790_000_000 * NS_PER_S
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
effective_from = 2026-09-21T14:13:23Z
per = "1M tokens"
input = "4"
cached_input = "0.4"
output = "20"
source = "three seconds after the beginning"

[[cost]]
upstream = "{UPSTREAM}"
currency = "CNY"
effective_from = 2020-01-01T00:00:00Z
cpu_hour = "0.10"
watts_per_busy_core = "8"
kwh = "0.60"
source = "test"
"""


class Result(NamedTuple):
    """What one seed did, and what was wrong. `fingerprint` is equal for equal runs."""

    seed: int
    steps: int
    requests: int
    posted: int
    short: int
    refused: int
    kills: int
    tally: dict[str, int]
    fingerprint: str
    faults: list[str]
    trail: list[str]


class Simulation:
    """One world. `run` it once."""

    def __init__(self, seed: int, root: Path) -> None:
        self.seed = seed
        self.world = world = World(seed)
        rng = world.random
        self.habits = Habits(
            tenants=rng.randrange(1, TENANTS_MAX + 1),
            workers=rng.randrange(1, 4),
            slots=rng.choice((2, 4, 8, 16, 32)),
            segment_bytes=rng.choice((16, 32, 64)) * 1024,
            arrivals_ns=int(rng.choice((0.5, 1, 2, 5)) * NS_PER_MS),
            slow=rng.choice((0.0, 0.1, 0.4)),
            leaves=rng.choice((0.0, 0.05, 0.3)),
            breaks=rng.choice((0.0, 0.02, 0.1)),
            excess=rng.choice((0.0, 0.0, 0.05)),
            odd=rng.choice((0.0, 0.0, 0.05)),
            topup_nano=rng.choice((3_000_000, 30_000_000, 1_000_000_000, 10_000_000_000)),
        )
        self.house = House(world, root, self.habits)
        world.wall_ns = BEGIN_NS + rng.randrange(4 * NS_PER_S)
        self.fault_every_ns = int(rng.choice((30, 100, 300)) * NS_PER_MS)
        self.weights = FAIR_WEATHER if rng.random() < 0.25 else FAULTS
        self.books_fuses: list[int] = []
        self.worker_fuse = 0
        self.room_at_birth: int | None = None
        self.kills = 0
        self.faulty = True
        self.rows: list[UsageRow] = []
        self.fingerprint = ""
        self.desk = Desk(self.house)

    def draw_topup(self) -> int:
        return self.world.random.randrange(1, self.habits.topup_nano)

    def run(self, steps: int) -> None:
        """`steps` of trouble, then rest, then the checks."""
        world, house = self.world, self.house
        for tenant_id in range(1, self.habits.tenants + 1):
            self.desk.pay(tenant_id, self.draw_topup())
        self._supervise()
        world.after(0, self._arrive)
        world.after(self.fault_every_ns, self._go_wrong)
        while world.steps < steps and not house.oracle.faults:
            world.step()
            if not world.steps & 255:
                self._look()
        if not house.oracle.faults:
            self._rest()
        if not house.oracle.faults:
            self._check()

    def _arrive(self) -> None:
        if not self.house.serving:
            return
        rng = self.world.random
        worker = rng.choice(self.house.workers)
        if worker is not None and worker.open and not worker.process.paused:
            worker.serve(rng.randrange(self.habits.tenants) + 1)
        self.world.after(rng.expovariate(1 / self.habits.arrivals_ns), self._arrive)

    def _go_wrong(self) -> None:
        if not self.faulty:
            return
        rng = self.world.random
        (fault,) = rng.choices(list(self.weights), list(self.weights.values()))
        fault(self)
        self.world.after(rng.expovariate(1 / self.fault_every_ns), self._go_wrong)

    def _supervise(self) -> None:
        """Start what is not there, replace what has failed: every 20 ms."""
        house, rng = self.house, self.world.random
        if house.books is None or (house.books.process.dead and rng.random() < 0.5):
            self.kills += house.books is not None
            house.books = BooksProcess(house)
            house.books.process.fuse = self.books_fuses.pop() if self.books_fuses else 0
        for number, worker in enumerate(house.workers):
            if worker is None or (worker.process.dead and rng.random() < 0.5):
                self.kills += worker is not None
                born = house.workers[number] = Worker(house, number)
                born.process.fuse, self.worker_fuse = self.worker_fuse, 0
                born.process.disk.allocations_left, self.room_at_birth = self.room_at_birth, None
            elif worker.meter is not None and worker.meter.failed and rng.random() < 0.2:
                worker.process.kill("because its journal has failed")
        self.world.after(20 * NS_PER_MS, self._supervise)

    def _look(self) -> None:
        """What must hold at every moment."""
        running = self.house.books
        if running is None or not running.ready or running.process.dead or running.books is None:
            return
        oracle = self.house.oracle
        for complaint in running.books.teller.complaints():
            oracle.fault(f"I4: {complaint}")
        for name, tail in running.books._bookkeeper._tails.items():
            if tail.live and lock.is_held(tail.directory) and tail._marked > lock.synced(tail.directory):
                oracle.fault(f"I8: the watermark of {name} is ahead of what is synced")

    def _rest(self) -> None:
        """No more faults and customers; everything that is under way comes to its end."""
        world, house = self.world, self.house
        self.faulty = house.serving = False
        house.database_fails = 0.0
        for process in world.processes:
            process.fuse = 0
            process.disk.heal()
        for replaced in house.replaced:
            replaced.process.kill("after its successor had come")
        for worker in house.workers:
            if worker is not None:
                worker.stalled = False
        world.say("no more faults")
        if world.chance(0.3):
            FAULTS_AT_THE_END[world.random.randrange(len(FAULTS_AT_THE_END))](self)
        deadline_ns = world.now_ns + 30 * NS_PER_S
        while world.now_ns < deadline_ns and not (house.oracle.faults or self._resting()):
            until_ns = world.now_ns + 50 * NS_PER_MS
            while world.now_ns < until_ns:
                world.step()
        if not self._resting() and not house.oracle.faults:
            house.oracle.fault(f"it does not come to rest: {self._restless()}")

    def _resting(self) -> bool:
        return not self._restless()

    def _restless(self) -> str:
        running, house = self.house.books, self.house
        if running is None or not running.ready or running.process.dead or running.books is None:
            return "the books are not there"
        for worker in house.workers:
            if worker is None or not worker.open or not worker.teller.connected:
                return "a worker is not there"
            if worker.asking:
                return f"{len(worker.asking)} requests run"
        if self.desk.pending:
            return "a top-up is under way"
        teller = running.books.teller
        if teller.open_holds:
            return f"{teller.open_holds} holds are left"
        if running.books._bookkeeper._opened or running.books._posting.trouble or running.books._posting.absent:
            return (
                f"{len(running.books._bookkeeper._opened)} requests open, {running.books._posting.absent} not settled"
            )
        return ""

    def _check(self) -> None:
        self._look()
        running, oracle = self.house.books, self.house.oracle
        assert running is not None and running.books is not None
        engine = running.books._engine
        with engine.connect() as connection:
            balances = wallet_balances(connection)
            complaints = tuple(running.books.teller.complaints(balances))
            tariffs = tariffs_by_id(connection)
            for finding in verify(connection, rate, tariffs, complaints):
                if not finding.ok:
                    oracle.finding(finding.invariant, finding.detail)
            columns = [tables.usage.c[name] for name in UsageRow._fields]
            rows = [UsageRow._make(row) for row in connection.execute(select(*columns))]
            last = connection.execute(select(tables.batches.c.hash).order_by(tables.batches.c.id.desc()).limit(1))
            drawn = hashlib.sha256(repr(self.world.random.getstate()).encode()).hexdigest()
            self.fingerprint = f"{self.world.steps}-{(last.scalar() or b'').hex()[:16]}-{drawn[:16]}"
            for finding in replaying.replay(connection, self.house.data.journals):
                if not finding.ok:
                    oracle.finding(finding.invariant, finding.detail)
        prices = [tariff for tariff in tariffs.values() if tariff.subject == MODEL]
        for row in rows:
            due = max((one for one in prices if one.effective_from_ns <= row.opened_ns), key=_effective)
            if due.id != row.price_id:
                oracle.fault(f"I9: {row.request_id.hex()} was opened while another price was in force")
        oracle.check(rows, balances)
        self.rows = rows


def _effective(tariff: Tariff) -> int:
    return tariff.effective_from_ns


def _kill_all(sim: Simulation) -> None:
    for worker in sim.house.workers:
        if worker is not None:
            worker.process.kill("at the end")
    if sim.house.books is not None:
        sim.house.books.process.kill("at the end")


def _kill_books(sim: Simulation) -> None:
    if sim.house.books is not None:
        sim.house.books.process.kill("at the end")


FAULTS_AT_THE_END = (_kill_all, _kill_books)


@functools.cache
def _template(root: Path) -> Path:
    """A database with tenants, prices and a model, made once by the real office and copied for every seed."""
    path = root / "template.db"
    path.unlink(missing_ok=True)
    engine = open_database(path)
    migrate(engine)
    office = Office(engine, ManualClock(BEGIN_NS - NS_PER_S))
    for number in range(1, TENANTS_MAX + 1):
        office.command("tenant.add", {"name": f"t{number}"})
    with engine.begin() as connection:
        ensure_secret(connection, bytes)
    office.command("prices.load", {"text": PRICES})
    registration = {"name": MODEL, "upstream": UPSTREAM, "address": "127.0.0.1:1", "upstream_model": MODEL}
    counts = {"context_tokens": CONTEXT_TOKENS, "max_output_tokens": OUTPUT_MAX, "default_max_tokens": OUTPUT_MAX // 2}
    office.command("model.register", registration | counts)
    engine.dispose()  # the last connection takes the write-ahead log into the file
    return path


class _Journals:
    """Stands where the books make their own journal: it gets the simulated disk and no thread."""

    def __init__(self, sim: Simulation) -> None:
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
def _machine(sim: Simulation) -> Iterator[None]:
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
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    try:
        yield
    finally:
        os.getpid, psutil.pid_exists = real_pid, real_exists
        books.open_database, books.migrate = real["open_database"], real["migrate"]
        replaying.open_database, bookkeeper.make_durable = real["open_database"], real["make_durable"]
        books.Session = Session  # type: ignore[misc]
        bookkeeper.Journal, journal.SeriesLock = real_journal, real_lock  # type: ignore[misc]
        structlog.configure(**real_log)


def simulate(seed: int, steps: int, folder: Path) -> Result:
    """Run one seed in a folder of its own (a memory file system is quickest) and say what was found."""
    root = folder / "data"
    shutil.rmtree(root, ignore_errors=True)
    sim = Simulation(seed, root)
    sim.house.data.prepare()
    shutil.copy(_template(folder), sim.house.data.database)
    with _machine(sim):
        try:
            sim.run(steps)
        except Exception as error:
            trace = traceback.extract_tb(error.__traceback__)
            sim.house.oracle.fault(f"raised {error!r} at {trace[-1].filename}:{trace[-1].lineno}")
        finally:
            end_quietly(sim.world.processes)
    oracle, rows = sim.house.oracle, sim.rows
    return Result(
        seed=seed,
        steps=sim.world.steps,
        requests=len(oracle.requests),
        posted=len(rows),
        short=sum(row.short_by_one_read for row in rows),
        refused=oracle.refused,
        kills=sim.kills,
        tally=dict(sim.world.tally),
        fingerprint=sim.fingerprint,
        faults=oracle.faults,
        trail=list(sim.world.trail),
    )
