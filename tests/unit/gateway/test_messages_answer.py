import json
from typing import Any

import pytest
from tests.unit.gateway.test_chat_answer import CALLS

from steelyard.gateway.chat_answer import Bill
from steelyard.gateway.messages_answer import MessageBody, MessageStream, usage_object
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event, Order

USAGE = Usage(input=4, cached_input=6, output=1, reasoning=2)


def order() -> Order:
    return Order(bytes(16), "m", {}, 10, None, 1, True)


def events(raw: bytes) -> list[dict[str, Any]]:
    """The events; each one's `event:` line must repeat its type."""
    found = []
    for block in raw.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        assert data.startswith("data: ")
        found.append(json.loads(data[6:]))
        assert name == f"event: {found[-1]['type']}"
    return found


def streamed(*said: Event, shown: bool = True) -> list[dict[str, Any]]:
    stream = MessageStream(order(), shown)
    return events(b"".join(stream.render(0, event) for event in said) + stream.closing(USAGE))


def body(*said: Event, shown: bool = True) -> Any:
    made = MessageBody(order(), shown)
    assert b"".join(made.render(0, event) for event in said) == b""
    return json.loads(made.closing(USAGE))


def blocks_of(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a client puts together; fails when blocks interleave or an order is broken."""
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in seen:
        match event["type"]:
            case "content_block_start":
                assert not is_open and event["index"] == len(blocks)
                blocks.append({**event["content_block"], "json": ""})
                is_open = True
            case "content_block_delta":
                assert is_open and event["index"] == len(blocks) - 1
                delta, block = event["delta"], blocks[-1]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case "input_json_delta":
                        block["json"] += delta["partial_json"]
            case "content_block_stop":
                assert is_open and event["index"] == len(blocks) - 1
                is_open = False
    assert not is_open
    for block in blocks:
        text = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(text or "{}")
    return blocks


def test_the_order_of_events_and_cumulative_usage_at_both_ends() -> None:
    seen = streamed(Event("He", Usage(4, 6, 1)), Event("y", Usage(4, 6, 2)), Event("", USAGE, "stop"))
    assert [e["type"] for e in seen] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    message = seen[0]["message"]
    assert message["id"] == "msg_" + "0" * 32
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "m")
    assert message["content"] == [] and message["stop_reason"] is None and message["stop_sequence"] is None
    for usage, output in ((message["usage"], 1), (seen[-2]["usage"], 3)):
        assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (4, 6, output)
        assert usage["cache_creation_input_tokens"] == 0
    assert seen[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_the_projection_adds_up_to_the_same_total() -> None:
    shown = usage_object(USAGE)
    total = sum(
        shown[name]
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    )
    assert total == USAGE.total


def test_thinking_and_parallel_calls_come_one_block_after_the_other() -> None:
    wanted = [
        {"type": "thinking", "thinking": "Hm", "signature": "steelyard_" + "0" * 32},
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Bern"}},
        {"type": "tool_use", "id": "call_b", "name": "time", "input": {}},
    ]
    seen = streamed(*CALLS)
    assert blocks_of(seen) == wanted
    assert seen[-2]["delta"]["stop_reason"] == "tool_use"
    assert seen[-2]["usage"]["output_tokens_details"] == {"thinking_tokens": 2}
    whole = body(*CALLS)
    assert whole["content"] == wanted
    assert whole["stop_reason"] == "tool_use"


def test_calls_one_after_the_other_are_streamed_as_they_come() -> None:
    stream = MessageStream(order(), True)
    stream.render(0, Event(tool_calls=(CallPiece(0, "a", "f", '{"x":'),)))
    assert b'partial_json":"1}"' in stream.render(0, Event(tool_calls=(CallPiece(0, arguments="1}"),)))
    second = stream.render(0, Event(tool_calls=(CallPiece(1, "b", "g", "{"),)))
    assert [e["type"] for e in events(second)] == ["content_block_stop", "content_block_start", "content_block_delta"]


def test_a_text_between_pieces_of_a_call_waits_for_its_end() -> None:
    said = (
        Event(tool_calls=(CallPiece(0, "a", "f", '{"x":'),)),
        Event("so", tool_calls=(CallPiece(1, "b", "g"), CallPiece(0, arguments="1}"))),
        Event("", USAGE, "tool_calls"),
    )
    assert [(b["type"], b.get("input")) for b in blocks_of(streamed(*said))] == [
        ("tool_use", {"x": 1}), ("text", None), ("tool_use", {}),
    ]  # fmt: skip


def test_signed_thinking_keeps_its_blocks_and_signatures() -> None:
    said = (
        Event(reasoning="Fir"),
        Event(reasoning="st", signature="sig-1"),
        Event(redacted="ciphertext"),
        Event(signature="sig-2"),  # of thinking whose words are kept back by its upstream
        Event("42", USAGE, "stop"),
    )
    wanted = [
        {"type": "thinking", "thinking": "First", "signature": "sig-1"},
        {"type": "redacted_thinking", "data": "ciphertext"},
        {"type": "thinking", "thinking": "", "signature": "sig-2"},
        {"type": "text", "text": "42"},
    ]
    assert blocks_of(streamed(*said)) == wanted
    assert body(*said)["content"] == wanted


def test_thinking_may_be_left_out() -> None:
    (block,) = blocks_of(streamed(Event(reasoning="secret"), Event("", USAGE, "stop"), shown=False))
    assert block["thinking"] == "" and block["signature"]
    assert "secret" not in json.dumps(body(Event(reasoning="secret", finish="stop"), shown=False))


@pytest.mark.parametrize(
    ("last", "reason", "sequence"),
    [
        (Event("x", USAGE, "stop"), "end_turn", None),
        (Event("x", USAGE, "length"), "max_tokens", None),
        (Event("x", USAGE, "content_filter"), "refusal", None),
        (Event("x", USAGE, "stop", stop_text="END"), "stop_sequence", "END"),
        (Event("", USAGE, "stop", refusal="No."), "refusal", None),
        (Event("", USAGE, "stop", tool_calls=(CallPiece(0, "a", "f", "{}"),)), "tool_use", None),
        (Event("", USAGE, "length", tool_calls=(CallPiece(0, "a", "f", '{"x'),)), "max_tokens", None),
    ],
)
def test_reasons_to_stop(last: Event, reason: str, sequence: str | None) -> None:
    whole = body(last)
    assert (whole["stop_reason"], whole["stop_sequence"]) == (reason, sequence)
    assert streamed(last)[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


def test_an_upstreams_own_reasons_are_passed_on() -> None:
    for reason, finish in (("pause_turn", "stop"), ("model_context_window_exceeded", "length")):
        assert body(Event("x", USAGE, finish, ended_by=reason))["stop_reason"] == reason
    refused = Event("I ", USAGE, "content_filter", refusal="Harm.", ended_by="refusal")
    details = {"type": "refusal", "category": None, "explanation": "Harm."}
    whole, delta = body(refused), streamed(refused)[-2]["delta"]
    assert whole["content"] == [{"type": "text", "text": "I "}], "its word about the answer is no part of it"
    assert (whole["stop_reason"], whole["stop_details"]) == ("refusal", details)
    assert (delta["stop_reason"], delta["stop_details"]) == ("refusal", details)


def test_a_refusal_is_said_in_a_text() -> None:
    assert body(Event(refusal="No.", finish="stop"))["content"] == [{"type": "text", "text": "No."}]


def test_an_answer_without_a_word_is_a_message_all_the_same() -> None:
    assert [e["type"] for e in streamed()] == ["message_start", "message_delta", "message_stop"]
    assert body()["content"] == []


def test_usage_carries_the_charge() -> None:
    for made in (MessageStream(order(), True), MessageBody(order(), True)):
        made.render(0, Event("x", USAGE, "stop", estimated=True))
        closing = made.closing(USAGE, Bill(USAGE.total * 10**6, "CNY"))
        usage = events(closing)[-2]["usage"] if isinstance(made, MessageStream) else json.loads(closing)["usage"]
        assert usage["steelyard"] == {"charge": "0.013", "currency": "CNY", "estimated": True}


def test_a_failure_in_mid_stream_is_an_error_event() -> None:
    (event,) = events(MessageStream(order(), True).failing(UpstreamError("u", "secret")))
    assert event["error"]["type"] == "api_error"
    assert event["request_id"] == "req_" + "0" * 32
    assert "secret" not in json.dumps(event)
