"""One paid request, from key to receipt: the table of contents of the program.

    authenticate → hold → route → call → meter → (rate → post) → receipt

`paid_request` runs in a worker and touches no database; `settle` is its second half and runs in `books`. Nobody else
calls two stages in a row. Knows no HTTP and no SQL: the customer's side is an `Answer`, the money's side a `Teller`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steelyard.catalog.tariffs import at_open, costed, price_needs, usable
from steelyard.identity.keys import authenticate
from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import ClientGone, UpstreamError, money_held, unknown_model, wallet_empty
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, End, Order, Position, Quote, Rated, Settlement, Terms
from steelyard.kernel.roles import Answer, Ask, Teller
from steelyard.kernel.tariff import Tariff
from steelyard.metering.meter import Meter, Reading
from steelyard.rating.bounds import covered_tokens, hold_ask
from steelyard.rating.rate import rate_all
from steelyard.routing.attempts import Ways, served
from steelyard.routing.choose import bounds, choose, quoted
from steelyard.routing.router import Router
from steelyard.upstream.fanout import at_cap, speaking
from steelyard.upstream.protocol import Upstream

if TYPE_CHECKING:
    from sqlalchemy import Connection

STAGES = ("authenticate", "hold", "route", "call", "meter", "rate", "post", "receipt")


@dataclass(frozen=True, slots=True)
class House:
    """What a worker needs to serve."""

    teller: Teller
    meter: Meter
    upstreams: Mapping[str, Upstream]
    clock: Clock
    strict: bool = False  # the last bytes of an answer wait until its close is on the medium
    router: Router = field(default_factory=Router)


async def paid_request(house: House, ask: Ask, answer: Answer) -> Settlement:
    """Serve one request and return what was opened and closed.

    Raises CallerError or UpstreamError when nothing was sold. After the first byte a failure is told inside the
    answer, and what had left user space is settled.
    """
    caller = ask.caller or authenticate(house.teller.snapshot, ask.authorization)
    order = await ask.order()
    try:
        terms = await hold(house, caller, order)
        quotes = route(house, caller, order, terms)
        reading = house.meter.open(order, quotes[0])
    except BaseException:
        house.teller.release(order.request_id)
        raise
    end, last = End.UPSTREAM_ERROR, b""
    try:
        end, last = await relay(house, order, quotes, reading, answer)
    except UpstreamError as error:
        end = End.REFUSED if 400 <= error.status < 500 else End.UPSTREAM_ERROR
        if not reading.started:
            raise
        await answer.send(answer.failing(error))
    except ClientGone:
        end = End.CLIENT_GONE
    except asyncio.CancelledError:
        end = End.CLIENT_GONE if answer.gone else End.DRAINED
        if not answer.gone:
            raise
    finally:
        closed = reading.close(end)
        house.teller.closed()
    if last:
        with suppress(ClientGone):
            if house.strict:
                await reading.durable(answer)
            await answer.send(last)  # to one who is gone as well: what an Idempotency-Key keeps must be whole
    return Settlement(reading.opened, closed)


async def hold(house: House, caller: Caller, order: Order) -> Terms:
    """Set the worst case aside, or as much of it as wallet and limits cover; then fewer output tokens are forwarded."""
    snapshot = house.teller.snapshot
    model = snapshot.models.get(order.model)
    if model is None:
        raise unknown_model(order.model)
    offers, prices = choose(model, order.capability), snapshot.prices.get(model.name, ())
    priced_ns, needs = house.meter.now_ns(), price_needs(order.capability)
    price = at_open(usable(model.name, prices, priced_ns, caller.currency, needs, order.tier), order, priced_ns)
    ask = hold_ask(price, order, caller, bounds(order, model, offers), priced_ns)
    granted = await house.teller.hold(ask)
    if granted.amount_nano < ask.floor_nano:
        raise money_held() if granted.busy else wallet_empty()
    max_tokens = covered_tokens(price, ask, granted)
    return Terms(model, price, granted, max_tokens, max_tokens < ask.max_tokens, priced_ns)


def route(house: House, caller: Caller, order: Order, terms: Terms) -> list[Quote]:
    """Whom to ask, best first, each with its cost tariff; an upstream without one is not used (fail closed)."""
    offers, snapshot = choose(terms.model, order.capability), house.teller.snapshot
    found = costed(snapshot, offers, order, terms.priced_ns, caller.currency)
    return [quoted(caller, terms, one) for one in house.router.rank(order, caller, found, house.clock.monotonic_ns())]


async def relay(house: House, order: Order, quotes: list[Quote], reading: Reading, answer: Answer) -> tuple[End, bytes]:
    """Call upstreams until one speaks, and pass on what it says. Returns the end, and bytes that wait until then."""
    total, end, last = Usage(), End.COMPLETE, b""
    ways = Ways(house.clock, speaking(house.upstreams, order), reading.move, reading.heard)
    async with await served(house.router, order, quotes, ways) as speech:
        answer.begin(order, quote := speech.quote)
        async for sequence, event, total in speech:
            reading.hear(sequence, event.estimated, total)
            if piece := answer.render(sequence, event):
                await _deliver(reading, answer, piece, total)
            if event.finish is not None and quote.lowered and at_cap(event, quote.max_tokens):
                end = End.MONEY_ENDED
        speech.whole(total, guessed=reading.guessed)
    closing = answer.closing(total)
    if house.strict or answer.holds_back:
        closing, last = answer.parted(closing)
    await _deliver(reading, answer, closing, total)
    return end, last


async def _deliver(reading: Reading, answer: Answer, piece: bytes, usage: Usage) -> None:
    reading.intend(usage)
    await answer.send(piece)
    reading.commit(usage)


def settle(
    connection: "Connection",
    settlements: Sequence[Settlement],
    tariffs: Mapping[int, Tariff],
    marks: Mapping[str, Position],
    clock: Clock,
) -> list[Rated]:
    """Rate and post a batch in the caller's transaction, the journals' watermarks with it (exactly once)."""
    from steelyard.ledger.posting import post  # SQLAlchemy, which a worker can do without

    return post(connection, rate_all(settlements, tariffs), marks, clock)
