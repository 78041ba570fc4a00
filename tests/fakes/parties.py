"""Fakes of the parties around a paid request: a teller with a purse, an answer that remembers, a scripted upstream."""

from collections.abc import AsyncIterator, Sequence

import msgspec

from steelyard.kernel.errors import ClientGone, UpstreamError
from steelyard.kernel.ids import API_KEY_PREFIX, secret_hash
from steelyard.kernel.offers import Model, Offer
from steelyard.kernel.quantities import Meter as M
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, CallersKept, Event, Granted, HoldAsk, Order, Quote, Snapshot
from steelyard.kernel.tariff import Tariff, TariffLine

KEY = API_KEY_PREFIX + "demo"
CALLER = Caller(key_id=1, project_id=1, tenant_id=1, tenant="demo", project="default", currency="CNY")
OFFER = Offer(1, "m", "fake", "127.0.0.1:1", "m", context_tokens=1000, max_output_tokens=500)
PRICE = Tariff(
    id=1,
    subject="m",
    currency="CNY",
    effective_from_ns=0,
    lines=(
        TariffLine(M.INPUT, "2", 2_000_000, 1),
        TariffLine(M.CACHED_INPUT, "0.2", 200_000, 1),
        TariffLine(M.OUTPUT, "10", 10_000_000, 1),
    ),
)
HOUR = 3_600_000_000_000
COST = Tariff(
    id=2,
    subject="fake",
    currency="CNY",
    effective_from_ns=0,
    lines=(TariffLine(M.CPU, "0.10", 10**11, HOUR), TariffLine(M.ENERGY, "0.60", 6 * 10**11, HOUR)),
    watts_milli=8000,
)


def snapshot(**changes: object) -> Snapshot:
    made = Snapshot(
        version=1,
        callers=CallersKept({secret_hash(KEY): CALLER}),
        operators=frozenset(),
        models={"m": Model(1, "m", 0, 100, (OFFER,))},
        prices={"m": (PRICE,)},
        costs={"fake": (COST,)},
    )
    return msgspec.structs.replace(made, **changes)


class FakeWork:
    """What was told to whoever keeps account of an order's work (`upstream.protocol.Work`)."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def waits(self) -> None:
        self.told.append("waits")

    def begins(self) -> None:
        self.told.append("begins")

    def stops(self) -> None:
        self.told.append("stops")


class FakeTeller:
    """Grants up to what the purse holds."""

    def __init__(self, purse_nano: int = 10**12, snapshot_: Snapshot | None = None) -> None:
        self.snapshot = snapshot_ or snapshot()
        self.purse_nano = purse_nano
        self.busy = False  # what is short is held by others
        self.holds: dict[bytes, int] = {}
        self.asked: list[tuple[int, int]] = []
        self.closings = 0

    def draw(self, ask: HoldAsk) -> Granted | None:
        return None

    async def hold(self, ask: HoldAsk) -> Granted:
        self.asked.append((ask.want_nano, ask.floor_nano))
        granted = min(ask.want_nano, self.purse_nano)
        if granted < ask.floor_nano:
            return Granted(0, busy=self.busy)
        self.holds[ask.request_id] = granted
        return Granted(granted, ask.max_tokens)

    def release(self, request_id: bytes) -> None:
        self.holds.pop(request_id, None)

    def closed(self) -> None:
        self.closings += 1


class FakeAsk:
    caller: Caller | None = None

    def __init__(self, order: Order, authorization: str | None = f"Bearer {KEY}") -> None:
        self._order = order
        self.authorization = authorization

    async def order(self) -> Order:
        return self._order


class FakeAnswer:
    """Writes `index:text` per event; hangs up after `pieces` pieces when told to."""

    def __init__(self, pieces: int | None = None) -> None:
        self.sent: list[bytes] = []
        self.gone = False
        self.holds_back = False
        self.quote: Quote | None = None
        self._pieces = pieces

    def begin(self, order: Order, quote: Quote) -> None:
        self.quote = quote

    def render(self, sequence: int, event: Event) -> bytes:
        return f"{sequence}:{event.text};".encode() if event.text else b""

    def closing(self, usage: Usage) -> bytes:
        return f"end {usage.total}".encode()

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        return closing[:-1], closing[-1:]

    def failing(self, error: UpstreamError) -> bytes:
        return b"failed"

    async def send(self, piece: bytes) -> None:
        if self._pieces is not None and len(self.sent) >= self._pieces:
            self.gone = True
            raise ClientGone("gone")
        self.sent.append(piece)


class ScriptedUpstream:
    """Plays the same events for every sequence; an exception in the script is raised in its place."""

    name = "fake"

    def __init__(self, script: Sequence[Event | Exception]) -> None:
        self.script = script
        self.calls: list[int] = []
        self.running = 0
        self.cancelled = 0

    async def stream(
        self, offer: Offer, params: dict[str, msgspec.Raw], max_tokens: int, request_id: bytes, whole: bool = False
    ) -> AsyncIterator[Event]:
        self.calls.append(max_tokens)
        self.running += 1
        finished = False
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                yield step
            finished = True
        finally:
            self.running -= 1
            self.cancelled += not finished

    async def count(self, offer: Offer, params: dict[str, msgspec.Raw]) -> int | None:
        step = self.script[0]
        if isinstance(step, Exception):
            raise step
        return step.usage.prompt or None

    async def ready(self, offer: Offer) -> bool:
        return True


def words(*texts: str, prompt: int = 10, cached: int = 0) -> list[Event]:
    """A script: one token per word, then stop."""
    events = [Event(text, Usage(prompt - cached, cached, place)) for place, text in enumerate(texts, 1)]
    return [*events, Event("", Usage(prompt - cached, cached, len(texts)), "stop")]
