"""A line of a batch as the exchange it would be over HTTP: the same dialect, the same flow, another wire.

Owns what differs: the caller is the batch's key as it stands now, and an answer has left user space when it is kept.
"""

import asyncio
from collections.abc import Mapping

from msgspec.structs import replace

from steelyard.catalog.tariffs import BATCH_TIER
from steelyard.flow import House, paid_request
from steelyard.gateway.chat_dialect import Chat
from steelyard.gateway.completion_dialect import Completions
from steelyard.gateway.dialect import Dialect
from steelyard.gateway.embedding_dialect import Embeddings
from steelyard.gateway.exchange import Exchange, at_the_border
from steelyard.gateway.responses_dialect import Responses
from steelyard.gateway.wire import headers_of
from steelyard.jobs.run import LineAsk, Said
from steelyard.kernel.errors import ClientGone, unknown_key
from steelyard.kernel.records import Caller, Order

ENDPOINTS: Mapping[str, Dialect] = {
    "/v1/chat/completions": Chat(),
    "/v1/completions": Completions(),
    "/v1/embeddings": Embeddings(),
    "/v1/responses": Responses(),
}
"""What a batch may ask."""


class LineWire:
    """Carries one line in, and its answer to where it is kept."""

    final: bytes | None = None

    def __init__(self, line: LineAsk) -> None:
        self._line = line
        self.started = self.gone = False
        self.status = 0
        self.answer = b""
        self.retry_after_s: int | None = None
        self.trouble: OSError | None = None

    async def body(self) -> bytes:
        return self._line.body

    def watch(self) -> None:
        return None

    def unwatch(self) -> None:
        return None

    def start(self, status: int, lines: bytes) -> None:
        self.started, self.status = True, status
        found = dict(headers_of(lines)).get(b"retry-after")
        self.retry_after_s = int(found) if found is not None else None

    async def send(self, piece: bytes) -> None:
        """Once an answer is being kept it is kept and counted, whatever stops meanwhile."""
        self.answer = piece
        if self.status != 200:
            return
        keeping, cancelled = asyncio.ensure_future(self._line.keep(piece)), False
        while not keeping.done():
            try:
                await asyncio.wait([keeping])
            except asyncio.CancelledError:
                cancelled = True
        if cancelled and (task := asyncio.current_task()) is not None:
            task.cancel()  # at its next step, when the answer is counted
        try:
            keeping.result()
        except OSError as error:
            self.trouble, self.gone = error, True
            raise ClientGone("the answer cannot be kept") from error

    async def end(self) -> None:
        return None


class LineExchange(Exchange):
    """One line as the flow sees it, at the price of its tier. Its answer is kept whole or not at all."""

    deadline_ns = 0

    async def order(self) -> Order:
        order = super().order()
        order = order if isinstance(order, Order) else await order
        return replace(order, tier=BATCH_TIER, deadline_ns=self.deadline_ns)

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        return closing, b""


class BatchGate:
    """One per worker: what `jobs` runs lines through."""

    def __init__(self, house: House) -> None:
        self._house = house

    def offers(self, model: str) -> bool:
        snapshot = self._house.teller.snapshot
        return model in snapshot.models or model in snapshot.routes.aliases

    async def serve(self, line: LineAsk) -> Said:
        dialect = ENDPOINTS[line.endpoint]
        wire = LineWire(line)
        exchange = LineExchange(dialect, wire, {}, line.request_id, self._house.clock.now_ns)
        await at_the_border(self._paid(line, exchange), exchange)
        if wire.trouble is not None:
            raise wire.trouble
        return Said(wire.status, wire.answer, wire.retry_after_s)

    async def _paid(self, line: LineAsk, exchange: LineExchange) -> None:
        exchange.caller, exchange.deadline_ns = self._caller(line.key_id), line.deadline_ns
        await paid_request(self._house, exchange, exchange)

    def _caller(self, key_id: int) -> Caller:
        """Who the batch's key stands for now. Raises CallerError 401 when it was revoked."""
        caller = self._house.teller.snapshot.callers.of_key(key_id)
        if caller is None:
            raise unknown_key()
        return caller
