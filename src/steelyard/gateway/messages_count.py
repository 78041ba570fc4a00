"""POST /v1/messages/count_tokens: how many prompt tokens a message would be charged for. Free, but not for everybody.

The upstream counts what it would be asked, by its own template and tokenizer; nothing is generated, held or posted.
"""

from collections.abc import Callable

import msgspec

from steelyard.flow import House
from steelyard.gateway.dialect import Asked
from steelyard.gateway.exchange import Border, Work, at_the_border, id_headers
from steelyard.gateway.messages_answer import MessageBody
from steelyard.gateway.messages_dialect import NAMES, Messages
from steelyard.gateway.messages_request import parse_count
from steelyard.gateway.wire import AsgiWire, Heads, Receive, Scope, Send, Wire, body_of, lines_of, text_of
from steelyard.identity.keys import authenticate
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, UpstreamError, bad_request, overloaded
from steelyard.routing.choose import choose, find_model


class CountUrl:
    """The hot URL of it."""

    def __init__(self, dialect: Messages, house: House, next_id: Callable[[], bytes]) -> None:
        self._dialect = dialect
        self._house = house
        self._next_id = next_id
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await at_the_border(*self.serve(AsgiWire(scope, receive, send), dict(scope["headers"])))

    def serve(self, wire: Wire, heads: Heads) -> tuple[Work, Border]:
        """See `exchange.Hot`."""
        request_id = self._next_id()
        return self._answer(wire, heads, request_id), Border(self._dialect, wire, request_id)

    async def _answer(self, wire: Wire, heads: Heads, request_id: bytes) -> None:
        body = msgspec.json.encode({"input_tokens": await self._counted(wire, heads, request_id)})
        length = (b"content-length", str(len(body)).encode())
        wire.start(200, lines_of([(b"content-type", b"application/json"), *id_headers(request_id), length]))
        wire.final = body
        if sending := wire.send(body):
            await sending

    async def _counted(self, wire: Wire, heads: Heads, request_id: bytes) -> int:
        house = self._house
        snapshot = house.teller.snapshot
        authenticate(snapshot, self._dialect.authorization(heads))
        parsed = parse_count(await body_of(wire), request_id, text_of(heads, b"anthropic-beta"))
        model = find_model(snapshot, parsed.order.model)
        if self._running >= limits.COUNTS_AT_ONCE_MAX:
            raise overloaded("Too many prompts are being counted.")
        offer = choose(model)[0]
        if parsed.order.prompt_tokens_max > offer.context_tokens * limits.COUNT_BYTES_PER_TOKEN_MAX:
            raise bad_request(f"This prompt is far longer than the model's context of {offer.context_tokens} tokens.")
        asked = Asked(parsed.order, MessageBody(parsed.order, True), (), parsed.places, NAMES)
        self._running += 1
        try:
            count = await house.upstreams[offer.upstream].count(offer, parsed.order.params)
        except UpstreamError as error:
            raise asked.in_own_words(error) from error
        finally:
            self._running -= 1
        if count is None:
            raise CallerError(404, "count_not_offered", f"Whoever serves the model {model.name!r} cannot count tokens.")
        return count
