"""The line in front of an engine, in this worker: whose sequence is sent next, and to which of its slots.

Owns the gates. An engine that tells how many slots it has keeps no order among those who wait, so that is done here, in
this worker's share of them; one that tells none does it itself and hears whose sequence it is. Decides nothing: see
`scheduling`. A full line is the house's own affair: the customer is told, and no offer is blamed.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.clock import Clock, SystemClock
from steelyard.kernel.errors import UpstreamError, overloaded
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.prefix import prompt_from, text_of
from steelyard.kernel.records import Event
from steelyard.scheduling.gate import Gate, Place
from steelyard.scheduling.wish import Capacity, QueueFull, Turn, Wish
from steelyard.upstream.llama_cpp import LlamaCpp

_FULL, _TOO_MANY = 429, "Too many requests wait for this model."
_BYTES_PER_TOKEN = 4  # of a prompt, where shares of tenants are counted before the engine has


class EngineLine:
    """One per engine and worker. `workers`: how many share its slots."""

    def __init__(self, engine: LlamaCpp, workers: int = 1, clock: Clock | None = None) -> None:
        self.engine = engine
        self._workers = workers
        self._clock = clock or SystemClock()
        self._gates: dict[str, Gate | None] = {}

    def in_turn(self, turn: Turn) -> "InTurn":
        """The engine for one order."""
        return InTurn(self, turn)

    @property
    def waiting(self) -> tuple[int, int] | None:
        """Who waits here, and how many of them in the batch lane; None where the engine keeps its line itself,
        or has not been asked yet."""
        gates = [gate for gate in self._gates.values() if gate is not None]
        return (sum(one.waiting for one in gates), sum(one.waiting_batch for one in gates)) if gates else None

    async def gate(self, offer: Offer) -> Gate | None:
        """The line of the engine at this address; asked for its slots once. None: it has a line of its own."""
        if offer.address not in self._gates:
            try:
                slots = await self.engine.slots(offer)
            except UpstreamError:
                return None  # it is away, as the request itself will find
            if len(self._gates) >= limits.ADDRESSES_KNOWN_MAX:  # engines that are started again elsewhere
                self._gates.clear()
            if offer.address not in self._gates:
                self._gates[offer.address] = self._made(slots) if slots else None
        return self._gates[offer.address]

    def _made(self, slots: int) -> Gate:
        return Gate(Capacity(max(1, slots // self._workers), slots=True), self._clock)

    def turn_at(self, place: Place, turn: Turn) -> Turn:
        """Which slot to ask for: only where no other worker has one in mind."""
        return turn._replace(slot=place.slot) if self._workers == 1 else turn


class InTurn:
    """An engine behind the Upstream Protocol, for one order."""

    def __init__(self, line: EngineLine, turn: Turn) -> None:
        self._line = line
        self._turn = turn

    @property
    def name(self) -> str:
        return self._line.engine.name

    async def stream(
        self, offer: Offer, params: dict[str, Raw], max_tokens: int, request_id: bytes, whole: bool = False
    ) -> AsyncGenerator[Event, None]:
        """See `Upstream.stream`. Raises CallerError 429 when the line is full."""
        line, turn = self._line, self._turn
        gate = await line.gate(offer)
        if gate is None:
            try:
                async with aclosing(line.engine.stream(offer, params, max_tokens, request_id, whole, turn)) as events:
                    async for event in events:
                        yield event
            except UpstreamError as error:
                if error.status != _FULL:
                    raise
                raise overloaded(_TOO_MANY) from error
            return
        text = text_of(params)
        tokens = min(offer.context_tokens, len(text) // _BYTES_PER_TOKEN + max_tokens)
        wish = Wish(turn.tenant_id, prompt_from(offer.upstream_model, text), tokens, turn.within_s)
        try:
            place = await gate.enter(wish)
        except QueueFull as full:
            raise overloaded(_TOO_MANY, full.retry_after_s) from None
        with place:
            turn.begins()
            try:
                sent = line.turn_at(place, turn._replace(begins=bool, stops=bool))
                async with aclosing(line.engine.stream(offer, params, max_tokens, request_id, whole, sent)) as events:
                    async for event in events:
                        place.spoke()
                        place.used_tokens = event.usage.total
                        yield event
            finally:
                turn.stops()

    async def read(self, offer: Offer, capability: Capability, params: dict[str, Raw]) -> Event:
        self._turn.begins()
        return await self._line.engine.read(offer, capability, params)

    async def count(self, offer: Offer, params: dict[str, Raw]) -> int | None:
        return await self._line.engine.count(offer, params)

    async def ready(self, offer: Offer) -> bool:
        return await self._line.engine.ready(offer)
