"""One paid exchange of the Responses dialect: what it goes on from is read before, its answer is stored at the end.

Only requests that refer to something stored wait for the books before their first byte. An answer that is stored leaves
as it comes but for its last piece; that one waits until the books have the response, for a moment at most.
"""

import asyncio
from functools import partial
from typing import Any

from steelyard.flow import House
from steelyard.gateway.chat_answer import Bill
from steelyard.gateway.dialect import Asked
from steelyard.gateway.exchange import Exchange
from steelyard.gateway.responses_answer import ResponseBody, ResponseStream
from steelyard.gateway.responses_dialect import NAMES
from steelyard.gateway.responses_kept import kept_input, response_of
from steelyard.gateway.responses_request import Earlier, order_of, read_responses
from steelyard.gateway.responses_store import Bringing, Store
from steelyard.gateway.wire import Body
from steelyard.identity.keys import authenticate
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller
from steelyard.kernel.roles import Sending
from steelyard.kernel.stored import StoredResponse
from steelyard.kernel.tariff import Tariff
from steelyard.rating.rate import charge_nano


class ResponsesExchange(Exchange):
    """See `Exchange`."""

    def __init__(self, house: House, store: Store, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._house = house
        self._store = store
        self._last = b""

    reads_later = True

    async def _read(self, body: Body) -> Asked:
        self._understood = understood = read_responses(bytes(body))
        self._earlier = Earlier()
        if understood.refers:
            self._earlier = await self._store.earlier(self._payer(), understood)
        parsed = order_of(understood, self._request_id, self._earlier)
        unknown = list(parsed.unknown)
        self.holds_back = understood.is_kept and self._store.is_open
        if understood.is_kept and not self._store.is_open:
            parsed.echo["store"] = False
            unknown += ["store"] if understood.request.store else []
        form = ResponseStream if parsed.order.stream else ResponseBody
        self._response = form(parsed, self._created_ns)
        return Asked(parsed.order, self._response, tuple(sorted(unknown)), parsed.places, NAMES)

    def _payer(self) -> Caller:
        return self.caller or authenticate(self._house.teller.snapshot, self.authorization)

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        closing, self._last = super().parted(closing)
        return closing, self._last

    def failing(self, error: UpstreamError) -> bytes:
        self._response.billed = partial(_bill_of, self._quote.price)
        said = super().failing(error)
        if self.holds_back:
            self._bring()
        return said

    def send(self, piece: bytes) -> Sending:
        if self.holds_back and piece and piece is self._last and (bringing := self._bring()) is not None:
            return self._when_taken(bringing, piece)
        return super().send(piece)

    async def _when_taken(self, bringing: Bringing, piece: bytes) -> None:
        try:
            await self._store.taken(bringing)
        except asyncio.CancelledError:
            if not self.gone:
                raise
        if sending := super().send(piece):
            await sending

    def _bring(self) -> Bringing | None:
        caller, previous = self._payer(), self._understood.request.previous_response_id
        return self._store.bring(
            StoredResponse(
                id=self._request_id,
                tenant_id=caller.tenant_id,
                project_id=caller.project_id,
                previous_id=None if previous is None else response_of(previous),
                created_ns=self._created_ns,
                input=kept_input(self._understood.fields.get("input"), self._request_id, self._earlier.known),
                body=self._response.encoded,
            )
        )


def _bill_of(price: Tariff, usage: Usage) -> Bill:
    return Bill(charge_nano(usage, price), price.currency)
