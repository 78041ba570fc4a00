"""What goes wrong, by name: each takes the simulation and does one thing to it.

The list is that of the books' design (kills at every labelled place, full and failing disks, lost connections, clocks
that step, databases that refuse, power that fails); `HEAL` undoes what lasts.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulator.actors import BooksProcess, Worker

from steelyard.kernel.clock import NS_PER_MS, NS_PER_S

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
        worker.process.kill("SIGKILL")


def kill_worker_at_a_place(sim: "Simulation") -> None:
    if (worker := _some_worker(sim)) is not None:
        worker.light(sim.world.random.randrange(1, 400))


def kill_worker_while_it_starts(sim: "Simulation") -> None:
    kill_worker(sim)
    sim.worker_fuse = sim.world.random.randrange(1, 10)


def kill_books(sim: "Simulation") -> None:
    if (books := _books(sim)) is not None:
        books.process.kill("SIGKILL")


def kill_books_at_a_place(sim: "Simulation") -> None:
    if (books := _books(sim)) is not None:
        books.process.fuse = sim.world.random.randrange(1, 12)


def kill_books_while_it_starts(sim: "Simulation") -> None:
    if (books := _books(sim)) is not None:
        books.process.kill("SIGKILL")
        sim.books_fuse = sim.world.random.randrange(1, 8)


def kill_both(sim: "Simulation") -> None:
    kill_worker(sim)
    kill_books(sim)


def stop_worker(sim: "Simulation") -> None:
    if (worker := _some_worker(sim)) is not None and not worker.process.paused:
        worker.process.pause(int(sim.world.random.random() * 800 * NS_PER_MS))


def stop_books(sim: "Simulation") -> None:
    if (books := _books(sim)) is not None and not books.process.paused:
        books.process.pause(int(sim.world.random.random() * 800 * NS_PER_MS))


def drain_worker(sim: "Simulation") -> None:
    if (worker := _some_worker(sim)) is not None and not worker.process.paused:
        worker.process.start(worker.retire())


def end_books(sim: "Simulation") -> None:
    books = _books(sim)
    if books is not None and books.ready and books.books is not None and not books.process.paused:
        sim.world.disturb("books are asked to end")
        sim.world.at(sim.world.now_ns, books.process, books.books.stop)


def cut_connection(sim: "Simulation") -> None:
    """In-flight bytes are lost in both directions; the worker comes back by itself."""
    worker = _some_worker(sim)
    if worker is not None and worker.process.transports:
        sim.world.disturb(f"{worker.process.name} loses its connection")
        worker.process.transports[0].abort()


def short_write(sim: "Simulation") -> None:
    if (worker := _some_worker(sim)) is not None:
        sim.world.disturb(f"{worker.process.name}: its disk fills up in mid-write")
        worker.process.disk.bytes_left = sim.world.random.randrange(2000)


def disk_full(sim: "Simulation") -> None:
    """Nothing can be allocated for a while; what was allocated still can be written."""
    worker = _some_worker(sim)
    if worker is None:
        return
    disk = worker.process.disk
    sim.world.disturb(f"{worker.process.name}: no space for new segments")
    disk.full = True
    sim.world.after(sim.world.random.random() * 400 * NS_PER_MS, setattr, disk, "full", False)


def sync_error(sim: "Simulation") -> None:
    if (worker := _some_worker(sim)) is not None:
        sim.world.disturb(f"{worker.process.name}: its disk cannot sync")
        worker.process.disk.sync_fails = True


def sync_stall(sim: "Simulation") -> None:
    worker = _some_worker(sim)
    if worker is None:
        return
    sim.world.disturb(f"{worker.process.name}: its disk is slow")
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
    sim.world.wall_ns += int(seconds * NS_PER_S)


def pay_in(sim: "Simulation") -> None:
    sim.desk.pay(sim.world.random.randrange(sim.house.habits.tenants) + 1, sim.draw_topup())


def lose_power(sim: "Simulation") -> None:
    """Everything dies at once; the disk keeps what was synced and whatever else it happened to have written."""
    sim.world.disturb("the power fails")
    sim.power_losses += 1
    sim.house.oracle.lose_power()
    for worker in sim.house.workers:
        if worker is not None:
            worker.process.kill("power")
    if sim.house.books is not None:
        sim.house.books.process.kill("power")
    sim.house.medium.lose_power(sim.world.random)


FAULTS: dict[Callable[["Simulation"], None], int] = {
    kill_worker: 6,
    kill_worker_at_a_place: 14,
    kill_worker_while_it_starts: 4,
    kill_books: 4,
    kill_books_at_a_place: 8,
    kill_books_while_it_starts: 3,
    kill_both: 2,
    stop_worker: 3,
    stop_books: 3,
    drain_worker: 3,
    end_books: 3,
    cut_connection: 6,
    short_write: 3,
    disk_full: 3,
    sync_error: 2,
    sync_stall: 4,
    database_refuses: 4,
    step_clock: 3,
    pay_in: 8,
    lose_power: 2,
}
FAIR_WEATHER = {fault: FAULTS[fault] for fault in (pay_in, step_clock, drain_worker)}
"""Some worlds know no other trouble: in them the oracle can tell exactly who is solvent."""
