"""A worker in miniature for kill tests: the public port over a scripted upstream that speaks as fast as it is heard.

Arguments: the folder for journal and slots. Prints its port. Runs until killed.
"""

import asyncio
import sys
from pathlib import Path

import msgspec
from tests.fakes.parties import OFFER, FakeTeller, ScriptedUpstream, snapshot

from steelyard.flow import House
from steelyard.gateway.app import PublicApp
from steelyard.gateway.server import public_server, public_socket
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.ids import Ids
from steelyard.kernel.offers import Model
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.slots import Slots

WORD = "word" * 250  # one event is one token of 1,000 bytes


class Flood(ScriptedUpstream):
    """Never ends, never waits of itself."""

    async def stream(self, *arguments):  # type: ignore[no-untyped-def]
        for place in range(1, 10_000_000):
            yield Event(WORD, Usage(10, 0, place))


async def main(folder: Path) -> None:
    clock = SystemClock()
    series = folder / "w0-1"
    journal = Journal.create(series, segment_bytes=1 << 20)
    meter = Meter(journal, Slots.create(series / "slots", 64), clock, EnergyClocks(folder))
    listener = public_socket("127.0.0.1", 0)
    offer = msgspec.structs.replace(OFFER, max_output_tokens=10_000_000)  # its cap must not be what ends an answer
    teller = FakeTeller(snapshot_=snapshot(models={"m": Model(1, "m", 0, 100, (offer,))}))
    house = House(teller, meter, {"fake": Flood([])}, clock)
    app = PublicApp(house, None, Ids(clock))  # type: ignore[arg-type]
    server = public_server(app, app.hot, 1, lambda: print(listener.getsockname()[1], flush=True))
    await server.serve([listener])


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
