"""Every vendor's adapter against its emulator, over real sockets: what all of them have to pass, and what one has."""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.vendors.cases import CASES, SWITCHED, Case
from tests.vendors.running import Running, running

from steelyard.emulators.script import script_of
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.offers import Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.upstream.kinds import ByKind
from steelyard.upstream.pool import Pool

TOOL = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "At a place.", "parameters": TOOL}}]


class Shop:
    """One vendor, and our adapter for it."""

    def __init__(self, case: Case, at: Running, pool: Pool, key: str = "") -> None:
        self.case = case
        self.at = at
        self._adapter = ByKind("vendor", pool, key or case.key)
        self.offer = Offer(1, "m", "vendor", at.address, "their-m", 4096, 4096, case.kind)
        self.pool = pool
        self.max_tokens = 50

    def stream(self, *turns: Any, **fields: Any) -> AsyncGenerator[Event, None]:
        said = [turn if isinstance(turn, dict) else {"role": "user", "content": turn} for turn in turns]
        params = {"messages": said, **fields}
        encoded = {name: Raw(msgspec.json.encode(value)) for name, value in params.items()}
        return self._adapter.stream(self.offer, encoded, self.max_tokens, b"")

    async def events(self, *turns: Any, seen: list[Event] | None = None, **fields: Any) -> list[Event]:
        events = [] if seen is None else seen
        async for event in self.stream(*turns, **fields):
            events.append(event)
        for before, after in itertools.pairwise(events):
            assert after.usage.prompt >= before.usage.prompt and after.usage.generated >= before.usage.generated
        return events

    async def refused(self, *turns: Any, **fields: Any) -> UpstreamError:
        with pytest.raises(UpstreamError) as caught:
            await self.events(*turns, **fields)
        assert self.case.key not in str(caught.value) and "secret" not in str(caught.value)
        return caught.value

    def counted(self, *, thinks: bool) -> Usage:
        """What the vendor counted for the last request."""
        script = script_of(self.case.order(self.at.body), is_thinking=thinks)
        thought = len(script.reasoning)
        fresh = script.prompt_tokens - script.cached_tokens
        return Usage(fresh, script.cached_tokens, script.output_tokens - thought, reasoning=thought)


@pytest.fixture(scope="module", params=CASES)
def at(request: pytest.FixtureRequest) -> Iterator[tuple[Case, Running]]:
    case = CASES[request.param]
    with running(case.emulator()) as one:
        yield case, one


@pytest.fixture
async def pool() -> AsyncGenerator[Pool, None]:
    pool = Pool()
    yield pool
    await pool.close()


@pytest.fixture
async def shop(at: tuple[Case, Running], pool: Pool) -> Shop:
    return Shop(*at, pool)


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events)


def reasoning(events: list[Event]) -> str:
    return "".join(event.reasoning for event in events)


async def test_an_answer_is_heard_and_counted_as_the_vendor_counts_it(shop: Shop) -> None:
    events = await shop.events("scene: hello")
    assert (text(events), events[-1].finish, events[-1].estimated) == ("Hello", "stop", False)
    assert events[-1].usage == shop.counted(thinks=shop.case.thinks)
    assert None not in shop.at.body.values(), "unset is not null"


async def test_what_was_read_from_a_cache_is_a_bucket_of_its_own(shop: Shop) -> None:
    last = (await shop.events("scene: cached " + "x" * 100))[-1]
    assert last.usage == shop.counted(thinks=shop.case.thinks)
    assert last.usage.cached_input > 10


async def test_reasoning_is_told_apart_from_the_answer(shop: Shop) -> None:
    events = await shop.events("scene: reasoning", thinking={"type": "enabled"})
    assert (reasoning(events), text(events)) == ("Let me see." if shop.case.shows else "", "42")
    assert (events[-1].usage.reasoning, events[-1].usage.output) == (3, 1)


@pytest.mark.parametrize("at", SWITCHED, indirect=True)
@pytest.mark.parametrize(
    "said", [{"thinking": {"type": "disabled"}}, {"enable_thinking": False}, {"reasoning_effort": "none"}]
)
async def test_a_model_that_shall_not_think_does_not_by_any_of_the_words(shop: Shop, said: dict[str, Any]) -> None:
    events = await shop.events("Hi", **said)
    assert reasoning(events) == "" and events[-1].usage.reasoning == 0


@pytest.mark.parametrize("at", SWITCHED, indirect=True)
@pytest.mark.parametrize(
    "said",
    [
        {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        {"enable_thinking": True, "thinking_budget": 2048},
        {"reasoning_effort": "medium"},
        {"thinking": {"type": "adaptive"}},
    ],
)
async def test_a_model_that_may_think_does_by_any_of_the_words(shop: Shop, said: dict[str, Any]) -> None:
    events = await shop.events("Hi", **said)
    assert events[-1].usage.reasoning > 0 and bool(reasoning(events)) == shop.case.shows


async def test_tools_are_called_and_the_next_turn_is_taken_without_the_reasoning_that_was_lost(shop: Shop) -> None:
    events = await shop.events("scene: tools", tools=TOOLS)
    assert events[-1].finish == "tool_calls"
    pieces = [piece for event in events for piece in event.tool_calls]
    assert [(piece.id, piece.name) for piece in pieces if piece.id] == [("call_0", "weather")]
    arguments = "".join(piece.arguments for piece in pieces)
    assert json.loads(arguments) == {"city": "Bern"}
    call = {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "call_0", "content": "Rain"}
    again = await shop.events(
        "scene: tools", {"role": "assistant", "content": None, "tool_calls": [call]}, result, tools=TOOLS
    )
    assert (text(again), again[-1].finish) == ("The tools have answered.", "stop")


async def test_an_answer_without_counts_is_estimated_and_says_so(shop: Shop) -> None:
    last = (await shop.events("scene: usage_never"))[-1]
    assert last.estimated and last.usage.input > 0 and last.usage.output >= 2


async def test_an_answer_that_breaks_off_is_an_error_after_what_came(shop: Shop) -> None:
    seen: list[Event] = []
    with pytest.raises(UpstreamError) as caught:
        await shop.events("scene: cut", seen=seen)
    assert text(seen) == "Hel" and seen[-1].usage.output > 0
    assert caught.value.fault is Fault.SERVER


async def test_an_error_amid_a_stream_is_the_vendors(shop: Shop) -> None:
    seen: list[Event] = []
    with pytest.raises(UpstreamError) as caught:
        await shop.events("scene: error", seen=seen)
    assert text(seen) == "Hel"
    assert (caught.value.fault, caught.value.retryable) == (Fault.SERVER, True)


async def test_hanging_up_ends_the_call_at_the_vendor(shop: Shop) -> None:
    async with aclosing(shop.stream("scene: hang")) as events:
        async for event in events:
            if event.text:
                break
    await until(lambda: shop.at.served.running == 0)


async def until(met: Any) -> None:
    async with asyncio.timeout(20):
        while not met():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("at", "fault"), [(kind, fault) for kind, case in CASES.items() for fault in sorted(case.faults)], indirect=["at"]
)
async def test_each_no_of_the_vendor_is_of_its_class(shop: Shop, fault: str) -> None:
    error = await shop.refused(f"scene: {fault}")
    assert error.fault == fault
    assert (error.status in {400, 404, 422, 451}) == error.fault.is_customers
    assert error.status == 0 or not error.fault.is_ours
    assert error.retryable == (error.fault in {Fault.RATE_LIMITED, Fault.SERVER})


async def test_a_wrong_key_is_ours_to_mend_and_in_no_words(shop: Shop) -> None:
    error = await Shop(shop.case, shop.at, shop.pool, "wrong-key").refused("Hi")
    assert (error.fault, error.status) == (Fault.AUTH, 0)
    assert "wrong-key" not in str(error)


async def test_the_vendor_is_ready_while_it_answers(shop: Shop, pool: Pool) -> None:
    assert await ByKind("vendor", pool, shop.case.key).ready(shop.offer)
