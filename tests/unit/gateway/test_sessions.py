"""What customers call requests that belong together, in every dialect and in a header."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.parties import ScriptedUpstream, words
from tests.unit.gateway.test_public import Site, chat, request, status_of

from steelyard.gateway.completion_request import parse_completion
from steelyard.gateway.messages_request import parse_messages
from steelyard.gateway.responses_request import order_of, read_responses

TURNS = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("fields", "headers", "session"),
    [
        ({}, [], b""),
        ({"user": "ann"}, [], b'"ann"'),
        ({"user": "ann", "prompt_cache_key": "talk 7"}, [], b'"talk 7"'),
        ({"user": None}, [], b""),
        ({"user": "ann"}, ["x-steelyard-session: s-1"], b"s-1"),
    ],
)
async def test_a_session_is_named_by_a_header_or_a_field(
    tmp_path: Path, fields: dict[str, Any], headers: list[str], session: bytes
) -> None:
    site = Site(tmp_path, ScriptedUpstream(words("a")))
    seen: list[bytes] = []
    rank = site.house.router.rank

    def noted(wanted: Any, *rest: Any) -> Any:
        seen.append(wanted.order.session)
        return rank(wanted, *rest)

    site.house.router.rank = noted  # type: ignore[method-assign]
    async with site.open():
        assert status_of(await site.ask(request(chat(**fields), *headers))) == 200
    assert seen == [session]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def test_each_dialect_has_its_own_word_for_it() -> None:
    completion = parse_completion(body(prompt="Hello", user="ann"), bytes(16)).order
    assert completion.session == b'"ann"'
    response = order_of(read_responses(body(input="Hello", prompt_cache_key="k")), bytes(16)).order
    assert response.session == b'"k"'
    asked = {"messages": TURNS, "max_tokens": 9}
    assert parse_messages(body(**asked, metadata={"user_id": "u_1"}), bytes(16)).order.session == b"u_1"
    assert parse_messages(body(**asked, metadata={}), bytes(16)).order.session == b""
    assert parse_messages(body(**asked), bytes(16)).order.session == b""
