"""OpenAI's own models: what those that reason are asked, and whose turn it is when OpenAI refuses."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.unit.upstream.asking import asked, body

from steelyard.kernel.faults import Fault
from steelyard.kernel.offers import Offer
from steelyard.upstream.openai import OpenAI
from steelyard.upstream.openai_fault import refusal
from steelyard.upstream.openai_models import FAULTS, OPENAI
from steelyard.upstream.pool import Pool
from steelyard.upstream.vendor import Asked, fields_of


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-5-chat-latest", "Qwen/Qwen3-8B", "gpt-oss-120b", "o-nothing"])
def test_a_model_that_does_not_reason_is_asked_as_any_other(model: str) -> None:
    sent = body(OPENAI, model, enable_thinking=True, thinking_budget=5)
    assert (sent["max_tokens"], sent["enable_thinking"], sent["thinking_budget"]) == (1000, True, 5)
    assert "max_completion_tokens" not in sent


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-5", "o3", "chatgpt-4o-latest", "Qwen/Qwen3-8B", "kimi", "gpt-oss-120b"]
)
def test_a_model_that_is_not_its_own_is_asked_as_at_a_server_nobody_knows(model: str) -> None:
    turns = [{"role": "assistant", "content": "ho", "reasoning_content": "hm", "thinking_blocks": []}]
    params = {"messages": Raw(msgspec.json.encode(turns)), "reasoning_effort": Raw(b'"low"')}
    asked = Asked("u", model, params, 9)
    assert OPENAI.is_own is not None and (OPENAI.fields(asked) == fields_of(asked)) is not OPENAI.is_own(model)


@pytest.mark.parametrize(
    ("address", "gone"),
    [
        ("https://api.mistral.ai/v1", {"stream_options", "seed", "reasoning_content"}),
        ("https://api.groq.com/openai/v1", {"reasoning_content"}),
        ("https://api.mistral.ai.example/v1", set()),
        ("h:1", set()),
    ],
)
async def test_strict_vendors_are_sent_nothing_that_they_refuse(address: str, gone: set[str]) -> None:
    pool = Pool()
    offer = Offer(1, "m", "u", address, "mistral-large-latest", 9, 9, "openai")
    _, fields = OpenAI("u", pool, "k", OPENAI)._way(offer, "/chat/completions")
    turns = [{"role": "assistant", "content": "ho", "reasoning_content": "hm"}]
    sent = msgspec.json.decode(msgspec.json.encode(fields(asked("mistral-large-latest", messages=turns, seed=7))))
    assert {"stream_options", "seed", "reasoning_content"} - sent.keys() - sent["messages"][0].keys() == gone
    assert (sent.get("random_seed"), sent["stream"]) == (7 if "seed" in gone else None, True)
    await pool.close()


@pytest.mark.parametrize(("model", "kept"), [("gpt-4o", False), ("o3", False), ("gpt-oss-120b", True), ("kimi", True)])
def test_reasoning_goes_back_to_whom_it_may_help(model: str, kept: bool) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "reasoning_content": "hm"}]
    assert ("reasoning_content" in body(OPENAI, model, messages=turns)["messages"][1]) == kept


@pytest.mark.parametrize(
    ("model", "wanted", "effort"),
    [
        ("gpt-5", {}, None),
        ("gpt-5", {"reasoning_effort": "low"}, "low"),
        ("gpt-5", {"reasoning_effort": "none"}, "minimal"),
        ("gpt-5-mini", {"enable_thinking": False}, "minimal"),
        ("gpt-5.1", {"reasoning_effort": "none"}, "none"),
        ("gpt-6", {"thinking": {"type": "disabled"}}, "none"),
        ("o3", {"thinking": {"type": "disabled"}}, "low"),
        ("o4-mini", {"thinking": {"type": "enabled", "budget_tokens": 9000}}, "high"),
        ("gpt-5.2", {"reasoning_effort": "max"}, "xhigh"),
    ],
)
def test_one_that_reasons_takes_another_cap_and_an_effort(
    model: str, wanted: dict[str, Any], effort: str | None
) -> None:
    sent = body(OPENAI, model, **wanted)
    assert (sent["max_completion_tokens"], sent.get("reasoning_effort")) == (1000, effort)
    assert not {"max_tokens", "thinking", "enable_thinking", "thinking_budget"} & sent.keys()


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (429, "insufficient_quota", Fault.NO_MONEY),
        (429, "rate_limit_exceeded", Fault.RATE_LIMITED),
        (429, "billing_not_active", Fault.NO_MONEY),
        (401, "invalid_api_key", Fault.AUTH),
        (401, "account_deactivated", Fault.AUTH),
        (403, "unsupported_country_region_territory", Fault.AUTH),
        (404, "model_not_found", Fault.MODEL_MISSING),
        (400, "context_length_exceeded", Fault.BAD_REQUEST),
        (400, "content_policy_violation", Fault.CONTENT),
        (503, "slow_down", Fault.RATE_LIMITED),
        (500, None, Fault.SERVER),
    ],
)
def test_a_refusal_is_what_its_code_says(status: int, code: str | None, fault: Fault) -> None:
    said = msgspec.json.encode({"error": {"message": "why", "type": "x", "param": None, "code": code}})
    assert refusal("vendor", said, status, faults=FAULTS).fault is fault
