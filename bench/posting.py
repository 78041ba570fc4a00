"""How many requests the books post in a second, in SQLite and in PostgreSQL, by batch size.

Full posting, through `flow.settle`: rating with both books, usage rows, entries, account totals, roll-ups by hour and
day, the batch's hash, the watermark, and the commit to the disk. Only making the settlements is not counted. The rows
per second of CPU count the server's time too; they say what a machine with something else to do would give alone.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psutil
from sqlalchemy import Engine
from tests.fakes.ledger import TARIFFS, Requests, books
from tests.fakes.postgres import Server

from bench.report import Report
from steelyard import flow
from steelyard.kernel.clock import NS_PER_MS, ManualClock
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Position, Settlement
from steelyard.processes.collector import look_less_often

REQUESTS = 20_000
RUNS = 3
BATCHES = (1000, 100)
TENANTS = [f"tenant-{number}" for number in range(50)]
Place = Path | DatabaseUrl
Busy = Callable[[], float]
"""Seconds of CPU that all processes at work have used."""


def settlements(seed: int) -> list[Settlement]:
    """Requests of all tenants over about an hour, in the order of their ids."""
    dice = Random(seed)
    requests = Requests(ManualClock())
    made = []
    for _ in range(REQUESTS):
        requests.clock.advance(dice.randrange(180) * NS_PER_MS)
        opened = requests.opened(tenant_id=1 + dice.randrange(len(TENANTS)))
        usage = Usage(dice.randrange(2000), dice.randrange(500), dice.randrange(800), dice.randrange(10**10), 10**7)
        made.append(Settlement(opened, requests.closed(opened, usage)))
    return made


def post(engine: Engine, load: Sequence[Settlement], batch: int, busy: Busy) -> tuple[float, float]:
    """Requests per second by the wall's clock, and per second of CPU."""
    clock = ManualClock()
    look_less_often()  # as the books do; the load is not theirs to look through either
    began, began_busy = time.perf_counter(), busy()
    for start in range(0, len(load), batch):
        marks = {"w0-1": Position(0, start)}
        with engine.begin() as connection:
            flow.settle(connection, load[start : start + batch], TARIFFS, marks, clock)
    took, took_busy = time.perf_counter() - began, busy() - began_busy
    return len(load) / took, len(load) / took_busy


@contextmanager
def sqlite() -> Iterator[tuple[Place, Busy]]:
    folder = Path(tempfile.mkdtemp(prefix="steelyard-bench-"))
    yield folder / "books.db", time.process_time
    shutil.rmtree(folder)


@contextmanager
def postgresql() -> Iterator[tuple[Place, Busy]]:
    """A server of its own, as durable as it comes (fsync on)."""
    server = Server(durable=True)
    with server.database() as url:
        yield url, lambda: time.process_time() + _used(server.pid)
    server.stop()


def _used(pid: int) -> float:
    """Of a process and its children."""
    times = [one.cpu_times() for one in (psutil.Process(pid), *psutil.Process(pid).children())]
    return float(sum(one.user + one.system for one in times))


def main() -> None:
    load = settlements(seed=1)
    report = Report("posting", "requests/s")
    for name, database in (("SQLite", sqlite), ("PostgreSQL", postgresql)):
        for batch in BATCHES:
            runs = []
            for _ in range(RUNS):
                with database() as (place, busy):
                    engine = books(place, TENANTS)
                    runs.append(post(engine, load, batch, busy))
                    engine.dispose()
            label = f"{name}, batches of {batch}"
            report.add(label, [wall for wall, _ in runs])
            report.add(f"{label}: per second of CPU", [cpu for _, cpu in runs], to=label)
    report.finish(requests=REQUESTS, runs=RUNS, load_average=os.getloadavg()[0])


if __name__ == "__main__":
    main()
