"""A private Steelyard that sells one model, served by the mock: books, a worker, a rich tenant with a key.

The worker runs on the measured core, the books with the rest. Knows how to tell that nothing of a run was lost.
"""

import sqlite3
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.lab.child import Child, free_port
from bench.lab.weigh import Cores, cpu_s
from steelyard.cli.desk import Line
from steelyard.kernel.directory import DataDir

MODEL, UPSTREAM, TENANT = "mock", "mock", "acme"
LIMITED = "beta"
"""Another tenant, with limits per minute that are never reached."""
VENDOR_MODEL, VENDOR = "mock-vendor", "mock-vendor"
"""The same upstream as somebody who bills by the token: he is asked for a stream, so that what he counts is known."""
WORKER = ("-m", "steelyard.processes.worker")
VARIANT = ("-m", "bench.lab.variant")
_MONEY = "9000000"
_PER_MINUTE = {"rpm": 1_000_000, "tpm": 1_000_000_000}
_SETTLE_S, _VERIFY_S = 300, 900
_IDLE = 0.02  # of a core
_BY_THE_HOUR = """cpu_hour = "0.10"
watts_per_busy_core = "8"
kwh = "0.60"
"""
_BY_THE_TOKEN = """per = "1M tokens"
input = "0.30"
cached_input = "0.03"
output = "0.90"
"""


def _prices(model: str, upstream: str, cost: str) -> str:
    """A price file with what the model is sold at and what its upstream costs."""
    dated = 'currency = "CNY"\neffective_from = 2026-01-01T00:00:00+08:00\n'
    price = 'per = "1M tokens"\ninput = "0.50"\ncached_input = "0.05"\noutput = "1.50"\n'
    source = 'source = "an upstream for measurements"\n'
    sold, costs = f'[[price]]\nmodel = "{model}"\n', f'[[cost]]\nupstream = "{upstream}"\n'
    return "".join((sold, dated, price, source, "\n", costs, dated, cost, source))


_PRICES = _prices(MODEL, UPSTREAM, _BY_THE_HOUR)
_VENDOR_PRICES = _prices(VENDOR_MODEL, VENDOR, _BY_THE_TOKEN)


class Keys(NamedTuple):
    """`limited` belongs to the tenant with limits per minute."""

    customer: str
    operator: str
    limited: str


def tell(data: DataDir, op: str, payload: dict[str, Any]) -> Any:
    """A command for running books."""
    with Line(data.socket) as line:
        return line.command(op, payload)


def furnish(root: Path, upstream_port: int) -> Keys:
    """Two models at the mock with prices and costs, two rich tenants with a key each, and an operator, in running
    books."""
    data = DataDir(root)
    tell(data, "prices.load", {"text": _PRICES + _VENDOR_PRICES})
    for tenant in (TENANT, LIMITED):
        tell(data, "tenant.add", {"name": tenant})
        tell(data, "wallet.topup", {"tenant": tenant, "amount": _MONEY})
    tell(data, "limit.set", {"tenant": LIMITED} | _PER_MINUTE)
    counts = {"context_tokens": 1_000_000, "max_output_tokens": 8192, "default_max_tokens": 512}
    for model, upstream in ((MODEL, UPSTREAM), (VENDOR_MODEL, VENDOR)):
        names = {"name": model, "upstream": upstream, "upstream_model": MODEL, "kind": "openai"}
        tell(data, "model.register", names | counts | {"address": f"127.0.0.1:{upstream_port}"})
    customer, limited = (tell(data, "key.add", {"tenant": one, "name": "bench"})["key"] for one in (TENANT, LIMITED))
    return Keys(str(customer), str(tell(data, "operator.add", {"name": "bench"})["key"]), str(limited))


class Platform:
    """A running installation in a directory of its own."""

    def __init__(self, root: Path, upstream_port: int, cores: Cores) -> None:
        self.data = DataDir(root)
        self.data.prepare()
        self._cores = cores
        self._log = self.data.logs / "bench.log"
        self.books = Child(
            [sys.executable, "-m", "steelyard.processes.books", "--data", str(root)], cores.rest, self._log
        )
        keys = furnish(root, upstream_port)
        self.key, self.limited = keys.customer, keys.limited

    def command(self, op: str, payload: dict[str, Any]) -> Any:
        return tell(self.data, op, payload)

    @contextmanager
    def worker(
        self, number: int = 0, launch: Sequence[str] = WORKER, more: Sequence[str] = ()
    ) -> Iterator[tuple[Child, int]]:
        """A worker on the measured core and its port; drained at the end."""
        port = free_port()
        command = [sys.executable, *launch, "--data", str(self.data.root), "--port", str(port), "--worker", str(number)]
        child = Child([*command, *more], self._cores.subject, self._log)
        try:
            yield child, port
        finally:
            child.stop()

    def settled(self) -> None:
        """Return when the books have nothing to do. Raises SystemExit when they do not get on."""
        deadline = time.monotonic() + _SETTLE_S
        while time.monotonic() < deadline:
            before = cpu_s(self.books.pid)
            time.sleep(0.25)
            if cpu_s(self.books.pid) - before <= _IDLE and not self.command("status", {})["holds"]:
                return
        raise SystemExit(f"The books do not settle: {self.command('status', {})}")

    def lost(self, answered: Collection[bytes]) -> str:
        """What is wrong with the books of a run, empty when all is well: `verify` is clean, and each answer that a
        customer got whole has its usage row, priced and not guessed."""
        self.settled()
        with closing(sqlite3.connect(f"file:{self.data.database}?mode=ro", uri=True)) as database:
            query = "SELECT request_id FROM usage WHERE end = 'complete' AND charge_nano > 0 AND NOT estimated"
            posted = {row[0] for row in database.execute(query)}
        if missing := set(answered) - posted:
            return f"{len(missing):,} of {len(answered):,} answers have no usage row as they should"
        with Line(self.data.socket) as line:
            found = line.command("verify", {}, _VERIFY_S)
        return "" if found["ok"] else f"verify is not clean: {found}"

    def stop(self) -> None:
        self.books.stop()
