"""One offer after the other is called until one has begun to speak.

Before the first byte only: what a customer has heard is not taken back. An answer that leaves in one piece is waited
for whole, so that one which breaks in its middle is asked for again elsewhere. Knows no upstream: how to call one, and
how to put on record that another is called, come in.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import AsyncGeneratorType
from typing import Protocol

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.frozen import Record
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order, Quote
from steelyard.kernel.roles import Sending, Told
from steelyard.routing.health import ELSEWHERE, Call
from steelyard.routing.prefix import Use
from steelyard.routing.router import Router

Said = tuple[int, Event, Usage]


class Telling(Protocol):
    """What an offer says, for whoever asks for it or wants to be told. `aclose()` ends the call."""

    @property
    def begin(self) -> Callable[[], Awaitable[Event | None]] | None:
        """Of one that was asked for an answer in one piece: call this first. It waits for all of it and returns the
        only event, for `said`; None where it comes in pieces all the same."""

    def said(self, event: Event) -> Said: ...

    def __aiter__(self) -> AsyncIterator[Said]: ...
    def __anext__(self) -> Awaitable[Said]: ...
    def tell(self, told: Told) -> Awaitable[None] | None: ...
    def aclose(self) -> Awaitable[None]: ...


Speech = Telling | AsyncGeneratorType[Said, None]


class Ways(Record, frozen=True):
    """What an attempt needs of other rooms."""

    clock: Clock
    call: Callable[[Quote, bool], Speech]  # for an answer in one piece, or not
    move: Callable[[Quote, str], None]  # put on record who is called from here on, and why not the one before
    heard: Callable[[Usage], None]  # keep what its vendor may bill, while nothing of it is passed on yet


async def served(router: Router, order: Order, quotes: Sequence[Quote], ways: Ways) -> "Served":
    """Call one of these offers after the other until one begins to speak. Raises UpstreamError of the last tried."""
    clock, affinity, left, fault = ways.clock, router.affinity, quotes, ""
    try:
        for moves in range(limits.ATTEMPTS_MAX):
            quote, left = left[0], left[1:]
            if moves:
                await asyncio.sleep(pause_s(order.request_id, moves))
                ways.move(quote, fault)
            alone = not left or moves + 1 == limits.ATTEMPTS_MAX
            now_ns = clock.monotonic_ns()
            call = router.begin(order, quote, now_ns, again=moves > 0)
            use = affinity.called(order.request_id, quote.offer, now_ns) if affinity.prompts else None
            one = Served(quote, order, router, ways, call, use)
            try:
                speech = one.speech = ways.call(quote, call.whole)
                if not alone:
                    await one.first_of_several(speech)
                    return one
                # As long as its connection lives.
                if call.whole and not isinstance(speech, AsyncGeneratorType) and (begin := speech.begin) is not None:
                    one.only = None if (event := await begin()) is None else speech.said(event)
                if one.only is None:
                    one.heard.append(await speech.__anext__())
                if not call.whole or call.state.failures or call.state.error_parts or router.closed:
                    one.spoke()
                return one
            except StopAsyncIteration:  # not a word
                return one
            except UpstreamError as error:
                await one.close(error)
                fault = str(error.fault)
                if alone or error.fault not in ELSEWHERE or not (left := _may_try(router, left, clock.monotonic_ns())):
                    raise
            except BaseException:
                await one.close()
                raise
    finally:
        if affinity.prompts:
            affinity.ended(order.request_id)
    raise AssertionError("the last try returns or raises")


class Served(msgspec.Struct, eq=False):
    """The answer of an offer. When it was told and came to its end it is over by `whole`, otherwise by `close`."""

    quote: Quote  # who is asked
    order: Order
    router: Router
    ways: Ways
    call: Call
    use: Use | None
    speech: Speech | None = None
    heard: list[Said] = []  # to be handed out first, from its end
    only: Said | None = None  # all that it says

    async def first_of_several(self, speech: Speech) -> None:
        """Wait until it speaks or, where the answer leaves in one piece, has said all. Raises UpstreamError."""
        patience_s = patience_of(self.order, self.quote)
        heard, keep = self.heard, self.ways.heard
        try:
            async with asyncio.timeout(patience_s) as patience:
                async for said in speech:
                    heard.append(said)
                    keep(said[2])
                    if _speaks(said[1]):
                        patience.reschedule(None)
                        self.spoke()
                        break
                if not self.order.stream:
                    async for said in speech:
                        heard.append(said)
                        keep(said[2])
        except TimeoutError:
            message = f"did not begin to answer within {patience_s:g} s"
            raise UpstreamError(self.quote.offer.upstream, message, retryable=True) from None
        heard.reverse()

    def spoke(self) -> None:
        """It began to speak."""
        self.call.spoke(self.ways.clock.monotonic_ns())
        if self.router.closed:
            self.router.spoke(self.quote.offer)

    def tell(self, told: Told) -> Sending:
        """Hand on all that it says, as it says it; to be awaited until that is done. Raises UpstreamError."""
        return self._tell(told) if self.only is None else told(*self.only)

    async def _tell(self, told: Told) -> None:
        heard, speech = self.heard, self.speech
        while heard:
            if (sending := told(*heard.pop())) is not None:
                await sending
        assert speech is not None  # noqa: S101 - it was asked
        if isinstance(speech, AsyncGeneratorType):
            async for said in speech:
                if (sending := told(*said)) is not None:
                    await sending
        elif (telling := speech.tell(told)) is not None:
            await telling

    def whole(self, used: Usage, *, guessed: bool) -> None:
        """It came to its end and used this; `guessed`: the counts are ours, not the upstream's."""
        self.call.came_whole(self.order, used, self.ways.clock.monotonic_ns())
        if self.use is not None and not guessed:
            self.router.affinity.answered(self.use, used)

    async def close(self, error: BaseException | None = None) -> None:
        """End it, unless it is over already; for the upstream's own error, or for none of his."""
        call, clock = self.call, self.ways.clock
        if call.over:
            return
        try:
            if self.speech is not None:
                await self.speech.aclose()
        finally:
            call.ended()
            if isinstance(error, UpstreamError):
                self.router.failed(self.quote.offer, error, clock.monotonic_ns(), _wait_ns(error, clock))


def _may_try(router: Router, left: Sequence[Quote], now_ns: int) -> Sequence[Quote]:
    """These, from the first on to which a request that failed may move."""
    while left and not router.may_move(left[0].offer, now_ns):
        left = left[1:]
    return left


def patience_of(order: Order, quote: Quote) -> float | None:
    """How long an offer may say nothing before another is asked, in seconds. One that is asked for an answer in one
    piece says nothing until that is made, however well it does; a line of a batch waits at an engine for as long as
    its connection lives (None), because it waits for its turn."""
    if order.deadline_ns and quote.offer.has_lanes and not quote.offer.first_token_s:
        return None
    if quote.is_whole(order):
        return limits.FIRST_TOKEN_S + quote.max_tokens * limits.WHOLE_TOKEN_MS / 1000
    return quote.offer.first_token_s or limits.FIRST_TOKEN_S


def pause_s(request_id: bytes, moves: int) -> float:
    """How long to wait before the next offer is called: nothing at first, then longer and longer, each request its own
    part of it (the tail of an id is random), so that they do not come in a wave."""
    if moves == 1:
        return 0.0
    part = int.from_bytes(request_id[-2:]) / 65536
    return (limits.RETRY_PAUSE_MS << (moves - 2)) * part / 1000


def _wait_ns(error: UpstreamError, clock: Clock) -> int | None:
    """How long the upstream wants to be left alone, by its own word."""
    if error.reset_ns is not None:
        return max(0, error.reset_ns - clock.now_ns())
    return None if error.retry_after_s is None else error.retry_after_s * NS_PER_S


def _speaks(event: Event) -> bool:
    """Whether there is anything in it for a customer."""
    if event.text or event.finish is not None or event.reasoning or event.tool_calls or event.found:
        return True
    return bool(event.refusal or event.redacted or event.signature or event.logprobs is not None)
