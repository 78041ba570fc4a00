"""`make bench-holds`: what a hold costs, in the teller itself, through its Unix socket, and out of a lease.

A hold is asked for and given back. Through the socket the real books process answers, one after the other and 64 at
once, for a wallet that is worth too few holds to lend from; out of a lease nobody is asked.
"""

import asyncio
import statistics
import sys
import time

import uvloop

from bench import house
from bench.report import RUNS_MIN, Report
from steelyard.kernel import limits
from steelyard.kernel.directory import DataDir
from steelyard.kernel.money import NANO_PER_UNIT
from steelyard.ledger.teller import Teller
from steelyard.ledger.teller_client import TellerClient

IN_PROCESS = 200_000
SERIAL = 10_000
AT_ONCE = 64
CROWDED = 100_000
ASKED = house.TOPUP * NANO_PER_UNIT // (limits.LEASE_WALLET_WORST_CASES_MIN - 10)
"""Nano of a hold of which the wallet covers 64 at once, but not so many that it is lent from."""


async def through_socket(data: DataDir, number: int, want_nano: int) -> tuple[float, float, float]:
    """p50 and p99 of a hold in µs, and holds/s with 64 in flight."""
    client = TellerClient()
    async with house.worker(data, client, number) as customer:
        took_us: list[float] = []
        for _ in range(SERIAL):
            ask = customer.ask(want_nano)
            started_ns = time.perf_counter_ns()
            client.draw(ask) or await client.hold(ask)
            took_us.append((time.perf_counter_ns() - started_ns) / 1e3)
            client.release(ask.request_id)

        async def one_of_many() -> None:
            for _ in range(CROWDED // AT_ONCE):
                ask = customer.ask(want_nano)
                client.draw(ask) or await client.hold(ask)
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
        wants = {"through the socket": ASKED, "out of a lease": house.HOLD_NANO}
        runs = {
            what: [uvloop.run(through_socket(data, RUNS_MIN * turn + number, nano)) for number in range(RUNS_MIN)]
            for turn, (what, nano) in enumerate(wants.items(), 1)
        }
    first = "in the teller, with release"
    report.add(first, direct)
    for what, some in runs.items():
        report.add(f"{what}, p50", [run[0] for run in some], first)
        report.add(f"{what}, p99", [run[1] for run in some], first)
        report.add(f"{what}, 64 in flight, each", [1e6 / run[2] for run in some], first)
        report.add(f"{what}, 64 in flight, holds/s", [run[2] for run in some])
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
