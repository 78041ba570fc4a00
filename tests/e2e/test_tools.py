"""Tools with unchanged clients at the real engine, which calls none by itself: demanded ones are enforced."""

import json
from typing import Any

import openai
import pytest
from tests.platform import Platform, wait_for

MODEL = "smollm2-135m-instruct"
ASK = [{"role": "user", "content": "What is the weather in Bern?"}]
PLACE = {"$ref": "#/$defs/Place"}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather at a place.",
            "parameters": {
                "type": "object",
                "properties": {"place": PLACE},
                "required": ["place"],
                "additionalProperties": False,
                "$defs": {"Place": {"type": "string", "enum": ["Bern", "Genf"]}},
            },
        },
    },
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}},
]
WEATHER = {"type": "function", "function": {"name": "get_weather"}}


def test_a_named_tool_is_called_and_metered(client, platform: Platform) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice=WEATHER, temperature=0, max_tokens=60
    )
    answer = raw.parse()
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["place"] in {"Bern", "Genf"}
    found = platform.posted_receipt(raw.headers["x-request-id"])
    assert (found["prompt_tokens"], found["output_tokens"]) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    assert raw.headers["x-steelyard-charge"] == answer.usage.steelyard["charge"] == found["amount"]


def test_a_required_tool_is_streamed_as_deltas(client) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice="required", temperature=0, max_tokens=60, stream=True
    )
    name, arguments, finish = "", "", None
    for chunk in stream:
        (choice,) = chunk.choices
        assert not choice.delta.content
        for delta in choice.delta.tool_calls or ():
            assert delta.index == 0
            name += delta.function.name or ""
            arguments += delta.function.arguments or ""
        finish = choice.finish_reason or finish
    assert finish == "tool_calls"
    assert name in {"get_weather", "get_time"}
    assert isinstance(json.loads(arguments), dict)


def test_the_clients_own_stream_reader_accepts_the_deltas(client) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice=WEATHER, temperature=0, max_tokens=60
    ) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["place"] in {"Bern", "Genf"}


def test_parallel_calls_are_a_list_of_whole_calls(client) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "The time, twice."}],
        tools=TOOLS[1:],
        tool_choice="required",
        parallel_tool_calls=True,
        temperature=0,
        max_tokens=120,
    )
    calls = answer.choices[0].message.tool_calls
    assert 1 <= len(calls) <= 8
    assert len({call.id for call in calls}) == len(calls)
    assert {call.function.name for call in calls} == {"get_time"}


def test_a_tool_loop_goes_on_with_the_result(client) -> None:
    called = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice=WEATHER, temperature=0, max_tokens=60
    ).choices[0]
    (call,) = called.message.tool_calls
    turns: list[Any] = [
        *ASK,
        called.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "12 degrees, rain"},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=turns, tools=TOOLS, temperature=0, max_tokens=20)
    without = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0, max_tokens=1)
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens + 20, "calls and results are in the prompt"
    assert answer.choices[0].finish_reason in {"stop", "length", "tool_calls"}


def test_what_this_model_cannot_read_is_refused_by_name_and_free(client, platform: Platform) -> None:
    key = platform.new_customer("painter")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.with_options(api_key=key).chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": [image]}], max_tokens=1
        )
    assert caught.value.param == "messages[0].content[0]"
    wallet = wait_for(lambda: (w := platform.wallet("painter"))["held_nano"] == 0 and w, "the hold to be given back")
    assert wallet["balance_nano"] == 100 * 10**9
