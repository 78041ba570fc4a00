"""Events that are handed on in the call that brings them are those that are asked for, in every order of things."""

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from msgspec import Raw
from tests.emulators.openai_server import OpenAIServer
from tests.fakes.engine import HEAD, Exchange, chunk, scripted, sse

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.kernel.run import Run, Signal, Watch
from steelyard.upstream.hearing import Heard
from steelyard.upstream.http1 import Connection
from steelyard.upstream.kinds import ByKind
from steelyard.upstream.pool import Pool, Response

END = b"0\r\n\r\n"
SCENES = ("hello", "usage_twice", "usage_zeros", "usage_and_no_done", "comments", "parallel", "reasoning", "refusal")
BROKEN = ("error_at_once", "cut", "unfinished", "error", "abort", "busy", "refused")


def said(text: str, finish: str | None = None) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


def heard_of(pool: Pool, port: int, scene: str = "") -> Heard:
    params = {"messages": Raw(msgspec.json.encode([{"role": "user", "content": f"scene: {scene}"}]))}
    offer = Offer(1, "m", "vendor", f"127.0.0.1:{port}", "their-m", 2048, 2048, "openai")
    found = ByKind("vendor", pool, "secret").stream(offer, params, 50, b"")
    assert isinstance(found, Heard)
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


async def all_of(server: OpenAIServer, scene: str, way: Callable[[Heard, list[Event]], Awaitable[None]]) -> object:
    """What came, however it was cut into reads."""
    pool, seen, fault = Pool(), list[Event](), ""
    try:
        await way(heard_of(pool, server.port, scene), seen)
    except UpstreamError as error:
        fault = error.message
    finally:
        await pool.close()
    texts = ["".join(getattr(event, field) for event in seen) for field in ("text", "reasoning", "refusal")]
    calls = "".join(call.arguments for event in seen for call in event.tool_calls)
    return texts, calls, seen and seen[-1].usage, seen and seen[-1].finish, fault


async def asked(heard: Heard, seen: list[Event]) -> None:
    async for event in heard:
        seen.append(event)


def as_it_is(event: Event, before: Usage) -> Event:
    return event


async def told(heard: Heard, seen: list[Event]) -> None:
    await heard.begin()
    await heard.tell(lambda sequence, event, usage: seen.append(event), as_it_is)


@pytest.mark.parametrize("scene", SCENES + BROKEN)
async def test_who_is_told_hears_what_who_asks_hears(server: OpenAIServer, scene: str) -> None:
    assert await all_of(server, scene, told) == await all_of(server, scene, asked)


def calls_and_their_own() -> Counter[str]:
    kinds = (Heard, Connection, Response, Watch)
    return Counter(type(one).__name__ for one in gc.get_objects() if issubclass(type(one), kinds))


@pytest.mark.parametrize("way", [told, asked])
@pytest.mark.parametrize("scene", SCENES[:2] + BROKEN)
async def test_what_a_call_was_made_of_is_freed_without_the_collector(
    server: OpenAIServer, scene: str, way: Callable[[Heard, list[Event]], Awaitable[None]]
) -> None:
    gc.collect()
    gc.disable()
    try:
        before = calls_and_their_own()
        for _ in range(2):
            await all_of(server, scene, way)
        async with asyncio.timeout(10):
            while not calls_and_their_own() <= before:
                await asyncio.sleep(0.005)
    finally:
        gc.enable()


class Listener:
    """One call under a `Run`, as the fast front has it, and what it was told."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        self.texts: list[str] = []
        self.waits: Signal[None] | None = None  # returned for the next event
        self.keep = as_it_is
        self.run = Run(self._listen(), asyncio.get_running_loop(), lambda run: None)
        self.run.start()

    async def _listen(self) -> None:
        try:
            await self.heard.begin()
            await self.heard.tell(self.take, self.kept)
        finally:
            await self.heard.aclose()

    def take(self, sequence: int, event: Event, usage: Usage) -> Signal[None] | None:
        self.texts.append(event.text)
        return self.waits

    def kept(self, event: Event, before: Usage) -> Event:
        return self.keep(event, before)

    async def until(self, *texts: str) -> None:
        async with asyncio.timeout(20):
            while tuple(self.texts) != texts:
                assert not self.run.over, self.run.error
                await asyncio.sleep(0)

    async def end(self) -> BaseException | None:
        async with asyncio.timeout(20):
            while not self.run.over:
                await asyncio.sleep(0)
        return self.run.error


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Listener, Callable[..., Awaitable[None]], Exchange, Pool]]:
    """A listener that was told one word, and how its upstream says more."""
    begun: asyncio.Queue[Exchange] = asyncio.Queue()
    over, pool = asyncio.Event(), Pool()

    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD + chunk(said("a")))
        begun.put_nowait(exchange)
        await over.wait()

    async with scripted(script) as server:
        listener = Listener(heard_of(pool, server.port))
        exchange = await begun.get()

        async def say(*events: bytes) -> None:
            await exchange.send(b"".join(events))

        try:
            await listener.until("a")
            yield listener, say, exchange, pool
        finally:
            over.set()
            await pool.close()


async def test_each_event_is_told_as_it_comes_and_the_connection_is_used_again() -> None:
    async with listening() as (listener, say, _, pool):
        await say(chunk(said("b")))
        await listener.until("a", "b")
        await say(chunk(said("c")), chunk(said("d")))
        await listener.until("a", "b", "cd")
        await say(chunk(said("", "stop") + b"data: [DONE]\n\n"))
        assert await listener.end() is None
        [host] = pool._hosts.values()
        await say(END)
        async with asyncio.timeout(20):
            while not host.idle:
                await asyncio.sleep(0)


async def test_an_end_without_a_last_word_is_heard_when_the_answer_ends() -> None:
    async with listening() as (listener, say, _, _pool):
        await say(chunk(said("b", "stop")), END)
        assert await listener.end() is None
        assert "".join(listener.texts) == "ab"


async def test_nothing_is_told_while_the_last_piece_is_on_its_way() -> None:
    async with listening() as (listener, say, _, _pool):
        listener.waits = Signal()
        await say(chunk(said("b")))
        await listener.until("a", "b")
        await say(chunk(said("c")))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert listener.texts == ["a", "b"]
        waits, listener.waits = listener.waits, None
        waits.give()
        await listener.until("a", "b", "c")
        await say(chunk(said("d")))
        await listener.until("a", "b", "c", "d")


async def test_one_who_waits_too_long_holds_the_upstream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UPSTREAM_READ_BYTES", 1000)
    async with listening() as (listener, say, _, pool):
        listener.waits = Signal()
        await say(chunk(said("b")))
        await listener.until("a", "b")
        [host] = pool._hosts.values()
        [connection] = host.connections
        await say(*[chunk(said("c"))] * 100)
        async with asyncio.timeout(20):
            while not connection._paused:
                await asyncio.sleep(0)
        waits, listener.waits = listener.waits, None
        waits.give()
        async with asyncio.timeout(20):
            while "".join(listener.texts) != "ab" + "c" * 100:
                await asyncio.sleep(0)


async def test_what_came_before_a_failure_is_told_before_it() -> None:
    async with listening() as (listener, say, _, _pool):
        await say(chunk(said("b") + sse({"error": {"message": "overloaded"}})))
        error = await listener.end()
        assert isinstance(error, UpstreamError) and listener.texts == ["a", "b"]


async def test_a_connection_that_is_cut_is_an_error() -> None:
    async with listening() as (listener, _, exchange, _pool):
        exchange.cut()
        error = await listener.end()
        assert isinstance(error, UpstreamError) and "in the middle" in error.message


async def test_what_is_no_http_is_an_error_behind_what_came_with_it() -> None:
    async with listening() as (listener, say, _, _pool):
        await say(chunk(said("b")), b"nonsense\r\n")
        error = await listener.end()
        assert isinstance(error, UpstreamError) and "not HTTP" in error.message
        assert listener.texts == ["a", "b"]


async def test_silence_ends_it() -> None:
    async with listening() as (listener, _, _exchange, pool):
        [host] = pool._hosts.values()
        for connection in host.connections:
            connection.look(connection.since_s + limits.UPSTREAM_SILENCE_S + 1)
        error = await listener.end()
        assert isinstance(error, UpstreamError) and "said nothing" in error.message


async def test_an_event_in_the_place_of_another_is_the_last_and_ends_the_call() -> None:
    async with listening() as (listener, say, exchange, _pool):
        await say(chunk(said("b")))
        await listener.until("a", "b")
        shown: list[tuple[str, int]] = []

        def keep(event: Event, before: Usage) -> Event:
            shown.append((event.text, before.output))
            return Event("!", before, "length", cut=True)

        listener.keep = keep
        await say(chunk(said("c")))
        assert await listener.end() is None
        assert (listener.texts, shown) == (["a", "b", "!"], [("c", 2)])
        with contextlib.suppress(ConnectionError):
            await exchange.gone()


async def test_one_who_is_cancelled_is_told_nothing_more() -> None:
    async with listening() as (listener, say, exchange, _pool):
        await say(chunk(said("b")))
        listener.run.cancel()
        with contextlib.suppress(ConnectionError):
            await exchange.gone()
        assert isinstance(await listener.end(), asyncio.CancelledError)
        assert listener.texts == ["a"]


async def test_a_mistake_of_who_is_told_is_raised_where_he_waits() -> None:
    async with listening() as (listener, say, _, _pool):
        listener.texts = None  # type: ignore[assignment]
        await say(chunk(said("b")))
        assert isinstance(await listener.end(), AttributeError)
