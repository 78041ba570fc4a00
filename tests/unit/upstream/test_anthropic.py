"""The adapter for servers of Anthropic's dialect against one that is as strict as the real one."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from tests.emulators.anthropic_server import KEY, AnthropicServer, count, signed

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.offers import Offer
from steelyard.kernel.records import Event
from steelyard.upstream.anthropic_answer import Answer
from steelyard.upstream.anthropic_fault import refusal as error_behind
from steelyard.upstream.anthropic_request import request_of
from steelyard.upstream.head import header_block
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
    assert events[-1].usage.reasoning == 6
    blocks: list[tuple[str, str]] = []
    reasoning = ""
    for event in await events_of(server, "hidden"):
        reasoning += event.reasoning
        if event.signature or event.redacted:
            blocks.append((reasoning, event.signature or event.redacted))
            reasoning = ""
    assert blocks == [("First", signed("First")), ("", "ciphertext"), ("second", signed("second"))]


@pytest.mark.parametrize(
    ("scene", "status", "retryable", "fault"),
    [
        ("busy", 429, True, Fault.RATE_LIMITED),
        ("overloaded", 529, True, Fault.RATE_LIMITED),
        ("broken", 500, True, Fault.SERVER),
        ("huge", 413, False, Fault.BAD_REQUEST),
        ("forbidden", 0, False, Fault.AUTH),
        ("unpaid", 0, False, Fault.NO_MONEY),
        ("penniless", 0, False, Fault.NO_MONEY),
        ("gone", 0, False, Fault.MODEL_MISSING),
    ],
)
async def test_whose_turn_it_is_after_a_refusal(
    server: AnthropicServer, scene: str, status: int, retryable: bool, fault: Fault
) -> None:
    with pytest.raises(UpstreamError) as caught:
        await events_of(server, scene)
    assert (caught.value.status, caught.value.retryable, caught.value.fault) == (status, retryable, fault)
    assert caught.value.retry_after_s == (7 if scene == "busy" else None)


@pytest.mark.parametrize(
    ("status", "error", "told", "fault"),
    [
        (429, {"type": "1113", "message": "余额不足或无可用资源包,请充值。"}, 0, Fault.NO_MONEY),
        (429, {"code": "1113", "message": "余额不足"}, 0, Fault.NO_MONEY),
        (429, {"type": "1308", "message": "Usage limit reached"}, 0, Fault.QUOTA),
        (429, {"type": "1302", "message": "slow down"}, 429, Fault.RATE_LIMITED),
        (429, {"type": "rate_limit_error", "message": "slow down"}, 429, Fault.RATE_LIMITED),
        (400, {"type": "1301", "message": "no"}, 400, Fault.CONTENT),
    ],
)
def test_a_code_of_the_vendors_own_says_more_than_a_status(
    status: int, error: dict[str, Any], told: int, fault: Fault
) -> None:
    """Zhipu's, in this dialect: once in the place of the type, once beside it."""
    found = error_behind("vendor", json.dumps({"type": "error", "error": error}).encode(), status)
    assert (found.status, found.fault) == (told, fault)


async def test_our_key_is_in_no_words_of_ours(server: AnthropicServer) -> None:
    with pytest.raises(UpstreamError) as caught:
        await events_of(server, "hello", key="sk-ant-wrong")
    assert (caught.value.status, caught.value.message) == (0, "answered 401: invalid x-api-key: [key]")
    assert "sk-ant" not in str(caught.value)
    with pytest.raises(UpstreamError) as caught:
        await events_of(server, "hello", key="two\r\nlines: x")
    assert "lines" not in caught.value.message


# --- the request ---------------------------------------------------------------------------------------------------

MARK = {"cache_control": {"type": "ephemeral"}}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "At a place.", "parameters": {}}}


def call(call_id: str, arguments: str = "{}", name: str = "weather") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answered(call_id: str, text: Any = "Rain") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


async def sent(server: AnthropicServer, **fields: Any) -> dict[str, Any]:
    """What reaches the server, which is strict about it."""
    await events_of(server, "hello", **fields)
    return server.bodies[-1]


async def refusal(server: AnthropicServer, **fields: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await events_of(server, "hello", **fields)
    return caught.value


async def test_turns_alternate_and_results_come_first(server: AnthropicServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
    body = await sent(
        server,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "system", "content": [{"type": "text", "text": "Be kind.", **MARK}]},
            {"role": "user", "content": "scene: hello"},
            {"role": "user", "content": [image, {"type": "text", "text": ""}]},
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": None, "tool_calls": [call("a:0", '{"city":"Bern"}'), call("call_b", "")]},
            answered("a:0"),
            answered("call_b", [{"type": "text", "text": "Sun", **MARK}]),
            {"role": "user", "content": "Thanks"},
            {"role": "system", "content": "Be briefer."},
        ],
        tools=[WEATHER | MARK],
    )
    assert body["system"] == [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind.", **MARK}]
    first = body["messages"][1]["content"][0]["id"]
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "scene: hello"}, picture]},
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": first, "name": "weather", "input": {"city": "Bern"}},
                {"type": "tool_use", "id": "call_b", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": first, "content": "Rain"},
                {"type": "tool_result", "tool_use_id": "call_b", "content": [{"type": "text", "text": "Sun"}], **MARK},
                {"type": "text", "text": "Thanks"},
            ],
        },
        {"role": "system", "content": [{"type": "text", "text": "Be briefer."}]},
    ]
    assert body["tools"] == [
        {"name": "weather", "description": "At a place.", "input_schema": {"type": "object"}, **MARK}
    ]


async def test_earlier_calls_stand_on_offer_even_when_none_may_be_made(server: AnthropicServer) -> None:
    turns = [*asked("hello"), {"role": "assistant", "content": None, "tool_calls": [call("a")]}, answered("a")]
    body = await sent(server, messages=turns)
    assert body["tools"] == [{"name": "weather", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tool_choice": "auto"}, None),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, {"type": "tool", "name": "weather"}),
        (
            {"tool_choice": "auto", "parallel_tool_calls": False},
            {"type": "auto", "disable_parallel_tool_use": True},
        ),
        ({"tool_choice": "required", "parallel_tool_calls": True}, {"type": "any"}),
    ],
)
async def test_what_is_demanded(server: AnthropicServer, fields: dict[str, Any], expected: Any) -> None:
    assert (await sent(server, tools=[WEATHER], **fields)).get("tool_choice") == expected


SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Bern"]}}, "required": ["city"]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"reasoning_effort": "high"}, {"output_config": {"effort": "high"}}),
        ({"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"thinking": {"type": "adaptive"}}, {"thinking": {"type": "adaptive"}}),
        ({"thinking": {"type": "auto"}}, {"thinking": {"type": "adaptive"}}),
        ({"thinking": {"type": "enabled"}}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9999}},
            {"thinking": {"type": "enabled", "budget_tokens": 2047}},
        ),
        ({"enable_thinking": False}, {"thinking": {"type": "disabled"}}),
        ({"thinking_budget": 1500}, {"thinking": {"type": "enabled", "budget_tokens": 1500}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
        ({"temperature": 1.0, "top_p": 0.5, "top_k": 4}, {"temperature": 1.0, "top_p": 0.5, "top_k": 4}),
        ({"flavour": "odd"}, {"flavour": "odd"}),
        ({"seed": None, "logprobs": False, "presence_penalty": 0, "logit_bias": {}, "n": 3}, {}),
        ({"service_tier": "priority", "speed": "fast", "container": "c", "inference_geo": "eu"}, {}),
        ({**MARK}, {**MARK}),
    ],
)
async def test_which_field_becomes_which(server: AnthropicServer, fields: dict[str, Any], expected: Any) -> None:
    body = await sent(server, **fields)
    assert body.pop("messages")
    assert body == {"model": "their-m", "max_tokens": 2048, "stream": True, **expected}


PART = {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seed": 7}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"7": 1}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"min_p": 0.1}, "min_p"),
        ({"temperature": 1.5}, "temperature"),
        ({"prompt": "Go"}, "prompt"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "a lot"}, "reasoning_effort"),
        ({"thinking": "yes"}, "thinking"),
        ({"messages": [PART]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a", "name": "Bob"}]}, "messages[0].name"),
        (
            {"messages": [*asked("x"), {"role": "assistant", "content": "", "tool_calls": [call("a", "[1]")]}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
            "messages[0].content",
        ),
    ],
)
async def test_what_cannot_be_carried_over_is_refused_by_name(
    server: AnthropicServer, fields: dict[str, Any], param: str
) -> None:
    before = len(server.bodies)
    error = await refusal(server, **fields)
    assert (error.status, error.param) == (400, param)
    assert f"'{param}'" in error.message
    assert len(server.bodies) == before, "nothing was asked"


async def test_a_refusal_of_the_servers_names_the_customers_own_turn(server: AnthropicServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    turns = [
        {"role": "system", "content": "Be brief."},
        *asked("hello"),
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Look:"},
        {"role": "user", "content": [image]},
    ]
    error = await refusal(server, messages=turns)
    assert (error.status, error.param) == (400, "messages[4].content")
    assert error.message == "'messages[4].content': Could not process image"
    broken = {"type": "function", "function": {"name": "b", "parameters": {"type": "string"}}}
    assert (await refusal(server, tools=[WEATHER, broken])).param == "tools[1].function.parameters"


async def test_thinking_is_handed_back_as_it_was_signed(server: AnthropicServer) -> None:
    mine = {"type": "thinking", "thinking": "Step 0", "signature": signed("Step 0")}
    hidden = {"type": "redacted_thinking", "data": "ciphertext"}
    foreign = {"type": "thinking", "thinking": "Hm", "signature": "steelyard_0123"}
    turns = [
        *asked("hello"),
        {"role": "assistant", "content": None, "tool_calls": [call("a")], "thinking_blocks": [mine, hidden, foreign]},
        answered("a"),
    ]
    body = await sent(server, messages=turns, tools=[WEATHER], thinking={"type": "adaptive"})
    assert body["messages"][1]["content"][:2] == [mine, hidden]
    assert body["messages"][1]["content"][2]["type"] == "tool_use"
    turns[1]["thinking_blocks"] = [{**mine, "thinking": "Step 1"}]
    assert (await refusal(server, messages=turns, tools=[WEATHER])).param == "messages[1].content"


async def test_betas_are_a_header(server: AnthropicServer) -> None:
    await events_of(server, "hello", anthropic_beta=["context-1m-2025-08-07", "x.y"])
    assert b"\r\nanthropic-beta: context-1m-2025-08-07,x.y\r\n" in server.heads[-1]
    assert b"\r\nanthropic-version: 2023-06-01\r\n" in server.heads[-1]
    assert (await refusal(server, anthropic_beta=["a\r\nx-api-key: b"])).status == 400


async def test_a_count_is_what_is_metered(server: AnthropicServer) -> None:
    fields: dict[str, Any] = {
        "messages": [{"role": "system", "content": "Be brief."}, *asked("hello")],
        "tools": [WEATHER],
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "temperature": 1,
    }
    pool = Pool()
    counted = await ByKind("vendor", pool, KEY).count(offer(server), raw(fields))
    await pool.close()
    assert "max_tokens" not in server.bodies[-1] and "temperature" not in server.bodies[-1]
    assert counted == (await events_of(server, "", **fields))[-1].usage.prompt


@pytest.mark.parametrize(
    ("scene", "finish", "ended_by"),
    [
        ("stopped", "stop", None),
        ("long", "length", None),
        ("window", "length", "model_context_window_exceeded"),
        ("pause", "stop", "pause_turn"),
        ("refusal", "content_filter", "refusal"),
    ],
)
async def test_why_it_ended(server: AnthropicServer, scene: str, finish: str, ended_by: str | None) -> None:
    last = (await events_of(server, scene, stop=["END"]))[-1]
    assert (last.finish, last.ended_by) == (finish, ended_by)
    assert last.stop_text == ("END" if scene == "stopped" else None)
    assert last.refusal == ("That could do harm." if scene == "refusal" else "")


async def test_a_result_stands_before_what_the_user_said_meanwhile(server: AnthropicServer) -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [call("a"), call("b")]}
    turns = [*asked("hello"), calls, {"role": "user", "content": "Quick!"}, answered("a"), answered("b")]
    body = await sent(server, messages=turns, tools=[WEATHER])
    assert [block.get("tool_use_id") for block in body["messages"][2]["content"]] == ["a", "b", None]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
LOOSE = ("thinking", "thinking_budget", "enable_thinking", "reasoning_effort", "anthropic_beta", "cache_control", "odd")
"""Fields that no dialect looks into before they come here."""


@given(st.dictionaries(st.sampled_from(LOOSE), JSON.filter(lambda value: value is not None), max_size=3))
def test_whatever_stands_in_a_field_nobody_read_before_is_sent_or_refused(fields: dict[str, Any]) -> None:
    asked_for = Offer(1, "m", "vendor", "127.0.0.1:1", "their-m", 2048, 2048, "anthropic")
    try:
        made = request_of("vendor", asked_for, raw({"messages": asked("hello"), **fields}), 2000)
    except UpstreamError as error:
        assert error.status == 400
    else:
        json.loads(made.body)
        header_block({"anthropic-beta": made.betas})


@given(JSON)
def test_whatever_a_server_says_is_read_or_an_error_of_the_upstream(said: Any) -> None:
    kinds = ("message_start", "content_block_start", "content_block_delta", "message_delta", "error")
    answer = Answer("vendor", 9)
    for kind in kinds:
        for name in ("message", "content_block", "delta", "usage", "error"):
            try:
                answer.take(msgspec.json.encode({"type": kind, name: said}))
            except UpstreamError:
                continue
            list(answer.events())


async def test_arguments_too_deep_to_read_are_refused(server: AnthropicServer) -> None:
    deep = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
    turns = [*asked("hello"), {"role": "assistant", "content": "", "tool_calls": [call("a", deep)]}]
    assert (await refusal(server, messages=turns)).status == 400
