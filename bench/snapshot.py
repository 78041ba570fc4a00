"""`make bench-snapshot`: a large house (100,000 tenants, a million keys, 2,000 models): what it costs to know it.

Two workers, each a process of its own with nothing but the teller's client, and the real books process. Pauses are the
longest stretch that one call of the loop took (its CPU time, so that a busy machine does not count), memory is from
/proc. `ARGS="--keys 10000"` for a smaller house.
"""

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import uvloop
from sqlalchemy import insert

from bench import house
from bench.report import RUNS_MIN, Report
from steelyard.identity.keys import authenticate
from steelyard.kernel.directory import DataDir
from steelyard.kernel.ids import secret_hash
from steelyard.kernel.quantities import Meter
from steelyard.kernel.tariff import TariffLine
from steelyard.ledger import wire
from steelyard.ledger.teller_client import TellerClient
from steelyard.processes.collector import look_less_often
from steelyard.storage import tables
from steelyard.storage.database import migrate, open_database

MODELS = 2000
LOOKED_UP = 100_000
Row = dict[str, Any]


def secret(number: int) -> str:
    return f"sk-sy-{number:032d}"


def build(data: DataDir, tenants: int, keys: int) -> None:
    """The rows of such a house, at the speed of the database."""
    data.prepare()
    engine = open_database(data.database)
    migrate(engine)
    people = [{"id": n, "name": f"tenant {n}", "currency": "CNY", "created_ns": 0} for n in range(1, tenants + 1)]
    account = {"kind": "wallet", "currency": "CNY", "debit_nano": 0, "credit_nano": 0}
    lines = [TariffLine(meter, "1.25", 1_250_000, 1) for meter in (Meter.INPUT, Meter.CACHED_INPUT, Meter.OUTPUT)]
    tariff = {"currency": "CNY", "effective_from_ns": 0, "loaded_ns": 0, "source": "bench", "watts_milli": 0}
    tariff["lines"] = msgspec.json.encode(lines).decode()
    offer = {"upstream": "vendor", "address": "127.0.0.1:1", "context_tokens": 8192, "max_output_tokens": 4096}
    numbers = range(1, MODELS + 1)
    with engine.begin() as connection:

        def rows(table: Any, some: Iterator[Row]) -> None:
            while batch := list(islice(some, 10_000)):
                connection.execute(insert(table), batch)

        rows(tables.tenants, iter(people))
        rows(tables.projects, ({**one, "name": "default", "tenant_id": one["id"]} for one in people))
        rows(tables.accounts, ({**account, "name": f"wallet:{one['name']}", "tenant_id": one["id"]} for one in people))
        rows(tables.keys, (_key(n, (n - 1) * tenants // keys + 1) for n in range(1, keys + 1)))
        rows(tables.models, ({"id": n, "name": f"m{n}", "created_ns": 0, "default_max_tokens": 9} for n in numbers))
        rows(
            tables.offers,
            ({**offer, "model_id": n, "upstream_model": f"m{n}", "enabled": True, "kind": "openai"} for n in numbers),
        )
        rows(tables.tariffs, ({**tariff, "book": "price", "subject": f"m{n}"} for n in numbers))
        rows(tables.tariffs, ({**tariff, "book": "cost", "subject": "vendor", "model": f"m{n}"} for n in numbers))
    engine.dispose()


def _key(number: int, project_id: int) -> Row:
    hashed = hashlib.sha256(secret(number).encode()).digest()
    return {"id": number, "project_id": project_id, "name": "k", "hash": hashed, "shown": "sk-sy-…", "created_ns": 0}


class Pauses:
    """The longest that one reading of the socket kept the loop, in ms of CPU."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        received = wire.Link.data_received

        def timed(link: wire.Link, piece: bytes) -> None:
            started = time.thread_time()
            received(link, piece)
            self.longest_ms = max(self.longest_ms, (time.thread_time() - started) * 1e3)

        wire.Link.data_received = timed  # type: ignore[method-assign, assignment]

    def taken(self) -> float:
        longest, self.longest_ms = self.longest_ms, 0.0
        return longest


def memory_mb(pid: int | None = None) -> tuple[float, float]:
    """Resident, and what of it is the process's own."""
    told = Path(f"/proc/{pid or os.getpid()}/smaps_rollup").read_text(encoding="ascii")
    kib = {line.split(":")[0]: int(line.split()[1]) for line in told.splitlines()[1:]}
    return kib["Rss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024


async def work(data: DataDir, keys: int) -> Row:
    """A worker's life: connect, look keys up, then tell how long each change kept it."""
    pauses, client = Pauses(), TellerClient()
    await client.connect(data.socket, 0)
    look_less_often()
    before_mb = memory_mb()
    told: Row = {"connect ms": pauses.taken()}
    dice = Random(6)
    asked = [f"Bearer {secret(dice.randrange(keys) + 1)}" for _ in range(LOOKED_UP)]
    digests = [secret_hash(one.removeprefix("Bearer ")) for one in asked]
    callers = client.snapshot.callers
    told["lookup µs"] = _each(callers.get, digests)
    told["lookup of one in a thousand µs"] = _each(callers.get, digests[:1000] * 100)
    told["lookup of no key µs"] = _each(callers.get, [one[::-1] for one in digests])
    told["authenticate µs"] = _each(lambda header: authenticate(client.snapshot, header), asked)
    told["before MB"], told["MB"] = before_mb, memory_mb()
    print("ready", flush=True)
    version, pauses.longest_ms = client.snapshot.version, 0.0
    known: list[float] = []
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), stopped.set)
    while not stopped.is_set():
        if client.snapshot.version != version:
            version = client.snapshot.version
            known.append(time.time())
        await asyncio.sleep(0.001)
    told["pause ms"], told["known at s"] = pauses.taken(), known
    await client.close()
    return told


def _each(look: Callable[[Any], object], asked: list[Any]) -> float:
    started = time.thread_time()
    for one in asked:
        look(one)
    return (time.thread_time() - started) / len(asked) * 1e6


async def change(data: DataDir) -> dict[str, list[float]]:
    """An operator's changes, in ms from the command to its answer; the key is looked up by another worker then."""
    office, other = TellerClient(), TellerClient()
    await office.connect(data.socket, None)
    await other.connect(data.socket, 1)
    took: dict[str, list[float]] = {"key added": [], "key revoked": [], "alias": []}
    for turn in range(RUNS_MIN + 2):
        started = time.perf_counter()
        made = await office.command("key.add", {"tenant": f"tenant {turn + 1}", "name": "new"})
        assert other.snapshot.callers.get(secret_hash(made["key"])) is not None
        took["key added"].append((time.perf_counter() - started) * 1e3)
        started = time.perf_counter()
        await office.command("key.revoke", {"id": made["id"]})
        assert other.snapshot.callers.get(secret_hash(made["key"])) is None
        took["key revoked"].append((time.perf_counter() - started) * 1e3)
        started = time.perf_counter()
        await office.command("route.alias", {"name": "alias", "model": f"m{turn + 1}"})
        assert other.snapshot.routes.aliases == {"alias": f"m{turn + 1}"}
        took["alias"].append((time.perf_counter() - started) * 1e3)
    await office.close()
    await other.close()
    return took


def measure(data: DataDir, keys: int, report: Report) -> None:
    started = time.perf_counter()
    with house.books(data) as books:
        report.add("books: start, s", time.perf_counter() - started)
        worker = [sys.executable, "-m", "bench.snapshot", "--work", str(data.root), "--keys", str(keys)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(worker, **pipes)  # type: ignore[call-overload]
        process.stdout.readline()
        took = uvloop.run(change(data))
        report.add("books: RSS, MB", memory_mb(books.pid)[0])
        report.add("books: RSS without the table, MB", memory_mb(books.pid)[1])
        told = json.loads(process.communicate(b"\n")[0])
    (rss_before, _), (rss, own) = told["before MB"], told["MB"]
    report.add("worker: RSS before it looked any key up, MB", rss_before)
    report.add("worker: RSS after 100,000, MB", rss)
    report.add("worker: of that its own (the table is shared), MB", own)
    for label in ("lookup", "lookup of one in a thousand", "lookup of no key", "authenticate"):
        report.add(f"worker: {label}, µs", told[f"{label} µs"])
    report.add("worker: longest pause when it connects, ms", told["connect ms"])
    report.add("worker: longest pause while everything changes, ms", told["pause ms"])
    for what, each in took.items():
        report.add(f"change to known, {what}, median, ms", each)
        report.add(f"change to known, {what}, longest, ms", max(each))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, help="be a worker of this house")
    options = parser.parse_args()
    if options.work is not None:
        print(json.dumps(uvloop.run(work(DataDir(options.work), options.keys))), flush=True)
        return 0
    report = Report("snapshot", "see label")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        data = DataDir(Path(name))
        build(data, max(1, options.keys // 10), options.keys)
        measure(data, options.keys, report)
    report.finish(keys=options.keys)
    return 0


if __name__ == "__main__":
    sys.exit(main())
