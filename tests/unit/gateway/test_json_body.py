"""How deep a body may be, whatever its texts look like."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.gateway.json_body import read_json
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError

ANY = msgspec.json.Decoder(dict[str, Any])


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def test_the_bound_is_exact() -> None:
    read_json(json.dumps({"x": nested(limits.JSON_DEPTH_MAX - 1)}).encode(), ANY)
    with pytest.raises(CallerError) as caught:
        read_json(json.dumps({"x": nested(limits.JSON_DEPTH_MAX)}).encode(), ANY)
    assert caught.value.code == "invalid_json" and "deep" in caught.value.message


@given(st.text(alphabet='[{"\\]}x', max_size=400))
def test_brackets_in_texts_do_not_count(text: str) -> None:
    assert read_json(json.dumps({"x": [text], "y": "[" * 100}).encode(), ANY)[0]["x"] == [text]


def test_many_small_ones_beside_each_other_are_fine() -> None:
    assert len(read_json(json.dumps({"x": [{}] * 5000}).encode(), ANY)[0]["x"]) == 5000


def test_too_many_are_refused_before_they_are_looked_at() -> None:
    with pytest.raises(CallerError) as caught:
        read_json(b'{"x":[' + b"[]," * limits.JSON_BRACKETS_MAX + b"[]]}", ANY)
    assert caught.value.code == "invalid_json" and "too many" in caught.value.message


def test_text_that_is_no_utf8_is_refused_wherever_it_stands() -> None:
    with pytest.raises(CallerError):
        read_json(b'{"unknown": "\xff"}', msgspec.json.Decoder(msgspec.defstruct("Nothing", [])))  # type: ignore[arg-type]
