"""Events of /v1/responses, in their order and whole."""

import json
from typing import Any

import pytest
from tests.unit.gateway.test_chat_answer import CALLS

from steelyard.gateway.chat_answer import Bill
from steelyard.gateway.responses_answer import STREAM_END, ResponseBody, ResponseStream, usage_object
from steelyard.gateway.responses_request import order_of, read_responses
from steelyard.gateway.responses_seal import unsealed
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event

USAGE = Usage(input=4, cached_input=6, output=1, reasoning=2)
ID = "0" * 32
CREATED_NS = 1_790_000_000 * 10**9


def asked(**fields: Any) -> Any:
    body = json.dumps({"model": "m", "input": "Hello", **fields}).encode()
    return order_of(read_responses(body), bytes(16))


def events(raw: bytes) -> list[dict[str, Any]]:
    """The events; each one's `event:` line must repeat its type, and the numbers must count."""
    found = []
    for block in raw.removesuffix(STREAM_END).decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        assert data.startswith("data: ")
        found.append(json.loads(data[6:]))
        assert name == f"event: {found[-1]['type']}"
        assert found[-1]["sequence_number"] == len(found) - 1
    return found


def streamed(*said: Event, **fields: Any) -> list[dict[str, Any]]:
    stream = ResponseStream(asked(stream=True, **fields), CREATED_NS)
    raw = b"".join(stream.render(0, event) for event in said) + stream.closing(USAGE)
    assert raw.endswith(STREAM_END)
    return events(raw)


def body(*said: Event, **fields: Any) -> Any:
    made = ResponseBody(asked(**fields), CREATED_NS)
    assert b"".join(made.render(0, event) for event in said) == b""
    return json.loads(made.closing(USAGE))


def short(event: dict[str, Any]) -> str:
    """An event in one line: its type, whose it is, and what it adds."""
    words = [event["type"].removeprefix("response.")]
    for name in ("output_index", "content_index", "summary_index"):
        if name in event:
            words.append(f"{name[0]}{event[name]}")
    for name in ("delta", "text", "arguments", "refusal"):
        if name in event:
            words.append(repr(event[name]))
    return " ".join(words)


TEXT = (Event("He", Usage(4, 6, 1)), Event("y", Usage(4, 6, 2)), Event("", USAGE, "stop"))


def test_a_text_in_every_step() -> None:
    seen = streamed(*TEXT)
    assert [short(event) for event in seen] == [
        "created",
        "in_progress",
        "output_item.added o0",
        "content_part.added o0 c0",
        "output_text.delta o0 c0 'He'",
        "output_text.delta o0 c0 'y'",
        "output_text.done o0 c0 'Hey'",
        "content_part.done o0 c0",
        "output_item.done o0",
        "completed",
    ]
    item = {"id": f"msg_{ID}00", "type": "message", "role": "assistant"}
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    assert seen[2]["item"] == {**item, "status": "in_progress", "content": []}
    assert seen[3]["part"] == {**part, "text": ""}
    assert {event["item_id"] for event in seen[3:8]} == {item["id"]}
    assert seen[4]["logprobs"] == seen[6]["logprobs"] == []
    assert seen[7]["part"] == {**part, "text": "Hey"}
    done = {**item, "status": "completed", "content": [{**part, "text": "Hey"}]}
    assert seen[8]["item"] == done
    assert seen[9]["response"]["output"] == [done]


def test_the_response_repeats_the_request() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True, "description": "d"}
    seen = streamed(
        *TEXT, tools=[tool], tool_choice={"type": "function", "name": "f"}, instructions="Be brief.", temperature=0.5,
        metadata={"a": "b"}, reasoning={"effort": "low"}, max_output_tokens=7, user="u", parallel_tool_calls=False,
    )  # fmt: skip
    created, progress, last = seen[0]["response"], seen[1]["response"], seen[-1]["response"]
    assert created == progress
    assert (created["status"], created["output"], created["usage"]) == ("in_progress", [], None)
    assert (last["status"], last["incomplete_details"], last["error"]) == ("completed", None, None)
    for response in (created, last, body(*TEXT, tools=[tool], temperature=0.5)):
        assert (response["id"], response["object"], response["model"]) == (f"resp_{ID}", "response", "m")
        assert response["created_at"] == 1_790_000_000
        assert (response["tools"], response["temperature"], response["top_p"]) == ([tool], 0.5, 1.0)
    assert last["tool_choice"] == {"type": "function", "name": "f"}
    assert (last["instructions"], last["metadata"], last["user"]) == ("Be brief.", {"a": "b"}, "u")
    assert (last["max_output_tokens"], last["parallel_tool_calls"]) == (7, False)
    assert last["reasoning"] == {"effort": "low", "summary": None}
    assert last["text"]["format"] == {"type": "text"}


def test_reasoning_and_parallel_calls() -> None:
    seen = streamed(*CALLS)
    lines = [short(event) for event in seen]
    assert lines[:8] == [
        "created",
        "in_progress",
        "output_item.added o0",
        "content_part.added o0 c0",
        "reasoning_text.delta o0 c0 'Hm'",
        "reasoning_text.done o0 c0 'Hm'",
        "content_part.done o0 c0",
        "output_item.done o0",
    ]
    last = seen[-1]["response"]
    assert last["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    thought, first, second = last["output"]
    assert thought == {
        "id": f"rs_{ID}00", "type": "reasoning", "status": "completed", "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm"}],
    }  # fmt: skip
    call = {"type": "function_call", "status": "completed"}
    assert first == {**call, "id": f"fc_{ID}01", "arguments": '{"city":"Bern"}', "call_id": "call_a", "name": "weather"}
    assert second == {**call, "id": f"fc_{ID}02", "arguments": "{}", "call_id": "call_b", "name": "time"}
    assert body(*CALLS)["output"] == last["output"]
    assert [event["item"] for event in seen if event["type"] == "response.output_item.done"] == last["output"]
    for index, item in ((1, first), (2, second)):
        deltas = [e["delta"] for e in seen if e["type"].endswith("arguments.delta") and e["output_index"] == index]
        assert "".join(deltas) == item["arguments"]


def test_a_call_that_is_whole_is_done_before_the_next_begins() -> None:
    calls = (CallPiece(0, "a", "f", '{"x":'), CallPiece(0, arguments="1}"), CallPiece(1, "b", "g", "{}"))
    seen = streamed(Event("So: ", tool_calls=calls), Event("", USAGE, "tool_calls"))
    assert [short(event) for event in seen[2:]] == [
        "output_item.added o0",
        "content_part.added o0 c0",
        "output_text.delta o0 c0 'So: '",
        "output_text.done o0 c0 'So: '",
        "content_part.done o0 c0",
        "output_item.done o0",
        "output_item.added o1",
        "function_call_arguments.delta o1 '{\"x\":'",
        "function_call_arguments.delta o1 '1}'",
        "function_call_arguments.done o1 '{\"x\":1}'",
        "output_item.done o1",
        "output_item.added o2",
        "function_call_arguments.delta o2 '{}'",
        "function_call_arguments.done o2 '{}'",
        "output_item.done o2",
        "completed",
    ]
    assert seen[9]["item_id"] == f"fc_{ID}01" and seen[11]["name"] == "f"


def test_reasoning_as_a_summary_where_one_is_asked_for() -> None:
    said = (Event(reasoning="Hm"), Event(reasoning="m"), Event("42"), Event("", USAGE, "stop"))
    seen = streamed(*said, reasoning={"summary": "auto"}, include=["reasoning.encrypted_content"])
    assert [short(event) for event in seen[2:9]] == [
        "output_item.added o0",
        "reasoning_summary_part.added o0 s0",
        "reasoning_summary_text.delta o0 s0 'Hm'",
        "reasoning_summary_text.delta o0 s0 'm'",
        "reasoning_summary_text.done o0 s0 'Hmm'",
        "reasoning_summary_part.done o0 s0",
        "output_item.done o0",
    ]
    item = seen[8]["item"]
    assert item["summary"] == [{"type": "summary_text", "text": "Hmm"}] and "content" not in item
    assert unsealed(item["encrypted_content"]).text == "Hmm"
    assert seen[-1]["response"]["reasoning"]["summary"] == "auto"


def test_a_refusal_is_a_part_of_its_own() -> None:
    said = (Event("No", USAGE), Event(refusal="I can"), Event(refusal="not."), Event("", USAGE, "stop"))
    seen = streamed(*said)
    assert [short(event) for event in seen[3:13]] == [
        "content_part.added o0 c0",
        "output_text.delta o0 c0 'No'",
        "output_text.done o0 c0 'No'",
        "content_part.done o0 c0",
        "content_part.added o0 c1",
        "refusal.delta o0 c1 'I can'",
        "refusal.delta o0 c1 'not.'",
        "refusal.done o0 c1 'I cannot.'",
        "content_part.done o0 c1",
        "output_item.done o0",
    ]
    (item,) = seen[-1]["response"]["output"]
    assert item["content"][1] == {"type": "refusal", "refusal": "I cannot."}
    assert body(*said)["output"] == [item]


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_an_answer_that_was_cut_is_incomplete(finish: str, reason: str) -> None:
    said = (Event("He", Usage(4, 6, 1)), Event("", USAGE, finish))
    seen = streamed(*said)
    assert [event["type"] for event in seen][-2:] == ["response.output_item.done", "response.incomplete"]
    assert seen[-2]["item"]["status"] == "incomplete"
    for response in (seen[-1]["response"], body(*said)):
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
        assert response["output"][0]["status"] == "incomplete"


def test_a_call_that_was_cut_keeps_what_came_of_it() -> None:
    seen = streamed(Event(tool_calls=(CallPiece(0, "a", "f", '{"x'),)), Event("", USAGE, "length"))
    (item,) = seen[-1]["response"]["output"]
    assert (item["arguments"], item["status"]) == ('{"x', "incomplete")
    bare = streamed(Event(tool_calls=(CallPiece(0, "a", "f"),)), Event("", USAGE, "length"))
    assert bare[-1]["response"]["output"][0]["arguments"] == ""


def test_a_failure_after_the_first_byte_tells_what_was_delivered() -> None:
    stream = ResponseStream(asked(stream=True), CREATED_NS)
    stream.billed = lambda usage: Bill(usage.total * 10**6, "CNY")
    raw = stream.render(0, Event("He", Usage(4, 6, 1))) + stream.failing(UpstreamError("u", "secret"))
    seen = events(raw)
    assert [short(event) for event in seen[-3:]] == ["output_text.delta o0 c0 'He'", "failed", "error"]
    failed, error = seen[-2]["response"], seen[-1]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert failed["output"][0]["content"][0]["text"] == "He" and failed["output"][0]["status"] == "incomplete"
    assert (failed["usage"]["output_tokens"], failed["usage"]["steelyard"]["charge"]) == (1, "0.011")
    assert error["message"] == error["error"]["message"] and error["code"] == "server_error"
    assert not raw.endswith(STREAM_END) and b"secret" not in raw


def test_an_answer_without_a_word_has_an_empty_message() -> None:
    seen = streamed(Event("", USAGE, "stop"))
    assert [event["type"] for event in seen][:3] == [
        "response.created", "response.in_progress", "response.output_item.added",
    ]  # fmt: skip
    assert seen[-1]["response"]["output"][0]["content"][0]["text"] == ""
    assert body()["output"][0]["type"] == "message"


def test_log_probabilities_have_every_field() -> None:
    raw = b'{"content":[{"token":"Hi","logprob":-0.5,"bytes":null,"top_logprobs":[{"token":"Ho","logprob":-1}]}]}'
    import msgspec

    seen = streamed(Event("Hi", USAGE, "stop", logprobs=msgspec.Raw(raw)), include=["message.output_text.logprobs"])
    wanted = [
        {
            "token": "Hi", "logprob": -0.5, "bytes": [72, 105],
            "top_logprobs": [{"token": "Ho", "logprob": -1, "bytes": [72, 111]}],
        }
    ]  # fmt: skip
    assert [e["logprobs"] for e in seen if e["type"].startswith("response.output_text")] == [wanted, wanted]
    assert seen[-1]["response"]["output"][0]["content"][0]["logprobs"] == wanted


def test_usage_adds_up_and_carries_the_charge() -> None:
    shown = usage_object(USAGE)
    assert shown["input_tokens"] + shown["output_tokens"] == shown["total_tokens"] == USAGE.total
    assert shown["input_tokens_details"]["cached_tokens"] == 6
    made = ResponseBody(asked(), CREATED_NS)
    made.render(0, Event("x", USAGE, "stop", estimated=True))
    usage = json.loads(made.closing(USAGE, Bill(USAGE.total * 10**6, "CNY")))["usage"]
    assert usage["steelyard"] == {"charge": "0.013", "currency": "CNY", "estimated": True}
