"""One run of the matrix: a platform with keys and wallets, the scripted upstream, every client asked every cell once.

Owns what was asked of whom and how a cell's requests are found again; judges nothing.
"""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.drivers import Driver, missing
from tests.clients.matrix import CELLS, CLIENTS, EMPTY, SCHEMA, TOOLS, Cell, Client
from tests.e2e.vendor import MODEL, sold
from tests.platform import Platform, wait_for

DIGITS = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}$")
Said = dict[str, Any]


def tenant(client: Client) -> str:
    return re.sub("[^a-z0-9]+", "-", client.name.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen."""

    platform: Platform
    keys: dict[str, str]
    said: dict[tuple[str, str], Said]
    kept: dict[str, Any]  # what was asked of the platform already: after the run its answers stay the same

    def request_ids(self, client: Client, cell: Cell) -> list[str]:
        """What a client calls an answer ends in its request's digits; one that knows no name of it was alone at its
        key, so that the time tells."""
        said = self.said[client.name, cell.name]
        named = said.get("ids") or [said.get("id") or ""]
        found = ["req_" + digits[0] for each in named if (digits := DIGITS.search(each))]
        return found or [
            row["request_id"] for row in self.rows(client) if said["began_ns"] <= row["opened_ns"] <= said["ended_ns"]
        ]

    def rows(self, client: Client) -> list[Said]:
        """Every usage row of a client, once none of its money is held any more."""
        name = tenant(client)
        if name not in self.kept:
            wait_for(lambda: self.platform.wallet(name)["held_nano"] == 0, "the last hold to end")
        return list(self.asked(f"/admin/v1/requests?tenant={name}&limit=200", name)["rows"])

    def asked(self, path: str, name: str = "") -> Any:
        """The operator's answer at this path, asked for once."""
        name = name or path
        if name not in self.kept:
            self.kept[name] = self.platform.get(path, self.platform.operator_key)
        return self.kept[name]

    def receipts(self, client: Client, cell: Cell) -> list[Said]:
        """The posted receipts of what a cell asked, as the customer sees them."""
        return [self._posted(client, name) for name in self.request_ids(client, cell)]

    def _posted(self, client: Client, request_id: str) -> Said:
        if request_id not in self.kept:
            self.kept[request_id] = self.platform.posted_receipt(request_id, self.keys[client.name])
        posted: Said = self.kept[request_id]
        return posted

    def detail(self, request_id: str) -> Said:
        """The usage row, the rated lines and the ledger's share of a request, as an operator sees them."""
        found: Said = self.asked(f"/admin/v1/requests/{request_id}")
        return found


@contextmanager
def performed(folder: Path) -> Iterator[Run]:
    """Ask every client that is installed here; those of one process one after another."""
    there = [client for client in CLIENTS if missing(client.process) is None]
    platform = Platform(folder / "data", "--no-engine").start()
    with sold(platform):
        keys = {client.name: platform.new_customer(tenant(client)) for client in there}
        empty = platform.new_customer("penniless", money=None)
        said: dict[tuple[str, str], Said] = {}

        def ask_all(process: str) -> None:
            driver = Driver(process, folder / f"{process}.log")
            for client in (each for each in there if each.process == process):
                for cell in CELLS:
                    began_ns = time.time_ns()
                    told = driver.ask(_job(platform, client, cell, empty if cell is EMPTY else keys[client.name]))
                    said[client.name, cell.name] = told | {"began_ns": began_ns, "ended_ns": time.time_ns()}
            driver.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask_all, sorted({client.process for client in there})))
        yield Run(platform, keys, said, {})
    assert platform.stop() == 0, platform.text


def _job(platform: Platform, client: Client, cell: Cell, key: str) -> Said:
    return {
        "client": client.module,
        "package": client.package,
        "url": platform.url,
        "key": key,
        "model": MODEL,
        "prompt": f"{cell.prompt} {tenant(client)}",
        "way": cell.way,
        "ask": cell.ask,
        "usage": cell.usage,
        "leave": cell.leave,
        "tools": TOOLS if cell.ask == "tools" else [],
        "schema": SCHEMA,
    }
