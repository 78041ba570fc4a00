import json

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from steelyard.gateway.chat_answer import DONE, FINGERPRINT, Bill, ChatBody, ChatStream
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event, Order

USAGE = Usage(input=4, cached_input=6, output=1, reasoning=2)


def order(sequences: int = 1) -> Order:
    return Order(bytes(range(16)), "m", {}, 100, None, sequences, True)


def events(piece: bytes) -> list[dict]:
    lines = [line for line in piece.decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) if line != "data: [DONE]" else {"done": True} for line in lines]


def test_a_stream_greets_speaks_finishes_and_counts_once() -> None:
    stream = ChatStream(order(), 5_000_000_000, include_usage=True)
    seen = events(stream.render(0, Event("Hé\n")) + stream.render(0, Event("", finish="stop")) + stream.closing(USAGE))
    deltas = [e["choices"][0]["delta"] for e in seen[:3]]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hé\n"}, {}]
    assert [e["usage"] for e in seen[:3]] == [None] * 3
    assert seen[2]["choices"][0]["finish_reason"] == "stop"
    assert seen[3]["choices"] == []
    assert seen[3]["usage"]["prompt_tokens"] == 10
    assert seen[4] == {"done": True}
    assert {e["id"] for e in seen[:4]} == {"chatcmpl-000102030405060708090a0b0c0d0e0f"}
    assert {e["created"] for e in seen[:4]} == {5}


HEAD = (
    b'{"id":"chatcmpl-000102030405060708090a0b0c0d0e0f","object":"chat.completion%b","created":5,"model":"m\\"",'
    b'"system_fingerprint":"' + FINGERPRINT.encode() + b'","service_tier":"default",'
)
COUNTS = (
    b'"usage":{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13,'
    b'"prompt_tokens_details":{"cached_tokens":6,"cache_write_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":2},'
    b'"prompt_cache_hit_tokens":6,"prompt_cache_miss_tokens":4,'
    b'"steelyard":{"charge":"0.0001","currency":"CNY"}}'
)
BILL = Bill(100_000, "CNY")
NAMED = Order(bytes(range(16)), 'm"', {}, 100, None, 1, True)


def test_a_body_is_these_bytes() -> None:
    body = ChatBody(NAMED, 5_000_000_000, "default")
    body.render(0, Event('H\u00e9\n"', finish="stop"))
    message = '{"role":"assistant","content":"H\u00e9\\n\\"","refusal":null}'.encode()
    choices = b'"choices":[{"index":0,"message":%b,"logprobs":null,"finish_reason":"stop"}],' % message
    assert body.closing(USAGE, BILL) == HEAD % b"" + choices + COUNTS + b"}"


_LETTERS = st.sampled_from(["", "a", '"', "\u00e9\n"])


_ENDS = st.sampled_from(["stop", "length", "tool_calls", "content_filter", "", '"'])


@given(_LETTERS, _ENDS, st.booleans(), st.sampled_from([None, "default"]), st.sampled_from([None, BILL]))
def test_an_answer_in_one_event_has_the_bytes_of_the_same_in_two(
    text: str, finish: str, estimated: bool, tier: str | None, bill: Bill | None
) -> None:
    bodies = [ChatBody(NAMED, 5_000_000_000, tier) for _ in range(2)]
    bodies[0].render(0, Event(text, USAGE, finish, estimated=estimated))
    for event in (Event(text, USAGE), Event("", USAGE, finish, estimated=estimated)):
        bodies[1].render(0, event)
    assert bodies[0].closing(USAGE, bill) == bodies[1].closing(USAGE, bill)


@given(st.lists(st.builds(Event, _LETTERS, finish=st.sampled_from([None, "stop"]), reasoning=_LETTERS), max_size=3))
def test_a_body_says_all_that_was_said_in_however_many_events(said: list[Event]) -> None:
    body = ChatBody(NAMED, 5_000_000_000)
    for event in said:
        body.render(0, event)
    choice = json.loads(body.closing(USAGE))["choices"][0]
    assert choice["message"]["content"] == "".join(event.text for event in said)
    assert choice["message"].get("reasoning", "") == "".join(event.reasoning for event in said)
    assert choice["finish_reason"] == next((event.finish for event in said if event.finish), None)


def test_a_stream_is_these_bytes() -> None:
    stream = ChatStream(NAMED, 5_000_000_000, include_usage=True, tier="default")
    deltas = [
        (b'{"role":"assistant","content":""}', b"null"),
        ('{"content":"H\u00e9\\n\\""}'.encode(), b"null"),
        (b'{"content":"\\\\"}', b"null"),
        (b"{}", b'"stop"'),
    ]
    choice = b'"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}],"usage":null}\n\n'
    said = stream.render(0, Event('H\u00e9\n"')) + stream.render(0, Event("\\", finish="stop"))
    assert said == b"".join(b"data: " + HEAD % b".chunk" + choice % delta for delta in deltas[:2])
    rest = b"".join(b"data: " + HEAD % b".chunk" + choice % delta for delta in deltas[2:])
    closing = rest + b"data: " + HEAD % b".chunk" + b'"choices":[],' + COUNTS + b"}\n\n" + DONE
    assert stream.closing(USAGE, BILL) == closing


def test_usage_is_not_shown_unless_asked_for() -> None:
    stream = ChatStream(order(), 0, include_usage=False)
    seen = events(stream.render(0, Event("x", finish="length")) + stream.closing(USAGE))
    assert all("usage" not in e for e in seen)
    assert seen[-1] == {"done": True}


def test_every_sequence_greets_for_itself() -> None:
    stream = ChatStream(order(2), 0, include_usage=False)
    seen = events(stream.render(1, Event("b")) + stream.render(0, Event("a")))
    assert [(e["choices"][0]["index"], e["choices"][0]["delta"]) for e in seen] == [
        (1, {"role": "assistant", "content": ""}),
        (1, {"content": "b"}),
        (0, {"role": "assistant", "content": ""}),
        (0, {"content": "a"}),
    ]


def test_a_failure_mid_stream_is_an_error_event_without_the_upstreams_words() -> None:
    stream = ChatStream(order(), 0, include_usage=False)
    (error,) = events(stream.failing(UpstreamError("local", "secret path /x")))
    assert error["error"]["code"] == "upstream_failed"
    assert "secret" not in json.dumps(error)


def test_a_body_is_sent_once_with_all_sequences() -> None:
    body = ChatBody(order(2), 0)
    logprobs = Raw(b'{"content":[{"token":"a"}]}')
    assert body.render(0, Event("He", logprobs=logprobs)) == b""
    assert body.render(1, Event("Yo", finish="length")) == b""
    assert body.render(0, Event("y", finish="stop", logprobs=logprobs)) == b""
    answer = json.loads(body.closing(USAGE))
    assert [c["message"]["content"] for c in answer["choices"]] == ["Hey", "Yo"]
    assert [c["finish_reason"] for c in answer["choices"]] == ["stop", "length"]
    assert answer["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "a"}], "refusal": None}
    assert answer["choices"][1]["logprobs"] is None
    assert answer["usage"]["total_tokens"] == 13


CALLS = [
    Event(reasoning="Hm"),
    Event(tool_calls=(CallPiece(0, "call_a", "weather", ""), CallPiece(1, "call_b", "time", "{"))),
    Event(tool_calls=(CallPiece(0, arguments='{"city":'), CallPiece(1, arguments="}"))),
    Event(tool_calls=(CallPiece(0, arguments='"Bern"}'),), finish="tool_calls"),
]


def test_parallel_tool_calls_are_streamed_piece_by_piece() -> None:
    stream = ChatStream(order(), 0, include_usage=True)
    seen = events(b"".join(stream.render(0, event) for event in CALLS) + stream.closing(USAGE))
    deltas = [e["choices"][0]["delta"] for e in seen[1:-2]]
    assert deltas == [
        {"reasoning_content": "Hm", "reasoning": "Hm"},
        {
            "tool_calls": [
                {"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}},
                {"index": 1, "id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{"}},
            ]
        },
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": '{"city":'}},
                {"index": 1, "function": {"arguments": "}"}},
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Bern"}'}}]},
        {},
    ]
    assert seen[-3]["choices"][0]["finish_reason"] == "tool_calls"
    assert seen[-2]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_pieces_of_one_call_that_came_in_one_read_are_one_entry() -> None:
    """openai-python keeps the first list of calls as it is, and took two entries of one index for two calls."""
    said = (CallPiece(0, "call_a", "weather", ""), CallPiece(0, arguments='{"city":'), CallPiece(1, "call_b", "time"))
    form = ChatStream(order(), 0, include_usage=False)
    seen = events(form.render(0, Event(tool_calls=(*said, CallPiece(0, arguments='"Bern"}')))))
    assert seen[-1]["choices"][0]["delta"]["tool_calls"] == [
        {
            "index": 0,
            "id": "call_a",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Bern"}'},
        },
        {"index": 1, "id": "call_b", "type": "function", "function": {"name": "time", "arguments": ""}},
    ]


def test_a_body_holds_whole_tool_calls_and_no_empty_text() -> None:
    body = ChatBody(order(), 0)
    for event in CALLS:
        body.render(0, event)
    message = json.loads(body.closing(USAGE))["choices"][0]["message"]
    assert message["content"] is None
    assert message["reasoning_content"] == message["reasoning"] == "Hm"
    assert [(call["id"], call["function"]) for call in message["tool_calls"]] == [
        ("call_a", {"name": "weather", "arguments": '{"city":"Bern"}'}),
        ("call_b", {"name": "time", "arguments": "{}"}),
    ]


def test_a_call_without_an_id_gets_one_or_its_result_could_not_name_it() -> None:
    said = (CallPiece(0, None, "f", ""), CallPiece(1, "", "g", "{}"), CallPiece(0, arguments="{}"))
    stream, body = ChatStream(order(2), 0, include_usage=False), ChatBody(order(2), 0)
    told: dict[tuple[int, int], list[str]] = {}
    for sequence, piece in [(0, said[0]), (0, said[1]), (0, said[2]), (1, said[1])]:
        event = Event(tool_calls=(piece,))
        body.render(sequence, event)
        delta = events(stream.render(sequence, event))[-1]["choices"][0]["delta"]["tool_calls"][0]
        told.setdefault((sequence, piece.index), []).extend([delta["id"]] if "id" in delta else [])
    ids = [one_id for ids in told.values() for one_id in ids]
    assert len(told) == len(ids) == len(set(ids)) and all(one_id.startswith("call_") for one_id in ids)
    whole = [choice["message"]["tool_calls"] for choice in json.loads(body.closing(USAGE))["choices"]]
    assert [call["id"] for calls in whole for call in calls] == ids


def test_a_refusal_is_no_text() -> None:
    body = ChatBody(order(), 0)
    body.render(0, Event(refusal="No.", finish="stop"))
    message = json.loads(body.closing(USAGE))["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "No.")


def test_usage_carries_the_charge_and_says_when_counts_are_estimates() -> None:
    stream = ChatStream(order(), 0, include_usage=True, tier="default")
    stream.render(0, Event("x", finish="stop", estimated=True))
    *_, shown, _ = events(stream.closing(USAGE, Bill(13_000_000, "CNY")))
    assert shown["usage"]["steelyard"] == {"charge": "0.013", "currency": "CNY", "estimated": True}
    assert shown["service_tier"] == "default" and shown["system_fingerprint"].startswith("steelyard-")


def test_signed_thinking_is_given_whole_to_be_handed_back() -> None:
    said = (
        Event(reasoning="Fir"),
        Event(reasoning="st", signature="s1"),
        Event(redacted="x"),
        Event("42", USAGE, "stop"),
    )
    blocks = [
        {"type": "thinking", "thinking": "First", "signature": "s1"},
        {"type": "redacted_thinking", "data": "x"},
    ]
    asked = order()
    stream, whole = ChatStream(asked, 0, False), ChatBody(asked, 0)
    seen = []
    for event in said:
        whole.render(0, event)
        for line in stream.render(0, event).split(b"\n\n")[:-1]:
            seen += json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"].get("thinking_blocks", [])
    assert seen == [{"index": place, **block} for place, block in enumerate(blocks)]
    message = json.loads(whole.closing(USAGE))["choices"][0]["message"]
    assert (message["thinking_blocks"], message["reasoning_content"]) == (blocks, "First")


def test_the_end_of_the_only_sequence_leaves_with_the_closing_and_does_not_wait_for_the_books() -> None:
    stream, two = ChatStream(order(), 0, include_usage=False), ChatStream(order(2), 0, include_usage=False)
    last = Event("the last words", finish="stop")
    assert stream.render(0, last) == b"" != two.render(0, last)
    said, rest = stream.parted(stream.closing(USAGE))
    assert b"the last words" in said and b'"finish_reason":"stop"' in said
    assert rest == DONE
