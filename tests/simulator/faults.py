"""What goes wrong, by name: each takes the simulation and does one thing to it.

Kills at every labelled place and while recovering, processes that stand still, full and failing disks, lost
connections, journals delivered twice, clocks that step, databases that refuse, power that fails. What each did is
tallied where it takes effect; `INJECTED` names all that a long campaign must have seen.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulator.actors import BooksProcess, Worker
from tests.simulator.bounds import KINDS
from tests.simulator.damage import DAMAGE, damage_a_journal
from tests.simulator.money import OPERATIONS
from tests.simulator.world import Process

from steelyard.kernel.clock import NS_PER_MS, NS_PER_S
from steelyard.kernel.settled import Closed
from steelyard.metering import reader

if TYPE_CHECKING:
    from tests.simulator.simulation import Simulation


def _some_worker(sim: "Simulation") -> Worker | None:
    alive = [worker for worker in sim.house.workers if worker is not None and worker.open]
    return sim.world.random.choice(alive) if alive else None


def _books(sim: "Simulation") -> BooksProcess | None:
    books = sim.house.books
    return books if books is not None and not books.process.dead else None


def kill_worker(sim: "Simulation") -> None:
    if (worker := _some_worker(sim)) is not None:
        worker.process.kill("at a random moment")


def kill_worker_at_a_place(sim: "Simulation") -> None:
    if (worker := _some_worker(sim)) is not None:
        worker.light(sim.world.random.randrange(1, 400))


def kill_worker_while_it_starts(sim: "Simulation") -> None:
    kill_worker(sim)
    sim.worker_fuse = sim.world.random.randrange(1, 10)


def kill_books(sim: "Simulation") -> None:
    if (books := _books(sim)) is not None:
        books.process.kill("at a random moment")


def kill_books_at_a_place(sim: "Simulation") -> None:
    if (books := _books(sim)) is not None:
        books.process.fuse = sim.world.random.randrange(1, 12)


def kill_books_while_it_starts(sim: "Simulation") -> None:
    if (books := _books(sim)) is not None:
        books.process.kill("at a random moment")
        sim.books_fuses = [sim.world.random.randrange(1, 8)]


def kill_books_twice_in_a_row(sim: "Simulation") -> None:
    """It dies, while it recovers from that, and while it recovers from both."""
    if (books := _books(sim)) is not None:
        kill_worker(sim)
        books.process.kill("at a random moment")
        sim.books_fuses = [sim.world.random.randrange(1, 16), sim.world.random.randrange(1, 16)]


def kill_both(sim: "Simulation") -> None:
    kill_worker(sim)
    kill_books(sim)


def _pause(sim: "Simulation", process: Process) -> None:
    """Mostly for a moment, now and then for longer than anybody waits."""
    rng = sim.world.random
    if not process.paused:
        process.pause(int(rng.random() * (800 if rng.random() < 0.9 else 8000) * NS_PER_MS))


def stop_worker(sim: "Simulation") -> None:
    if (worker := _some_worker(sim)) is not None:
        _pause(sim, worker.process)


def stop_books(sim: "Simulation") -> None:
    if (books := _books(sim)) is not None:
        _pause(sim, books.process)


def replace_a_living_worker(sim: "Simulation") -> None:
    """Two workers with one number: the old one stands still, and goes on beside its successor when it wakes."""
    worker = _some_worker(sim)
    if worker is None or worker.process.paused:
        return
    world = sim.world
    world.note(f"{worker.process.name} is replaced while it lives", "two workers with one number")
    sim.house.replaced.append(worker)
    sim.house.workers[worker.number] = Worker(sim.house, worker.number)
    worker.process.pause(int(world.random.random() * 600 * NS_PER_MS))
    world.after(900 * NS_PER_MS, worker.process.kill, "after its successor had come")


def drain_worker(sim: "Simulation") -> None:
    if (worker := _some_worker(sim)) is not None and not worker.process.paused:
        sim.world.tally["worker: SIGTERM"] += 1
        worker.process.start(worker.retire())


def end_books(sim: "Simulation") -> None:
    books = _books(sim)
    if books is not None and books.ready and books.books is not None and not books.process.paused:
        sim.world.note("books are asked to end", "books: SIGTERM")
        sim.world.at(sim.world.now_ns, books.process, books.books.stop)


def cut_connection(sim: "Simulation") -> None:
    """In-flight bytes are lost in both directions; the worker comes back by itself."""
    worker = _some_worker(sim)
    if worker is not None and worker.process.transports:
        sim.world.note(f"{worker.process.name} loses its connection", "worker: connection lost")
        worker.process.transports[0].abort()


def deliver_again(sim: "Simulation") -> None:
    """The bookkeeper reads journals from their watermarks once more, in another order."""
    books = _books(sim)
    if books is None or not books.ready or books.books is None:
        return
    bookkeeper = books.books._bookkeeper
    for tail in bookkeeper._tails.values():
        if tail._position > tail._marked:
            again = reader.read(tail.directory, tail._marked, until=tail._position, max_records=100_000)
            tail.closes -= sum(isinstance(record, Closed) for record in again.records)
            tail._position = tail._marked
            sim.world.note(f"{tail.name} is delivered again", "journal delivered twice")
    names = list(bookkeeper._tails)
    sim.world.random.shuffle(names)
    bookkeeper._tails = {name: bookkeeper._tails[name] for name in names}


def _break_disk(sim: "Simulation", process: Process) -> None:
    """One of: full in mid-write, no room for segments or slots, read-only, a sync that fails. Heals after a while."""
    world, disk = sim.world, process.disk
    match world.random.randrange(4):
        case 0:
            disk.bytes_left = world.random.randrange(2000)
        case 1:
            disk.allocations_left = world.random.randrange(2)
        case 2:
            disk.readonly = True
        case 3:
            disk.sync_fails = True
    world.disturb(f"{process.name}: its disk breaks")
    world.after(world.random.random() * 400 * NS_PER_MS, disk.heal)


def break_workers_disk(sim: "Simulation") -> None:
    if (worker := _some_worker(sim)) is not None:
        _break_disk(sim, worker.process)


def break_books_disk(sim: "Simulation") -> None:
    """Its own journal is where closes of dead workers go, so one dies with it."""
    if (books := _books(sim)) is not None:
        _break_disk(sim, books.process)
        kill_worker(sim)


def start_without_room(sim: "Simulation") -> None:
    """The next worker finds a disk with room for its journal or not even that."""
    kill_worker(sim)
    sim.room_at_birth = sim.world.random.randrange(2)


def sync_stall(sim: "Simulation") -> None:
    worker = _some_worker(sim)
    if worker is None:
        return
    sim.world.note(f"{worker.process.name}: its disk is slow", "worker: slow disk")
    worker.stalled = True

    def go_on() -> None:
        sim.world.disturb(f"{worker.process.name}: its disk goes on")
        worker.stalled = False

    sim.world.after(sim.world.random.random() * 400 * NS_PER_MS, go_on)


def database_refuses(sim: "Simulation") -> None:
    sim.world.disturb("the database refuses now and then")
    sim.house.database_fails = 0.3

    def heal() -> None:
        sim.world.disturb("the database is well again")
        sim.house.database_fails = 0.0

    sim.world.after(sim.world.random.random() * 500 * NS_PER_MS, heal)


def step_clock(sim: "Simulation") -> None:
    seconds = sim.world.random.uniform(-5, 5)
    sim.world.say(f"the clock steps by {seconds:.3f} s")
    sim.world.tally[f"clock stepped {'back' if seconds < 0 else 'forward'}"] += 1
    sim.world.wall_ns += int(seconds * NS_PER_S)


def pay_in(sim: "Simulation") -> None:
    sim.world.tally["top-up beside holds"] += 1
    sim.desk.pay(sim.world.random.randrange(sim.house.habits.tenants) + 1, sim.draw_topup())


def crowd(sim: "Simulation") -> None:
    """Many requests of one tenant at once, at every worker: his wallet and the slots run out."""
    rng = sim.world.random
    tenant_id = rng.randrange(sim.house.habits.tenants) + 1
    sim.world.tally["crowd of one tenant"] += 1
    for _ in range(rng.randrange(8, 40)):
        if (worker := _some_worker(sim)) is not None and not worker.process.paused:
            worker.serve(tenant_id)


def edit_limit(sim: "Simulation") -> None:
    rng = sim.world.random
    if not sim.limited:
        return
    tenant_id = rng.choice(sorted(sim.limited))
    sim.world.tally["limit edited beside holds"] += 1
    sim.limit(tenant_id, lifted=rng.random() < 0.1)


def lose_power(sim: "Simulation") -> None:
    """At once, or when the disks have been slow for a while, so that much is not synced."""
    if sim.world.chance(0.3):
        _power_fails(sim)
        return
    for worker in sim.house.workers:
        if worker is not None:
            worker.stalled = True
    sim.world.after((50 + sim.world.random.random() * 150) * NS_PER_MS, _power_fails, sim)


def _power_fails(sim: "Simulation") -> None:
    """Everything dies at once; the disk keeps what was synced and whatever else it happened to have written."""
    if not sim.faulty:
        return
    sim.mend()
    sim.world.note("the power fails", "power lost")
    sim.house.oracle.lose_power()
    for worker in [*sim.house.workers, *sim.house.replaced]:
        if worker is not None:
            worker.process.kill("with the power")
    if sim.house.books is not None:
        sim.house.books.process.kill("with the power")
    sim.world.tally["torn sectors after a power loss"] += sim.house.medium.lose_power(sim.world.random)


FAULTS: dict[Callable[["Simulation"], None], int] = {
    kill_worker: 6,
    kill_worker_at_a_place: 16,
    kill_worker_while_it_starts: 4,
    kill_books: 4,
    kill_books_at_a_place: 8,
    kill_books_while_it_starts: 3,
    kill_books_twice_in_a_row: 2,
    kill_both: 2,
    stop_worker: 3,
    stop_books: 3,
    replace_a_living_worker: 2,
    drain_worker: 3,
    end_books: 3,
    cut_connection: 6,
    deliver_again: 3,
    break_workers_disk: 8,
    break_books_disk: 4,
    start_without_room: 2,
    sync_stall: 4,
    database_refuses: 4,
    step_clock: 3,
    pay_in: 8,
    crowd: 4,
    edit_limit: 3,
    damage_a_journal: 3,
    lose_power: 3,
}
FAIR_WEATHER = {fault: FAULTS[fault] for fault in (pay_in, crowd, edit_limit, step_clock, drain_worker)}
"""Some worlds know no other trouble: in them the oracle can tell exactly who is solvent."""
_PLACES = ("write", "written", "sync", "synced", "directory sync", "allocation")
RARE = frozenset((
    "worker killed at allocation",
    "worker killed at syncing",
    *(f"books killed at {place}" for place in ("write", "written", "allocation")),
    *(f"worker: EROFS at {what}" for what in ("segment", "slots")),
    *(f"journal damaged: {what}" for what in ("missing segment", "duplicated segment")),
))  # fmt: skip
"""Happened at most once in 1.4 million steps: that a campaign has not met one is chance. All are tallied."""
_ALL = (
    *(f"worker killed at {place}" for place in (*_PLACES, "syncing", "slot store", "send", "sent")),
    *(f"books killed at {place}" for place in (*_PLACES, "commit", "committed")),
    *(
        f"{process} killed {when}"
        for process in ("worker", "books")
        for when in ("at a random moment", "with the power")
    ),
    *(f"{process} stopped and continued" for process in ("worker", "books")),
    *(f"{process}: SIGTERM" for process in ("worker", "books")),
    "two workers with one number",
    "worker killed because its journal has failed",
    "worker: connection lost",
    "worker: slow disk",
    *(f"worker: {error}" for error in ("short write", "ENOSPC at write", "EROFS at write", "EIO at sync")),
    *(f"worker: {error} at {what}" for error in ("ENOSPC", "EROFS") for what in ("segment", "slots")),
    *(f"books: {error}" for error in ("ENOSPC at segment", "EROFS at segment", "EIO at sync")),
    *(f"database: database is locked at {where}" for where in ("begin", "commit")),
    "database: database or disk is full at write",
    "database: disk I/O error at commit whose outcome is unknown",
    "power lost",
    *(f"journal damaged: {what}" for what in DAMAGE),
    "journal repaired",
    "journal delivered twice",
    "clock stepped back",
    "clock stepped forward",
    "price switched",
    *(f"client gone {when}" for when in ("before it was opened", "before the first byte", "in mid-stream")),
    "client gone before the end was told",
    "slow reader",
    *(f"upstream {what}" for what in ("refused", "cut its stream", "above its cap", "without usage")),
    *(f"upstream {what}" for what in ("told usage twice", "took counts back")),
    "crowd of one tenant",
    "top-up beside holds",
    "key repeated",
    "key repeated with another body",
    *(f"request ended: {end}" for end in ("replayed", "idempotency_key_reused", "idempotent_answer_incomplete")),
    "slots exhausted",
    "limit edited beside holds",
    *(f"limit reached: {kind}" for kind in KINDS),
    "wallet spent to the last hold",
    "lease lent",
    "lease lent with a share of limits",
    "request settled out of a lease",
    "lease called back",
    "lease went back unused",
    "lease of a dead worker went back",
    *(f"wallet operation: {name}" for name in OPERATIONS),
    "wallet operation repeated",
)
INJECTED = tuple(name for name in _ALL if name not in RARE)
"""What a long campaign must have seen at least once. Tallied and not asked for, because one in a million steps is chance:
torn sectors after a power loss (a few sectors of one file at a time are not synced), leases void at a greeting."""
