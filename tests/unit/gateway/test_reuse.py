"""The answer cache over HTTP: what a header asks for, what a header says, and what the usage of a hit looks like."""

import json
from pathlib import Path

import pytest
from tests.fakes.parties import ScriptedUpstream, words
from tests.unit.gateway.test_public import Site, chat, request, status_of

WORD = "x-steelyard-cache: answer"


@pytest.fixture
def upstream() -> ScriptedUpstream:
    return ScriptedUpstream(words("Hel", "lo", prompt=10, cached=4))


def said(answer: bytes) -> bytes:
    head = answer.lower().partition(b"\r\n\r\n")[0]
    return head.partition(b"x-steelyard-cache: ")[2].partition(b"\r\n")[0]


async def test_a_hit_says_so_and_counts_what_it_saved_as_cached(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    site = Site(tmp_path, upstream)
    async with site.open():
        first = await site.ask(request(chat(temperature=0), WORD))
        again = await site.ask(request(chat(temperature=0), WORD))
        streamed = await site.ask(request(chat(temperature=0, stream=True), WORD))
        unasked = await site.ask(request(chat(temperature=0)))
    assert [said(one) for one in (first, again, streamed, unasked)] == [b"miss", b"hit; age=0", b"hit; age=0", b""]
    assert upstream.calls and len(upstream.calls) == 2
    assert b"Hello" in streamed and b"data: [DONE]" in streamed
    told = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in (first, again)]
    assert told[0]["choices"] == told[1]["choices"]
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [told[1]["usage"][name] for name in counts] == [told[0]["usage"][name] for name in counts] == [10, 2, 12]
    cached = [one["usage"]["prompt_tokens_details"]["cached_tokens"] for one in told]
    assert cached == [4, 10]


async def test_a_word_that_means_nothing_is_a_400(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    site = Site(tmp_path, upstream)
    async with site.open():
        answer = await site.ask(request(chat(temperature=0), "x-steelyard-cache: perhaps"))
        assert site.closed() == []
    assert status_of(answer) == 400
    assert b"x-steelyard-cache may be" in answer


async def test_what_cannot_be_compared_is_answered_and_not_kept(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """A field that nobody here knows is handed on as it is, a number beyond all numbers too."""
    site = Site(tmp_path, upstream)
    asked = chat(temperature=0, odd=0).replace(b'"odd": 0', b'"odd": 1e400')
    async with site.open():
        answers = [await site.ask(request(asked, WORD)) for _ in range(2)]
    assert [(status_of(one), said(one)) for one in answers] == [(200, b"bypass")] * 2
    assert len(upstream.calls) == 2
