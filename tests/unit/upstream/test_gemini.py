"""What Gemini's OpenAI dialect is asked, and whose turn it is when it refuses."""

from typing import Any

import msgspec
import pytest
from tests.unit.upstream.asking import TURNS, body

from steelyard.kernel.faults import Fault
from steelyard.upstream.gemini import FAULTS, GEMINI
from steelyard.upstream.openai_fault import refusal


@pytest.mark.parametrize(
    ("wanted", "effort"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, "none"),
        ({"enable_thinking": False}, "none"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 20000}}, "high"),
        ({"reasoning_effort": "max"}, "high"),
    ],
)
def test_thinking_is_said_as_an_effort(wanted: dict[str, Any], effort: str | None) -> None:
    sent = body(GEMINI, **wanted)
    assert sent.get("reasoning_effort") == effort
    assert not {"thinking", "enable_thinking", "thinking_budget"} & sent.keys()


def call(name: str, signature: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}}
    return made | ({"extra_content": {"google": {"thought_signature": signature}}} if signature else {})


def test_calls_come_back_signed_or_under_the_word_for_unsigned_ones() -> None:
    turns = [
        *TURNS,
        {"role": "assistant", "content": "", "tool_calls": [call("a"), call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "assistant", "content": "", "tool_calls": [call("c", "c2ln")]},
    ]
    sent = body(GEMINI, messages=turns)["messages"]
    assert sent[1]["tool_calls"] == [call("a", "skip_thought_signature_validator"), call("b")]
    assert sent[3] == turns[3] and sent[0] == turns[0]


def said(status: int, word: str, **details: Any) -> bytes:
    error = {"code": status, "message": "why", "status": word, "details": [details] if details else []}
    return msgspec.json.encode([{"error": error}])


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (400, said(400, "INVALID_ARGUMENT"), Fault.BAD_REQUEST),
        (400, said(400, "INVALID_ARGUMENT", reason="API_KEY_INVALID", domain="googleapis.com"), Fault.AUTH),
        (400, said(400, "FAILED_PRECONDITION"), Fault.NO_MONEY),
        (403, said(403, "PERMISSION_DENIED"), Fault.AUTH),
        (403, said(403, "PERMISSION_DENIED", reason="BILLING_DISABLED"), Fault.NO_MONEY),
        (404, said(404, "NOT_FOUND"), Fault.MODEL_MISSING),
        (429, said(429, "RESOURCE_EXHAUSTED"), Fault.RATE_LIMITED),
        (429, said(429, "RESOURCE_EXHAUSTED", violations=[{"quotaId": "RequestsPerMinute"}]), Fault.RATE_LIMITED),
        (429, said(429, "RESOURCE_EXHAUSTED", violations=[{"quotaId": "RequestsPerDayPerProject"}]), Fault.QUOTA),
        (500, said(500, "INTERNAL"), Fault.SERVER),
        (503, said(503, "UNAVAILABLE"), Fault.SERVER),
        (503, b"[]", Fault.SERVER),
        (400, b"not json", Fault.BAD_REQUEST),
    ],
)
def test_a_refusal_in_a_list_is_what_its_reason_or_its_word_says(status: int, body: bytes, fault: Fault) -> None:
    error = refusal("vendor", body, status, faults=FAULTS)
    assert error.fault is fault


def test_how_long_it_wants_to_be_left_alone_stands_in_the_details() -> None:
    error = refusal("vendor", said(429, "RESOURCE_EXHAUSTED", retryDelay="34.07s"), 429, faults=FAULTS)
    assert (error.fault, error.retry_after_s) == (Fault.RATE_LIMITED, 34)
