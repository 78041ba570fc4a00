import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.gateway.chat_request import parse_chat
from steelyard.kernel.errors import CallerError

ID = bytes(16)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def parse(**fields: object):
    return parse_chat(json.dumps({**HELLO, **fields}).encode(), ID)


def refused(body: bytes) -> CallerError:
    with pytest.raises(CallerError) as caught:
        parse_chat(body, ID)
    assert caught.value.status == 400
    return caught.value


def test_a_plain_request_becomes_an_order() -> None:
    parsed = parse(temperature=0, max_tokens=7, stop=["\n"], user="u1")
    order = parsed.order
    assert (order.model, order.max_tokens, order.sequences, order.stream) == ("m", 7, 1, False)
    assert bytes(order.params["temperature"]) == b"0"
    assert json.loads(bytes(order.params["messages"])) == [{"role": "user", "content": "Hello"}]
    assert "model" not in order.params and "max_tokens" not in order.params
    assert parsed.unknown == ()


def test_null_means_absent() -> None:
    parsed = parse(temperature=None, tools=None, n=None, stream=None, max_tokens=None, stop=None, response_format=None)
    assert set(parsed.order.params) == {"messages"}
    assert parsed.order.sequences == 1


def test_max_completion_tokens_wins_over_its_older_name() -> None:
    assert parse(max_tokens=5, max_completion_tokens=9).order.max_tokens == 9


def test_unknown_fields_are_named_and_kept_for_upstreams_that_know_them() -> None:
    parsed = parse(flavour="vanilla", another=1)
    assert parsed.unknown == ("another", "flavour")
    assert bytes(parsed.order.params["flavour"]) == b'"vanilla"'


def test_parts_are_joined_and_developer_speaks_as_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    parsed = parse(messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}])
    assert json.loads(bytes(parsed.order.params["messages"])) == [
        {"role": "system", "content": "x"},
        {"role": "user", "content": "ab"},
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c9"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages[0].role"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"stop": [""]}, "stop[0]"),
        ({"logit_bias": {"1": 200}}, "logit_bias[...]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "with blanks"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
    ],
)
def test_the_field_at_fault_is_named(fields: dict, param: str) -> None:
    error = refused(json.dumps({**HELLO, **fields}).encode())
    assert error.param == param
    assert param.split("[", maxsplit=1)[0] in error.message


def test_a_tool_loop_takes_its_canonical_form() -> None:
    turns = [
        {"role": "user", "content": "Do"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "", "refusal": None},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "done"}]},
    ]
    parsed = parse(messages=turns, tools=[TOOL], parallel_tool_calls=False)
    params = {name: json.loads(bytes(raw)) for name, raw in parsed.order.params.items()}
    assert params["messages"][1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [CALL],
        "reasoning_content": "",
    }
    assert params["messages"][2] == {"role": "tool", "content": "done", "tool_call_id": "c1"}
    assert (params["tools"][0]["function"]["name"], params["tool_choice"]) == ("f", "auto")
    assert params["parallel_tool_calls"] is False
    assert parsed.order.prompt_tokens_max > parse(messages=turns).order.prompt_tokens_max


def test_the_bound_of_a_prompt_holds_all_that_a_template_may_write_into_it() -> None:
    text, least = "x" * 5000, parse().order.prompt_tokens_max + 5000
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"description": text}}}
    named = [{**HELLO["messages"][0], "name": text}]
    for fields in ({"messages": named}, {"documents": [{"text": text}]}, {"response_format": schema}):
        assert parse(**fields).order.prompt_tokens_max >= least, fields.keys()
    assert parse(temperature=0.123456789).order.prompt_tokens_max == least - 5000, "of which no model reads a word"


def test_tools_that_must_not_be_used_are_not_offered() -> None:
    assert set(parse(tools=[TOOL], tool_choice="none").order.params) == {"messages"}
    assert set(parse(tools=[], tool_choice="auto").order.params) == {"messages"}


def test_marks_for_a_cache_are_kept() -> None:
    parts = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}]
    (turn,) = json.loads(bytes(parse(messages=[{"role": "user", "content": parts}]).order.params["messages"]))
    assert turn["content"] == parts


def test_how_long_a_cache_is_to_keep_what_is_marked_is_not_handed_on() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    parts = [{"type": "text", "text": "a", "cache_control": mark}]
    found = parse(
        messages=[{"role": "user", "content": parts}], tools=[{**TOOL, "cache_control": mark}], cache_control=mark
    )
    told = b"".join(map(bytes, found.order.params.values()))
    assert (told.count(b'"ephemeral"'), told.count(b"ttl")) == (3, 0)
    assert refused(json.dumps({**HELLO, "cache_control": "an hour"}).encode()).param == "cache_control"


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    error = refused(json.dumps({k: v for k, v in HELLO.items() if k != missing}).encode())
    assert error.param == missing


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"model": NaN}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"m":"\\ud800"}',
    ],
)
def test_broken_json_is_a_clear_400(body: bytes) -> None:
    assert "valid JSON" in refused(body).message or refused(body).message


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(body: bytes) -> None:
    try:
        parse_chat(body, ID)
    except CallerError as error:
        assert error.status == 400


@given(
    st.dictionaries(
        st.sampled_from([*HELLO, "n", "stream", "stop", "tools", "tool_choice", "seed", "logprobs"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_no_shape_breaks_the_parser(fields: dict) -> None:
    try:
        parse_chat(json.dumps({**HELLO, **fields}).encode(), ID)
    except CallerError as error:
        assert error.status == 400


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_the_prompt_bound_covers_every_byte(texts: list[str]) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text} for text in texts]})
    bound = parse_chat(body.encode(errors="replace"), ID).order.prompt_tokens_max if "\\ud" not in body else None
    if bound is not None:
        assert bound >= sum(len(text.encode()) for text in texts) + 8 * len(texts)
