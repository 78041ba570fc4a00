"""The dialect of /v1/embeddings: inputs of four shapes, vectors of two, and every refusal by name."""

import base64
import json
import struct
from typing import Any

import pytest
from msgspec import Raw

from steelyard.gateway.chat_answer import Bill
from steelyard.gateway.dialect import Asked
from steelyard.gateway.embedding_dialect import Embeddings
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError
from steelyard.kernel.offers import Capability
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event

VECTORS = (Raw(b"[0.25,-1,3e-2]"), Raw(b"[0.1,0.2,0.3]"))


def asked(**fields: Any) -> Asked:
    body = {"model": "m", "input": "Hi", **fields}
    return Embeddings().read(json.dumps(body).encode(), {}, bytes(16), 0)


def answer(found: tuple[Raw, ...], **fields: Any) -> Any:
    form = asked(**fields).form
    assert form.render(0, Event(usage=Usage(7), finish="stop", found=found)) == b""
    return json.loads(form.closing(Usage(7), Bill(70, "CNY")))


@pytest.mark.parametrize(
    ("given", "each"),
    [("Hi", ["Hi"]), (["a", "b"], ["a", "b"]), ([1, 2, 3], [[1, 2, 3]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_an_order_has_a_list_of_inputs_and_no_output_tokens(given: Any, each: list[Any]) -> None:
    order = asked(input=given).order
    assert json.loads(bytes(order.params["input"])) == each
    assert (order.capability, order.sequences, order.parts, order.max_tokens) == (
        Capability.EMBEDDING,
        1,
        len(each),
        0,
    )


def test_no_text_can_have_more_tokens_than_its_bound() -> None:
    assert asked(input=["é" * 100, "b"]).order.prompt_tokens_max >= 201
    assert 300 <= asked(input=[7] * 300).order.prompt_tokens_max < 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [2**31]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * (limits.EMBEDDING_INPUTS_MAX + 1)}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "384"}, "dimensions"),
        ({"stream": True}, "stream"),
        ({"messages": []}, "messages"),
        ({"prompt": "a"}, "prompt"),
    ],
)
def test_the_field_at_fault_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(CallerError) as caught:
        asked(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message


def test_what_is_not_known_is_passed_on_and_named() -> None:
    made = asked(input_type="query", user="me", dimensions=8, encoding_format="float")
    assert made.unknown == ("input_type",)
    assert made.order.params.keys() == {"input", "input_type", "dimensions"}


def test_numbers_leave_as_they_came() -> None:
    body = answer(VECTORS, input=["a", "b"])
    assert body["data"] == [
        {"object": "embedding", "index": 0, "embedding": [0.25, -1, 0.03]},
        {"object": "embedding", "index": 1, "embedding": [0.1, 0.2, 0.3]},
    ]
    assert (body["object"], body["model"]) == ("list", "m")
    assert body["usage"] == {
        "prompt_tokens": 7,
        "total_tokens": 7,
        "steelyard": {"charge": "0.00000007", "currency": "CNY"},
    }


def test_base64_is_little_endian_floats() -> None:
    body = answer(VECTORS, input=["a", "b"], encoding_format="base64")
    packed = base64.b64decode(body["data"][0]["embedding"])
    assert struct.unpack("<3f", packed) == struct.unpack("<3f", struct.pack("<3f", 0.25, -1, 0.03))
