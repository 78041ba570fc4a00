"""Stage 4: call the upstream once per sequence and merge what the sequences say.

An engine's own `n` under-reports usage (measured: n=2, three tokens each, reported as three), so upstreams only ever
see single sequences and the counts are summed here. Closing the iterator cancels every sequence.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Protocol, Self, cast

import msgspec
from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order, Quote
from steelyard.kernel.roles import Sending, Told
from steelyard.scheduling.wish import Turn
from steelyard.upstream.hearing import Heard
from steelyard.upstream.protocol import Events, Queued, Upstream, Work

_EVENTS_QUEUED_MAX = 16
_NOTHING = Usage()
_ENGINE = "llama_cpp"  # the kind of offers at engines of ours

Said = tuple[int, Event, Usage]


class Speech(Protocol):
    """What an order's sequences say: (sequence, its event, usage of all sequences so far). `aclose()` cancels them."""

    def __aiter__(self) -> AsyncIterator[Said]: ...
    def __anext__(self) -> Awaitable[Said]: ...
    def aclose(self) -> Awaitable[None]: ...


def speak(upstreams: Mapping[str, Upstream], order: Order, work: Work, quote: Quote, whole: bool) -> Speech:
    """Ask whoever a quote names for all sequences of this order; `whole`: each in one piece, if it can be. An engine is
    asked in its turn. Raises UpstreamError as the upstream does, here or in the iterator."""
    offer = quote.offer
    upstream = upstreams[offer.upstream]
    if offer.kind == _ENGINE and hasattr(upstream, "in_turn"):  # isinstance takes 20 µs for it
        work.waits()
        upstream = cast(Queued, upstream).in_turn(offer, _turn(quote, order, work))
    if order.capability is not Capability.TEXT:
        return _read(upstream, offer, order)
    if order.sequences > 1:
        return _counted(upstream, offer, order, quote.max_tokens, whole)
    events = upstream.stream(offer, order.params, quote.max_tokens, order.request_id, whole)
    return _Sole(events, offer, quote.max_tokens, events.begin if whole and isinstance(events, Heard) else None)


class _Sole(msgspec.Struct, eq=False):
    """The only sequence of an order. No async generator: one of those costs a microsecond for every event."""

    events: Events
    offer: Offer
    max_tokens: int
    begin: Callable[[], Awaitable[Event | None]] | None  # see `routing.attempts.Telling`
    told: Usage = _NOTHING
    over: bool = False

    def said(self, event: Event) -> Said:
        """The only event that `begin` has brought, as it may be handed on. Raises UpstreamError."""
        kept = kept_of(self.offer, self.max_tokens, event, _NOTHING)
        return 0, kept, kept.usage

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Said:
        if self.over:
            raise StopAsyncIteration
        events = self.events
        if isinstance(events, Heard):
            event = None if events.begun else await events.begin()
            if event is None and not events.dry:
                event = events.take()
            while event is None:
                await events.more()
                event = events.take()
            self.over = events.over
        else:
            event = await events.__anext__()
        kept = kept_of(self.offer, self.max_tokens, event, self.told)
        if kept is not event:
            self.over = True
            await events.aclose()
        self.told = kept.usage
        return 0, kept, kept.usage

    def tell(self, told: Told) -> Awaitable[None] | None:
        """Hand on the rest of it, as it comes; None: there is none."""
        if self.over:
            return None
        events = self.events
        return self._tell(told, events) if isinstance(events, Heard) else self._tell_all(told)

    async def _tell_all(self, told: Told) -> None:
        """`__anext__` for all of it, without a coroutine for each."""
        async for event in self.events:
            kept = kept_of(self.offer, self.max_tokens, event, self.told)
            self.told = kept.usage
            if kept is not event:
                await self.aclose()
            if (sending := told(0, kept, self.told)) is not None:
                await sending
            if self.over:
                break

    async def _tell(self, told: Told, events: Heard) -> None:
        await events.tell(told, partial(kept_of, self.offer, self.max_tokens), self.told)
        self.over = True

    async def aclose(self) -> None:
        self.over = True
        await self.events.aclose()


async def _read(upstream: Upstream, offer: Offer, order: Order) -> AsyncGenerator[Said, None]:
    read = await upstream.read(offer, order.capability, order.params)
    read = kept_of(offer, limits.TOKENS_TOLD_MAX, read, _NOTHING)  # it has no cap
    yield 0, read, read.usage


async def _counted(
    upstream: Upstream, offer: Offer, order: Order, max_tokens: int, whole: bool
) -> AsyncGenerator[Said, None]:
    async with aclosing(_merged(upstream, offer, order, max_tokens, whole)) as merged:
        usages = [Usage()] * order.sequences
        async for sequence, event in merged:
            usages[sequence] = event.usage
            yield sequence, event, sum(usages, Usage())


def _turn(quote: Quote, order: Order, work: Work) -> Turn:
    within_s = max(1, (order.deadline_ns - quote.priced_ns) // NS_PER_S) if order.deadline_ns else 0
    return Turn(quote.caller.tenant_id, within_s, begins=work.begins, stops=work.stops)


async def _merged(
    upstream: Upstream, offer: Offer, order: Order, max_tokens: int, whole: bool
) -> AsyncGenerator[tuple[int, Event], None]:
    queue: asyncio.Queue[tuple[int, Event | UpstreamError | None]] = asyncio.Queue(_EVENTS_QUEUED_MAX)

    async def pump(sequence: int) -> None:
        try:
            await said(sequence)
        except UpstreamError as error:  # in its turn: what came before it is delivered
            await queue.put((sequence, error))
        else:
            await queue.put((sequence, None))

    async def said(sequence: int) -> None:
        params = own_params(order, sequence)
        async with aclosing(upstream.stream(offer, params, max_tokens, order.request_id, whole)) as events:
            told = _NOTHING
            async for event in events:
                kept = kept_of(offer, max_tokens, event, told)
                await queue.put((sequence, kept))
                if kept is not event:
                    break
                told = kept.usage

    tasks = [asyncio.ensure_future(pump(sequence)) for sequence in range(order.sequences)]
    getter: asyncio.Future[tuple[int, Event | UpstreamError | None]] | None = None
    try:
        running = order.sequences
        while running:
            getter = asyncio.ensure_future(queue.get())
            # One that failed while the consumer was busy puts nothing more into the queue: it is waited for as well.
            watched = [task for task in tasks if not task.done() or task.cancelled() or task.exception()]
            await asyncio.wait([getter, *watched], return_when="FIRST_COMPLETED")
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
            sequence, event = await getter
            if isinstance(event, UpstreamError):
                raise event
            if event is None:
                running -= 1
            else:
                yield sequence, event
    finally:
        if getter is not None:
            getter.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def kept_of(offer: Offer, max_tokens: int, event: Event, told: Usage) -> Event:
    """The event, or the end in its place if it went beyond the cap: then the call is to be closed.

    Raises UpstreamError where nobody can have used what it counts: no account could hold what that came to. What was
    counted before it stands, so the customer pays no more than that.
    """
    counts = event.usage
    output, reasoning = counts.output, counts.reasoning
    # The bits of all of them: none is negative or beyond a limit that has every bit set, or this is.
    if 0 <= counts.input | counts.cached_input | counts.cache_write | output | reasoning <= limits.TOKENS_TOLD_MAX:
        return cut(event, told) if output + reasoning > max_tokens and is_too_much(event, told) else event
    raise UpstreamError(offer.upstream, f"the upstream counts what cannot be: {counts}")


def is_too_much(event: Event, told: Usage) -> bool:
    """Whether an event whose count is beyond the cap can still be kept from the customer.

    It cannot when its text has left already (closing counts only), or when it is all the upstream ever said: a whole
    answer in one read has no part to deliver. What that costs above the hold is our overrun.
    """
    if event.finish is None:
        return True
    spoken = event.text or event.reasoning or event.refusal or event.tool_calls or event.logprobs is not None
    return told != _NOTHING and bool(spoken)


def cut(event: Event, told: Usage) -> Event:
    """The end of a sequence in the place of the event that went beyond the cap; nothing of that is delivered."""
    now = event.usage
    usage = Usage(
        max(now.input, told.input),
        max(now.cached_input, told.cached_input),
        told.output,
        cache_write=max(now.cache_write, told.cache_write),
        reasoning=told.reasoning,
    )
    return Event("", usage, "length", estimated=event.estimated, cut=True)


class Capped:
    """Tells what sequences say, and remembers whether the cap `met` one and ended it, by the upstream's own word or by
    ours."""

    __slots__ = ("_max_tokens", "_told", "met")

    def __init__(self, told: Told, max_tokens: int) -> None:
        self.met = False
        self._told = told
        self._max_tokens = max_tokens

    def __call__(self, sequence: int, event: Event, total: Usage) -> Sending:
        if event.finish == "length" and (event.cut or event.usage.generated >= self._max_tokens):
            self.met = True
        return self._told(sequence, event, total)


def own_params(order: Order, sequence: int) -> dict[str, Raw]:
    """What one sequence is asked: its own prompt where the order has several, and a seed of its own."""
    params = own_seed(order.params, sequence)
    return {**params, "prompt": order.prompts[sequence]} if order.prompts else params


def own_seed(params: dict[str, Raw], sequence: int) -> dict[str, Raw]:
    """With one seed for all, the sequences of a request would be copies of each other."""
    if sequence == 0 or "seed" not in params:
        return params
    seed = (int(bytes(params["seed"])) + sequence) % 2**31
    return {**params, "seed": Raw(str(seed).encode())}
