"""The parties: worker and books processes around the real classes, and whoever pays in.

Owns how each of them behaves. Knows no fault by name (faults.py) and no right or wrong (oracle.py).
"""

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from tests.simulator.customers import CONTEXT, MODEL, OUTPUT_MAX, UPSTREAM, Customer, Repeatable, Upstream
from tests.simulator.medium import Medium
from tests.simulator.oracle import Oracle
from tests.simulator.world import Killed, Process, SimClock, World

from steelyard import flow
from steelyard.gateway.once import Once
from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import SteelyardError
from steelyard.kernel.ids import Ids
from steelyard.kernel.records import Order, Quote
from steelyard.kernel.settled import Position
from steelyard.ledger.teller_client import TellerClient
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.frames import segment_path
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter, Reading
from steelyard.metering.slots import Slots
from steelyard.processes.books import Books
from steelyard.rating.bounds import worst_case_nano


@dataclass(slots=True)
class Habits:
    """What one seed's world is like; drawn by the simulation."""

    tenants: int
    workers: int
    slots: int
    segment_bytes: int
    arrivals_ns: int  # mean time between two requests
    slow: float  # share of sends that take a while
    leaves: float  # chance per piece that the customer hangs up
    breaks: float  # chance per read that the upstream fails
    excess: float  # share of sequences that ignore their cap
    odd: float  # share of sequences that tell no usage, tell it twice, or take counts back
    repeats: float  # share of requests with an Idempotency-Key that are asked again
    topup_nano: int
    operations_ns: int  # mean time between two wallet operations by hand; 0: there are none


class House:
    """Everything the actors share."""

    def __init__(self, world: World, root: Path, habits: Habits) -> None:
        self.world, self.habits = world, habits
        self.data = DataDir(root)
        self.medium = Medium(self.data.journals)
        self.oracle = Oracle()
        self.clock = SimClock(world)
        self.workers: list[Worker | None] = [None] * habits.workers
        self.replaced: list[Worker] = []  # alive, but another one has their number now
        self.books: BooksProcess | None = None
        self.database_fails = 0.0  # share of commits and reads that the database refuses
        self.serving = True  # customers come

    def repeat(self, tenant_id: int, body: "Body") -> None:
        """The same request once more, at whichever worker is there."""
        open_ones = [one for one in self.workers if one is not None and one.open and not one.process.paused]
        if open_ones and self.serving:
            self.world.random.choice(open_ones).serve(tenant_id, body)


class Body(NamedTuple):
    """What a request asks for; `key` is empty without an Idempotency-Key."""

    key: str
    prompt: int
    asked: int | None
    sequences: int


class Fused:
    """The words of a slot file while its owner's fuse burns: every store is a place to die."""

    def __init__(self, words: memoryview, process: Process) -> None:
        self._words, self._process = words, process

    def __getitem__(self, index: Any) -> Any:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._process.burn("slot store")
        self._words[index] = value

    def release(self) -> None:
        self._words.release()


class Counter(Meter):
    """Tells the oracle of a request when it is opened: an upstream may still fail before it has said anything."""

    oracle: Oracle

    def open(self, order: Order, quote: Quote, why: bytes = b"") -> Reading:
        reading = super().open(order, quote, why)
        self.oracle.promised(order.request_id, quote)
        return reading


class Worker:
    """A worker process: the real client, journal, slots, meter and conductor."""

    def __init__(self, house: House, number: int) -> None:
        self.house, self.number = house, number
        self.world = house.world
        self.process = Process(self.world, f"worker {number}", house.medium)
        self.teller = TellerClient()
        self.meter: Meter | None = None
        self.journal: Journal | None = None
        self.slots: Slots | None = None
        self.closing = False
        self.tending = False
        self.stalled = False
        self.turns = 0
        self.asking: dict[bytes, asyncio.Task[None]] = {}
        self.closes: list[tuple[Position, bytes]] = []
        self._ids = Ids(house.clock, self.world.random.randbytes)
        self.process.on_death.append(self._drop)
        self.process.start(self._main())

    @property
    def open(self) -> bool:
        return self.meter is not None and not self.process.dead and not self.closing

    async def _main(self) -> None:
        try:
            await self.teller.connect(self.house.data.socket, self.number)
            habits, disk = self.house.habits, self.process.disk
            directory = self.house.data.journals / self.teller.series
            self.journal = Journal.create(directory, segment_bytes=habits.segment_bytes, disk=disk, threaded=False)
            disk.may_overlap = self._may_overlap
            self.slots = Slots.create(directory / "slots", habits.slots, disk=disk, threaded=False)
        except SteelyardError as error:
            self.world.say(f"{self.process.name} cannot start: {error}")
            self.process.exit()
            return
        energy, soon = EnergyClocks(self.house.data.energy), asyncio.get_running_loop().call_soon
        self.meter = Counter(self.journal, self.slots, self.house.clock, energy, soon)
        self.meter.oracle = self.house.oracle
        self.conductor = flow.House(self.teller, self.meter, {UPSTREAM: Upstream(self)}, self.house.clock)
        self.once = Once(self.conductor, self.teller)
        self.world.say(f"{self.process.name} opens {self.teller.series}")
        self.world.at(self.world.now_ns, self.process, self._tend)
        await self.teller.fenced.wait()
        self.world.say(f"{self.process.name} is fenced")
        self.process.kill("because it was fenced")

    def _may_overlap(self) -> bool:
        journal = self.journal
        return self.tending and journal is not None and not journal._growing.locked()

    def _tend(self) -> None:
        """The syncer's turn, every 5 ms."""
        assert self.journal is not None
        if self.journal._closed:
            return
        if not self.stalled:
            self.tending = True
            try:
                self.journal.tend()
                self._tend_slots()
            finally:
                self.tending = False
            self._became_durable()
        self.world.at(self.world.now_ns + 5 * NS_PER_MS, self.process, self._tend)

    def _tend_slots(self) -> None:
        """Every hundredth of a second here, to meet more losses of power in mid-interval."""
        assert self.slots is not None
        self.turns += 1
        if self.turns % 2 or not self.slots._dirty:
            return
        left = {request_id: len(self.house.oracle.requests[request_id].left) for request_id in self.asking}
        self.slots.tend()
        if not self.slots.failed:
            for request_id, pieces in left.items():
                self.house.oracle.requests[request_id].durable = pieces

    def _became_durable(self) -> None:
        journal = self.journal
        assert journal is not None
        synced = journal.synced
        while self.closes and self.closes[0][0] <= synced:
            self.house.oracle.requests[self.closes.pop(0)[1]].firm = True
        path = str(segment_path(journal._directory, synced.segment))
        medium = self.house.medium.bytes.get(path, b"")[: synced.offset]
        if Path(path).exists() and medium != Path(path).read_bytes()[: synced.offset]:
            self.house.oracle.fault(f"I8: {self.teller.series} published {synced} before it was on the medium")

    def _drop(self) -> None:
        """The kernel closes what the dead process had open: the lock above all."""
        for request_id in self.asking:
            self.house.oracle.ended(request_id, "worker_died", self.world.now_ns)

    def light(self, steps: int) -> None:
        """Have it die at the `steps`-th labelled place from now."""
        self.process.fuse = steps
        if self.slots is not None and not isinstance(self.slots._words, Fused):
            self.slots._words = Fused(self.slots._words, self.process)  # type: ignore[assignment]

    async def retire(self) -> None:
        """SIGTERM: nothing new, let running requests end for a while, then cut them; leave in order."""
        if not self.open:
            return
        assert self.meter is not None
        self.closing = True
        self.world.say(f"{self.process.name} drains")
        self.meter.retire()
        for _ in range(40):
            if not self.asking:
                break
            await asyncio.sleep(0.01)
        for task in list(self.asking.values()):
            task.cancel()
        while self.asking or self.tending:
            await asyncio.sleep(0.001)
        self.meter.close()
        self._became_durable()
        await self.teller.close()
        self.process.exit()

    def serve(self, tenant_id: int, again: "Body | None" = None) -> None:
        """A customer's request arrives; `again` under the key of one before."""
        world, habits = self.world, self.house.habits
        rng = world.random
        body = again or self._new_body(tenant_id)
        prompt, asked, sequences = body.prompt, body.asked, body.sequences
        params = {"prompt": msgspec.Raw(str(prompt).encode())}
        order = Order(self._ids.next(), MODEL, params, prompt + rng.randrange(50), asked, sequences, True)
        customer = Customer(self, order, tenant_id)
        price = self.conductor.teller.snapshot.prices[MODEL][0]
        most = min(asked or OUTPUT_MAX // 2, OUTPUT_MAX)
        bound = min(order.prompt_tokens_max, CONTEXT)
        self.house.oracle.asked(
            order.request_id, tenant_id, 2 * worst_case_nano(price, bound, most, sequences), world.now_ns
        )
        if body.key:
            another = again is not None and rng.random() < 0.1
            customer.wire = Repeatable(customer, tenant_id, body.key, b"another" if another else b"same")
            self.house.oracle.keys.setdefault((tenant_id, body.key), []).append(order.request_id)
            world.tally["key repeated with another body" if another else "key repeated"] += again is not None
        customer.floor_nano = worst_case_nano(price, bound, 1, sequences)
        task = self.process.loop.create_task(customer.ask())
        self.asking[order.request_id] = task
        task.add_done_callback(lambda _: self._gone_before_it_began(order.request_id))
        if rng.random() < habits.leaves:
            world.after(rng.random() * 30 * NS_PER_MS, customer.hang_up, task)

    def _new_body(self, tenant_id: int) -> "Body":
        """Some customers send a key and ask again: at once, in a moment, or when the answer is long there."""
        rng = self.world.random
        key = f"r{len(self.house.oracle.requests)}" if rng.random() < self.house.habits.repeats else ""
        asked = rng.choice((None, rng.randrange(1, OUTPUT_MAX * 2)))
        body = Body(key, rng.randrange(1, 200), asked, 2 if rng.random() < 0.05 else 1)
        for _ in range(rng.randrange(1, 4) if key else 0):
            self.world.after(rng.random() * rng.choice((5, 50, 500)) * NS_PER_MS, self.house.repeat, tenant_id, body)
        return body

    def _gone_before_it_began(self, request_id: bytes) -> None:
        """A task that is cancelled before its first step runs not even its `finally`."""
        if self.asking.pop(request_id, None) is not None and not self.process.dead:
            self.house.oracle.ended(request_id, "client_gone", self.world.now_ns)


class BooksProcess:
    """The books process: the real Books behind the simulated socket, with a database that may refuse."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.process = Process(house.world, "books", house.medium)
        self.books: Books | None = None
        self.engines: list[Engine] = []
        self.ready = False
        self.process.on_death.append(self._drop)
        self.process.start(self._main())

    async def _main(self) -> None:
        try:
            self.books = await Books.open(self.house.data, self.house.clock, flow.settle)
            await self.books.serve()
        except (SteelyardError, OperationalError) as error:
            self.house.world.say(f"books cannot start: {error}")
            self.process.exit()
            return
        self.ready = True
        self.house.world.say("books open")
        await self.books.run()
        self.process.exit()

    def instrument(self, engine: Engine) -> Engine:
        """Every commit may fail before it happened, or after (unknown outcome), and is a place to die."""
        self.engines.append(engine)
        dialect, commit = engine.dialect, engine.dialect.do_commit

        execute, execute_many = dialect.do_execute, dialect.do_executemany

        def do_commit(connection: Any) -> None:
            self.process.burn("commit")
            self._maybe_refuse("database is locked", "commit")
            commit(connection)
            self.process.burn("committed")
            self._maybe_refuse("disk I/O error", "commit whose outcome is unknown")

        def do_execute(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
            self._maybe_refuse_statement(statement)
            execute(cursor, statement, parameters, context)

        def do_execute_many(cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
            self._maybe_refuse_statement(statement)
            execute_many(cursor, statement, parameters, context)

        dialect.do_commit = do_commit  # type: ignore[method-assign]
        dialect.do_execute, dialect.do_executemany = do_execute, do_execute_many  # type: ignore[method-assign]
        return engine

    def _maybe_refuse_statement(self, statement: str) -> None:
        if self.house.database_fails and self.house.world.chance(0.3):
            if statement.startswith("BEGIN"):
                self._maybe_refuse("database is locked", "begin")
            elif not statement.startswith("SELECT"):
                self._maybe_refuse("database or disk is full", "write")

    def _maybe_refuse(self, why: str, where: str) -> None:
        world = self.house.world
        if self.house.database_fails and world.chance(self.house.database_fails):
            world.note(f"database refuses: {why}", f"database: {why} at {where}")
            raise sqlite3.OperationalError(why)

    def create_journal(self, directory: Path, *, segment_bytes: int) -> Journal:
        return Journal.create(directory, segment_bytes=16 * 1024, disk=self.process.disk, threaded=False)

    def _drop(self) -> None:
        for engine in self.engines:
            engine.dispose()


def end_quietly(processes: list[Process]) -> None:
    """Unwind what never ran on, so that nothing of it is left for the next seed."""
    for process in processes:
        if not process.dead:
            process.dead = True
            process.bury()
    for process in processes:
        for task in process.tasks:
            if task.done():
                continue
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            try:
                task.get_coro().close()
            except (Killed, RuntimeError, ValueError, OSError, SteelyardError):
                pass
