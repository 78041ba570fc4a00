"""DashScope's own API: what it is asked, and what is read of its events, without a connection."""

import itertools
import json
from typing import Any

import pytest
from tests.unit.upstream.asking import TURNS, asked

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event
from steelyard.upstream.dashscope_native_answer import Answer
from steelyard.upstream.dashscope_native_request import PARTS_PATH, TEXT_PATH, request_of

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}


def sent(model: str = "qwen-plus", **fields: Any) -> tuple[str, dict[str, Any]]:
    made = request_of(asked(model, **fields))
    return made.path, json.loads(made.body)


def test_everything_but_the_turns_lies_under_parameters() -> None:
    path, body = sent(temperature=0.5, tools=[{"type": "function"}], enable_search=True, stream=True, unknown=1)
    assert path == TEXT_PATH
    assert body == {
        "model": "qwen-plus",
        "input": {"messages": TURNS},
        "parameters": {
            "temperature": 0.5,
            "tools": [{"type": "function"}],
            "unknown": 1,
            "result_format": "message",
            "incremental_output": True,
            "max_tokens": 1000,
        },
    }


def test_thinking_is_bounded_with_the_answer() -> None:
    parameters = sent(thinking={"type": "enabled", "budget_tokens": 400}, reasoning_effort="high")[1]["parameters"]
    assert parameters == {
        "result_format": "message",
        "incremental_output": True,
        "enable_thinking": True,
        "thinking_budget": 400,
        "max_tokens": 600,
    }


def test_turns_are_texts_without_what_only_others_read() -> None:
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "kind"}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "thinking_blocks": [], "tool_calls": [CALL]},
        {"role": "tool", "content": "4", "tool_call_id": "a"},
    ]
    assert sent(messages=turns)[1]["input"]["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "4", "tool_call_id": "a"},
    ]


def test_a_mark_for_the_cache_stays_on_its_part() -> None:
    mark = {"type": "ephemeral"}
    turns = [{"role": "user", "content": [{"type": "text", "text": "long", "cache_control": mark}]}]
    path, body = sent(messages=turns)
    assert path == TEXT_PATH
    assert body["input"]["messages"] == [{"role": "user", "content": [{"text": "long", "cache_control": mark}]}]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (IMAGE, {"image": "https://example.com/a.png"}),
        ({"type": "video_url", "video_url": {"url": "https://e.com/v.mp4"}}, {"video": "https://e.com/v.mp4"}),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
            {"audio": "data:audio/mp3;base64,AAAA"},
        ),
    ],
)
def test_what_is_seen_and_heard_goes_where_parts_go(part: dict[str, Any], said: dict[str, Any]) -> None:
    turns = [*TURNS, {"role": "user", "content": [{"type": "text", "text": "what?"}, part]}]
    path, body = sent(messages=turns)
    assert path == PARTS_PATH
    assert [turn["content"] for turn in body["input"]["messages"]] == [[{"text": "hello"}], [{"text": "what?"}, said]]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        *((name, PARTS_PATH) for name in ("qwen-vl-max", "qwen3-vl-plus", "qvq-max", "qwen3-omni-flash", "qwen-audio")),
        *((name, TEXT_PATH) for name in ("qwen-plus", "qwen3-max", "deepseek-v4-pro", "qwen-vlogger")),
    ],
)
def test_a_model_that_sees_is_asked_there_whatever_it_is_sent(model: str, path: str) -> None:
    assert sent(model)[0] == path


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"prompt": "once"}, "prompt"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages[0]"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        sent(**fields)
    assert (caught.value.param, caught.value.fault) == (name, Fault.NOT_CARRIED)
    assert sent(frequency_penalty=0, logit_bias={})[0] == TEXT_PATH


def chunk(
    content: Any = "", output: int = 0, finish: str = "null", thought: str = "", **message: Any
) -> dict[str, Any]:
    message |= {"role": "assistant", "content": content, "reasoning_content": thought}
    counts = {"input_tokens": 20, "output_tokens": output, "total_tokens": 20 + output}
    choice = {"message": message, "finish_reason": finish}
    return {"output": {"choices": [choice]}, "usage": counts, "request_id": "r"}


def heard(*chunks: dict[str, Any]) -> list[Event]:
    answer = Answer(asked())
    events = []
    for each in chunks:
        answer.take(json.dumps(each).encode())
        events += answer.events()
    events.append(answer.end())
    for before, after in itertools.pairwise(events):
        assert after.usage.prompt >= before.usage.prompt and after.usage.generated >= before.usage.generated
    return events


def joined(events: list[Event]) -> tuple[str, str]:
    return "".join(event.text for event in events), "".join(event.reasoning for event in events)


@pytest.mark.parametrize(
    "pieces",
    [["Hel", "lo", " you", ""], ["Hel", "Hello", "Hello you", "Hello you"]],
    ids=["incremental", "cumulative"],
)
@pytest.mark.parametrize("in_parts", [False, True])
def test_either_way_of_streaming_gives_the_same_text_and_the_last_usage(pieces: list[str], in_parts: bool) -> None:
    contents = [[{"text": piece}] for piece in pieces] if in_parts else pieces
    chunks = [chunk(content, place + 1) for place, content in enumerate(contents[:-1])]
    events = heard(*chunks, chunk(contents[-1], 3, "stop"))
    assert joined(events) == ("Hello you", "")
    assert (events[-1].usage, events[-1].finish, events[-1].estimated) == (Usage(20, 0, 3), "stop", False)
    assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)


def test_reasoning_is_counted_apart_in_either_way() -> None:
    last = chunk("42", 9, "stop", "Let me see.")
    last["usage"]["output_tokens_details"] = {"reasoning_tokens": 6}
    events = heard(
        chunk("", 2, thought="Let"), chunk("", 4, thought="Let me"), chunk("", 6, thought="Let me see."), last
    )
    assert joined(events) == ("42", "Let me see.")
    assert events[-1].usage == Usage(20, 0, 3, reasoning=6)
    last["output"]["choices"][0]["message"] |= {"content": "", "reasoning_content": ""}
    events = heard(chunk("", 2, thought="Let"), chunk("", 6, thought=" me see."), chunk("42", 9), last)
    assert joined(events) == ("42", "Let me see.")


def test_what_a_cache_gave_and_took_stands_in_buckets_of_its_own() -> None:
    last = chunk("hi", 1, "stop")
    last["usage"]["prompt_tokens_details"] = {"cached_tokens": 8, "cache_creation_input_tokens": 5}
    assert heard(last)[-1].usage == Usage(7, 8, 1, cache_write=5)


def calls(*pieces: tuple[int, str, str, str]) -> list[dict[str, Any]]:
    return [
        {"index": index, "id": name, "type": "function", "function": {"name": tool, "arguments": arguments}}
        for index, name, tool, arguments in pieces
    ]


@pytest.mark.parametrize(
    "chunks",
    [
        [
            calls((0, "a", "weather", "")),
            calls((0, "", "", '{"city":'), (1, "b", "time", "{")),
            calls((0, "", "", '"Bern"}')),
            calls((1, "", "", "}")),
        ],
        [
            calls((0, "a", "weather", '{"city":')),
            calls((0, "a", "weather", '{"city":"Bern"}'), (1, "b", "time", "{")),
            calls((0, "a", "weather", '{"city":"Bern"}'), (1, "b", "time", "{}")),
            calls((0, "a", "weather", '{"city":"Bern"}'), (1, "b", "time", "{}")),
        ],
    ],
    ids=["incremental", "cumulative"],
)
def test_calls_grow_and_are_named_once(chunks: list[list[dict[str, Any]]]) -> None:
    said = [chunk("", place + 1, tool_calls=each) for place, each in enumerate(chunks)]
    said[-1]["output"]["choices"][0]["finish_reason"] = "tool_calls"
    events = heard(*said)
    pieces = [piece for event in events for piece in event.tool_calls]
    assert [(p.index, p.id, p.name) for p in pieces if p.id] == [(0, "a", "weather"), (1, "b", "time")]
    for index, arguments in ((0, '{"city":"Bern"}'), (1, "{}")):
        assert "".join(piece.arguments for piece in pieces if piece.index == index) == arguments
    assert events[-1].finish == "tool_calls"
    assert all(isinstance(piece, CallPiece) for piece in pieces)


def test_a_text_where_the_form_was_not_heeded_is_read_too() -> None:
    said = [
        {"output": {"text": text, "finish_reason": finish}, "usage": {"input_tokens": 9, "output_tokens": output}}
        for text, finish, output in (("I am", "null", 1), ("I am Q", "null", 2), ("I am Qwen", "stop", 3))
    ]
    events = heard(*said)
    assert joined(events) == ("I am Qwen", "")
    assert events[-1].usage == Usage(9, 0, 3)


def test_no_usage_is_an_estimate_that_says_so() -> None:
    said = [chunk("Hello", 0), chunk("", 0, "stop")]
    for each in said:
        del each["usage"]
    last = heard(*said)[-1]
    assert last.estimated and last.usage.input > 0 and last.usage.output > 0


@pytest.mark.parametrize(
    ("code", "fault", "status"),
    [
        ("Arrearage", Fault.NO_MONEY, 0),
        ("Throttling.RateQuota", Fault.RATE_LIMITED, 429),
        ("DataInspectionFailed", Fault.CONTENT, 400),
        ("InternalError.Algo", Fault.SERVER, 0),
    ],
)
def test_an_error_within_the_stream_is_what_its_code_says(code: str, fault: Fault, status: int) -> None:
    with pytest.raises(UpstreamError) as caught:
        heard(chunk("Hel", 1), {"code": code, "message": "why", "request_id": "r"})
    assert (caught.value.fault, caught.value.status) == (fault, status)


@pytest.mark.parametrize("said", [[chunk("Hel", 1)], [chunk("Hel", 1, "")]])
def test_an_answer_that_was_not_finished_is_none(said: list[dict[str, Any]]) -> None:
    with pytest.raises(UpstreamError, match="without finishing"):
        heard(*said)


def test_what_cannot_be_read_is_an_error_of_the_upstream() -> None:
    answer = Answer(asked())
    with pytest.raises(UpstreamError, match="cannot be read"):
        answer.take(b'{"output": 3}')
