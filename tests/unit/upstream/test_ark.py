"""What Ark is asked, and whose turn it is when it refuses."""

from typing import Any

import msgspec
import pytest
from tests.unit.upstream.asking import TURNS, body

from steelyard.kernel.faults import Fault
from steelyard.upstream.ark import ARK, FAULTS
from steelyard.upstream.openai_fault import refusal


def test_the_cap_bounds_answer_and_reasoning_together() -> None:
    sent = body(ARK, "ep-20260101-x", max_tokens=77, temperature=0.5, service_tier="fast", unknown=1)
    assert sent == {
        "model": "ep-20260101-x",
        "messages": TURNS,
        "max_completion_tokens": 77,
        "temperature": 0.5,
        "unknown": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("model", ["doubao-1-5-pro-32k-250115", "Doubao-lite-4k", "doubao-pro-32k"])
def test_older_models_that_never_think_know_the_other_cap(model: str) -> None:
    sent = body(ARK, model)
    assert sent["max_tokens"] == 1000 and "max_completion_tokens" not in sent
    assert "max_tokens" not in body(ARK, "doubao-1-5-thinking-pro-250415")


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ({}, {}),
        ({"enable_thinking": True}, {"thinking": {"type": "enabled"}}),
        ({"enable_thinking": False}, {"thinking": {"type": "disabled"}}),
        ({"thinking": {"type": "auto"}}, {"thinking": {"type": "auto"}}),
        ({"thinking": {"type": "adaptive"}}, {"thinking": {"type": "auto"}}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": "max"}, {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "low"}, {"thinking": {"type": "disabled"}}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 4000}},
            {"thinking": {"type": "enabled"}, "reasoning_effort": "medium"},
        ),
    ],
)
def test_thinking_is_said_in_its_words(wanted: dict[str, Any], sent: dict[str, Any]) -> None:
    told = body(ARK, **wanted)
    assert {name: told[name] for name in ("thinking", "reasoning_effort", "thinking_budget") if name in told} == sent


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (403, "AccountOverdueError", Fault.NO_MONEY),
        (401, "AuthenticationError", Fault.AUTH),
        (403, "AccessDenied", Fault.AUTH),
        (403, "OperationDenied.ServiceNotOpen", Fault.MODEL_MISSING),
        (403, "OperationDenied.PermissionDenied", Fault.AUTH),
        (404, "InvalidEndpointOrModel.NotFound", Fault.MODEL_MISSING),
        (404, "InvalidEndpointOrModel.ModelIDAccessDisabled", Fault.MODEL_MISSING),
        (404, "ModelNotOpen", Fault.MODEL_MISSING),
        (400, "InvalidEndpoint.ClosedEndpoint", Fault.MODEL_MISSING),
        (429, "SetLimitExceeded", Fault.QUOTA),
        (429, "QuotaExceeded", Fault.QUOTA),
        (429, "RateLimitExceeded.EndpointRPMExceeded", Fault.RATE_LIMITED),
        (429, "ServerOverloaded", Fault.RATE_LIMITED),
        (400, "InputTextRiskDetection", Fault.CONTENT),
        (400, "SensitiveContentDetected.SevereViolation", Fault.CONTENT),
        (400, "InputImageSensitiveContentDetected", Fault.CONTENT),
        (400, "MissingParameter", Fault.BAD_REQUEST),
        (400, "InvalidParameter.UnsupportedParameter", Fault.BAD_REQUEST),
        (500, "InternalServiceError", Fault.SERVER),
        (400, "Unheard", Fault.BAD_REQUEST),
        (429, "Unheard", Fault.RATE_LIMITED),
        (502, None, Fault.SERVER),
    ],
)
def test_a_refusal_is_what_its_code_says(status: int, code: str | None, fault: Fault) -> None:
    said = msgspec.json.encode({"error": {"code": code, "message": "why", "param": "", "type": "Forbidden"}})
    error = refusal("vendor", said, status, faults=FAULTS)
    assert error.fault is fault
    assert error.retryable == (fault in {Fault.RATE_LIMITED, Fault.SERVER})
