import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.gateway.messages_request import MessagesOrder, parse_count, parse_messages
from steelyard.kernel.errors import CallerError

ID = bytes(16)
HI = [{"role": "user", "content": "Hi"}]
ASK: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": HI}
WEATHER = {"name": "weather", "description": "Tells it", "input_schema": {"type": "object", "properties": {}}}
CALLED = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}}


def parse(betas: str | None = None, **fields: Any) -> MessagesOrder:
    return parse_messages(json.dumps({**ASK, **fields}).encode(), ID, betas)


def params(**fields: Any) -> dict[str, Any]:
    return {name: json.loads(bytes(raw)) for name, raw in parse(**fields).order.params.items()}


def turns(*messages: Any, **fields: Any) -> list[Any]:
    found: list[Any] = params(messages=list(messages), **fields)["messages"]
    return found


def refused(body: bytes | None = None, **fields: Any) -> CallerError:
    with pytest.raises(CallerError) as error:
        parse_messages(body if body is not None else json.dumps({**ASK, **fields}).encode(), ID)
    assert error.value.status == 400
    return error.value


def test_the_smallest_request() -> None:
    order = parse().order
    assert (order.model, order.max_tokens, order.sequences, order.stream) == ("m", 9, 1, False)
    assert params() == {"messages": HI}
    assert order.prompt_tokens_max >= len("Hi") + 16


def test_the_bound_of_a_prompt_holds_the_form_of_the_answer_and_what_nobody_here_knows() -> None:
    text, least = "x" * 5000, parse().order.prompt_tokens_max + 5000
    form = {"format": {"type": "json_schema", "schema": {"description": text}}}
    for fields in ({"output_config": form}, {"documents": [text]}):
        assert parse(**fields).order.prompt_tokens_max >= least, fields.keys()


def test_a_system_text_or_its_blocks_become_the_first_turn() -> None:
    assert turns(*HI, system="Be brief.")[0] == {"role": "system", "content": "Be brief."}
    blocks = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    assert turns(*HI, system=blocks)[0] == {"role": "system", "content": "A\nB"}
    marked = [{"type": "text", "text": "A"}, {"type": "text", "text": "B", "cache_control": {"type": "ephemeral"}}]
    assert turns(*HI, system=marked)[0]["content"] == [
        {"type": "text", "text": "A\n"},
        {"type": "text", "text": "B", "cache_control": {"type": "ephemeral"}},
    ]
    late = {"role": "system", "content": "Now."}
    assert turns(*HI, late)[1] == late


def test_a_tool_loop_becomes_calls_and_tool_turns() -> None:
    said = [{"type": "thinking", "thinking": "Hm", "signature": "s"}, {"type": "text", "text": "Let me see."}, CALLED]
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Rain"}]}
    made = turns(
        *HI,
        {"role": "assistant", "content": said},
        {"role": "user", "content": [{"type": "text", "text": "And?"}, result]},
    )
    assert made[1] == {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
        ],
        "reasoning_content": "Hm",
        "thinking_blocks": [{"type": "thinking", "thinking": "Hm", "signature": "s"}],
    }
    assert made[2:] == [
        {"role": "tool", "content": "Rain", "tool_call_id": "toolu_1"},
        {"role": "user", "content": "And?"},
    ]


def test_a_call_alone_has_no_text_and_a_failed_result_says_so() -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no network", "is_error": True}
    made = turns(*HI, {"role": "assistant", "content": [CALLED]}, {"role": "user", "content": [result]})
    assert made[1]["content"] is None
    assert made[2]["content"] == "Error: no network"


def test_marks_for_a_cache_are_kept_everywhere_but_for_how_long_they_want() -> None:
    mark, long = {"cache_control": {"type": "ephemeral"}}, {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain", **long}
    made = turns(
        {"role": "user", "content": [{"type": "text", "text": "Hi", **long}]},
        {"role": "assistant", "content": [{**CALLED, **long}]},
        {"role": "user", "content": [result]},
    )
    assert made[0]["content"] == [{"type": "text", "text": "Hi", **mark}]
    assert made[1]["tool_calls"][0]["cache_control"] == mark["cache_control"]
    assert made[2]["content"] == [{"type": "text", "text": "Rain", **mark}]
    assert params(tools=[{**WEATHER, **long}])["tools"][0]["cache_control"] == mark["cache_control"]
    assert params(**long)["cache_control"] == mark["cache_control"]


def test_images_and_documents_become_parts() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    link = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    text = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "body"}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}}
    (turn,) = turns({"role": "user", "content": [image, link, text, pdf]})
    assert turn["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "text", "text": "T\n"},
        {"type": "text", "text": "body\n"},
        {"type": "file", "file": {"filename": "document", "file_data": "data:application/pdf;base64,JVBE"}},
    ]


@pytest.mark.parametrize(
    ("choice", "wanted", "parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "any"}, "required", None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}, None),
    ],
)
def test_tools_and_what_is_demanded_of_them(choice: Any, wanted: Any, parallel: bool | None) -> None:
    made = params(tools=[WEATHER], tool_choice=choice)
    function = {"name": "weather", "description": "Tells it", "parameters": WEATHER["input_schema"]}
    assert made["tools"] == [{"type": "function", "function": function}]
    assert made["tool_choice"] == wanted
    assert made.get("parallel_tool_calls") == parallel


def test_no_tool_may_be_called_means_none_is_offered() -> None:
    assert "tools" not in params(tools=[WEATHER], tool_choice={"type": "none"})


def test_samplers_thinking_and_form_have_canonical_names() -> None:
    schema = {"type": "object"}
    made = params(
        stop_sequences=["END"], temperature=0.5, top_p=0.9, top_k=4, metadata={"user_id": "u"}, service_tier="auto",
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": schema}},
    )  # fmt: skip
    del made["messages"]
    assert made == {
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "reasoning_effort": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
    }
    assert parse(thinking={"type": "adaptive", "display": "omitted"}).is_thinking_shown is False


def test_betas_and_unknown_fields_are_kept_and_named() -> None:
    parsed = parse("a-2025, b-2026", new_field={"x": 1}, context_management={"edits": []}, diagnostics=None)
    assert json.loads(bytes(parsed.order.params["anthropic_beta"])) == ["a-2025", "b-2026"]
    assert json.loads(bytes(parsed.order.params["new_field"])) == {"x": 1}
    assert "context_management" not in parsed.order.params
    assert parsed.unknown == ("context_management", "new_field")


def test_null_is_absent() -> None:
    nothing = dict.fromkeys(
        ("system", "tools", "tool_choice", "thinking", "stop_sequences", "container", "temperature")
    )
    assert params(**nothing) == {"messages": HI}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [CALLED]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": [{**CALLED, "input": "x"}]}]}, "messages[0].content[0].input"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "lost"}]}]},
            "messages[0].content[0].tool_use_id",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [{**WEATHER, "name": "a b"}]}, "tools[0].name"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"inference_geo": "eu"}, "inference_geo"),
        ({"speed": "fast"}, "speed"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 2}, "n"),
        ({"grammar": "x"}, "grammar"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_what_is_wrong_or_cannot_be_carried_over_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert re.split(r"[\[.]", param)[0] in error.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"model":NaN}', b'"\xff"', b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"x":"\\ud800"}'],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refused(body).code in {"invalid_json", "invalid_request"}


def test_mcp_servers_may_be_an_empty_list() -> None:
    assert params(mcp_servers=[]) == {"messages": HI}


def test_a_count_needs_no_max_tokens_and_makes_the_same_prompt() -> None:
    body = {"model": "m", "messages": HI, "system": "S", "tools": [WEATHER]}
    counted = parse_count(json.dumps(body).encode(), ID).order
    served = parse(system="S", tools=[WEATHER]).order
    assert {k: bytes(v) for k, v in counted.params.items()} == {k: bytes(v) for k, v in served.params.items()}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "document", "thinking", "tool_use", "tool_result", "x"])},
    optional={
        "text": JSON, "source": JSON, "thinking": JSON, "id": st.just("a") | JSON, "name": st.just("n") | JSON,
        "input": JSON, "tool_use_id": st.just("a") | JSON, "content": JSON, "cache_control": JSON, "is_error": JSON,
    },
)  # fmt: skip
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "x"])},
    optional={"content": st.text(max_size=5) | st.lists(BLOCK, max_size=3) | JSON},
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "messages": st.lists(MESSAGE, max_size=4), "system": JSON | st.lists(BLOCK, max_size=2), "tools": JSON,
        "tool_choice": JSON, "thinking": JSON, "max_tokens": JSON, "stop_sequences": JSON, "top_k": JSON,
        "output_config": JSON, "metadata": JSON, "anything": JSON, "stream": JSON,
    },
)  # fmt: skip


@settings(max_examples=150)
@given(FIELDS)
def test_no_shape_breaks_the_parser(fields: dict[str, Any]) -> None:
    try:
        order = parse_messages(json.dumps({**ASK, **fields}).encode(), ID).order
    except CallerError as error:
        assert error.status == 400
        return
    assert json.loads(bytes(order.params["messages"]))
    assert order.prompt_tokens_max > 0
