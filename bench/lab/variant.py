"""`python -m bench.lab.variant asgi|off …`: the worker with one part of it exchanged, for comparison.

`asgi`: the plain ASGI front where the fast one would be. `off`: nothing set aside, nothing written down and nothing
counted, by a teller that grants everything itself and a meter that keeps nothing; the rest is the same code. It shows
what the accounting costs, and is nothing to be served with.
"""

import sys
from typing import Any

import msgspec

from steelyard.kernel.records import Granted, HoldAsk, Order, Quote
from steelyard.kernel.settled import Closed, End
from steelyard.ledger.teller_client import TellerClient
from steelyard.metering.meter import Meter, Reading
from steelyard.processes import worker


class NullTeller(TellerClient):
    def draw(self, ask: HoldAsk) -> Granted:
        return Granted(ask.want_nano, ask.max_tokens)

    def release(self, request_id: bytes) -> None: ...
    def closed(self) -> None: ...


class _Nowhere:
    """A journal and slots that take everything and keep nothing."""

    failed = False
    count = 1_000_000

    def __init__(self, kept: Any) -> None:
        self._kept = kept

    def claim(self, *_: object) -> int:
        return 0

    def append(self, *_: object) -> None: ...
    def free(self, *_: object) -> None: ...
    def free_all(self, *_: object) -> None: ...
    def intend(self, *_: object) -> None: ...
    def commit(self, *_: object) -> None: ...
    def power(self, *_: object) -> None: ...

    async def wait_synced(self) -> None: ...

    def close(self) -> None:
        self._kept.close()


class NullMeter(Meter):
    def __init__(self, journal: Any, slots: Any, *rest: Any) -> None:
        super().__init__(_Nowhere(journal), _Nowhere(slots), *rest)  # type: ignore[arg-type]

    def open(self, order: Order, quote: Quote, why: bytes = b"") -> Reading:
        return NullReading(**msgspec.structs.asdict(super().open(order, quote, why)))


class NullReading(Reading, eq=False):
    def hear(self, *_: object) -> None: ...
    def intend(self, *_: object) -> None:
        self.started = True

    def commit(self, *_: object) -> None: ...
    def close(self, end: End) -> Closed:
        return _NEVER


_NEVER: Closed = None  # type: ignore[assignment]


def main() -> int:
    match sys.argv.pop(1):
        case "asgi":
            sys.argv += ["--front", "asgi"]
        case "off":
            worker.TellerClient = NullTeller  # type: ignore[attr-defined]
            worker.Meter = NullMeter  # type: ignore[attr-defined, assignment]
        case other:
            raise SystemExit(f"There is no variant {other!r}.")
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
