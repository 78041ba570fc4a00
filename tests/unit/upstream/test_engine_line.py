"""The line in front of an engine: in this worker where it tells its slots, at the engine where it tells none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.fakes.engine import HEAD, ROLE, Exchange, ScriptedServer, chunk, finished, offer_at, scripted, told
from tests.fakes.parties import CALLER, COST, PRICE, FakeWork

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import CallerError
from steelyard.kernel.offers import Offer
from steelyard.kernel.records import Order, Quote
from steelyard.scheduling.wish import Turn, turn_from
from steelyard.upstream.fanout import speak
from steelyard.upstream.kinds import ByKind
from steelyard.upstream.pool import Pool


class Engine:
    """Answers each chat when it is told to; `props` is what it says of itself."""

    def __init__(self, props: dict[str, Any]) -> None:
        self.props = props
        self.chats: list[dict[str, Any]] = []
        self.heads: list[bytes] = []
        self.turns: list[asyncio.Event] = []
        self.came = asyncio.Condition()
        self.lets_in = asyncio.Event()  # out of a line of its own
        self.lets_in.set()

    async def script(self, exchange: Exchange) -> None:
        if exchange.head.startswith(b"GET /props"):
            await exchange.answer(msgspec.json.encode(self.props))
            return
        go = asyncio.Event()
        async with self.came:
            self.chats.append(msgspec.json.decode(exchange.body))
            self.heads.append(exchange.head)
            self.turns.append(go)
            self.came.notify_all()
        await self.lets_in.wait()
        await exchange.send(HEAD, chunk(ROLE))
        await go.wait()
        await exchange.send(chunk(told("Hi", 1)), chunk(finished(1)), b"0\r\n\r\n")

    async def has(self, chats: int) -> None:
        async with self.came:
            await self.came.wait_for(lambda: len(self.chats) >= chats)

    def asked(self) -> list[str]:
        return [chat["messages"][0]["content"][-1] for chat in self.chats]


class Asking:
    def __init__(self, server: ScriptedServer, pool: Pool, workers: int = 1) -> None:
        self.offer: Offer = offer_at(server.port)
        self.upstream = ByKind("local", pool, "key", workers)
        self.works: list[FakeWork] = []

    def ask(self, said: str, tenant_id: int = 1, deadline_s: int = 0) -> "asyncio.Task[list[str]]":
        params = {"messages": Raw(msgspec.json.encode([{"role": "user", "content": said}]))}
        order = Order(bytes(16), "m", params, 50, 5, 1, True, deadline_ns=deadline_s * NS_PER_S)
        caller = msgspec.structs.replace(CALLER, tenant_id=tenant_id)
        quote, work = Quote(caller, self.offer, PRICE, COST, 1, 5, False, 0), FakeWork()
        self.works.append(work)

        async def heard() -> list[str]:
            speech = speak({"local": self.upstream}, order, work, quote, False)
            try:
                return [event.text async for _, event, _ in speech]
            finally:
                await speech.aclose()

        return asyncio.ensure_future(heard())


@asynccontextmanager
async def serving(workers: int = 1, **props: Any) -> AsyncIterator[tuple[Engine, Asking]]:
    engine, pool = Engine(props), Pool()
    async with scripted(engine.script) as server:
        yield engine, Asking(server, pool, workers)
        for turn in engine.turns:
            turn.set()
        await pool.close()


async def waiting(asking: Asking, count: int) -> None:
    line = asking.upstream._line
    assert line is not None
    while (gate := line._gates.get(asking.offer.address)) is None or gate.waiting != count:
        await asyncio.sleep(0)


async def test_an_engine_with_slots_is_sent_as_many_sequences_and_tenants_take_turns() -> None:
    async with serving(total_slots=1) as (engine, asking):
        asks = [asking.ask("hello 1")]
        await engine.has(1)
        for said, tenant in (("hello 2", 1), ("hello 3", 1), ("hello 4", 2)):
            asks.append(asking.ask(said, tenant))
            await waiting(asking, len(asks) - 1)
        for number in range(4):
            await engine.has(number + 1)
            engine.turns[number].set()
        assert ["".join(await ask) for ask in asks] == ["Hi"] * 4
        assert engine.asked() == ["1", "4", "2", "3"]
        assert not any(b"x-steelyard-turn" in head for head in engine.heads)


async def test_a_line_of_a_batch_waits_while_anybody_is_waited_for() -> None:
    async with serving(total_slots=1) as (engine, asking):
        asks = [asking.ask("hello 1")]
        await engine.has(1)
        for said, deadline_s in (("hello 2", 86_400), ("hello 3", 0)):
            asks.append(asking.ask(said, deadline_s=deadline_s))
            await waiting(asking, len(asks) - 1)
        assert asking.upstream.waiting == (2, 1)
        for number in range(3):
            await engine.has(number + 1)
            engine.turns[number].set()
        await asyncio.gather(*asks)
        assert engine.asked() == ["1", "3", "2"]
        assert asking.upstream.waiting == (0, 0)


async def test_what_an_engine_does_while_a_sequence_waits_is_not_its_work() -> None:
    async with serving(total_slots=1) as (engine, asking):
        asks = [asking.ask("hello 1"), asking.ask("hello 2")]
        await engine.has(1)
        await waiting(asking, 1)
        assert [work.told for work in asking.works] == [["waits", "begins"], ["waits"]]
        engine.turns[0].set()
        await engine.has(2)
        assert asking.works[1].told == ["waits", "begins"]
        engine.turns[1].set()
        await asyncio.gather(*asks)
        assert [work.told for work in asking.works] == [["waits", "begins", "stops"]] * 2
    async with serving() as (engine, asking):  # one with a line of its own tells by the head of its answer
        engine.lets_in.clear()
        ask = asking.ask("hello 1")
        await engine.has(1)
        assert asking.works[0].told == ["waits"]
        engine.lets_in.set()
        engine.turns[0].set()
        await ask
        assert asking.works[0].told == ["waits", "begins", "stops"]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_conversation_goes_on_in_its_slot_unless_others_choose_slots_too(workers: int) -> None:
    async with serving(workers, total_slots=4) as (engine, asking):
        for number, said in enumerate(("a" * 600, "b" * 600, "a" * 900, "b" * 900)):
            ask = asking.ask(said)
            await engine.has(number + 1)
            engine.turns[number].set()
            await ask
        assert [chat.get("id_slot") for chat in engine.chats] == ([0, 1, 0, 1] if workers == 1 else [None] * 4)


async def test_an_engine_that_tells_no_slots_hears_whose_turn_it_is() -> None:
    async with serving() as (engine, asking):
        asks = [asking.ask("hello 1", 7), asking.ask("hello 2", 8, deadline_s=3600)]
        await engine.has(2)
        assert asking.upstream.waiting is None, "its line is its own"
        for turn in engine.turns:
            turn.set()
        await asyncio.gather(*asks)
        told = [head.partition(b"x-steelyard-turn: ")[2].partition(b"\r\n")[0] for head in engine.heads]
        assert sorted(map(turn_from, told)) == [Turn(7, 0), Turn(8, 3600)]
        assert b"id_slot" not in msgspec.json.encode(engine.chats)


async def test_a_customer_who_goes_gives_his_place_to_the_next() -> None:
    async with serving(total_slots=1) as (engine, asking):
        first = asking.ask("hello 1")
        await engine.has(1)
        second = asking.ask("hello 2")
        await waiting(asking, 1)
        third = asking.ask("hello 3")
        await waiting(asking, 2)
        second.cancel()
        await asyncio.wait([second])
        first.cancel()
        await asyncio.wait([first])
        await engine.has(2)
        engine.turns[1].set()
        assert "Hi" in "".join(await third)
        assert engine.asked() == ["1", "3"]


async def test_a_full_line_is_told_at_once_and_no_offer_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WISHES_PER_TENANT_MAX", 1)
    async with serving(total_slots=1) as (engine, asking):
        first = asking.ask("hello 1")
        await engine.has(1)
        second = asking.ask("hello 2")
        await waiting(asking, 1)
        with pytest.raises(CallerError) as full:
            await asking.ask("hello 3")
        assert (full.value.status, full.value.code, full.value.retry_after_s) == (429, "overloaded", 1)
        for number, ask in enumerate((first, second)):
            await engine.has(number + 1)
            engine.turns[number].set()
            await ask


@pytest.mark.parametrize("header", [b"", b"1", b"a b", b"1 2 3", b"-1 0", b"9" * 30 + b" 1"])
def test_a_turn_that_cannot_be_read_is_nobodys(header: bytes) -> None:
    assert turn_from(header) == Turn()
