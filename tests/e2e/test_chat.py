"""Unchanged clients against the real engine: what the customer sees is what the receipt says."""

import json

import openai
import pytest
from tests.platform import ALTERNATIVES, Platform

MODEL = "smollm2-135m-instruct"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


def test_a_plain_answer_and_its_receipt_agree(client, receipt) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=FRANCE, temperature=0, max_tokens=20)
    answer = raw.parse()
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    found = receipt(raw.headers["x-request-id"])
    assert found["end"] == "complete"
    assert found["prompt_tokens"] == answer.usage.prompt_tokens == 16
    assert found["output_tokens"] == answer.usage.completion_tokens
    assert found["cached_tokens"] == answer.usage.prompt_tokens_details.cached_tokens
    assert found["amount_nano"] == sum(line["amount_nano"] for line in found["lines"]) > 0


def test_a_second_ask_reads_the_prompt_from_the_cache_and_costs_less(client, receipt) -> None:
    question = [{"role": "user", "content": "Name the largest planet. " * 20}]
    seen = []
    for _ in range(2):
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=question, max_tokens=2, temperature=0
        )
        seen.append(receipt(raw.headers["x-request-id"]))
    first, second = seen
    assert second["cached_tokens"] > first["cached_tokens"]
    assert second["prompt_tokens"] == first["prompt_tokens"]
    assert second["amount_nano"] < first["amount_nano"]


def test_a_stream_with_usage_is_metered_as_shown(client, receipt) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=FRANCE, temperature=0, max_tokens=20, stream=True, stream_options={"include_usage": True}
    )
    request_id = stream.response.headers["x-request-id"]
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "Paris" in text
    usages = [c.usage for c in chunks if c.usage]
    assert len(usages) == 1
    assert chunks[-1].choices == []
    found = receipt(request_id)
    assert found["output_tokens"] == usages[0].completion_tokens
    assert found["prompt_tokens"] == usages[0].prompt_tokens


def test_a_stream_without_usage_is_metered_all_the_same(client, receipt) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=FRANCE, max_tokens=8, stream=True)
    request_id = stream.response.headers["x-request-id"]
    assert all(not chunk.usage for chunk in stream)
    found = receipt(request_id)
    assert 0 < found["output_tokens"] <= 8


def test_a_hang_up_is_settled_at_what_was_delivered(client, receipt) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Count from one to five hundred in words."}],
        max_tokens=600, temperature=0, stream=True,
    )  # fmt: skip
    request_id = stream.response.headers["x-request-id"]
    for place, _ in enumerate(stream):
        if place == 5:
            break
    stream.close()
    found = receipt(request_id)
    assert found["end"] == "client_gone"
    assert 5 <= found["output_tokens"] < 200
    assert found["prompt_tokens"] > 0


def test_two_sequences_are_metered_one_by_one(client, receipt) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=FRANCE, n=2, max_tokens=3, temperature=0
    )
    answer = raw.parse()
    assert [c.index for c in answer.choices] == [0, 1]
    assert answer.usage.completion_tokens == 6, "the engine's own usage would say 3"
    assert answer.usage.prompt_tokens == 32
    assert receipt(raw.headers["x-request-id"])["output_tokens"] == 6


def test_two_streamed_sequences_have_one_usage_and_one_end(client) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=FRANCE, n=2, max_tokens=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert {c.choices[0].index for c in chunks if c.choices} == {0, 1}
    assert [c.usage.completion_tokens for c in chunks if c.usage] == [6]


def test_a_json_schema_is_enforced(client) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL, messages=FRANCE, max_tokens=80, temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
    )  # fmt: skip
    assert set(json.loads(answer.choices[0].message.content)) == {"city", "people"}


def test_sampling_parameters_reach_the_engine(client) -> None:
    poem = [{"role": "user", "content": "Write one line about rivers."}]

    def say(**params: object) -> str:
        return (
            client.chat.completions.create(model=MODEL, messages=poem, max_tokens=16, **params)
            .choices[0]
            .message.content
        )

    assert say(seed=7, temperature=1.0) == say(seed=7, temperature=1.0)
    assert say(seed=7, temperature=1.5) != say(seed=8, temperature=1.5)
    assert "r" not in say(temperature=0, stop="r")


def test_logprobs_come_through(client) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=FRANCE, max_tokens=3, temperature=0, logprobs=True, top_logprobs=ALTERNATIVES
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 3
    assert len(content[0].top_logprobs) == ALTERNATIVES


def test_models_are_listed(client) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


async def test_the_async_client_works_too(platform: Platform) -> None:
    async with openai.AsyncOpenAI(base_url=f"{platform.url}/v1", api_key=platform.api_key) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=FRANCE, max_tokens=4)
        assert answer.usage.completion_tokens == 4
