"""Canonical turns told to a template that knows only roles and texts."""

import json
from typing import Any

import pytest
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.plain_turns import Offered, is_plain, joined, need_tools, plain, turns_in

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
LOOP = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Wea"}, {"type": "text", "text": "ther?"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "c2"}]},
    {"role": "tool", "tool_call_id": "c1", "content": "12 C"},
    {"role": "tool", "tool_call_id": "c2", "content": "13 C"},
]


def raw(turns: list[dict[str, Any]]) -> Raw:
    return Raw(json.dumps(turns).encode())


def told(turns: list[dict[str, Any]], tools: list[Offered]) -> list[dict[str, str]]:
    return json.loads(bytes(plain("local", turns_in(raw(turns)), tools)))


def test_calls_and_results_become_texts() -> None:
    assert need_tools(turns_in(raw(LOOP)))
    call = '{"name": "weather", "arguments": {"city": "Bern"}}'
    assert told(LOOP, []) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": f"{call}\n{call}"},
        {"role": "user", "content": "Result of weather: 12 C\nResult of weather: 13 C"},
    ]


def test_tools_are_told_once_before_the_customers_own_system_text() -> None:
    first, second, *_ = told(LOOP, [Offered("weather", "Today's", {"type": "object"})])
    assert first["role"] == "system" and second["role"] == "user"
    assert '"name":"weather"' in first["content"] and first["content"].endswith("\nBe brief.")


def test_plain_turns_are_passed_on_untouched() -> None:
    turns = raw([{"role": "user", "content": "x"}])
    assert joined("local", turns, turns_in(turns)) is turns
    whole = json.loads(bytes(joined("local", raw(LOOP), turns_in(raw(LOOP)))))
    assert whole[1]["content"] == "Weather?" and whole[2]["tool_calls"] == LOOP[2]["tool_calls"]


@pytest.mark.parametrize(("kind", "word"), [("image_url", "images"), ("input_audio", "recordings"), ("file", "files")])
def test_what_no_text_can_say_is_refused_by_name(kind: str, word: str) -> None:
    turns = raw([{"role": "user", "content": [{"type": kind, kind: {}}]}])
    with pytest.raises(UpstreamError) as caught:
        joined("local", turns, turns_in(turns))
    assert (caught.value.status, caught.value.param) == (400, "messages[0].content[0]")
    assert word in caught.value.message


def test_only_what_is_roles_and_texts_for_certain_is_plain() -> None:
    assert is_plain(raw([{"role": "user", "content": "x"}]))
    assert not any(is_plain(raw([turn])) for turn in LOOP[1:])
    assert not is_plain(raw([{"role": "user", "content": "a list [1]"}])), "then it is read, and found to be plain"
