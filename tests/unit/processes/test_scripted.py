"""The scripted upstream as the adapter reads it, and customers as they count what arrives."""

import asyncio
from pathlib import Path
from random import Random
from types import SimpleNamespace

import msgspec
import pytest
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallersKept, Snapshot
from steelyard.processes import scripted
from steelyard.processes.customers import Arrival, Question, Wallet, ask, scripted_question
from steelyard.processes.upstreams import Upstreams
from steelyard.upstream.pool import Pool
from steelyard.upstream.sealed import Master

WALLET = Wallet("t", "k", True)


def knowing(pool: Pool) -> Upstreams:
    teller = SimpleNamespace(snapshot=Snapshot(0, CallersKept(), frozenset(), {}, {}, {}))
    return Upstreams(pool, {"local": "secret"}, teller, Master(Path("none")))


async def told(prompt: str, max_tokens: int) -> list:
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = Pool()
    offer = Offer(1, "m", scripted.UPSTREAM, f"127.0.0.1:{port}", scripted.MODEL, 4096, 4096)
    params = {"messages": Raw(msgspec.json.encode([{"role": "user", "content": prompt}]))}
    try:
        upstream = knowing(pool)[scripted.UPSTREAM]
        assert upstream.name == scripted.UPSTREAM
        assert await upstream.ready(offer)
        return [event async for event in upstream.stream(offer, params, max_tokens, b"")]
    finally:
        await pool.close()
        server.close()


async def test_every_word_is_one_token_and_counts_are_exact() -> None:
    events = await told(scripted.PROMPT.format(tokens=5, pace_ms=1), 9)
    assert "".join(event.text for event in events) == "t1 t2 t3 t4 t5 "
    for event in events:
        assert event.usage == Usage(3, 3, event.usage.output)
    assert [event.usage.output for event in events][-1] == 5
    assert events[-1].finish == "stop"


async def test_the_cap_is_kept() -> None:
    events = await told(scripted.PROMPT.format(tokens=50, pace_ms=0), 3)
    assert (events[-1].usage.output, events[-1].finish) == (3, "length")


async def test_the_cap_is_ignored_when_asked_and_our_adapter_cuts_there() -> None:
    for pace_ms in (0, 2):
        prompt = f"{scripted.PROMPT.format(tokens=50, pace_ms=pace_ms)} Go {scripted.PAST_THE_CAP}."
        events = await told(prompt, 3)
        assert "".join(event.text for event in events) == "t1 t2 t3 "
        assert (events[-1].usage.output, events[-1].finish, events[-1].cut) == (3, "length", True)


async def test_usage_comes_twice_when_asked_and_counts_once() -> None:
    events = await told(f"{scripted.PROMPT.format(tokens=5, pace_ms=0)} Tell {scripted.USAGE_TWICE}.", 9)
    assert (events[-1].usage.output, events[-1].finish) == (5, "stop")


async def test_what_asks_for_no_tokens_is_refused() -> None:
    with pytest.raises(UpstreamError) as caught:
        await told("Hello", 3)
    assert caught.value.status == 400


def test_a_credential_is_sent_to_its_own_upstream_only() -> None:
    upstreams = knowing(Pool())
    assert b"secret" in upstreams["local"]._adapter("llama_cpp")._headers  # type: ignore[attr-defined]
    assert b"authorization" not in upstreams["other"]._adapter("llama_cpp")._headers  # type: ignore[attr-defined]
    assert upstreams["other"] is upstreams["other"]


HEAD = b"HTTP/1.1 200 OK\r\nx-request-id: req_1\r\ntransfer-encoding: chunked\r\n\r\n"


def event(word: str, index: int = 0) -> bytes:
    return b"data: " + msgspec.json.encode({"choices": [{"index": index, "delta": {"content": word}}]}) + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def arrived(answer: bytes, *, cut_after: int = 0, reset: bool = False) -> Arrival:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(answer)
        await writer.drain()
        if cut_after:
            assert await reader.read() == b"", "half of the line is shut"
            writer.write(chunk(event("t9")))
            await writer.drain()
        writer.close() if not reset else writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    question = scripted_question("stream", WALLET, Random(1))
    question = Question("stream", WALLET, question.body, True, True, cut_after)
    try:
        return await ask(server.sockets[0].getsockname()[1], question)
    finally:
        server.close()


async def test_a_customer_counts_words_per_sequence() -> None:
    body = event("t1 t2 ") + event("t1 ", 1) + event("t3 ") + b"data: [DONE]\n\n"
    got = await arrived(HEAD + chunk(body) + b"0\r\n\r\n")
    assert (got.status, got.request_id, got.tokens, got.whole, got.in_order) == (200, "req_1", 4, True, True)


async def test_half_an_event_did_not_arrive() -> None:
    whole, half = event("t1 "), event("t2 ")[:-1]
    got = await arrived(HEAD + chunk(whole) + chunk(half))
    assert (got.tokens, got.whole) == (1, False)
    got = await arrived(HEAD + chunk(whole) + chunk(event("t2 "))[:-6])
    assert got.tokens == 1


async def test_a_missing_word_is_noticed() -> None:
    got = await arrived(HEAD + chunk(event("t1 ") + event("t3 ")))
    assert (got.tokens, got.in_order) == (2, False)


async def test_one_who_hangs_up_reads_what_had_left() -> None:
    got = await arrived(HEAD + chunk(event("t1 ")), cut_after=1)
    assert got.tokens == 2


async def test_nobody_there() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    assert (await ask(port, scripted_question("plain", WALLET, Random(1)))).status == 0
