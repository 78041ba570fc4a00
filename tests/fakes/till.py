"""The public app in one process, asked without a socket: a real teller, meter and journal, a scripted upstream.

`settle` does what the books do with a journal: every charge is taken off the wallet, so that a test sees what its
requests left behind.
"""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tests.fakes.parties import COST, KEY, OFFER, PRICE, ScriptedUpstream, snapshot

from steelyard.flow import House
from steelyard.gateway.app import PublicApp
from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.ids import Ids
from steelyard.kernel.offers import Capability, Model, Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Granted, HoldAsk, Snapshot
from steelyard.kernel.settled import Closed, Opened, Position, Settlement
from steelyard.ledger.sublimits import used_of
from steelyard.ledger.teller import Teller
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.reader import read
from steelyard.metering.slots import Slots
from steelyard.rating.rate import rate

MONEY_NANO = 10**12
TENANT = 1


class Scribe(ScriptedUpstream):
    """Writes its script, and reads whatever it is given to read."""

    async def read(self, offer: Offer, capability: Capability, params: dict[str, msgspec.Raw]) -> Event:
        given = params["documents" if capability is Capability.RERANK else "input"]
        parts = msgspec.json.decode(given, type=list[msgspec.Raw])
        said = {Capability.EMBEDDING: b"[0.5]", Capability.RERANK: b"0.5", Capability.MODERATION: b'{"flagged":false}'}
        return Event(usage=Usage(3 * len(parts)), finish="stop", found=(msgspec.Raw(said[capability]),) * len(parts))


def sold() -> Snapshot:
    """Model `m` writes, model `e` reads."""
    reading = (Capability.EMBEDDING, Capability.RERANK, Capability.MODERATION)
    reader = msgspec.structs.replace(OFFER, model="e", capabilities=reading, max_output_tokens=0)
    models = snapshot().models | {"e": Model(2, "e", 0, 0, (reader,))}
    return snapshot(models=models, prices={"m": (PRICE,), "e": (PRICE,)})


class NearTeller:
    """A real teller without the socket before it."""

    def __init__(self, money_nano: int, snapshot_: Snapshot) -> None:
        self.teller = Teller({TENANT: money_nano})
        self.snapshot = snapshot_
        self.tells = True  # what is left; a worker that holds out of a lease does not know

    def draw(self, ask: HoldAsk) -> Granted | None:
        return None

    async def hold(self, ask: HoldAsk) -> Granted:
        granted = self.teller.grant(ask, "w0-1") or Granted(0)
        return self.teller.told(ask, granted) if self.tells else granted

    def release(self, request_id: bytes) -> None:
        self.teller.release(request_id)

    def closed(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Said:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class NoOffice:
    """Takes responses to be stored, and forgets them."""

    connected = True
    series = "w0-1"

    async def command(self, op: str, payload: dict[str, Any]) -> Any:
        if op.startswith("response."):
            return [] if op == "response.find" else None
        raise AssertionError(f"nobody asked the office for {op}")


class Till:
    """One worker's public app, and the wallet that its only tenant pays with."""

    def __init__(self, folder: Path, upstream: ScriptedUpstream, money_nano: int = MONEY_NANO) -> None:
        clock = SystemClock()
        self._folder = folder / "w0-1"
        self._journal = Journal.create(self._folder, segment_bytes=1 << 22)
        self._meter = Meter(
            self._journal, Slots.create(self._folder / "slots", 64), clock, EnergyClocks(folder / "energy")
        )
        self._read = Position()
        self._opened: dict[bytes, Opened] = {}
        self.near = NearTeller(money_nano, sold())
        self.house = House(self.near, self._meter, {"fake": upstream}, clock)
        self.app = PublicApp(self.house, NoOffice(), Ids(clock))
        self.settled: list[Settlement] = []

    @property
    def teller(self) -> Teller:
        return self.near.teller

    def close(self) -> None:
        self._meter.close()

    async def ask(self, path: str, body: bytes, *pieces: bytes, headers: dict[str, str] | None = None) -> Said:
        """POST it, in several pieces if there are more."""
        sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **(headers or {})}
        waiting = [body, *pieces]
        told: list[Any] = []

        async def receive() -> Any:
            if waiting:
                piece = waiting.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(waiting)}
            return await asyncio.Event().wait()  # the client stays

        async def send(message: Any) -> None:
            told.append(message)

        place, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": "POST",
            "path": place,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": ("127.0.0.1", 1),
        }
        await self.app(scope, receive, send)
        start, *rest = told
        found = {str(name, "latin-1"): str(value, "latin-1") for name, value in start["headers"]}
        return Said(start["status"], found, b"".join(message["body"] for message in rest))

    def settle(self) -> int:
        """Post what was opened and closed since. Returns what was charged, nano-units."""
        self._journal.sync()
        batch = read(self._folder, self._read, until=self._journal.end, max_records=limits.POST_BATCH_MAX)
        self._read = batch.end
        charged = 0
        for record in batch.records:
            if isinstance(record, Opened):
                self._opened[record.request_id] = record
            elif isinstance(record, Closed):
                one = Settlement(self._opened.pop(record.request_id), record)
                self.settled.append(one)
                charge = rate(one, PRICE, COST).charge_nano
                charged += self.teller.settle(record.request_id, TENANT, one.opened.hold_nano, charge, used_of(one))
        return charged
