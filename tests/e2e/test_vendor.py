"""openai-python through the public port to a server that does the worst real ones do: shown = receipt = posted."""

import json
from typing import Any

import openai
import pytest
from tests.e2e.vendor import MODEL
from tests.emulators.openai_server import CACHED, PROMPT, OpenAIServer
from tests.platform import Platform, wait_for

pytestmark = pytest.mark.usefixtures("server")
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "time", "step")
]


def scene(name: str) -> list[Any]:
    return [{"role": "user", "content": f"scene: {name}"}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["hello", "usage_twice", "usage_everywhere", "usage_never", "comments", "reasoning"])
def test_what_is_shown_is_what_is_posted(client, receipt, name: str, stream: bool) -> None:
    if stream:
        chunks = client.chat.completions.create(
            model=MODEL, messages=scene(name), stream=True, stream_options={"include_usage": True}
        )
        request_id = chunks.response.headers["x-request-id"]
        (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    else:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=scene(name))
        request_id, usage = raw.headers["x-request-id"], raw.parse().usage
        assert raw.headers["x-steelyard-charge"] == usage.steelyard["charge"]
    found = receipt(request_id)
    assert (found["prompt_tokens"], found["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert found["cached_tokens"] == usage.prompt_tokens_details.cached_tokens == usage.prompt_cache_hit_tokens
    assert found["amount"] == usage.steelyard["charge"]
    assert usage.steelyard.get("estimated", False) == (name == "usage_never")
    if name != "usage_never":
        assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (PROMPT, CACHED)
    assert usage.completion_tokens_details.reasoning_tokens == (6 if name == "reasoning" else 0)


def test_parallel_calls_reach_the_client_whole(client) -> None:
    with client.chat.completions.stream(model=MODEL, messages=scene("parallel"), tools=TOOLS) as stream:
        streamed = stream.get_final_completion().choices[0]
    plain = client.chat.completions.create(model=MODEL, messages=scene("parallel"), tools=TOOLS).choices[0]
    for choice in (streamed, plain):
        assert choice.finish_reason == "tool_calls"
        assert [
            (call.id, call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls
        ] == [
            ("call_a", "weather", {"city": "Bern"}),
            ("call_b", "time", {"zone": "utc"}),
        ]


def test_reasoning_and_refusals_have_their_own_fields(client) -> None:
    message = client.chat.completions.create(model=MODEL, messages=scene("reasoning")).choices[0].message
    assert (message.content, message.reasoning_content, message.reasoning) == ("42", "Let me see.", "Let me see.")
    message = client.chat.completions.create(model=MODEL, messages=scene("refusal")).choices[0].message
    assert (message.content, message.refusal) == (None, "I cannot do that.")


@pytest.mark.parametrize("name", ["cut", "error", "abort"])
def test_a_failure_amid_a_stream_is_visible_and_settles_at_what_was_delivered(client, receipt, name: str) -> None:
    stream = None
    with pytest.raises((openai.APIError, openai.APIConnectionError)) as caught:
        stream = client.chat.completions.create(model=MODEL, messages=scene(name), stream=True)
        for _ in stream:
            pass
    assert "secret" not in str(caught.value)
    if stream is not None:  # else all of it came in one read, and nothing was sold
        found = receipt(stream.response.headers["x-request-id"])
        assert found["end"] == "upstream_error" and found["output_tokens"] > 0


@pytest.mark.parametrize(("name", "status"), [("busy", 429), ("refused", 400), ("broken", 503), ("penniless", 502)])
def test_a_refusal_is_told_in_our_own_words(client, name: str, status: int) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=MODEL, messages=scene(name))
    assert caught.value.status_code == status


def test_a_tool_loop_of_thirty_turns_adds_up(client, platform: Platform) -> None:
    key = platform.new_customer("looper", money="10")
    mine = client.with_options(api_key=key)
    turns, charges, seen = scene("loop 30"), [], 0
    while True:
        raw = mine.chat.completions.with_raw_response.create(model=MODEL, messages=turns, tools=TOOLS)
        answer, seen = raw.parse(), seen + 1
        charges.append(raw.headers["x-steelyard-charge"])
        message = answer.choices[0].message
        if not message.tool_calls:
            break
        turns.append(message.model_dump(exclude_none=True))
        turns += [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in message.tool_calls]
    assert (seen, message.content) == (31, "Hello")
    spent_nano = sum(round(float(charge) * 10**9) for charge in charges)
    wallet = wait_for(
        lambda: (w := platform.wallet("looper"))["held_nano"] == 0 and w, "the last hold to be given back"
    )
    assert wallet["balance_nano"] == 10 * 10**9 - spent_nano


def test_unknown_fields_reach_an_upstream_that_may_know_them(client, server: OpenAIServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    turns = [{"role": "user", "content": [{"type": "text", "text": "scene: hello"}, image]}]
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=turns, extra_body={"guided_regex": "a+", "service_tier": "priority"}
    )
    assert raw.headers["x-steelyard-ignored"] == "guided_regex"
    assert raw.parse().service_tier == "default"
    body = server.bodies[-1]
    assert body["guided_regex"] == "a+" and "service_tier" not in body
    assert body["messages"][0]["content"][1] == image, "a model that may see gets to see"


def test_a_fan_out_is_one_usage(client, receipt) -> None:
    chunks = client.chat.completions.create(
        model=MODEL, messages=scene("hello"), n=3, stream=True, stream_options={"include_usage": True}
    )
    request_id = chunks.response.headers["x-request-id"]
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert (usage.prompt_tokens, usage.completion_tokens) == (3 * PROMPT, 9)
    assert receipt(request_id)["output_tokens"] == 9


async def test_the_async_client_too(platform: Platform, server: OpenAIServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{platform.url}/v1", api_key=platform.api_key) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=scene("parallel"), tools=TOOLS, stream=True)
        names = [
            c.function.name async for e in stream if e.choices for c in e.choices[0].delta.tool_calls or () if c.id
        ]
    assert names == ["weather", "time"]
