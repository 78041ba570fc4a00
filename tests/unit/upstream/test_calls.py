"""Tool calls read out of an answer's text, whatever the cuts between its pieces."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from steelyard.upstream.calls import CallReader, demanded, grammar_of
from steelyard.upstream.plain_turns import Offered

TOOLS = [Offered("weather"), Offered("time")]


def read(text: str, cuts: list[int], *, is_demanded: bool) -> tuple[str, list[tuple[str | None, str | None, str]]]:
    """The text and the whole calls (id, name, arguments) of an answer that comes in these pieces."""
    reader = CallReader("call_", TOOLS, is_demanded=is_demanded)
    said, calls = "", []
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(places):
        more, pieces = reader.feed(text[start:end])
        said += more
        for piece in pieces:
            if piece.name is not None:
                assert piece.index == len(calls)
                calls.append((piece.id, piece.name, ""))
            before = calls[piece.index]
            calls[piece.index] = (before[0], before[1], before[2] + piece.arguments)
    return said + reader.rest(), calls


CUTS = st.lists(st.integers(min_value=0, max_value=200), max_size=8)


@given(CUTS, st.booleans())
def test_one_call_is_read_whatever_the_cuts(cuts: list[int], is_demanded: bool) -> None:
    text = '{\n "name" : "weather", "arguments": {"city": "B\\"}{", "days": [1, {"x": 2}]} }'
    said, calls = read(text, cuts, is_demanded=is_demanded)
    assert said == ""
    ((call_id, name, arguments),) = calls
    assert (call_id, name) == ("call_0", "weather")
    assert json.loads(arguments) == {"city": 'B"}{', "days": [1, {"x": 2}]}


@given(CUTS)
def test_a_list_holds_parallel_calls(cuts: list[int]) -> None:
    text = '[{"name": "weather", "arguments": {}},\n{"name": "time", "arguments": {"zone": "utc"}}]'
    _, calls = read(text, cuts, is_demanded=True)
    assert calls == [("call_0", "weather", "{}"), ("call_1", "time", '{"zone": "utc"}')]


@given(
    CUTS,
    st.sampled_from(
        ["", "It rains.", "{", '{"nam', '{"name": "nobody", "arguments": {}}', '{"city": {}}', "[1]", " \n{ x"]
    )
    | st.text(max_size=40),
)
def test_what_is_no_call_stays_text_to_the_letter(cuts: list[int], text: str) -> None:
    assert read(text, cuts, is_demanded=False) == (text, [])


def test_what_can_be_no_call_any_more_is_not_held_back() -> None:
    reader = CallReader("call_", TOOLS, is_demanded=False)
    assert reader.feed('{"name": "') == ("", ())
    assert reader.feed('nobody"') == ('{"name": "nobody"', ())


@given(st.integers(min_value=40, max_value=58))
def test_a_cut_answer_gives_the_arguments_so_far(length: int) -> None:
    text = '{"name": "weather", "arguments": {"city": "Bern, Switzerland"}}'[:length]
    _, ((_, name, arguments),) = read(text, [], is_demanded=True)
    assert name == "weather"
    assert text.endswith(arguments)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, []),
        ('"auto"', []),
        ('"none"', []),
        ('"required"', ["weather", "time"]),
        ('{"type":"function","function":{"name":"time"}}', ["time"]),
    ],
)
def test_who_must_be_called(choice: str | None, names: list[str]) -> None:
    params = {} if choice is None else {"tool_choice": Raw(choice.encode())}
    assert [tool.name for tool in demanded(params, TOOLS)] == names


def test_references_inside_a_schema_move_with_it() -> None:
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {"where": {"$ref": "#/$defs/Place"}, "$ref": {"type": "string"}},
        "$defs": {"Place": {"type": "object", "properties": {"in": {"$ref": "#/$defs/Place"}}}},
    }
    schema = grammar_of([Offered("a"), Offered("weather", None, parameters)], several=False)["json_schema"]["schema"]
    moved = schema["$defs"]["t1"]
    assert moved["properties"]["where"] == {"$ref": "#/$defs/t1/$defs/Place"}
    assert moved["$defs"]["Place"]["properties"]["in"] == {"$ref": "#/$defs/t1/$defs/Place"}
    assert moved["properties"]["$ref"] == {"type": "string"}, "a property may be called $ref"
    assert schema["$defs"]["t0"] == {"type": "object"}
    assert [kind["properties"]["name"]["const"] for kind in schema["anyOf"]] == ["a", "weather"]


def test_several_calls_are_a_bounded_list() -> None:
    schema = grammar_of(TOOLS, several=True)["json_schema"]["schema"]
    assert (schema["type"], schema["minItems"]) == ("array", 1) and schema["maxItems"] > 1
