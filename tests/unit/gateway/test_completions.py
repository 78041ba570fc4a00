"""The old completions: prompts of four shapes, one sequence each, and answers in the old form."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from steelyard.gateway.completion_answer import CompletionBody, CompletionStream
from steelyard.gateway.completion_request import parse_completion
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order
from steelyard.upstream.fanout import own_params

ID = bytes(range(16))
LOGPROBS = Raw(
    b'{"content":[{"token":"ab","logprob":-1.0,"top_logprobs":[{"token":"ab","logprob":-1.0}]},{"token":"c"}]}'
)


def order_of(**fields: Any) -> Order:
    return parse_completion(json.dumps({"model": "m", "prompt": "Hi", **fields}).encode(), ID).order


@pytest.mark.parametrize(
    ("prompt", "n", "each"),
    [
        ("Hi", None, ["Hi"]),
        ("Hi", 2, ["Hi", "Hi"]),
        (["a", "b"], None, ["a", "b"]),
        (["a", "b"], 2, ["a", "a", "b", "b"]),
        ([1, 2, 3], None, [[1, 2, 3]]),
        ([[1], [2, 3]], None, [[1], [2, 3]]),
    ],
)
def test_every_answer_is_a_sequence_of_its_own(prompt: Any, n: int | None, each: list[Any]) -> None:
    order = order_of(prompt=prompt, n=n)
    assert order.sequences == len(each)
    asked = [own_params(order, sequence)["prompt"] for sequence in range(order.sequences)]
    assert [json.loads(bytes(raw)) for raw in asked] == each
    assert "messages" not in order.params and order.max_tokens == 16


def test_the_worst_case_is_that_of_the_longest_prompt() -> None:
    assert order_of(prompt=["a" * 500, "b"]).prompt_tokens_max >= 500
    assert 300 <= order_of(prompt=[7] * 300).prompt_tokens_max < 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**31]}, "prompt"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": ["a"] * (limits.PROMPTS_TIMES_N_MAX + 1)}, "prompt"),
        ({"prompt": ["a"] * 9, "n": 8}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 6}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"stream_options": {}}, "stream_options"),
    ],
)
def test_the_field_at_fault_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(CallerError) as caught:
        order_of(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message


@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)))
def test_no_prompt_breaks_the_parser(prompt: Any) -> None:
    try:
        order_of(prompt=prompt)
    except CallerError as error:
        assert error.status == 400


def events(piece: bytes) -> list[dict[str, Any]]:
    lines = [line for line in piece.decode().split("\n\n") if line]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


def test_a_stream_gives_texts_and_one_usage() -> None:
    order = order_of(prompt=["a", "b"], stream=True, logprobs=1)
    stream = CompletionStream(order, 0, include_usage=True)
    seen = events(
        stream.render(0, Event("abc", logprobs=LOGPROBS))
        + stream.render(1, Event(usage=Usage(1)))
        + stream.render(0, Event("d", logprobs=Raw(b'{"content":[{"token":"d"}]}'), finish="length"))
        + stream.closing(Usage(4, 6, 3))
    )
    assert [(e["choices"][0]["index"], e["choices"][0]["text"]) for e in seen[:-1]] == [(0, "abc"), (0, "d")]
    first, second, usage = seen
    assert first["object"] == "text_completion" and first["id"].startswith("cmpl-")
    assert first["choices"][0]["logprobs"] == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-1.0, None],
        "top_logprobs": [{"ab": -1.0}, None],
        "text_offset": [0, 2],
    }
    assert second["choices"][0]["logprobs"]["text_offset"] == [3]
    assert usage["choices"] == [] and usage["usage"]["prompt_tokens"] == 10


def test_a_body_holds_every_sequence_in_order() -> None:
    body = CompletionBody(order_of(prompt=["a", "b"]), 0)
    assert body.render(1, Event("two", finish="stop")) == b""
    body.render(0, Event("one", finish="length"))
    answer = json.loads(body.closing(Usage(1, 0, 2)))
    assert [(c["text"], c["finish_reason"], c["logprobs"]) for c in answer["choices"]] == [
        ("one", "length", None),
        ("two", "stop", None),
    ]
