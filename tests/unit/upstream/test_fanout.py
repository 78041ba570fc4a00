import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import msgspec
import pytest
from msgspec import Raw
from tests.fakes.parties import CALLER, COST, OFFER, PRICE, FakeWork

from steelyard.kernel import limits
from steelyard.kernel.clock import ManualClock
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order, Quote
from steelyard.routing.attempts import Ways, served
from steelyard.routing.router import Router
from steelyard.upstream.fanout import Speech, kept_of, own_seed, speak
from steelyard.upstream.hearing import Heard
from steelyard.upstream.protocol import Upstream


def called(upstream: Upstream, asked: Order) -> Speech:
    return speak(
        {OFFER.upstream: upstream}, asked, FakeWork(), Quote(CALLER, OFFER, PRICE, COST, 1, 10, False, 0), False
    )


def test_each_sequence_draws_with_a_seed_of_its_own() -> None:
    params = {"seed": Raw(b"7"), "top_p": Raw(b"1")}
    seeds = [bytes(own_seed(params, sequence)["seed"]) for sequence in range(3)]
    assert seeds == [b"7", b"8", b"9"]
    assert own_seed(params, 1)["top_p"] == Raw(b"1")
    assert "seed" not in own_seed({}, 1)


def test_a_seed_stays_within_what_an_engine_takes() -> None:
    for seed in (-(2**63), 2**63 - 1):
        assert 0 <= int(bytes(own_seed({"seed": Raw(str(seed).encode())}, 1)["seed"])) < 2**31


class TwoThatFail:
    """Both sequences say a word and then fail, at a moment the test chooses."""

    name = "fake"

    def __init__(self) -> None:
        self.fails = asyncio.Event()

    async def stream(
        self, offer: Offer, params: dict[str, Raw], max_tokens: int, request_id: bytes, whole: bool = False
    ) -> AsyncGenerator[Event, None]:
        yield Event("word", Usage(1, 0, 1))
        await self.fails.wait()
        raise UpstreamError(self.name, "died")

    async def count(self, offer: Offer, params: dict[str, Raw]) -> int | None:
        return None

    async def ready(self, offer: Offer) -> bool:
        return True


async def test_hanging_up_leaves_no_task_behind() -> None:
    """One that waits for the next piece for ever is told of in the log when the collector meets it."""
    order = Order(b"r", "m", {}, 1, 10, 2, True)
    before = asyncio.all_tasks()
    async with aclosing(called(TwoThatFail(), order)) as speech:
        for _ in range(2):
            await anext(speech)
        waiting = asyncio.ensure_future(anext(speech))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_all_sequences_failing_while_a_piece_is_sent_end_the_answer() -> None:
    """Found by the simulator: nobody looked at the sequences again, and the request hung for ever with its hold."""
    upstream = TwoThatFail()
    asked = Order(bytes(16), "m", {}, 10, 10, 2, True)
    async with asyncio.timeout(10):
        async with aclosing(called(upstream, asked)) as events:
            seen = [await anext(events), await anext(events)]
            upstream.fails.set()
            for _ in range(10):  # the send of the second piece takes a while
                await asyncio.sleep(0)
            with pytest.raises(UpstreamError, match="died"):
                await anext(events)
    assert [event.text for _, event, _ in seen] == ["word", "word"]


async def test_what_a_sequence_said_before_it_failed_comes_first() -> None:
    upstream = TwoThatFail()
    upstream.fails.set()
    asked = Order(bytes(16), "m", {}, 10, 10, 2, True)
    seen: list[Event] = []
    with pytest.raises(UpstreamError, match="died"):
        async with aclosing(called(upstream, asked)) as events:
            async for _, event, _ in events:
                seen.append(event)
    assert seen and all(event.text == "word" for event in seen)


class OneThatLostCount(TwoThatFail):
    """A word, and then a count."""

    def __init__(self, counted: Usage) -> None:
        super().__init__()
        self._counted = counted

    async def stream(
        self, offer: Offer, params: dict[str, Raw], max_tokens: int, request_id: bytes, whole: bool = False
    ) -> AsyncGenerator[Event, None]:
        yield Event("word", Usage(1, 0, 1))
        yield Event("", self._counted, "stop")

    async def read(self, offer: Offer, capability: Capability, params: dict[str, Raw]) -> Event:
        return Event("", self._counted, "stop")


MOST = limits.TOKENS_TOLD_MAX
BEYOND = [
    Usage(10**18, 0, 1),
    Usage(1, 0, -1),
    Usage(1, MOST + 1, 1),
    Usage(1, 0, 1, cache_write=MOST + 1),
    Usage(1, 0, 1, reasoning=-1),
]


def test_what_is_within_the_bounds_stands() -> None:
    most = Event("a", Usage(MOST, MOST, MOST // 2, 0, 0, MOST, MOST // 2))
    assert kept_of(OFFER, MOST, most, Usage()) is most


@pytest.mark.parametrize("counted", BEYOND)
@pytest.mark.parametrize("sequences", [1, 2])
async def test_a_count_that_cannot_be_ends_the_answer_at_what_was_told_before(counted: Usage, sequences: int) -> None:
    """Posted, it would come to more than an account can hold, and stop the posting of everybody's requests."""
    seen: list[Event] = []
    asked = Order(bytes(16), "m", {}, 10, 10, sequences, True)
    with pytest.raises(UpstreamError, match="counts what cannot be"):
        async with aclosing(called(OneThatLostCount(counted), asked)) as events:
            async for _, event, _ in events:
                seen.append(event)
    assert seen and all(event.usage == Usage(1, 0, 1) for event in seen)


class OneThatSaysAll(Heard):
    """In one piece."""

    counted: Usage = Usage()

    def stream(self, *_: object) -> Heard:
        return self

    async def begin(self) -> Event:
        self.over = True
        return Event("word", self.counted, "stop")


@pytest.mark.parametrize("counted", BEYOND)
async def test_so_does_one_in_an_answer_that_comes_in_one_piece(counted: Usage) -> None:
    offer, order = msgspec.structs.replace(OFFER, kind="openai"), Order(bytes(16), "m", {}, 10, 10, 1, False)
    says_all = OneThatSaysAll(*(None,) * 5, counted=counted)  # type: ignore[arg-type]
    call = partial(speak, {OFFER.upstream: says_all}, order, FakeWork())
    ways = Ways(ManualClock(), call, lambda quote, fault: None, lambda usage: None)
    with pytest.raises(UpstreamError, match="counts what cannot be"):
        await served(Router(), order, [Quote(CALLER, offer, PRICE, COST, 1, 10, False, 0)], ways)


async def test_what_is_read_is_counted_within_the_same_bounds() -> None:
    asked = Order(bytes(16), "m", {}, 10, 0, 1, False, capability=Capability.EMBEDDING)
    with pytest.raises(UpstreamError, match="counts what cannot be"):
        async with aclosing(called(OneThatLostCount(Usage(-1)), asked)) as events:
            await anext(events)
