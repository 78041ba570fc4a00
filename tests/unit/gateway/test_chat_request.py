import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.gateway.chat_request import parse_chat
from steelyard.kernel.errors import CallerError

ID = bytes(16)
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
    assert parsed.ignored == ()


def test_null_means_absent() -> None:
    parsed = parse(temperature=None, tools=None, n=None, stream=None, max_tokens=None, stop=None, response_format=None)
    assert set(parsed.order.params) == {"messages"}
    assert parsed.order.sequences == 1


def test_max_completion_tokens_wins_over_its_older_name() -> None:
    assert parse(max_tokens=5, max_completion_tokens=9).order.max_tokens == 9


def test_unknown_fields_are_named_not_forwarded() -> None:
    parsed = parse(flavour="vanilla", another=1)
    assert parsed.ignored == ("another", "flavour")
    assert "flavour" not in parsed.order.params


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
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
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
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
    ],
)
def test_the_field_at_fault_is_named(fields: dict, param: str) -> None:
    error = refused(json.dumps({**HELLO, **fields}).encode())
    assert error.param == param
    assert param.split("[", maxsplit=1)[0] in error.message


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
        st.sampled_from([*HELLO, "n", "stream", "stop", "tools", "seed", "logprobs"]),
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
