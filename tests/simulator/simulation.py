"""One seed: draws a world, lets it run with faults, brings it to rest, and compares the books with the customers.

Owns the supervisor (what died is started again), the checks while it runs, and the final ones: `steelyard verify` and
the oracle must both be content, and no hold may be left.
"""

import hashlib
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select
from tests.simulator import vendor
from tests.simulator.actors import BooksProcess, Habits, House, Worker, end_quietly
from tests.simulator.bounds import KINDS
from tests.simulator.customers import MODEL
from tests.simulator.desk import Desk
from tests.simulator.faults import FAIR_WEATHER, FAULTS
from tests.simulator.machine import BEGIN_NS, TENANTS_MAX, machine, template
from tests.simulator.world import World

from steelyard.catalog.store import tariffs_by_id
from steelyard.kernel.clock import NS_PER_MS, NS_PER_S
from steelyard.kernel.tariff import Tariff
from steelyard.ledger.chain import UsageRow
from steelyard.ledger.purses import read_purses
from steelyard.ledger.verify import verify
from steelyard.metering import lock
from steelyard.processes import replay as replaying
from steelyard.processes.books import Books
from steelyard.rating.rate import rate
from steelyard.storage import tables


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
            repeats=rng.choice((0.0, 0.0, 0.1)),
            topup_nano=rng.choice((5_000_000, 30_000_000, 1_000_000_000, 10_000_000_000, 10_000_000_000)),
            operations_ns=rng.choice((0, 0, 15, 50)) * NS_PER_MS,
        )
        self.leasing = {  # the world is small: what makes a worker ask for a lease, and how much of one there is
            "LEASE_ROUND_TRIPS_MIN": rng.choice((2, 8, 32)),
            "LEASE_WALLET_WORST_CASES_MIN": rng.choice((4, 20, 100)),
            "LEASE_WALLET_PARTS": rng.choice((2, 16)),
            "LEASE_WORST_CASES_MAX": rng.choice((3, 64)),
        }
        self.house = House(world, root, self.habits)
        world.wall_ns = BEGIN_NS + rng.randrange(4 * NS_PER_S)
        self.fault_every_ns = int(rng.choice((30, 100, 300)) * NS_PER_MS)
        self.weights = FAIR_WEATHER if rng.random() < 0.25 else FAULTS
        self.books_fuses: list[int] = []
        self.worker_fuse = 0
        self.room_at_birth: int | None = None
        self.damaged = False
        self.repair: Callable[[], None] = lambda: None
        self.kills = 0
        self.faulty = True
        self.rows: list[UsageRow] = []
        self.fingerprint = ""
        self.desk = Desk(self.house)
        limited = [one for one in range(1, self.habits.tenants + 1) if rng.random() < 0.3]
        self.limited = {tenant_id: rng.choice(KINDS) for tenant_id in limited}

    def draw_topup(self) -> int:
        return self.world.random.randrange(1, self.habits.topup_nano)

    def limit(self, tenant_id: int, *, lifted: bool = False) -> None:
        """Set the tenant's limit, or lift it for a while."""
        rng, kind = self.world.random, self.limited[tenant_id]
        low, high = {"rpm": (5, 300), "tpm": (1000, 30_000), "concurrency": (1, 12), "budget": (10**6, 10**8)}[kind]
        self.desk.limit(tenant_id, kind, None if lifted else rng.randrange(low, high))

    def run(self, steps: int) -> None:
        """`steps` of trouble, then rest, then the checks."""
        world, house = self.world, self.house
        for tenant_id in range(1, self.habits.tenants + 1):
            self.desk.pay(tenant_id, self.draw_topup())
            if tenant_id in self.limited:
                self.limit(tenant_id)
        self._supervise()
        world.after(0, self._arrive)
        world.after(self.fault_every_ns, self._go_wrong)
        world.after(self.habits.operations_ns, self._operate)
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

    def _operate(self) -> None:
        """Money moves by hand, in half of the worlds."""
        mean_ns = self.habits.operations_ns
        if self.faulty and mean_ns:
            self.desk.money.operate()
            self.world.after(self.world.random.expovariate(1 / mean_ns), self._operate)

    def _go_wrong(self) -> None:
        if not self.faulty:
            return
        rng = self.world.random
        (fault,) = rng.choices(list(self.weights), list(self.weights.values()))
        fault(self)
        self.world.after(rng.expovariate(1 / self.fault_every_ns), self._go_wrong)

    def mend(self) -> None:
        """Take back what was damaged on the disk."""
        if self.damaged:
            self.repair()

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
        self._look_at_leases(running.books)
        for name, tail in running.books._bookkeeper._tails.items():
            if tail.live and lock.is_held(tail.directory) and tail._marked > lock.synced(tail.directory):
                oracle.fault(f"I8: the watermark of {name} is ahead of what is synced")

    def _look_at_leases(self, books: Books) -> None:
        """I7, and that no worker gives by itself more than is set aside for it."""
        leases, oracle = books.lending.leases, self.house.oracle
        for complaint in leases.complaints(books._sessions.keys() | books._posting.absent.keys()):
            oracle.fault(complaint)
        for worker in self.house.workers:
            if worker is None or worker.process.dead or not worker.teller.connected:
                continue
            series, link = worker.teller.series, worker.teller._link
            session = books._sessions.get(series)
            if session is None or link is None or link._transport.peer is not session._transport:
                continue  # it has not noticed yet that these books do not know it
            for tenant_id in range(1, self.habits.tenants + 1):
                free_nano, lent_nano = worker.teller._pools.free(tenant_id), leases.amount(tenant_id, series)
                if free_nano > lent_nano:
                    oracle.fault(f"I7: {series} may give {free_nano} of tenant {tenant_id}, {lent_nano} is set aside")

    def _rest(self) -> None:
        """No more faults and customers; everything that is under way comes to its end."""
        world, house = self.world, self.house
        self.faulty = house.serving = False
        house.database_fails = 0.0
        self.mend()
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
        now_ns = house.clock.now_ns()
        if any(purse.expired_nano(now_ns) for purse in teller._purses.values()):
            return "an expired grant is left"
        if running.books.lending.leases.tenants():
            return f"leases of {running.books.lending.leases.tenants()} are left"
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
            complaints = tuple(running.books.teller.complaints(read_purses(connection)))
            oracle.counted.check(connection)
            tariffs = tariffs_by_id(connection)
            for finding in verify(connection, rate, tariffs, complaints):
                if not finding.ok:
                    oracle.finding(finding.invariant, finding.detail)
            columns = [tables.usage.c[name] for name in UsageRow._fields]
            rows = [UsageRow._make(row) for row in connection.execute(select(*columns))]
            last = connection.execute(select(tables.batches.c.hash).order_by(tables.batches.c.id.desc()).limit(1))
            drawn = hashlib.sha256(repr(self.world.random.getstate()).encode()).hexdigest()
            self.fingerprint = f"{self.world.steps}-{(last.scalar() or b'').hex()[:16]}-{drawn[:16]}"
            if self.seed % 3 == 0:  # it costs as much as a fifth of the run
                for finding in replaying.replay(connection, self.house.data.journals):
                    if not finding.ok:
                        oracle.finding(finding.invariant, finding.detail)
        prices = [tariff for tariff in tariffs.values() if tariff.subject == MODEL]
        for row in rows:
            due = max((one for one in prices if one.effective_from_ns <= row.opened_ns), key=_effective)
            if due.id != row.price_id:
                oracle.fault(f"I9: {row.request_id.hex()} was opened while another price was in force")
        self.world.tally["price switched"] += len({row.price_id for row in rows}) > 1
        with engine.connect() as connection:
            vendor.check(connection, oracle, rows, tariffs)
        oracle.check(rows)
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


def simulate(seed: int, steps: int, folder: Path) -> Result:
    """Run one seed in a folder of its own (a memory file system is quickest) and say what was found."""
    root = folder / "data"
    shutil.rmtree(root, ignore_errors=True)
    sim = Simulation(seed, root)
    sim.house.data.prepare()
    shutil.copy(template(folder), sim.house.data.database)
    with machine(sim):
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
        tally={name: count for name, count in sim.world.tally.items() if count},
        fingerprint=sim.fingerprint,
        faults=oracle.faults,
        trail=list(sim.world.trail),
    )
