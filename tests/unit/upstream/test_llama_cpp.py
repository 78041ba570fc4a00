"""The adapter against an engine that says exactly what the test wrote."""

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.fakes.engine import DONE, HEAD, ROLE, Exchange, chunk, finished, offer_at, scripted, sse, told

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.pool import Pool, Request

END = b"0\r\n\r\n"


def params(**fields: Any) -> dict[str, Raw]:
    whole = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    return {name: Raw(msgspec.json.encode(value)) for name, value in whole.items()}


class Reads:
    """A pool whose one answer arrives in exactly these reads; after them it ends, or is cut."""

    status = 200

    def __init__(self, reads: tuple[bytes, ...], cut: bool) -> None:
        self._reads = iter(reads)
        self._cut = cut
        self.closed = False

    async def request(self, request: Request) -> "Reads":
        return self

    async def __aenter__(self) -> "Reads":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def body(self, bytes_max: int) -> bytes:
        """Of its slots, which it is asked for before log probabilities are."""
        return b'[{"id":0,"speculative":false}]'

    async def read(self) -> bytes:
        read = next(self._reads, b"")
        if not read and self._cut:
            raise UpstreamError("local", "closed the connection in the middle of its answer")
        return read

    def close(self) -> None:
        self.closed = True


async def events_of(*reads: bytes, cut: bool = False, **fields: Any) -> list[Event]:
    """The events of an answer; those before an error hang on the error."""
    events: list[Event] = []
    pool = Reads(reads, cut)
    stream = LlamaCpp("local", pool, "key").stream(offer_at(1), params(**fields), 9, b"")  # type: ignore[arg-type]
    try:
        async for event in stream:
            events.append(event)
    except UpstreamError as error:
        error.events = events  # type: ignore[attr-defined]
        raise
    finally:
        assert pool.closed
    return events


async def refused(status: int, body: bytes) -> UpstreamError:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(body, status)

    pool = Pool()
    async with scripted(script) as server:
        with pytest.raises(UpstreamError) as caught:
            await anext(LlamaCpp("local", pool, "key").stream(offer_at(server.port), params(), 9, b""))
        await pool.close()
    return caught.value


async def test_every_read_is_one_event_with_exact_counts() -> None:
    events = await events_of(ROLE, told("The", 1) + told(" end", 2), told(".", 3), finished(4))
    assert events == [
        Event("The end", Usage(5, 0, 2)),
        Event(".", Usage(5, 0, 3)),
        Event("", Usage(5, 0, 4), "stop"),
    ]


async def test_cached_tokens_stand_in_their_own_bucket() -> None:
    events = await events_of(told("a", 1, prompt=2, cached=30), finished(2, prompt=2, cached=30))
    assert [event.usage for event in events] == [Usage(2, 30, 1), Usage(2, 30, 2)]


async def test_a_character_split_between_reads_comes_whole() -> None:
    stream = told("é😀", 2) + finished(3)
    for place in range(1, len(stream)):
        events = await events_of(stream[:place], stream[place:])
        assert "".join(event.text for event in events) == "é😀"


async def test_the_finish_waits_for_the_closing_counts() -> None:
    end, counts = finished(2).split(b"\n\n", 1)
    events = await events_of(told("a", 1), end + b"\n\n", counts)
    assert [(event.finish, event.usage.output) for event in events] == [(None, 1), ("stop", 2)]


async def test_counts_never_fall_when_the_engine_disagrees_with_itself() -> None:
    events = await events_of(told("a b c", 3), finished(1))
    assert [event.usage.output for event in events] == [3, 3]


async def test_logprobs_of_one_read_are_joined_and_alternatives_cut_to_what_was_asked() -> None:
    def token(text: str) -> dict[str, Any]:
        other = {"id": 2, "token": "x", "bytes": [120], "logprob": -2.0}
        return {"id": 1, "token": text, "bytes": [1], "logprob": -0.5, "top_logprobs": [other, other]}

    reads = told("a", 1, logprobs=[token("a")]) + told("b", 2, logprobs=[token("b")])
    for asked, kept in ((None, 0), (1, 1), (2, 2)):
        fields = {"logprobs": True} if asked is None else {"logprobs": True, "top_logprobs": asked}
        first, _ = await events_of(reads, finished(2), **fields)
        assert first.logprobs is not None
        content = msgspec.json.decode(first.logprobs)["content"]
        assert [one["token"] for one in content] == ["a", "b"]
        assert [len(one["top_logprobs"]) for one in content] == [kept, kept]
        assert set(content[0]) == {"token", "logprob", "bytes", "top_logprobs"}


async def test_an_answer_without_its_end_is_an_error_after_its_events() -> None:
    for reads in ([told("a", 1)], [told("a", 1), DONE], [told("a", 1), finished(2).removesuffix(DONE)]):
        with pytest.raises(UpstreamError, match="without finishing") as caught:
            await events_of(*reads)
        assert caught.value.events[0] == Event("a", Usage(5, 0, 1))  # type: ignore[attr-defined]
    with pytest.raises(UpstreamError, match="middle of its answer"):
        await events_of(told("a", 1), cut=True)


async def test_an_error_inside_the_stream() -> None:
    fault = sse({"error": {"code": 500, "message": "out of cells", "type": "server_error"}})
    with pytest.raises(UpstreamError, match="out of cells") as caught:
        await events_of(told("a", 1), fault)
    assert (caught.value.status, caught.value.retryable) == (0, False)
    with pytest.raises(UpstreamError, match="cannot be read"):
        await events_of(b"data: {nonsense\n\n")


async def test_refusals_of_the_engine() -> None:
    long = {"code": 400, "type": "exceed_context_size_error", "message": "m", "n_prompt_tokens": 6010, "n_ctx": 2048}
    error = await refused(400, msgspec.json.encode({"error": long}))
    assert (error.status, error.retryable) == (400, False)
    assert error.message.startswith("This prompt has 6010 tokens, but the model's context holds 2048 tokens.")
    error = await refused(503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')
    assert (error.status, error.retryable, error.message) == (503, True, "Loading model")
    error = await refused(401, b'{"error":{"message":"Invalid API Key"}}')
    assert (error.status, error.retryable) == (0, False), "a wrong key of ours is nothing a customer could mend"
    error = await refused(500, b"<html>")
    assert (error.status, error.message) == (500, "answered 500 without saying why")


async def test_what_is_sent() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.head.startswith(b"GET /slots "):
            await exchange.answer(b"", 404)  # a server that keeps them to itself
        else:
            await exchange.send(HEAD + chunk(told("a", 1) + finished(1)) + END)

    pool = Pool()
    asked = params(temperature=0.5, n=3, stream=False, tools=[], timings_per_token=False, logprobs=True, model="other")
    async with scripted(script) as server:
        async for _ in LlamaCpp("local", pool, "key").stream(offer_at(server.port), asked, 9, b""):
            pass
        await pool.close()
    assert b"authorization: Bearer key\r\n" in server.exchanges[-1].head
    assert msgspec.json.decode(server.exchanges[-1].body) == {
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0.5,
        "logprobs": True,
        "top_logprobs": 1,
        "model": "m-upstream",
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "timings_per_token": True,
        "cache_prompt": True,
    }


async def test_logprobs_are_refused_where_tokens_are_drafted_and_nothing_else_asks() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.head.startswith(b"GET /slots "):
            await exchange.answer(b'[{"id":0,"speculative":true}]')
        else:
            await exchange.send(HEAD + chunk(told("a", 1) + finished(1)) + END)

    pool = Pool()
    async with scripted(script) as server:
        engine = LlamaCpp("local", pool, "key")
        for asked in (params(logprobs=True), params(), params(logprobs=False), params(logprobs=True)):
            stream = engine.stream(offer_at(server.port), asked, 9, b"")
            if asked.get("logprobs") == Raw(b"true"):
                with pytest.raises(UpstreamError, match="'logprobs' are not told by an engine that drafts") as caught:
                    await anext(stream)
                assert (caught.value.status, caught.value.param) == (400, "logprobs")
            else:
                async for _ in stream:
                    pass
        await pool.close()
    assert [exchange.head[:4] for exchange in server.exchanges] == [b"GET ", b"POST", b"POST"]


async def test_closing_the_iterator_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(HEAD + chunk(told("a", 1)))
        await exchange.gone()
        gone.set()

    pool = Pool()
    async with scripted(script) as server:
        stream = LlamaCpp("local", pool, "key").stream(offer_at(server.port), params(), 9, b"")
        assert (await anext(stream)).text == "a"
        await stream.aclose()
        await asyncio.wait_for(gone.wait(), 5)
        await pool.close()


async def test_readiness() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(b"{}", 200 if len(server.exchanges) == 1 else 503)

    pool = Pool()
    async with scripted(script) as server:
        upstream = LlamaCpp("local", pool, "")
        assert await upstream.ready(offer_at(server.port)) is True
        assert await upstream.ready(offer_at(server.port)) is False
        assert await upstream.ready(offer_at(1)) is False
        await pool.close()


def counted(output: int, prompt: int = 5) -> bytes:
    """A chunk that only says the usage so far, as vendors with continuous usage send it."""
    return sse({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


async def test_a_stream_without_usage_is_counted_by_its_running_counts_and_never_free() -> None:
    """It ends as a failure of the upstream, so it is settled at what was delivered, with its prompt."""
    end = finished(2).split(b"\n\n")[0] + b"\n\n"
    with pytest.raises(UpstreamError, match="without finishing") as caught:
        await events_of(told("a", 1), told("b", 2), end, DONE)
    assert [event.usage for event in caught.value.events] == [Usage(5, 0, 1), Usage(5, 0, 2)]  # type: ignore[attr-defined]


async def test_usage_twice_counts_once() -> None:
    events = await events_of(told("a b", 2), counted(2), finished(2))
    assert [event.usage for event in events] == [Usage(5, 0, 2), Usage(5, 0, 2)]
    assert [event.finish for event in events] == [None, "stop"]
    after_the_end = await events_of(told("a b", 2), finished(2).removesuffix(DONE) + counted(2) + DONE)
    assert after_the_end[-1] == Event("", Usage(5, 0, 2), "stop")


async def test_usage_in_every_chunk_is_cumulative_not_added_up() -> None:
    chunks = [told(text, place) + counted(place) for place, text in enumerate("abc", 1)]
    events = await events_of(*chunks, finished(3))
    assert [event.usage.output for event in events] == [1, 2, 3, 3]


async def test_an_upstream_that_ignores_its_cap_is_cut_at_the_last_token_within_it() -> None:
    """Nine tokens were asked for. In one read or in many, the tenth is neither delivered nor counted."""
    chunks = [told(f"t{place} ", place) for place in range(1, 40)]
    for reads in (chunks, [b"".join(chunks)], [b"".join(chunks[:20]), b"".join(chunks[20:])]):
        events = await events_of(*reads, finished(39))
        assert "".join(event.text for event in events).split() == [f"t{place}" for place in range(1, 10)]
        assert (events[-1].usage, events[-1].finish, events[-1].cut) == (Usage(5, 0, 9), "length", True)
        assert [event.cut for event in events[:-1]] == [False] * (len(events) - 1)


async def test_a_chunk_that_passes_the_cap_by_itself_is_not_delivered() -> None:
    assert await events_of(told("much", 11)) == [Event("", Usage(5, 0, 0), "length", cut=True)]
    events = await events_of(told("a", 8, cached=2), told(None, 10), told("b", 11))  # tokens without a text count too
    assert events == [Event("a", Usage(5, 2, 8)), Event("", Usage(5, 0, 8), "length", cut=True)]


async def test_closing_counts_above_the_cap_are_told_as_they_are() -> None:
    """The text has left: the books put what is above the hold on our own account."""
    events = await events_of(told("a", 9), finished(11, finish="length"))
    assert events[-1] == Event("", Usage(5, 0, 11), "length")


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


async def asked_with_tools(
    supports_tools: bool, *answer: bytes, **fields: Any
) -> tuple[list[Event], dict[str, Any], list[bytes]]:
    """The events, the body the engine got, and the paths it was asked for."""

    async def script(exchange: Exchange) -> None:
        if b"GET /props" in exchange.head:
            await exchange.answer(msgspec.json.encode({"chat_template_caps": {"supports_tools": supports_tools}}))
        else:
            await exchange.send(HEAD + b"".join(chunk(piece) for piece in answer) + END)

    pool = Pool()
    async with scripted(script) as server:
        upstream = LlamaCpp("local", pool, "key")
        stream = upstream.stream(offer_at(server.port), params(tools=TOOLS, **fields), 9, bytes(16))
        events = [event async for event in stream]
        await pool.close()
    paths = [exchange.head.split(b" ")[1] for exchange in server.exchanges]
    return events, msgspec.json.decode(server.exchanges[-1].body), paths


async def test_a_demanded_call_is_a_grammar_and_comes_as_a_call() -> None:
    text = '{"name": "weather", "arguments": {"city": "Bern"}}'
    events, body, paths = await asked_with_tools(
        False, told(text[:20], 1) + told(text[20:], 2), finished(3), tool_choice="required", stop=["x"]
    )
    assert paths == [b"/v1/chat/completions"], "what is enforced here needs no question"
    assert body["response_format"]["type"] == "json_schema"
    assert "tools" not in body and "tool_choice" not in body
    assert "weather" in body["messages"][0]["content"]
    assert "".join(event.text for event in events) == ""
    pieces = [piece for event in events for piece in event.tool_calls]
    assert [piece.name for piece in pieces if piece.id] == ["weather"]
    assert "".join(piece.arguments for piece in pieces) == '{"city": "Bern"}'
    assert (events[-1].finish, events[-1].usage.output) == ("tool_calls", 3)


async def test_a_demanded_call_that_was_cut_says_so() -> None:
    events, _, _ = await asked_with_tools(
        False, told('{"name": "weather", "arguments": {"c', 9), finished(9, finish="length"), tool_choice="required"
    )
    assert events[-1].finish == "length"


async def test_a_template_without_tools_is_told_of_them_and_may_answer_either_way() -> None:
    events, body, paths = await asked_with_tools(False, told("It rains.", 3), finished(4))
    assert paths == [b"/props", b"/v1/chat/completions"]
    assert "response_format" not in body and "tools" not in body
    assert [(event.text, event.finish) for event in events][-1][1] == "stop"
    assert "".join(event.text for event in events) == "It rains."
    events, _, _ = await asked_with_tools(False, told('{"name": "weather", "arguments": {}}', 3), finished(4))
    assert events[-1].finish == "tool_calls"


async def test_a_template_with_tools_makes_its_own_calls() -> None:
    made = {"index": 0, "id": "c7", "type": "function", "function": {"name": "weather", "arguments": "{"}}
    more = {"index": 0, "function": {"arguments": "}"}}
    chunks = [sse({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}) for call in (made, more)]
    events, body, _ = await asked_with_tools(True, *chunks, finished(4, finish="tool_calls"))
    assert body["tools"][0]["function"]["name"] == "weather"
    pieces = [piece for event in events for piece in event.tool_calls]
    assert [(piece.index, piece.id, piece.name, piece.arguments) for piece in pieces] == [
        (0, "c7", "weather", "{"),
        (0, None, None, "}"),
    ]
    assert events[-1].finish == "tool_calls"


async def test_reasoning_is_no_text() -> None:
    thought = sse({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]})
    events = await events_of(thought + told("Yes", 2), finished(3))
    assert (events[0].reasoning, events[0].text) == ("Hm", "Yes")


def uncounted(text: str) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}}]})


async def test_a_stream_without_any_counts_is_counted_by_its_chunks_and_never_zero() -> None:
    """A chunk has a token at least. Flagged as our estimate; without closing counts it ends as a failed answer."""
    with pytest.raises(UpstreamError, match="without finishing") as caught:
        await events_of(uncounted("a"), uncounted("b") + uncounted("c"), DONE)
    events = caught.value.events  # type: ignore[attr-defined]
    assert [(event.text, event.usage.output, event.estimated) for event in events] == [("a", 1, True), ("bc", 3, True)]


async def test_closing_counts_take_the_place_of_estimated_ones() -> None:
    events = await events_of(uncounted("a"), uncounted("b"), finished(5))
    assert events[-1] == Event("", Usage(5, 0, 5), "stop")


async def test_usage_of_zero_does_not_make_free_what_was_told() -> None:
    for first in (told("a b", 2), uncounted("a") + uncounted("b")):
        events = await events_of(first, finished(0, prompt=0))
        assert events[-1].usage.output == 2


async def test_usage_that_contradicts_the_counted_tokens_wins_but_never_falls() -> None:
    for closing, settled in ((7, 7), (1, 3)):
        events = await events_of(told("a b c", 3), finished(closing))
        assert events[-1].usage.output == settled


async def test_what_comes_after_done_is_no_part_of_the_answer() -> None:
    for reads in ([told("a", 1), finished(1), told("b", 2) + finished(2)], [told("a", 1), finished(1) + told("b", 2)]):
        events = await events_of(*reads)
        assert "".join(event.text for event in events) == "a"
        assert events[-1] == Event("", Usage(5, 0, 1), "stop")


async def test_a_prompt_no_context_can_hold_is_refused_unasked() -> None:
    asked = params(messages=[{"role": "user", "content": "x" * 2048 * 128}])
    with pytest.raises(UpstreamError) as caught:
        await anext(LlamaCpp("local", Reads((), cut=True), "key").stream(offer_at(1), asked, 9, b""))  # type: ignore[arg-type]
    assert caught.value.status == 400 and "context" in caught.value.message
