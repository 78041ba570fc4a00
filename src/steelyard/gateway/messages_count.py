"""POST /v1/messages/count_tokens: how many prompt tokens a message would be charged for. Free, but not for everybody.

The upstream counts what it would be asked, by its own template and tokenizer; nothing is generated, held or posted.
"""

from collections.abc import Awaitable, Callable

import msgspec

from steelyard.flow import House
from steelyard.gateway.dialect import Asked
from steelyard.gateway.exchange import at_the_border, id_headers
from steelyard.gateway.messages_answer import MessageBody
from steelyard.gateway.messages_dialect import NAMES, Messages
from steelyard.gateway.messages_request import parse_count
from steelyard.gateway.wire import Receive, Scope, Send, Wire, header
from steelyard.identity.keys import authenticate
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, UpstreamError, bad_request, overloaded
from steelyard.routing.choose import choose, find_model


def count_endpoint(
    dialect: Messages, house: House, next_id: Callable[[], bytes]
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The ASGI callable of the hot URL."""
    running = 0

    async def counted(wire: Wire, scope: Scope, request_id: bytes) -> int:
        nonlocal running
        snapshot = house.teller.snapshot
        authenticate(snapshot, dialect.authorization(scope))
        parsed = parse_count(await wire.body(), request_id, header(scope, b"anthropic-beta"))
        model = find_model(snapshot, parsed.order.model)
        if running >= limits.COUNTS_AT_ONCE_MAX:
            raise overloaded("Too many prompts are being counted.")
        offer = choose(model)[0]
        if parsed.order.prompt_tokens_max > offer.context_tokens * limits.COUNT_BYTES_PER_TOKEN_MAX:
            raise bad_request(f"This prompt is far longer than the model's context of {offer.context_tokens} tokens.")
        asked = Asked(parsed.order, MessageBody(parsed.order, True), (), parsed.places, NAMES)
        running += 1
        try:
            count = await house.upstreams[offer.upstream].count(offer, parsed.order.params)
        except UpstreamError as error:
            raise asked.in_own_words(error) from error
        finally:
            running -= 1
        if count is None:
            raise CallerError(404, "count_not_offered", f"Whoever serves the model {model.name!r} cannot count tokens.")
        return count

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        wire = Wire(scope, receive, send)
        request_id = next_id()

        async def answer() -> None:
            body = msgspec.json.encode({"input_tokens": await counted(wire, scope, request_id)})
            length = (b"content-length", str(len(body)).encode())
            await wire.start(200, [(b"content-type", b"application/json"), *id_headers(request_id), length])
            await wire.send(body)
            await wire.end()

        await at_the_border(dialect, wire, request_id, answer())

    return serve
