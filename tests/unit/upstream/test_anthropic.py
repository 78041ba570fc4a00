"""The adapter for servers of Anthropic's dialect against one that is as strict as the real one."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.emulators.anthropic_server import KEY, AnthropicServer, count, signed

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.records import Event, Offer
from steelyard.upstream.kinds import ByKind
from steelyard.upstream.pool import Pool


@pytest.fixture(scope="module")
def server() -> Iterator[AnthropicServer]:
    with AnthropicServer() as running:
        yield running


def offer(server: AnthropicServer) -> Offer:
    return Offer(1, "m", "vendor", f"127.0.0.1:{server.port}", "their-m", 200_000, 64_000, "anthropic")


def raw(fields: dict[str, Any]) -> dict[str, Raw]:
    return {name: Raw(msgspec.json.encode(value)) for name, value in fields.items() if value is not None}


def asked(scene: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"scene: {scene}"}]


async def events_of(
    server: AnthropicServer, scene: str, seen: list[Event] | None = None, key: str = KEY, **fields: Any
) -> list[Event]:
    params = {"messages": asked(scene), **fields}
    pool, events = Pool(), [] if seen is None else seen
    try:
        async for event in ByKind("vendor", pool, key).stream(offer(server), raw(params), 2048, b""):
            events.append(event)
    finally:
        await pool.close()
    for before, after in itertools.pairwise(events):
        assert after.usage.prompt >= before.usage.prompt and after.usage.output >= before.usage.output
    return events


def said(events: list[Event]) -> str:
    return "".join(event.text for event in events)


@pytest.mark.parametrize("scene", ["hello", "late"])
async def test_a_text_and_its_counts(server: AnthropicServer, scene: str) -> None:
    events = await events_of(server, scene)
    assert said(events) == "Hello"
    last = events[-1]
    assert (last.finish, last.estimated, last.usage.output) == ("stop", False, 3)
    assert last.usage.prompt == count(server.bodies[-1])
    if scene == "hello":
        assert events[0].usage.prompt == last.usage.prompt, "the prompt is known from the first event"


async def test_a_marked_prompt_has_disjoint_counts(server: AnthropicServer) -> None:
    text = "Be brief. " * 50
    marked = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    usage = (await events_of(server, "", messages=[{"role": "system", "content": marked}, *asked("hello")]))[-1].usage
    total = count(server.bodies[-1])
    assert (usage.prompt, usage.cached_input) == (total, total // 2)


async def test_no_usage_is_an_estimate_that_says_so_and_is_never_zero(server: AnthropicServer) -> None:
    last = (await events_of(server, "uncounted"))[-1]
    assert last.estimated
    assert last.usage.input > 0 and last.usage.output >= 100


@pytest.mark.parametrize("scene", ["cut", "unfinished", "error", "error_at_once"])
async def test_an_answer_that_breaks_off_is_an_error_after_what_came(server: AnthropicServer, scene: str) -> None:
    seen: list[Event] = []
    with pytest.raises(UpstreamError) as caught:
        await events_of(server, scene, seen)
    assert said(seen).startswith("Hel")
    assert all(event.usage.output > 0 and event.usage.input > 0 for event in seen if event.text)
    if scene.startswith("error"):
        assert (caught.value.status, caught.value.retryable) == (529, True)


async def test_parallel_calls_are_numbered_and_whole(server: AnthropicServer) -> None:
    for scene in ("parallel", "at_once"):
        events = await events_of(server, scene)
        pieces = [piece for event in events for piece in event.tool_calls]
        assert [(piece.id, piece.name) for piece in pieces if piece.id] == [("toolu_a", "weather"), ("toolu_b", "time")]
        whole = {index: "".join(piece.arguments for piece in pieces if piece.index == index) for index in (0, 1)}
        assert json.loads(whole[0]) == {"city": "Bern"}
        assert json.loads(whole[1]) == ({"zone": "utc"} if scene == "parallel" else {})
        assert events[-1].finish == "tool_calls"


async def test_thinking_keeps_its_signature_block_by_block(server: AnthropicServer) -> None:
    events = await events_of(server, "thinking", thinking={"type": "enabled", "budget_tokens": 1024})
    assert "".join(event.reasoning for event in events) == "Let me see."
    assert [event.signature for event in events if event.signature] == [signed("Let me see.")]
    assert events[-1].reasoning_tokens == 6
    blocks: list[tuple[str, str]] = []
    reasoning = ""
    for event in await events_of(server, "hidden"):
        reasoning += event.reasoning
        if event.signature or event.redacted:
            blocks.append((reasoning, event.signature or event.redacted))
            reasoning = ""
    assert blocks == [("First", signed("First")), ("", "ciphertext"), ("second", signed("second"))]


@pytest.mark.parametrize(
    ("scene", "status", "retryable"),
    [
        ("busy", 429, True),
        ("overloaded", 529, True),
        ("broken", 500, True),
        ("huge", 413, False),
        ("forbidden", 0, False),
        ("unpaid", 0, False),
        ("penniless", 0, False),
        ("gone", 0, False),
    ],
)
async def test_whose_turn_it_is_after_a_refusal(
    server: AnthropicServer, scene: str, status: int, retryable: bool
) -> None:
    with pytest.raises(UpstreamError) as caught:
        await events_of(server, scene)
    assert (caught.value.status, caught.value.retryable) == (status, retryable)
    assert caught.value.retry_after_s == (7 if scene == "busy" else None)


async def test_our_key_is_in_no_words_of_ours(server: AnthropicServer) -> None:
    with pytest.raises(UpstreamError) as caught:
        await events_of(server, "hello", key="sk-ant-wrong")
    assert (caught.value.status, caught.value.message) == (0, "answered 401: invalid x-api-key: [key]")
    assert "sk-ant" not in str(caught.value)
    with pytest.raises(UpstreamError) as caught:
        await events_of(server, "hello", key="two\r\nlines: x")
    assert "lines" not in caught.value.message
