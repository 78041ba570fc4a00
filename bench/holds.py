"""`make bench-holds`: what a hold costs, in the teller itself and through its Unix socket.

A hold is asked for and given back. Through the socket the real books process answers: one after the other, and 64 at
once.
"""

import asyncio
import statistics
import sys
import time

import uvloop

from bench import house
from bench.report import RUNS_MIN, Report
from steelyard.kernel.directory import DataDir
from steelyard.ledger.teller import Teller
from steelyard.ledger.teller_client import TellerClient

IN_PROCESS = 200_000
SERIAL = 10_000
AT_ONCE = 64
CROWDED = 100_000


async def through_socket(data: DataDir, number: int) -> tuple[float, float, float]:
    """p50 and p99 of a hold in µs, and holds/s with 64 in flight."""
    client = TellerClient()
    async with house.worker(data, client, number) as customer:
        took_us: list[float] = []
        for _ in range(SERIAL):
            ask = customer.ask()
            started_ns = time.perf_counter_ns()
            await client.hold(ask)
            took_us.append((time.perf_counter_ns() - started_ns) / 1e3)
            client.release(ask.request_id)

        async def one_of_many() -> None:
            for _ in range(CROWDED // AT_ONCE):
                ask = customer.ask()
                await client.hold(ask)
                client.release(ask.request_id)

        started = time.perf_counter()
        await asyncio.gather(*(one_of_many() for _ in range(AT_ONCE)))
        crowded = CROWDED / (time.perf_counter() - started)
    cut = statistics.quantiles(took_us, n=100)
    return cut[49], cut[98], crowded


async def in_process(data: DataDir, number: int) -> float:
    """µs of a grant and its release in a teller of our own."""
    client = TellerClient()
    async with house.worker(data, client, number) as customer:
        asks = [customer.ask() for _ in range(IN_PROCESS)]
    teller = Teller()
    teller.open_wallet(asks[0].tenant_id, 10**15)
    started = time.perf_counter()
    for ask in asks:
        teller.grant(ask, "w0-1")
        teller.release(ask.request_id)
    return (time.perf_counter() - started) / IN_PROCESS * 1e6


def main() -> int:
    report = Report("holds", "µs")
    with house.places() as places, house.books(places["SQLite"]):
        data = places["SQLite"]
        direct = [uvloop.run(in_process(data, number)) for number in range(RUNS_MIN)]
        runs = [uvloop.run(through_socket(data, RUNS_MIN + number)) for number in range(RUNS_MIN)]
    first = "in the teller, with release"
    report.add(first, direct)
    report.add("through the socket, p50", [run[0] for run in runs], first)
    report.add("through the socket, p99", [run[1] for run in runs], first)
    report.add("through the socket, 64 in flight, each", [1e6 / run[2] for run in runs], first)
    report.add("through the socket, 64 in flight, holds/s", [run[2] for run in runs])
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
