"""The playground as a customer like any other: one paid request through the flow, told as events.

Owns the hand-over between the flow (which pushes pieces) and the page (which pulls events): a piece counts as
delivered when the page comes back for the next one. The project chosen on the page pays.
"""

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from steelyard.console.play import Bill, Ended, Failed, PlayEvent, PlayOrder, Text
from steelyard.flow import House, paid_request
from steelyard.gateway.app import Office
from steelyard.gateway.chat_request import parse_chat
from steelyard.gateway.errors import from_upstream, internal_error
from steelyard.kernel.errors import CallerError, ClientGone, SteelyardError, UpstreamError, bad_request
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, Event, Order, Quote, Snapshot
from steelyard.kernel.settled import End, Receipt
from steelyard.rating.rate import charge_of


def payer(snapshot: Snapshot, project_id: int) -> Caller:
    """Who pays for this project. Raises CallerError when it has no live key (then nobody may spend for it)."""
    if (caller := snapshot.callers.of_project(project_id)) is not None:
        return caller
    raise bad_request("This project has no live key; make one first.", "project_id")


class PlayExchange:
    """Ask and Answer of one playground request."""

    authorization: str | None = None
    gone = False
    _quote: Quote

    def __init__(self, caller: Caller, order: PlayOrder, request_id: bytes) -> None:
        self.caller = caller
        self._asked = order
        self._request_id = request_id
        self._usage = Usage()
        self._events: asyncio.Queue[PlayEvent] = asyncio.Queue(1)
        self._taken = asyncio.Event()

    async def order(self) -> Order:
        body: dict[str, object] = {
            "model": self._asked.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in self._asked.messages],
            "stream": True,
        }
        if self._asked.max_tokens is not None:
            body["max_tokens"] = self._asked.max_tokens
        if self._asked.temperature is not None:
            body["temperature"] = msgspec.Raw(self._asked.temperature.encode())
        return parse_chat(msgspec.json.encode(body), self._request_id).order

    @property
    def holds_back(self) -> bool:
        return False

    def begin(self, order: Order, quote: Quote) -> None:
        self._quote = quote

    def render(self, sequence: int, event: Event) -> bytes:
        self._usage = event.usage
        return event.text.encode()

    def closing(self, usage: Usage) -> bytes:
        self._usage = usage
        return b""

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        return closing, b""  # the page shows the receipt; it waits for that

    def failing(self, error: UpstreamError) -> bytes:
        return b""

    async def send(self, piece: bytes) -> None:
        """Hand the piece and the bill so far over; returns when the page has passed both on."""
        if piece:
            await self._hand_over(Text(piece.decode()))
        await self._hand_over(self._bill())

    async def _hand_over(self, event: PlayEvent) -> None:
        if self.gone:
            raise ClientGone("the page is closed")
        self._taken.clear()
        await self._events.put(event)
        await self._taken.wait()

    async def next(self) -> PlayEvent:
        return await self._events.get()

    def took(self) -> None:
        self._taken.set()

    def _bill(self) -> Bill:
        lines = charge_of(self._usage, self._quote.price)
        total = sum(line.amount_nano for line in lines)
        return Bill(self._usage, total, lines, self._quote.price.currency)


async def play(house: House, office: Office, order: PlayOrder, request_id: bytes) -> AsyncGenerator[PlayEvent, None]:
    """Run the order and yield its events; closing the iterator hangs up and settles what was handed over."""
    try:
        exchange = PlayExchange(payer(house.teller.snapshot, order.project_id), order, request_id)
    except CallerError as error:
        yield Failed(error)
        return
    request = asyncio.ensure_future(paid_request(house, exchange, exchange))
    try:
        while True:
            waiting = asyncio.ensure_future(exchange.next())
            await asyncio.wait([request, waiting], return_when="FIRST_COMPLETED")
            if not waiting.done():
                waiting.cancel()
                break
            yield waiting.result()
            exchange.took()
        try:
            settlement = await request
        except CallerError as error:
            yield Failed(error)
        except UpstreamError as error:
            yield Failed(from_upstream(error))
        except SteelyardError:
            yield Failed(internal_error())
        else:
            payload = {"request_id": request_id, "tenant_id": None}
            receipt = msgspec.convert(await office.command("receipt", payload), Receipt)
            yield Ended(End(settlement.closed.end), text_from_id(request_id), receipt)
    finally:
        if not request.done():
            exchange.gone = True
            request.cancel()
            await asyncio.wait([request])
