"""Unchanged Anthropic clients, old (0.75) and new (2.x), through the public port: what they see is what is posted."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.test_messages import CALLED, FRANCE, LOOP, TIME, WEATHER, agree, receipt_of
from tests.e2e.test_messages_vendor import TOOLS, TURNS, scene
from tests.e2e.vendor import MODEL as VENDOR_MODEL
from tests.emulators.openai_server import OpenAIServer
from tests.platform import Platform

anthropic = pytest.importorskip("anthropic")
MODEL = "smollm2-135m-instruct"


@pytest.fixture(params=["", "/v1"])
def client(platform: Platform, request: pytest.FixtureRequest) -> Iterator[Any]:
    """At the root as the library wants it, and at the base that other libraries are given."""
    with anthropic.Anthropic(base_url=platform.url + request.param, api_key=platform.api_key, max_retries=0) as made:
        yield made


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 20, "temperature": 0, "messages": FRANCE, **fields}


def sampled(**fields: Any) -> dict[str, Any]:
    """Later versions have no samplers of their own any more."""
    known = ask(**fields)
    temperature = known.pop("temperature")
    return {**known, "extra_body": {"temperature": temperature}}


def test_a_plain_answer(client: Any, platform: Platform) -> None:
    raw = client.messages.with_raw_response.create(**sampled())
    message = raw.parse()
    assert "Paris" in message.content[0].text
    assert message.stop_reason == "end_turn"
    assert raw.headers["request-id"] == message.id.replace("msg_", "req_")
    assert agree(message.usage.to_dict(), receipt_of(platform, raw.headers["request-id"]))


def test_a_stream_by_the_librarys_own_helper(client: Any, platform: Platform) -> None:
    with client.messages.stream(**sampled()) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert "Paris" in text == message.content[0].text
    receipt = receipt_of(platform, message.id.replace("msg_", "req_"))
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens == receipt["prompt_tokens"]
    assert message.usage.output_tokens == receipt["output_tokens"]


def test_raw_events_and_the_stop_sequence(client: Any) -> None:
    seen = list(client.messages.create(**sampled(stop_sequences=["Paris"]), stream=True))
    assert [event.type for event in seen if event.type != "content_block_delta"] == [
        "message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert (seen[-2].delta.stop_reason, seen[-2].delta.stop_sequence) == ("stop_sequence", "Paris")
    assert seen[-2].usage.input_tokens + seen[-2].usage.cache_read_input_tokens == 16


def test_a_demanded_tool_plain_and_streamed(client: Any) -> None:
    asked = sampled(messages=LOOP[:1], tools=[WEATHER, TIME], tool_choice={"type": "tool", "name": "get_weather"})
    asked["max_tokens"] = 60
    plain = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for message in (plain, streamed):
        (block,) = message.content
        assert (block.type, block.name, message.stop_reason) == ("tool_use", "get_weather", "tool_use")
        assert block.input["place"] in {"Bern", "Genf"}


def test_the_beta_client_counts_what_is_metered(client: Any) -> None:
    fields = {
        "system": "Be brief.",
        "tools": [WEATHER],
        "messages": [*LOOP[:1], {"role": "assistant", "content": [CALLED]}, LOOP[2]],
    }
    counted = client.beta.messages.count_tokens(model=MODEL, betas=["token-counting-2024-11-01"], **fields)
    message = client.beta.messages.create(model=MODEL, max_tokens=1, **fields)
    assert counted.input_tokens == message.usage.input_tokens + message.usage.cache_read_input_tokens
    assert client.messages.count_tokens(model=MODEL, **fields).input_tokens == counted.input_tokens


def test_models_are_found(client: Any) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).display_name


@pytest.mark.parametrize(
    ("fields", "error", "kind"),
    [
        ({"model": "claude-9"}, anthropic.NotFoundError, "not_found_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        (
            {"messages": [{"role": "user", "content": "long " * 20_000}]},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
    ],
)
def test_errors_are_the_librarys_own(client: Any, fields: dict[str, Any], error: type[Exception], kind: str) -> None:
    with pytest.raises(error) as raised:
        client.messages.create(**sampled(**fields))
    assert raised.value.body["error"]["type"] == kind  # type: ignore[attr-defined]
    assert raised.value.request_id.startswith("req_")  # type: ignore[attr-defined]


def test_a_wrong_key_and_an_empty_wallet(platform: Platform) -> None:
    for key, status, kind in (
        ("sk-sy-nobody", 401, "authentication_error"),
        (platform.new_customer("anthropic-sdk-penniless", money=None), 402, "billing_error"),
    ):
        with (
            anthropic.Anthropic(base_url=platform.url, api_key=key) as client,
            pytest.raises(anthropic.APIStatusError) as raised,
        ):
            client.messages.create(**sampled())
        assert (raised.value.status_code, raised.value.body["error"]["type"]) == (status, kind)


async def test_the_async_client_with_a_token_instead_of_a_key(platform: Platform) -> None:
    async with (
        asyncio.timeout(60),
        anthropic.AsyncAnthropic(base_url=platform.url, auth_token=platform.api_key, api_key=None) as client,
        client.messages.stream(**sampled()) as stream,
    ):
        assert "Paris" in "".join([text async for text in stream.text_stream])


def test_parallel_calls_thinking_and_refusals(client: Any, server: OpenAIServer) -> None:
    def both(name: str) -> Iterator[Any]:
        asked = {"model": VENDOR_MODEL, "max_tokens": 50, "messages": scene(name), "tools": TOOLS}
        yield client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            yield stream.get_final_message()

    for message in both("parallel"):
        assert [(block.id, block.name, block.input) for block in message.content] == [
            ("call_a", "weather", {"city": "Bern"}), ("call_b", "time", {"zone": "utc"}),
        ]  # fmt: skip
    for message in both("reasoning"):
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert (message.content[0].thinking, message.content[1].text) == ("Let me see.", "42")
    for message in both("refusal"):
        assert (message.stop_reason, message.content[0].text) == ("refusal", "I cannot do that.")


def test_a_failure_in_mid_stream_is_raised(client: Any, server: OpenAIServer) -> None:
    with (
        pytest.raises(anthropic.APIStatusError) as raised,
        client.messages.stream(model=VENDOR_MODEL, max_tokens=50, messages=scene("error")) as stream,
    ):
        stream.until_done()
    assert raised.value.body["error"]["type"] == "api_error"


def test_a_tool_loop_by_the_library_adds_up(platform: Platform, server: OpenAIServer) -> None:
    name = "anthropic-sdk-agent"
    key = platform.new_customer(name)
    messages: list[Any] = scene(f"loop {TURNS}")
    said: list[Any] = []
    with anthropic.Anthropic(base_url=platform.url, api_key=key, max_retries=0) as client:
        for turn in range(TURNS + 1):
            with client.messages.stream(model=VENDOR_MODEL, max_tokens=400, messages=messages, tools=TOOLS) as stream:
                message = stream.get_final_message()
            said.append(message)
            if message.stop_reason != "tool_use":
                break
            (use,) = message.content
            assert use.input == {"turn": turn}
            result = {"type": "tool_result", "tool_use_id": use.id, "content": f"did {turn}"}
            messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert (turn, message.stop_reason) == (TURNS, "end_turn")
    charged = 0
    for message in said:
        receipt = receipt_of(platform, message.id.replace("msg_", "req_"), key)
        assert message.usage.output_tokens == receipt["output_tokens"]
        assert message.usage.input_tokens + message.usage.cache_read_input_tokens == receipt["prompt_tokens"]
        charged += receipt["amount_nano"]
    (row,) = [row for row in platform.run("usage", "--by", "tenant") if row["name"] == name]
    assert (row["requests"], row["charge_nano"]) == (TURNS + 1, charged)
