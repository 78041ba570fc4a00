"""A books process of its own with one rich tenant, and a worker at its socket: what measurements of the books need."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random

from steelyard.cli.private_postgres import private_postgres
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DatabaseUrl, DataDir
from steelyard.kernel.errors import StartError
from steelyard.kernel.ids import Ids
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, HoldAsk
from steelyard.kernel.settled import Closed, End, Opened
from steelyard.ledger.teller_client import TellerClient
from steelyard.processes import scripted

HOLD_NANO = 1_000_000
TOPUP = 1_000_000
_PRICES = scripted.PRICES.format(input="0.50", cached_input="0.05", output="1.50")


@contextmanager
def places() -> Iterator[dict[str, DataDir]]:
    """A fresh data directory for each database there is: "SQLite" and, where its wheel is installed, "PostgreSQL"."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        found = {"SQLite": DataDir(Path(name) / "sqlite")}
        try:
            with private_postgres(Path(name) / "server") as url:
                yield found | {"PostgreSQL": DataDir(Path(name) / "postgres", DatabaseUrl(url))}
        except StartError as error:
            print(f"Without PostgreSQL: {error}", file=sys.stderr)
            yield found


@contextmanager
def books(data: DataDir) -> Iterator[subprocess.Popen[bytes]]:
    """The real books process, serving; ended by the end of its input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "steelyard.processes.books", "--data", str(data.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **data.environment},
    )
    try:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise SystemExit("The books did not start.")
        yield process
    finally:
        process.communicate()


class Customer:
    """Makes the records of a rich tenant's requests."""

    def __init__(self, client: TellerClient, caller: Caller) -> None:
        self._ids = Ids(SystemClock())
        self._clock = SystemClock()
        self._caller = caller
        self._tariffs = client.snapshot.prices[scripted.MODEL][0].id, client.snapshot.costs[scripted.UPSTREAM][0].id

    def ask(self, want_nano: int = HOLD_NANO) -> HoldAsk:
        caller = self._caller
        return HoldAsk(self._ids.next(), caller.tenant_id, want_nano, 1, caller.project_id, caller.key_id)

    def opened(self, ask: HoldAsk, lease: str = "") -> Opened:
        price, cost = self._tariffs
        return Opened(
            request_id=ask.request_id,
            opened_ns=self._clock.now_ns(),
            slot=0,
            tenant_id=ask.tenant_id,
            project_id=ask.project_id,
            key_id=ask.key_id,
            model=scripted.MODEL,
            upstream=scripted.UPSTREAM,
            price_id=price,
            cost_id=cost,
            currency="CNY",
            hold_nano=ask.want_nano,
            max_tokens=100,
            sequences=1,
            stream=True,
            lease=lease,
        )

    def closed(self, opened: Opened, dice: Random) -> Closed:
        counts = dice.randrange(80), 20, dice.randrange(60)
        more = (dice.randrange(20), dice.randrange(40)) if dice.random() < 0.2 else ()  # a cache written, reasoning
        usage = Usage(*counts, 5_000_000, 50_000, *more)
        return Closed(opened.request_id, self._clock.now_ns(), usage, str(End.COMPLETE), 1000, 2000)


@asynccontextmanager
async def worker(data: DataDir, client: TellerClient, number: int = 0) -> AsyncIterator[Customer]:
    """`client`, connected as a worker, and its customer; the first worker of a directory makes him."""
    await client.connect(data.socket, number)
    if scripted.MODEL not in client.snapshot.prices:
        await client.command("prices.load", {"text": _PRICES})
        await client.command("tenant.add", {"name": "acme"})
        await client.command("wallet.topup", {"tenant": "acme", "amount": str(TOPUP)})
        await client.command("key.add", {"tenant": "acme", "name": "bench"})
    while not client.snapshot.callers:
        await asyncio.sleep(0.01)
    try:
        yield Customer(client, client.snapshot.callers.payers(1)[0])
    finally:
        await client.close()
