"""One offer after the other is called until one has begun to speak.

Before the first byte only: what a customer has heard is not taken back. An answer that leaves in one piece is waited
for whole, so that one which breaks in its middle is asked for again elsewhere. Knows no upstream: how to call one, and
how to put on record that another is called, come in.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import AsyncGeneratorType, TracebackType
from typing import Protocol, Self

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.frozen import Record
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order, Quote
from steelyard.kernel.roles import Told
from steelyard.routing.health import ELSEWHERE, Call
from steelyard.routing.prefix import Use
from steelyard.routing.router import Router

Said = tuple[int, Event, Usage]


class Telling(Protocol):
    """What an offer says, for whoever asks for it or wants to be told. `aclose()` ends the call."""

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


class Served:
    """The answer of the first of these offers that begins to speak: entering the context waits for that, leaving it
    closes the call. Entering raises UpstreamError of the last that was tried."""

    __slots__ = ("_call", "_heard", "_order", "_over", "_quotes", "_router", "_speech", "_use", "_ways", "quote")

    def __init__(self, router: Router, order: Order, quotes: Sequence[Quote], ways: Ways) -> None:
        self.quote = quotes[0]  # who is asked
        self._router = router
        self._order = order
        self._quotes = quotes
        self._ways = ways
        self._over = False  # it has said all
        self._heard: list[Said] = []  # to be handed out first, from its end
        self._call: Call | None = None
        self._speech: Speech | None = None
        self._use: Use | None = None

    async def __aenter__(self) -> Self:
        router, clock, left, fault = self._router, self._ways.clock, self._quotes, ""
        router.asked()
        try:
            for moves in range(limits.ATTEMPTS_MAX):
                quote, left = left[0], left[1:]
                if moves:
                    await asyncio.sleep(pause_s(self._order.request_id, moves))
                    self._ways.move(quote, fault)
                alone = not left or moves + 1 == limits.ATTEMPTS_MAX
                try:
                    speech = self._ask(quote)
                    if not alone:
                        await self._first_of_several(speech)
                    else:  # as long as its connection lives
                        said = await speech.__anext__()
                        self._heard = [said]
                        self._spoke()
                    return self
                except StopAsyncIteration:  # not a word
                    return self
                except UpstreamError as error:
                    await self._close(error)
                    fault = str(error.fault)
                    while left and not router.may_move(left[0].offer, clock.monotonic_ns()):
                        left = left[1:]
                    if alone or not left or error.fault not in ELSEWHERE:
                        raise
                except BaseException:
                    await self._close(None)
                    raise
        finally:
            if router.affinity.prompts:
                router.affinity.ended(self._order.request_id)
        raise AssertionError("the last try returns or raises")

    def _ask(self, quote: Quote) -> Speech:
        order, offer, now_ns = self._order, quote.offer, self._ways.clock.monotonic_ns()
        self.quote, self._speech = quote, None
        whole = quote.is_whole(order)
        tokens = (order.prompt_tokens_max + quote.max_tokens) * order.sequences
        self._call = self._router.begin(offer, tokens, now_ns, whole=whole)
        affinity = self._router.affinity
        self._use = affinity.called(order.request_id, offer, now_ns) if affinity.prompts else None
        self._speech = speech = self._ways.call(quote, whole)
        return speech

    async def _first_of_several(self, speech: Speech) -> None:
        """Wait until it speaks or, where the answer leaves in one piece, has said all. Raises UpstreamError."""
        patience_s = patience_of(self._order, self.quote)
        heard: list[Said] = []
        try:
            async with asyncio.timeout(patience_s) as patience:
                async for said in speech:
                    heard.append(said)
                    self._ways.heard(said[2])
                    if _speaks(said[1]):
                        patience.reschedule(None)
                        self._spoke()
                        break
                if not self._order.stream:
                    async for said in speech:
                        heard.append(said)
                        self._ways.heard(said[2])
        except TimeoutError:
            message = f"did not begin to answer within {patience_s:g} s"
            raise UpstreamError(self.quote.offer.upstream, message, retryable=True) from None
        self._heard = heard[::-1]

    def _spoke(self) -> None:
        assert self._call is not None  # noqa: S101 - it was asked
        self._call.spoke(self._ways.clock.monotonic_ns())
        if self._router.closed:
            self._router.spoke(self.quote.offer)

    def whole(self, used: Usage, *, guessed: bool) -> None:
        """It came to its end and used this; `guessed`: the counts are ours, not the upstream's."""
        assert self._call is not None  # noqa: S101 - it was asked
        self._over = True
        self._call.whole(self._order, used, self._ways.clock.monotonic_ns())
        self._call.ended()
        if self._use is not None and not guessed:
            self._router.affinity.answered(self._use, used)

    async def tell(self, told: Told) -> None:
        """Hand on all that it says, as it says it. Raises UpstreamError."""
        heard, speech = self._heard, self._speech
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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._over:
            await self._close(error if isinstance(error, UpstreamError) else None)

    async def _close(self, error: UpstreamError | None) -> None:
        clock = self._ways.clock
        try:
            if self._speech is not None:
                await self._speech.aclose()
        finally:
            if self._call is not None:
                self._call.ended()
            if error is not None:
                self._router.failed(self.quote.offer, error, clock.monotonic_ns(), _wait_ns(error, clock))


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
