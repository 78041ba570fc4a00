"""One paid request, from key to receipt: the table of contents of the program.

    authenticate → hold → route → call → meter → (rate → post) → receipt

`paid_request` runs in a worker and touches no database; `settle` is its second half and runs in `books`. Nobody else
calls two stages in a row. Knows no HTTP and no SQL: the customer's side is an `Answer`, the money's side a `Teller`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from steelyard.catalog.costed import Costs, Prices
from steelyard.identity.keys import authenticate
from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import ClientGone, UpstreamError
from steelyard.kernel.records import Caller, Order, Quote, Terms
from steelyard.kernel.roles import Answer, Ask, Teller
from steelyard.kernel.settled import End, Position, Rated, Settlement
from steelyard.kernel.tariff import Tariff
from steelyard.metering.meter import Meter
from steelyard.rating.bounds import asking, covered
from steelyard.rating.estimate import Estimator
from steelyard.rating.rate import rate_all
from steelyard.routing.attempts import Ways, served
from steelyard.routing.choose import able, choose, most, quoted, sought
from steelyard.routing.router import Router
from steelyard.routing.rules import Wanted
from steelyard.upstream.answer_cache import AnswerCache
from steelyard.upstream.fanout import Capped, speak
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
    estimator: Estimator = field(default_factory=Estimator)
    prices: Prices = field(default_factory=Prices)
    costs: Costs = field(default_factory=Costs)
    answers: AnswerCache = field(default_factory=AnswerCache)


async def paid_request(house: House, ask: Ask, answer: Answer) -> Settlement:
    """Serve one request and return what was opened and closed.

    Raises CallerError or UpstreamError when nothing was sold. After the first byte a failure is told inside the
    answer, and what had left user space is settled.
    """
    caller = ask.caller or authenticate(house.teller.snapshot, ask.authorization)
    order = came if isinstance(came := ask.order(), Order) else await came
    try:  # to set the worst case aside, or as much of it as wallet and limits cover; then fewer tokens are forwarded
        found = house.prices.of(house.teller.snapshot, caller, order, priced_ns := house.meter.now_ns(), sought)
        asked = asking(found, order, caller, most, priced_ns)
        granted = house.teller.draw(asked.dearest) or await house.teller.hold(asked.dearest)
        quotes = route(house, caller, order, covered(asked, granted))
        reading = house.meter.open(
            order, quotes[0], house.router.in_short(order.request_id) if house.router.made else b""
        )
    except BaseException:  # whatever it was, nothing is opened that could be settled
        house.teller.release(order.request_id)
        raise
    end, last = End.UPSTREAM_ERROR, b""
    try:
        call: Callable[[Quote, bool], Any] = partial(speak, house.upstreams, order, reading)
        call = call if quotes[0].reuse is None else house.answers.speaking(quotes[0], call)
        speech = await served(house.router, order, quotes, Ways(house.clock, call, reading.move, reading.heard))
        try:
            answer.begin(order, quote := speech.quote)
            told = partial(reading.pass_on, answer)
            capped = Capped(told, quote.max_tokens) if quote.lowered else None
            if (telling := speech.tell(capped or told)) is not None:
                await telling
            speech.whole(reading.spent(total := reading.total), guessed=bool(reading.guessed))
        except BaseException as error:  # whoever stopped it, the call ends; the upstream answers for its own errors
            await speech.close(error)
            raise
        closing, rest = answer.closing(total), b""
        if house.strict or answer.holds_back:  # its end is to wait until the close is on record
            closing, rest = answer.parted(closing)
        if sending := reading.deliver(answer, closing, total):
            await sending
        reading.commit(total)
        end, last = End.MONEY_ENDED if capped and capped.met else End.COMPLETE, rest
    except UpstreamError as error:
        end = End.REFUSED if 400 <= error.status < 500 else End.UPSTREAM_ERROR
        if not reading.started:
            raise
        await reading.fail(answer, error)
    except (ClientGone, asyncio.CancelledError) as error:
        end = End.CLIENT_GONE if answer.gone or isinstance(error, ClientGone) else End.DRAINED
        if end is End.DRAINED:
            raise
    finally:
        closed = reading.close(end)
        house.teller.closed()
    if last:
        await reading.deliver_last(answer, last, strict=house.strict)
    return Settlement(reading.opened, closed)


def route(house: House, caller: Caller, order: Order, terms: Sequence[Terms]) -> list[Quote]:
    """Whom to ask, best first, each with its cost tariff; an upstream without one is not used (fail closed)."""
    if len(terms) > 1:
        return able(terms, lambda one: route(house, caller, order, [one]))
    one, snapshot, reuse = terms[0], house.teller.snapshot, None
    found = house.costs.of(snapshot, one.model, order, one.priced_ns, caller.currency, choose)
    if order.reuse or snapshot.routes.keys:
        reuse = house.answers.look(order, caller, one, snapshot.routes)
    if reuse is None or not reuse.events:
        wanted, now_ns = Wanted(order, caller, one, snapshot.routes), house.clock.monotonic_ns()
        found = house.router.rank(wanted, found, house.estimator, now_ns)
    return quoted(caller, one, found, reuse)


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
