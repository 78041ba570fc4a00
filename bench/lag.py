"""`make bench-lag`: how long after its close a request is posted, at 2,000 requests/s.

A synthetic worker holds at the teller's socket and writes opens and closes to its journal at an even pace; the real
books process posts them. Lag: from the close in the journal to the word that its charge is committed.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from random import Random

import msgspec

from bench import house
from bench.report import RUNS_MIN, Report
from steelyard.kernel.directory import DataDir
from steelyard.ledger import wire
from steelyard.ledger.teller_client import TellerClient
from steelyard.metering.journal import Journal

RATE = 2_000
SECONDS = 20
TICK_S = 0.005
FIGURES: dict[str, Callable[[list[float]], float]] = {
    "p50": statistics.median,
    "p99": lambda lags: statistics.quantiles(lags, n=100)[98],
    "longest": max,
}


class Watch(TellerClient):
    """A worker's client that notes when it hears what was settled."""

    def __init__(self) -> None:
        super().__init__()
        self.closed_ns: dict[bytes, int] = {}
        self.lags_ms: list[float] = []

    def _on_push(self, op: str, payload: msgspec.Raw) -> None:
        if op == "settled":
            now_ns = time.monotonic_ns()
            for request_id, _ in wire.decode_settled(payload):
                self.lags_ms.append((now_ns - self.closed_ns.pop(request_id)) / 1e6)
        super()._on_push(op, payload)


async def run(data: DataDir, number: int) -> tuple[list[float], float]:
    """The lags in ms, and the requests/s that were made."""
    watch, dice = Watch(), Random(number)
    async with house.worker(data, watch, number) as customer:
        journal = Journal.create(data.journals / watch.series)

        async def one() -> None:
            ask = customer.ask()
            granted = await watch.hold(ask)
            opened = customer.opened(ask, granted.lease)
            journal.append(opened)
            journal.append(customer.closed(opened, dice))
            watch.closed_ns[ask.request_id] = time.monotonic_ns()
            watch.closed()

        made, started = 0, time.monotonic()
        while (elapsed := time.monotonic() - started) < SECONDS:
            due = int(elapsed * RATE) - made
            await asyncio.gather(*(one() for _ in range(due)))
            made += due
            await asyncio.sleep(TICK_S)
        rate = made / (time.monotonic() - started)
        async with asyncio.timeout(SECONDS):
            while watch.closed_ns:
                await asyncio.sleep(TICK_S)
        journal.close()
    return watch.lags_ms, rate


def main() -> int:
    report = Report("lag", "ms")
    with house.places() as places:
        for place, data in places.items():
            with house.books(data):
                runs = [asyncio.run(run(data, number)) for number in range(RUNS_MIN)]
            for name, figure in FIGURES.items():
                to = "" if place == "SQLite" else f"SQLite, {name}"
                report.add(f"{place}, {name}", [figure(lags) for lags, _ in runs], to)
            report.add(f"{place}, requests/s", [rate for _, rate in runs])
    report.finish(requests_per_second=RATE, seconds=SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
