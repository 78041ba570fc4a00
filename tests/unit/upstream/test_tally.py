"""Counts of one sequence: how what was generated is parted into text and reasoning, and that nothing falls."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.upstream import anthropic_answer, openai_answer
from steelyard.upstream.tally import Tally, risen
from steelyard.upstream.vendor import ANY_VENDOR, Asked

counts = st.integers(0, 200)


def said(output: int, reasoning: int) -> Usage:
    return Usage(output=output, reasoning=reasoning)


@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=8))
def test_no_bucket_falls_and_the_total_is_the_greatest_that_was_told(told: list[tuple[int, int]]) -> None:
    tally, before, most = Tally("u", int), Usage(), 0
    for output, reasoning in told:
        after = tally.rising(said(output, reasoning))
        most = max(most, output + reasoning)
        assert after.generated == most
        assert after.output >= before.output and after.reasoning >= before.reasoning
        before = after


@given(counts, counts, counts, counts)
def test_the_split_is_corrected_as_far_as_what_has_left_allows(o: int, r: int, output: int, reasoning: int) -> None:
    text, thought = risen(said(output, reasoning), said(o, r))
    assert text + thought == max(o + r, output + reasoning)
    if output >= o and reasoning >= r:
        assert (text, thought) == (output, reasoning)


def test_the_prompt_rises_as_a_whole() -> None:
    tally = Tally("u", int)
    assert tally.rising(Usage(100)) == Usage(100)
    assert tally.rising(Usage(10, 60, cache_write=30)) == Usage(10, 60, cache_write=30)
    assert tally.rising(Usage(10, 50)).prompt == 100


def openai(*chunks: dict[str, Any]) -> list[Event]:
    answer = openai_answer.Answer(ANY_VENDOR, Asked("u", "m", {"messages": Raw(b"[" + b" " * 38 + b"]")}, 50))
    events = []
    for chunk in chunks:
        answer.take(json.dumps(chunk).encode())
        events += answer.events()
    return [*events, answer.end()]


def delta(finish: str | None = None, **fields: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def usage(output: int, reasoning: int | None = None, **prompt: int) -> dict[str, Any]:
    details = {} if reasoning is None else {"completion_tokens_details": {"reasoning_tokens": reasoning}}
    shown = {"prompt_tokens": 50, "completion_tokens": output, "prompt_tokens_details": prompt, **details}
    return {"choices": [], "usage": shown}


def test_reasoning_told_at_the_end_only_takes_nothing_back() -> None:
    thinking = [delta(reasoning_content="a"), delta(reasoning_content="b"), delta(content="c")]
    events = openai(*thinking, delta("stop"), usage(30, 20))
    assert [(one.usage.output, one.usage.reasoning) for one in events] == [(0, 1), (0, 2), (1, 2), (10, 20)]
    assert events[-1].usage.generated == 30
    assert [one.estimated for one in events] == [True, True, True, False]


def test_an_upstream_that_makes_more_of_its_reasoning_than_its_text_leaves_room_for() -> None:
    texts = [delta(reasoning_content="a"), *(delta(content="x") for _ in range(5))]
    events = openai(*texts, delta("stop"), usage(7, 6))
    assert (events[-1].usage.output, events[-1].usage.reasoning) == (5, 2)


def test_one_that_says_nothing_of_reasoning_has_it_counted_by_pieces() -> None:
    thinking = [delta(reasoning_content="a"), delta(reasoning_content="b"), delta(content="c")]
    events = openai(*thinking, delta("stop"), usage(30))
    assert (events[-1].usage.output, events[-1].usage.reasoning) == (28, 2)
    events = openai(delta(reasoning_content="a"), delta("length"), usage(30))
    assert (events[-1].usage.output, events[-1].usage.reasoning) == (0, 30)  # it said nothing else


def test_prompt_details_of_openai() -> None:
    events = openai(delta(content="c"), delta("stop"), usage(3, cached_tokens=20, cache_write_tokens=10))
    assert events[-1].usage == Usage(20, 20, 3, cache_write=10)
    events = openai(delta(content="c"), delta("stop"), usage(3, cached_tokens=45, cache_write_tokens=10))
    assert events[-1].usage == Usage(0, 45, 3, cache_write=5)  # no more than the whole


def test_without_any_count_thoughts_are_estimated_as_thoughts() -> None:
    events = openai(delta(reasoning_content="x" * 40), delta(content="y" * 8), delta("stop"))
    last = events[-1]
    assert last.estimated
    assert (last.usage.input, last.usage.output, last.usage.reasoning) == (10, 2, 10)


def test_a_cache_written_by_anthropic_is_a_bucket_of_its_own() -> None:
    answer = anthropic_answer.Answer("u", 40)
    prompt = {"input_tokens": 5, "cache_creation_input_tokens": 70, "cache_read_input_tokens": 30, "output_tokens": 1}
    details = {"output_tokens": 12, "output_tokens_details": {"thinking_tokens": 8}}
    for event in (
        {"type": "message_start", "message": {"usage": prompt}},
        {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm"}},
        {"type": "content_block_stop"},
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Yes"}},
        {"type": "content_block_stop"},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": details},
        {"type": "message_stop"},
    ):
        answer.take(json.dumps(event).encode())
    assert answer.end().usage == Usage(5, 30, 4, cache_write=70, reasoning=8)
