"""The line before the decoder, through the listener: leaders, tenants in turn, rests, refusals and those who go."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import Raw
from tests.fakes.engine import offer_at
from tests.fakes.parties import FakeWork

from steelyard.engines.asked import Ask, Refused
from steelyard.engines.listener import Connection, Desk, Told
from steelyard.engines.said import Counts
from steelyard.kernel import limits
from steelyard.kernel.engines import EngineLoad
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Offer
from steelyard.kernel.records import Event
from steelyard.scheduling.wish import Turn
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.pool import Pool

SYSTEM = "You are a helpful assistant. " * 40


class Sequence:
    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.counts = Counts(5)
        self.finish: str | None = None
        self.failed: str | None = None
        self.stop: str | None = None
        self.said: list[str] = []

    def taken(self) -> tuple[str, list[Any]]:
        said, self.said = "".join(self.said), []
        return said, []


class Decoder:
    """Says a token when a test lets it; a prompt with `refuse` in it is refused. What rests keeps what it has."""

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self.added: list[str] = []
        self.rested: list[str] = []
        self.speaks: set[str] = set()
        self.ends: set[str] = set()

    @property
    def active(self) -> int:
        return len(self.sequences)

    def load(self) -> EngineLoad:
        return EngineLoad(running=self.active)

    def add(self, ask: Ask, prompt: list[int]) -> Sequence:
        if "refuse" in str(ask.prompt):
            raise Refused("too long")
        sequence = Sequence(ask)
        self.sequences.append(sequence)
        self.added.append(name_of(sequence))
        return sequence

    def prompt_of(self, ask: Ask) -> list[int]:
        return [1] * 5

    def cancel(self, sequence: Sequence) -> None:
        if sequence in self.sequences:
            self.sequences.remove(sequence)

    def rest(self, sequence: Sequence) -> None:
        assert sequence.finish is None, "what has ended is told before anybody rests"
        self.rested.append(name_of(sequence))
        self.sequences.remove(sequence)

    def resume(self, sequence: Sequence) -> None:
        self.sequences.append(sequence)
        self.added.append(name_of(sequence))

    def step(self) -> Iterator[Sequence]:
        for sequence in list(self.sequences):
            name = name_of(sequence)
            if name in self.speaks and not sequence.counts.generated:
                sequence.counts.generated = 1
                sequence.said.append("Hi")
                yield sequence
            elif name in self.ends:
                sequence.finish = "stop"
                self.sequences.remove(sequence)
                yield sequence


def name_of(sequence: Sequence) -> str:
    """The number behind the last `#` of what was asked."""
    return str(sequence.ask.prompt).rpartition("#")[2][:1]


class Client:
    def __init__(self, port: int) -> None:
        self._port = port
        self.writers: list[asyncio.StreamWriter] = []

    @property
    def offer(self) -> Offer:
        return offer_at(self._port)

    async def ask(self, text: str, turn: str = "1 0") -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.writers.append(writer)
        body = json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 5, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer key\r\nx-steelyard-turn: {turn}\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        return reader


@asynccontextmanager
async def adapter() -> AsyncIterator[LlamaCpp]:
    pool = Pool()
    yield LlamaCpp("local", pool, "key")
    await pool.close()


async def said_by(upstream: LlamaCpp, offer: Offer, text: str, work: FakeWork | None = None) -> list[Event]:
    asked = {"messages": Raw(json.dumps([{"role": "user", "content": text}]).encode())}
    turn = Turn(1, 86_400) if work is None else Turn(1, 86_400, begins=work.begins, stops=work.stops)
    return [event async for event in upstream.stream(offer, asked, 5, b"", turn=turn)]


@asynccontextmanager
async def serving(slots: int) -> AsyncIterator[tuple[Decoder, Desk, Client]]:
    decoder = Decoder()
    desk = Desk(decoder, Told("m", 4096, slots), "key", pytest.fail)  # type: ignore[arg-type]
    server = await asyncio.get_running_loop().create_server(lambda: Connection(desk), "127.0.0.1", 0)
    client = Client(server.sockets[0].getsockname()[1])
    try:
        yield decoder, desk, client
    finally:
        desk._alive.cancel()
        for writer in client.writers:
            writer.transport.abort()
        server.close()
        while desk._line.count:
            await asyncio.sleep(0)


async def until(has_come: Any) -> None:
    async with asyncio.timeout(10):
        while not has_come():
            await asyncio.sleep(0)


async def test_a_burst_with_one_unseen_beginning_is_computed_once() -> None:
    async with serving(8) as (decoder, desk, client):
        readers = [await client.ask(f"{SYSTEM}#{number}") for number in range(4)]
        await until(lambda: desk._line.count == 4)
        leader = decoder.added[0]
        assert decoder.added == [leader]
        decoder.speaks.add(leader)
        await until(lambda: len(decoder.added) == 4)
        decoder.speaks |= set("0123")
        decoder.ends |= set("0123")
        for reader in readers:
            assert b'"Hi"' in await reader.readuntil(b"data: [DONE]")


async def test_the_next_one_leads_when_the_leaders_connection_closes() -> None:
    async with serving(8) as (decoder, desk, client):
        for number in range(2):
            await client.ask(f"{SYSTEM}#{number}")
            await until(lambda number=number: desk._line.count == number + 1)
        client.writers[0].transport.abort()
        await until(lambda: decoder.added == ["0", "1"])


async def test_tenants_take_turns_and_batches_come_last() -> None:
    async with serving(1) as (decoder, desk, client):
        asked = [("#0", "1 0"), ("#1", "1 86400"), ("#2", "1 0"), ("#3", "1 0"), ("#4", "2 0")]
        for number, (text, turn) in enumerate(asked):
            await client.ask(text, turn)
            await until(lambda number=number: desk._line.count == number + 1)
        assert desk.load() == EngineLoad(running=1, waiting=4, waiting_batch=1)
        decoder.ends |= set("01234")
        await until(lambda: len(decoder.added) == 5)
        assert decoder.added == ["0", "4", "2", "3", "1"]


async def test_a_line_of_a_batch_makes_way_and_goes_on_in_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.scheduling.scheduler._CALM_NS", 0)
    async with serving(1) as (decoder, desk, client):
        reader = await client.ask("#0", "1 86400")
        await until(lambda: desk._line.count == 1)
        decoder.speaks.add("0")
        await until(lambda: decoder.sequences and decoder.sequences[0].counts.generated)
        chat = await client.ask("#1", "2 0")
        await until(lambda: decoder.added == ["0", "1"])
        assert decoder.rested == ["0"]
        decoder.ends |= set("01")
        assert b'"stop"' in await chat.readuntil(b"data: [DONE]")
        whole = await reader.readuntil(b"data: [DONE]")
        assert decoder.added == ["0", "1", "0"]
        assert (whole.count(b"HTTP/1.1"), whole.count(b'"Hi"')) == (1, 1)


async def test_whoever_counts_the_time_of_a_line_hears_when_it_rests_and_when_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steelyard.scheduling.scheduler._CALM_NS", 0)
    async with serving(1) as (decoder, desk, client), adapter() as upstream:
        account, work = Account(desk), FakeWork()
        desk._effort = account
        told = asyncio.ensure_future(said_by(upstream, client.offer, "#0", work))
        try:
            await until(lambda: work.told == ["begins"])
            chat = await client.ask("#1", "2 0")
            await until(lambda: work.told == ["begins", "stops"])
            assert account.said[-1] == "rests", "what it has used is put down before it is told"
            decoder.ends.add("1")
            assert b'"stop"' in await chat.readuntil(b"data: [DONE]")
            await until(lambda: work.told == ["begins", "stops", "begins"])
            decoder.speaks.add("0")
            decoder.ends.add("0")
            assert [(event.text, event.finish) for event in await told] == [("Hi", None), ("", "stop")]
            assert work.told == ["begins", "stops", "begins", "stops"]
        finally:
            told.cancel()


async def test_a_line_that_ends_in_the_step_in_which_its_place_is_wanted_has_ended() -> None:
    async with serving(8) as (decoder, desk, client):
        line = await client.ask("#0", "1 86400")
        decoder.speaks |= set("0123456")
        await until(lambda: decoder.sequences and decoder.sequences[0].counts.generated)
        for number in range(1, 8):
            await client.ask(f"{SYSTEM}#7" if number == 7 else f"#{number}")
            await until(lambda number=number: desk._line.count == number + 1)
        await client.ask(f"{SYSTEM}#8")  # waits for 7, its leader
        await until(lambda: desk._line.count == 9)
        assert (len(decoder.added), decoder.rested) == (8, [])
        decoder.sequences.reverse()  # so the leader is told first
        decoder.speaks.add("7")
        decoder.ends.add("0")
        assert b'"stop"' in await line.readuntil(b"data: [DONE]")
        await until(lambda: decoder.added[8:] == ["8"])
        assert decoder.rested == []


async def test_one_whose_connection_closes_while_he_rests_does_not_come_back() -> None:
    async with serving(1) as (decoder, desk, client):
        await client.ask("#0", "1 86400")
        await until(lambda: decoder.added == ["0"])
        await client.ask("#1", "2 0")
        await until(lambda: decoder.rested == ["0"])
        client.writers[0].transport.abort()
        await until(lambda: desk._line.count == 1)
        decoder.ends.add("1")
        await until(lambda: desk._line.count == 0)
        assert decoder.added == ["0", "1"]


async def test_one_who_goes_while_he_waits_is_never_decoded() -> None:
    async with serving(1) as (decoder, desk, client):
        for number in range(3):
            await client.ask(f"#{number}")
            await until(lambda number=number: desk._line.count == number + 1)
        client.writers[1].transport.abort()
        await until(lambda: desk._line.count == 2)
        decoder.ends.add("0")
        await until(lambda: decoder.added == ["0", "2"])


@pytest.mark.parametrize("waits", [False, True])
async def test_what_the_decoder_refuses_is_a_400_and_leaves_no_place_taken(waits: bool) -> None:
    async with serving(1) as (decoder, desk, client):
        if waits:
            await client.ask("#0")
            await until(lambda: desk._line.count == 1)
        refused = [await client.ask(f"refuse #{number}") for number in (1, 2)]
        last = await client.ask("#3")
        decoder.ends |= {"0", "3"}
        for reader in refused:
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        assert b'"stop"' in await last.readuntil(b"data: [DONE]")
        await until(lambda: desk._line.count == 0)


async def test_who_waits_hears_that_the_engine_lives_and_is_answered_as_if_it_had_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("steelyard.scheduling.scheduler._CALM_NS", 0)
    async with serving(1) as (decoder, desk, client), adapter() as upstream:
        await client.ask("#0")
        await until(lambda: desk._line.count == 1)
        line = await client.ask("#1", "1 86400")
        refused = await client.ask("refuse #2", "1 86400")
        told = asyncio.ensure_future(said_by(upstream, client.offer, "#3"))
        await until(lambda: desk._line.count == 4)
        for _ in range(3):
            desk._say_alive()
            desk._alive.cancel()
        signs = [await line.readuntil(b"\r\n\r\n") for _ in range(3)]
        assert signs == [b"HTTP/1.1 102 Processing\r\n\r\n"] * 3
        decoder.speaks |= set("13")
        decoder.ends |= set("013")
        assert (await line.readuntil(b"data: [DONE]")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\n\r\nHTTP/1.1 400 " in await refused.readuntil(b"too long")
        assert await told == await said_by(upstream, client.offer, "#3")


async def test_an_engine_that_dies_after_a_sign_of_life_is_found_out_and_another_may_be_asked() -> None:
    async with serving(1) as (_, desk, client), adapter() as upstream:
        await client.ask("#0")
        await until(lambda: desk._line.count == 1)
        told = asyncio.ensure_future(said_by(upstream, client.offer, "#1"))
        await until(lambda: desk._line.count == 2)
        desk._say_alive()
        [waiting] = desk._waiting
        waiting.connection._close()
        with pytest.raises(UpstreamError, match="closed the connection") as caught:
            await told
        assert caught.value.retryable


class Account:
    """What the desk says of its decoder's work; the same said again is left out."""

    def __init__(self, desk: Desk) -> None:
        self.said: list[str] = []
        self._desk = desk

    def rested(self) -> None:
        assert not self._desk._listeners
        self.said.append("rested")

    def ran(self, sequences: int, *, ended: bool) -> None:
        assert len(self._desk._listeners) >= sequences, "an end is told later"
        if self.said[-1:] != [f"ran {sequences} {ended}"]:
            self.said.append(f"ran {sequences} {ended}")

    def rests(self) -> None:
        self.said.append("rests")


async def test_work_is_put_down_before_an_end_is_told_and_what_is_used_while_nothing_runs_apart() -> None:
    async with serving(4) as (decoder, desk, client):
        account = desk._effort = Account(desk)
        for number in "01":
            decoder.speaks.add(number)
            reader = await client.ask(f"#{number}")
            await until(lambda number=number: decoder.sequences and decoder.sequences[-1].counts.generated)
            decoder.ends.add(number)
            assert b'"stop"' in await reader.readuntil(b"data: [DONE]")
            await until(lambda: not desk._stepping)
        assert account.said == ["rested", "ran 1 False", "ran 1 True"] * 2


async def test_a_full_line_is_a_429(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WISHES_PER_TENANT_MAX", 1)
    async with serving(1) as (_, desk, client):
        for number in range(2):
            await client.ask(f"#{number}")
            await until(lambda number=number: desk._line.count == number + 1)
        reader = await client.ask("#2")
        assert (await reader.readline()).startswith(b"HTTP/1.1 429 ")
