"""The adapter for OpenAI-compatible servers against one that does the worst real ones do."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.emulators.openai_server import CACHED, PROMPT, OpenAIServer

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.offers import Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.upstream.kinds import ByKind
from steelyard.upstream.openai_answer import Answer
from steelyard.upstream.openai_fault import refusal
from steelyard.upstream.pool import Pool
from steelyard.upstream.vendor import ANY_VENDOR, Asked

COUNTED = Usage(PROMPT - CACHED, CACHED, 3)


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


async def events_of(
    server: OpenAIServer, scene: str, seen: list[Event] | None = None, whole: bool = False, **fields: Any
) -> list[Event]:
    params = {"messages": [{"role": "user", "content": f"scene: {scene}"}], **fields}
    encoded = {name: Raw(msgspec.json.encode(value)) for name, value in params.items() if value is not None}
    offer = Offer(1, "m", "vendor", f"127.0.0.1:{server.port}", "their-m", 2048, 2048, "openai")
    pool, events = Pool(), [] if seen is None else seen
    try:
        async for event in ByKind("vendor", pool, "secret").stream(offer, encoded, 50, b"", whole):
            events.append(event)
    finally:
        await pool.close()
    for before, after in itertools.pairwise(events):
        assert after.usage.prompt >= before.usage.prompt and after.usage.output >= before.usage.output
    return events


@pytest.mark.parametrize(
    "scene",
    ["hello", "usage_twice", "usage_everywhere", "usage_zeros", "usage_and_no_done", "comments"],
)
async def test_the_last_usage_is_the_answers_whatever_else_comes(server: OpenAIServer, scene: str) -> None:
    events = await events_of(server, scene)
    assert "".join(event.text for event in events) == "Hello"
    assert (events[-1].usage, events[-1].finish, events[-1].estimated) == (COUNTED, "stop", False)
    assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)


@pytest.mark.parametrize("scene", ["stopped", "matched"])
@pytest.mark.parametrize(("stop", "named"), [("END", "END"), (["x", "END"], "END"), (["x"], None), (None, None)])
async def test_the_stop_text_that_was_met_is_named_if_it_was_asked_for(
    server: OpenAIServer, scene: str, stop: Any, named: str | None
) -> None:
    events = await events_of(server, scene, stop=stop)
    assert [event.stop_text for event in events] == [*[None] * (len(events) - 1), named]


@pytest.mark.parametrize(
    ("scene", "output_min"), [("usage_never", 2), ("usage_only_zeros", 2), ("usage_never_in_one_piece", 100)]
)
async def test_no_usage_is_an_estimate_that_says_so_and_is_never_zero(
    server: OpenAIServer, scene: str, output_min: int
) -> None:
    last = (await events_of(server, scene))[-1]
    assert last.estimated
    assert last.usage.input > 0 and last.usage.output >= output_min


@pytest.mark.parametrize("scene", ["hello", "reasoning", "refusal", "parallel", "filtered"])
async def test_an_answer_in_one_piece_says_what_a_stream_says(server: OpenAIServer, scene: str) -> None:
    pieces, [whole] = await events_of(server, scene), await events_of(server, scene, whole=True)
    assert "stream" not in server.bodies[-1] and "stream_options" not in server.bodies[-1]
    for name in ("text", "reasoning", "refusal"):
        assert getattr(whole, name) == "".join(getattr(piece, name) for piece in pieces)
    arguments = {piece.index: "" for piece in whole.tool_calls}
    for piece in (piece for event in pieces for piece in event.tool_calls):
        arguments[piece.index] += piece.arguments
    assert {piece.index: piece.arguments for piece in whole.tool_calls} == arguments
    assert (whole.usage, whole.finish, whole.estimated) == (pieces[-1].usage, pieces[-1].finish, False)


async def test_whoever_streams_though_asked_for_one_piece_is_heard_all_the_same(server: OpenAIServer) -> None:
    events = await events_of(server, "hello", whole=True, prompt="x", messages=None)  # its completions know no better
    assert ("".join(event.text for event in events), events[-1].finish) == ("Hello", "length")


async def test_one_piece_without_counts_is_an_estimate(server: OpenAIServer) -> None:
    [whole] = await events_of(server, "usage_never_in_one_piece", whole=True)
    assert whole.estimated and whole.usage.input > 0 and whole.usage.output >= 100


@pytest.mark.parametrize("scene", ["error", "unfinished"])
async def test_one_piece_that_is_no_answer_is_an_error(server: OpenAIServer, scene: str) -> None:
    with pytest.raises(UpstreamError):
        await events_of(server, scene, whole=True)


@pytest.mark.parametrize("scene", ["parallel", "parallel_null", "parallel_zero"])
async def test_parallel_calls_come_as_pieces(server: OpenAIServer, scene: str) -> None:
    events = await events_of(server, scene)
    pieces = [piece for event in events for piece in event.tool_calls]
    assert [(piece.id, piece.name) for piece in pieces if piece.id] == [("call_a", "weather"), ("call_b", "time")]
    whole = {index: "".join(piece.arguments for piece in pieces if piece.index == index) for index in (0, 1)}
    assert {index: json.loads(text) for index, text in whole.items()} == {0: {"city": "Bern"}, 1: {"zone": "utc"}}
    assert events[-1].finish == "tool_calls"


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (("a", "a", "a"), ["a", None, None]),  # SGLang said it with every piece
        (("a", "b", "c"), ["a", None, None]),  # there are servers that make one up for every piece
        (("", "", ""), [None, None, None]),  # Gemini, before it gave any
    ],
)
@pytest.mark.parametrize("names", [("f", None, None), ("f", "", "f")])
def test_a_call_is_named_in_its_first_piece_whatever_the_others_say(
    ids: tuple[str, ...], told: list[str | None], names: tuple[str | None, ...]
) -> None:
    answer = Answer(ANY_VENDOR, Asked("u", "m", {}, 9))
    pieces = []
    for call_id, name, arguments in zip(ids, names, ("", '{"x":', "1}"), strict=True):
        again = name if call_id == ids[0] else None  # with another id a name would be another call
        call = {"index": 0, "id": call_id, "function": {"name": again, "arguments": arguments}}
        answer.take(json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}).encode())
        pieces += [piece for event in answer.events() for piece in event.tool_calls]
    assert [(piece.index, piece.id) for piece in pieces] == [(0, one) for one in told]
    assert [piece.name for piece in pieces] == ["f", None, None]
    assert "".join(piece.arguments for piece in pieces) == '{"x":1}'


def test_what_comes_behind_counts_is_counted_until_they_come_again() -> None:
    """A server that counts at the beginning and at the end: who hung up between the two had all of it for nothing."""
    answer = Answer(ANY_VENDOR, Asked("u", "m", {}, 9))

    def heard(delta: dict[str, str], finish: str | None = None, output: int | None = None) -> bytes:
        counts = None if output is None else {"prompt_tokens": 4, "completion_tokens": output}
        chunk = {"choices": [{"delta": delta, "finish_reason": finish}], "usage": counts}
        return b"data: %b\n\n" % json.dumps(chunk).encode()

    answer.hear(heard({"role": "assistant", "content": ""}, output=0))
    [thought] = answer.hear(heard({"reasoning": "hm"}))
    [said] = answer.hear(heard({"content": "a"}) + heard({"content": "b"}) + heard({"content": "c"}))
    assert (thought.usage, said.usage, said.estimated) == (Usage(4, reasoning=1), Usage(4, 0, 3, reasoning=1), True)
    answer.hear(heard({}, "stop"))
    unfinished = answer.end()
    assert (unfinished.usage, unfinished.estimated) == (Usage(4, 0, 3, reasoning=1), True), "they never came again"
    answer.hear(heard({}, output=7))
    assert (answer.end().usage, answer.end().estimated) == (Usage(4, 0, 6, reasoning=1), False)


async def test_reasoning_and_refusals_are_no_text(server: OpenAIServer) -> None:
    events = await events_of(server, "reasoning")
    assert "".join(event.reasoning for event in events) == "Let me see."
    assert "".join(event.text for event in events) == "42"
    assert (events[-1].usage.output, events[-1].usage.reasoning) == (3, 6)
    events = await events_of(server, "refusal")
    assert "".join(event.refusal for event in events) == "I cannot do that."


async def test_what_came_in_one_read_with_an_error_is_delivered(server: OpenAIServer) -> None:
    seen: list[Event] = []
    with pytest.raises(UpstreamError, match="overloaded"):
        await events_of(server, "error_at_once", seen)
    assert [event.text for event in seen] == ["Hello"]
    assert seen[0].usage.output > 0


@pytest.mark.parametrize("scene", ["cut", "unfinished", "error", "abort"])
async def test_an_answer_that_breaks_off_is_an_error_after_what_came(server: OpenAIServer, scene: str) -> None:
    seen: list[Event] = []
    with pytest.raises(UpstreamError):
        await events_of(server, scene, seen)
    assert "".join(event.text for event in seen).startswith("Hel") or scene in {"error", "abort"}
    assert all(event.usage.output > 0 and event.usage.input > 0 for event in seen if event.text)


@pytest.mark.parametrize("told", [b"9" * 5000, b"-1", b"soon", b""])
def test_a_time_to_come_back_that_is_none_is_not_heeded(told: bytes) -> None:
    found = refusal("vendor", b"{}", 429, told)
    assert (found.status, found.retry_after_s) == (429, None)


@pytest.mark.parametrize(
    ("scene", "status", "retryable"), [("busy", 429, True), ("refused", 400, False), ("broken", 500, True)]
)
async def test_a_refusal_carries_its_status(server: OpenAIServer, scene: str, status: int, retryable: bool) -> None:
    with pytest.raises(UpstreamError) as caught:
        await events_of(server, scene)
    assert (caught.value.status, caught.value.retryable) == (status, retryable)
    assert f"{scene} it is" in caught.value.message


async def test_our_own_unpaid_bill_is_not_the_customers(server: OpenAIServer) -> None:
    with pytest.raises(UpstreamError) as caught:
        await events_of(server, "penniless")
    assert caught.value.status == 0


async def test_what_is_sent_and_what_is_not_a_customers_to_choose(server: OpenAIServer) -> None:
    await events_of(
        server, "hello", n=3, service_tier="priority", best_of=2, flavour="odd", top_k=4, stream=False, max_tokens=9,
        anthropic_beta=["b"], bootstrap_host="10.0.0.1", bootstrap_room=1, lora_path="theirs", priority=-9, rid="1",
        request_id="1", search_parameters={"mode": "on"}, enable_search=True, preset="p",
    )  # fmt: skip
    body = server.bodies[-1]
    assert body.pop("messages")
    assert body == {
        "flavour": "odd",
        "top_k": 4,
        "model": "their-m",
        "max_tokens": 50,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert b"authorization: Bearer secret\r\n" in server.heads[-1]


async def test_signed_thinking_is_for_whoever_signed_it(server: OpenAIServer) -> None:
    proof = {"type": "thinking", "thinking": "Hm", "signature": "s"}
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y", "reasoning_content": "Hm", "thinking_blocks": [proof]},
        {"role": "user", "content": "scene: hello"},
    ]
    await events_of(server, "", messages=turns)
    assert server.bodies[-1]["messages"][1] == {"role": "assistant", "content": "y", "reasoning_content": "Hm"}


async def test_a_completion_has_its_own_path_and_its_logprobs_the_chats_form(server: OpenAIServer) -> None:
    events = await events_of(server, "", messages=None, prompt="Go", logprobs=True, top_logprobs=1)
    assert server.heads[-1].startswith(b"POST /v1/completions ")
    assert server.bodies[-1]["logprobs"] == 1 and "top_logprobs" not in server.bodies[-1]
    assert "".join(event.text for event in events) == "Hello"
    tokens = [token for event in events if event.logprobs for token in json.loads(bytes(event.logprobs))["content"]]
    assert [(token["token"], token["logprob"], token["top_logprobs"][0]["token"]) for token in tokens] == [
        ("Hel", -0.5, "Hel")
    ]


async def test_an_unknown_kind_is_an_error_of_ours(server: OpenAIServer) -> None:
    offer = Offer(1, "m", "vendor", "127.0.0.1:1", "m", 2048, 2048, "carrier-pigeon")
    pool = Pool()
    with pytest.raises(UpstreamError):
        ByKind("vendor", pool, "").stream(offer, {}, 1, b"")
    await pool.close()


@pytest.mark.parametrize(
    ("status", "error", "told", "fault"),
    [
        (429, {"code": "1302"}, (429, True), Fault.RATE_LIMITED),
        (429, {"code": "1113", "message": "余额不足"}, (0, False), Fault.NO_MONEY),
        (429, {"type": "insufficient_quota", "code": None}, (0, False), Fault.NO_MONEY),
        (429, {"code": "1304"}, (0, False), Fault.QUOTA),
        (403, {"code": "AccountOverdueError"}, (0, False), Fault.NO_MONEY),
        (400, {"code": "Arrearage"}, (0, False), Fault.NO_MONEY),
        (402, {"code": None}, (0, False), Fault.NO_MONEY),
        (401, {"code": None}, (0, False), Fault.AUTH),
        (404, {"code": None}, (0, False), Fault.MODEL_MISSING),
        (400, {"code": "1301"}, (400, False), Fault.CONTENT),
        (451, {"message": "blocked"}, (451, False), Fault.CONTENT),
        (403, {"code": 403, "message": "no", "metadata": {"reasons": ["x"]}}, (400, False), Fault.CONTENT),
        (403, {"code": 403, "message": "no", "metadata": {"flagged_input": "y"}}, (400, False), Fault.CONTENT),
        (403, {"code": 403, "message": "no", "metadata": {"provider_name": "z"}}, (0, False), Fault.AUTH),
        (403, {"code": "content_policy_violation"}, (400, False), Fault.CONTENT),
        (500, {"code": "1234"}, (500, True), Fault.SERVER),
        (429, "slow down", (429, True), Fault.RATE_LIMITED),
        (400, {"code": 400, "message": "no"}, (400, False), Fault.BAD_REQUEST),
    ],
)
def test_an_inner_code_says_more_than_a_status(status: int, error: Any, told: tuple[int, bool], fault: Fault) -> None:
    found = refusal("vendor", json.dumps({"error": error}).encode(), status, b"9")
    assert (found.status, found.retryable, found.fault) == (*told, fault)
    assert found.retry_after_s == (9 if fault in {Fault.RATE_LIMITED, Fault.QUOTA} else None)


def test_an_error_that_is_framed_as_an_event_is_read() -> None:
    """DashScope's, where it was asked for a stream."""
    said = json.dumps({"code": "Arrearage", "message": "overdue"}).encode()
    for framed in (b"id:1\nevent:error\n:HTTP_STATUS/400\ndata:%b\n\n", b"data: %b\r\n\r\n", b"\n%b"):
        found = refusal("vendor", framed % said, 400)
        assert (found.fault, found.status) == (Fault.NO_MONEY, 0) and "overdue" in found.message


def test_what_is_no_error_body_is_judged_by_its_status() -> None:
    for body in (b"", b"<html>", b"[]", b"\xff", b'{"error": 3}'):
        assert refusal("vendor", body, 502).retryable
        assert refusal("vendor", body, 401).status == 0
