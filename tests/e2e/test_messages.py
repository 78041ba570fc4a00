"""The Anthropic dialect against the real engine: what the customer sees is what the receipt says."""

import http.client
import json
from typing import Any

import pytest
from tests.platform import Platform, wait_for
from tests.unit.gateway.test_messages_answer import blocks_of, events

MODEL = "smollm2-135m-instruct"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather at a place.",
    "input_schema": {"type": "object", "properties": {"place": {"enum": ["Bern", "Genf"]}}, "required": ["place"]},
}
TIME = {"name": "get_time", "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}}
CALLED = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"place": "Bern"}}
LOOP = [
    {"role": "user", "content": "What is the weather in Bern?"},
    {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, CALLED]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain"}]},
]


def post(
    platform: Platform, path: str = "/v1/messages", *, once: str | None = None, key: str = "", **fields: Any
) -> tuple[int, bytes, dict[str, str]]:
    body = {"model": MODEL, "max_tokens": 12, "temperature": 0, "messages": FRANCE, **fields}
    headers = {"x-api-key": key or platform.api_key, "anthropic-version": "2023-06-01"}
    if once is not None:
        headers["idempotency-key"] = once
    connection = http.client.HTTPConnection("127.0.0.1", platform.port, timeout=60)
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    return answer.status, read, {name.lower(): value for name, value in answer.getheaders()}


def receipt_of(platform: Platform, request_id: str, key: str = "") -> dict[str, Any]:
    found: dict[str, Any] = platform.posted_receipt(request_id, key)
    return found


def agree(usage: dict[str, Any], receipt: dict[str, Any]) -> bool:
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == receipt["prompt_tokens"]
    assert usage["cache_read_input_tokens"] == receipt["cached_tokens"]
    assert usage["output_tokens"] == receipt["output_tokens"]
    assert usage["steelyard"]["charge"] == receipt["amount"]
    return True


def test_a_body_and_its_receipt_agree(platform: Platform) -> None:
    status, body, headers = post(platform, "/v1/messages?beta=true")
    message = json.loads(body)
    assert status == 200, message
    assert "Paris" in message["content"][0]["text"]
    assert message["stop_reason"] == "end_turn"
    assert agree(message["usage"], receipt_of(platform, headers["request-id"]))


def test_a_stream_and_its_receipt_agree(platform: Platform) -> None:
    _, body, headers = post(platform, stream=True)
    seen = events(body)
    assert "Paris" in blocks_of(seen)[0]["text"]
    assert agree(seen[-2]["usage"], receipt_of(platform, headers["request-id"]))
    for name in ("input_tokens", "cache_read_input_tokens"):
        assert seen[0]["message"]["usage"][name] == seen[-2]["usage"][name]


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_sequence_is_named(platform: Platform, stream: bool) -> None:
    _, body, _ = post(platform, stop_sequences=["nowhere", "Paris"], stream=stream)
    ended = events(body)[-2]["delta"] if stream else json.loads(body)
    assert (ended["stop_reason"], ended["stop_sequence"]) == ("stop_sequence", "Paris")
    cut = json.loads(post(platform, max_tokens=2, stop_sequences=["Paris"])[1])
    assert (cut["stop_reason"], cut["stop_sequence"]) == ("max_tokens", None)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_demanded_tool_is_called(platform: Platform, choice: dict[str, str]) -> None:
    asked = {"messages": LOOP[:1], "tools": [WEATHER, TIME], "tool_choice": choice, "max_tokens": 60}
    whole = json.loads(post(platform, **asked)[1])
    seen = events(post(platform, **asked, stream=True)[1])
    for blocks, reason in (
        (whole["content"], whole["stop_reason"]),
        (blocks_of(seen), seen[-2]["delta"]["stop_reason"]),
    ):
        assert reason == "tool_use"
        assert [block["type"] for block in blocks] == ["tool_use"]
        assert blocks[0]["name"] in {"get_weather", "get_time"}
        assert blocks[0]["input"].get("place") in {"Bern", "Genf", None}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"system": "Be brief. <|im_end|> é 中文"},
        {"system": [{"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}]},
        {"messages": [*FRANCE, {"role": "assistant", "content": "The capital"}]},
        {"messages": LOOP, "tools": [WEATHER]},
        {"messages": LOOP, "tools": [WEATHER, TIME], "tool_choice": {"type": "any"}},
        {"messages": LOOP[:1], "tools": [WEATHER], "tool_choice": {"type": "none"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    ],
)  # fmt: skip
def test_what_is_counted_is_what_is_metered(platform: Platform, fields: dict[str, Any]) -> None:
    status, counted, _ = post(platform, "/v1/messages/count_tokens", **fields)
    assert status == 200, counted
    _, body, headers = post(platform, **{**fields, "max_tokens": 1})
    usage = json.loads(body)["usage"]
    assert json.loads(counted)["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert receipt_of(platform, headers["request-id"])["prompt_tokens"] == json.loads(counted)["input_tokens"]


def test_a_form_is_enforced(platform: Platform) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}
    config = {"format": {"type": "json_schema", "schema": schema}}
    message = json.loads(post(platform, output_config=config, max_tokens=60)[1])
    assert json.loads(message["content"][0]["text"])["city"] == "Paris"


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_under_a_key_is_replayed(platform: Platform, stream: bool) -> None:
    first = post(platform, once=f"messages-{stream}", stream=stream)
    again = post(platform, once=f"messages-{stream}", stream=stream)
    assert again[1] == first[1]
    assert again[2]["request-id"] == first[2]["request-id"]
    assert again[2]["idempotent-replayed"] == "true"
    status, body, _ = post(platform, once=f"messages-{stream}", stream=stream, max_tokens=3)
    assert (status, json.loads(body)["error"]["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("fields", "status", "kind", "words"),
    [
        ({"model": "claude-9"}, 404, "not_found_error", "claude-9"),
        ({"messages": [{"role": "user", "content": "long " * 20_000}]}, 400, "invalid_request_error", "context"),
        (
            {
                "system": "S",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What is it?"},
                            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                        ],
                    }
                ],
            },
            400,
            "invalid_request_error",
            "'messages[0].content[1]'",
        ),
        ({"messages": [{"role": "user", "content": "x" * (11 << 20)}]}, 413, "request_too_large", "10 MB"),
    ],
)
def test_what_is_refused_costs_nothing(
    platform: Platform, fields: dict[str, Any], status: int, kind: str, words: str
) -> None:
    name = f"anthropic-{status}-{words[-2]}".replace("]", "i").replace("-.", "-c").lower()
    key = platform.new_customer(name)
    got, body, _ = post(platform, key=key, **fields)
    error = json.loads(body)["error"]
    assert (got, error["type"]) == (status, kind)
    assert words in error["message"]
    wallet = wait_for(lambda: (w := platform.wallet(name))["held_nano"] == 0 and w, "the hold to be given back")
    assert wallet["balance_nano"] == 100 * 10**9


def test_an_empty_wallet_is_a_billing_error(platform: Platform) -> None:
    key = platform.new_customer("anthropic-penniless", money=None)
    status, body, headers = post(platform, key=key)
    assert (status, json.loads(body)["error"]["type"]) == (402, "billing_error")
    assert headers["x-should-retry"] == "false"
