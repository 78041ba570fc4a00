"""What DashScope's compatible dialect is asked, and whose turn it is when either of its dialects refuses."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from tests.unit.upstream.asking import TURNS, body

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.tariff import Thinking
from steelyard.kernel.thinking import thinking_of
from steelyard.upstream.dashscope import DASHSCOPE, FAULTS
from steelyard.upstream.openai_fault import refusal

_BOUNDS = ("max_tokens", "max_completion_tokens", "enable_thinking", "thinking_budget", "reasoning_effort", "thinking")


def bounds(model: str, max_tokens: int = 1000, **fields: Any) -> dict[str, Any]:
    told = body(DASHSCOPE, model, max_tokens, **fields)
    return {name: told[name] for name in _BOUNDS if name in told}


@pytest.mark.parametrize(
    ("model", "wanted", "sent"),
    [
        ("qwen-plus", {}, {"max_tokens": 1000}),
        ("qwen-plus", {"enable_thinking": False}, {"max_tokens": 1000, "enable_thinking": False}),
        ("qwen-plus", {"reasoning_effort": "none"}, {"max_tokens": 1000, "enable_thinking": False}),
        (
            "qwen-plus",
            {"thinking": {"type": "enabled"}},
            {"max_tokens": 500, "thinking_budget": 500, "enable_thinking": True},
        ),
        (
            "qwen-plus",
            {"enable_thinking": True, "thinking_budget": 300},
            {"max_tokens": 700, "thinking_budget": 300, "enable_thinking": True},
        ),
        (
            "qwen-plus",
            {"thinking": {"type": "enabled", "budget_tokens": 5000}},
            {"max_tokens": 1, "thinking_budget": 999, "enable_thinking": True},
        ),
        ("qwen3.7-max", {}, {"max_completion_tokens": 1000}),
        (
            "qwen3.5-plus-2026-02-15",
            {"enable_thinking": True},
            {"max_completion_tokens": 1000, "enable_thinking": True},
        ),
        (
            "qwen3.8-max",
            {"thinking_budget": 5000},
            {"max_completion_tokens": 1000, "enable_thinking": True, "thinking_budget": 1000},
        ),
        (
            "deepseek-v4-pro",
            {"reasoning_effort": "max"},
            {"max_completion_tokens": 1000, "enable_thinking": True, "reasoning_effort": "max"},
        ),
        ("qwen3.5-flash", {}, {"max_tokens": 1000}),
        ("qwen3-max", {}, {"max_tokens": 1000}),
    ],
)
def test_answer_and_thinking_together_stay_within_what_may_be_spent(
    model: str, wanted: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert bounds(model, **wanted) == sent


_SAID = st.fixed_dictionaries(
    {},
    optional={
        "thinking": st.sampled_from([{"type": word} for word in ("enabled", "disabled", "auto", "adaptive")]),
        "enable_thinking": st.booleans(),
        "reasoning_effort": st.sampled_from(["none", "minimal", "high"]),
        "thinking_budget": st.sampled_from([0, 5, 2000]),
    },
)


@settings(max_examples=60)
@given(_SAID, st.sampled_from(["qwen-plus", "qwen3.7-max"]))
def test_the_vendor_is_told_what_the_price_goes_by(said: dict[str, Any], model: str) -> None:
    """It bills thinking apart: what our tariffs take for thinking is what it is asked for."""
    told = bounds(model, **said)
    billed = thinking_of({name: Raw(msgspec.json.encode(value)) for name, value in said.items()})
    assert told.get("enable_thinking") is {Thinking.ON: True, Thinking.OFF: False, Thinking.UNSAID: None}[billed]
    assert "thinking_budget" not in told or told["enable_thinking"]
    assert told.get("max_completion_tokens", told.get("max_tokens", 0) + told.get("thinking_budget", 0)) == 1000


def test_what_has_a_price_of_its_own_is_not_passed_on() -> None:
    sent = body(DASHSCOPE, enable_search=True, search_options={"forced_search": True}, top_k=5)
    assert sent == {
        "model": "their-m",
        "messages": TURNS,
        "max_tokens": 1000,
        "top_k": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


TOOLS = [{"type": "function", "function": {"name": name}} for name in ("weather", "time")]


def test_a_tool_is_demanded_by_its_name() -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    assert body(DASHSCOPE, tools=TOOLS[:1], tool_choice="required")["tool_choice"] == named
    for choice in ("auto", "none", named):
        assert body(DASHSCOPE, tools=TOOLS, tool_choice=choice)["tool_choice"] == choice
    with pytest.raises(UpstreamError, match="one of several") as caught:
        body(DASHSCOPE, tools=TOOLS, tool_choice="required")
    assert (caught.value.fault, caught.value.param) == (Fault.NOT_CARRIED, "tool_choice")


def marked(marks: int) -> list[dict[str, Any]]:
    part = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}
    return [{"role": "user", "content": [part] * marks}]


def test_four_marks_for_the_cache_are_taken_and_five_are_refused_by_name() -> None:
    assert body(DASHSCOPE, messages=marked(4))["messages"] == marked(4)
    with pytest.raises(UpstreamError, match="at most 4 marks") as caught:
        body(DASHSCOPE, messages=marked(5))
    assert (caught.value.fault, caught.value.param) == (Fault.NOT_CARRIED, "messages")


def test_the_word_in_a_text_is_no_mark() -> None:
    turns = [{"role": "user", "content": '"cache_control" ' * 9}]
    assert body(DASHSCOPE, messages=turns)["messages"] == turns


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (400, "Arrearage", Fault.NO_MONEY),
        (403, "Arrearage", Fault.NO_MONEY),
        (429, "PrepaidBillOverdue", Fault.NO_MONEY),
        (401, "InvalidApiKey", Fault.AUTH),
        (401, "invalid_api_key", Fault.AUTH),
        (403, "AccessDenied", Fault.AUTH),
        (403, "AccessDenied.Unpurchased", Fault.AUTH),
        (404, "ModelNotFound", Fault.MODEL_MISSING),
        (404, "model_not_found", Fault.MODEL_MISSING),
        (403, "Model.AccessDenied", Fault.MODEL_MISSING),
        (429, "Throttling.RateQuota", Fault.RATE_LIMITED),
        (429, "Throttling.BurstRate", Fault.RATE_LIMITED),
        (429, "Throttling", Fault.RATE_LIMITED),
        (429, "limit_requests", Fault.RATE_LIMITED),
        (429, "Throttling.AllocationQuota", Fault.QUOTA),
        (429, "insufficient_quota", Fault.QUOTA),
        (403, "AllocationQuota.FreeTierOnly", Fault.QUOTA),
        (400, "DataInspectionFailed", Fault.CONTENT),
        (400, "data_inspection_failed", Fault.CONTENT),
        (400, "InvalidParameter", Fault.BAD_REQUEST),
        (400, "InvalidParameter.InputTooLong", Fault.BAD_REQUEST),
        (500, "InternalError.Algo", Fault.SERVER),
        (503, "ModelUnavailable", Fault.SERVER),
    ],
)
def test_a_refusal_is_what_its_code_says_in_either_dialect(status: int, code: str, fault: Fault) -> None:
    told = {"code": code, "message": "why"}
    for said in ({**told, "request_id": "r"}, {"error": {**told, "type": "x", "param": None}, "request_id": "r"}):
        error = refusal("vendor", msgspec.json.encode(said), status, faults=FAULTS)
        assert (error.fault, "why" in error.message) == (fault, True)
