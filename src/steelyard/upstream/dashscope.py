"""DashScope (Qwen and others) in its OpenAI-compatible dialect: what it does differently.

`max_tokens` bounds the answer without the reasoning; newer models know `max_completion_tokens`, which bounds both. Of
older ones the thinking is bounded by its own budget, so that both together stay within what may be spent (Alibaba
Cloud Model Studio, OpenAI-compatible Chat). Everything is streamed, so models that think in streams only are no matter.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel.faults import Fault
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.openai_fault import STATUSES
from steelyard.upstream.thinking import WORDS, thinking_of
from steelyard.upstream.vendor import Asked, Vendor, fields_of
from steelyard.upstream.whose import not_carried

FAULTS = FaultTable(
    {
        Fault.NO_MONEY: "*/Arrearage */PrepaidBillOverdue */PostpaidBillOverdue */CommodityNotPurchased",
        Fault.AUTH: "*/InvalidApiKey */invalid_api_key */AccessDenied */AccessDenied.* */Workspace.AccessDenied",
        Fault.MODEL_MISSING: "*/ModelNotFound */model_not_found */Model.AccessDenied */Model.*",
        Fault.QUOTA: "*/Throttling.AllocationQuota */insufficient_quota */AllocationQuota.*",
        Fault.RATE_LIMITED: "*/Throttling.* */limit_requests */limit_burst_rate */limit_tokens",
        Fault.CONTENT: "*/DataInspectionFailed */data_inspection_failed */InvalidParameter.DataInspection",
        Fault.BAD_REQUEST: """
            */InvalidParameter */InvalidParameter.* */invalid_parameter_error */MissingParameter */BadRequest.*
            */InvalidURL */InvalidFile.* */context_length_exceeded
        """,
        Fault.SERVER: """
            */InternalError */InternalError.* */internal_error */SystemError */ServiceUnavailable */ModelUnavailable
            */ModelServiceFailed */ModelServingError */RequestTimeOut */ResponseTimeout
        """,
    },
    STATUSES,
)
"""Of both its dialects. `insufficient_quota` is a used-up allocation here, not an empty account as at OpenAI."""

PRICED_APART = frozenset(
    {"enable_search", "search_options", "enable_code_interpreter", "modalities", "audio", "skill", "asr_options"}
)
"""Searches, sandboxes and sounds have prices of their own, which no tariff of tokens covers."""

_KNOWN = WORDS | PRICED_APART | {"max_tokens"}

MARKS_MAX = 4
"""Marks for the cache in one request."""

_BOUNDS_BOTH = re.compile(
    r"qwen3\.[7-9]|qwen3\.[5-9]-plus|qwen[4-9]|kimi-k(2\.[5-9]|[3-9])|glm-[5-9]|minimax-m(2\.[5-9]|[3-9])|deepseek-v[4-9]",
    re.IGNORECASE,
)
"""Beginnings of names of models that know `max_completion_tokens`."""

_EFFORTS = re.compile(r"deepseek-v[4-9]", re.IGNORECASE)
"""Models that are told how hard to think."""


def bounds_of(asked: Asked) -> dict[str, Any]:
    """What bounds an answer and its thinking, the same in both dialects."""
    wanted = thinking_of(asked.upstream, asked.params)
    on = True if wanted.auto else wanted.on  # it has no word for leaving it to the model
    fields: dict[str, Any] = {} if on is None else {"enable_thinking": on}
    budget = (wanted.budget_tokens or None) if on is not False else None
    if wanted.effort is not None and _EFFORTS.match(asked.model):
        fields["reasoning_effort"] = wanted.effort
    if _BOUNDS_BOTH.match(asked.model):
        fields["max_completion_tokens"] = asked.max_tokens
        return fields if budget is None else fields | {"thinking_budget": min(budget, asked.max_tokens)}
    if not on:
        return fields | {"max_tokens": asked.max_tokens}
    most = max(1, asked.max_tokens // 2 if budget is None else min(budget, asked.max_tokens - 1))
    return fields | {"thinking_budget": most, "max_tokens": max(1, asked.max_tokens - most)}


def choice_of(asked: Asked) -> dict[str, Any]:
    """Which tool is demanded. The vendor knows "auto", "none" and one by its name. Raises UpstreamError 400."""
    raw = asked.params.get("tool_choice")
    if raw is None or bytes(raw) != b'"required"':
        return {}
    names = [tool["function"]["name"] for tool in msgspec.json.decode(asked.params.get("tools", b"[]"))]
    if len(names) != 1:
        raise not_carried(asked.upstream, "tool_choice", "this model cannot be made to call one of several; name it")
    return {"tool_choice": {"type": "function", "function": {"name": names[0]}}}


def check_marks(upstream: str, params: Mapping[str, Raw]) -> None:
    """Raises UpstreamError 400 for more marks of the cache than the vendor takes, in its place: it would say less."""
    raw = bytes(params.get("messages", b""))
    if raw.count(b'"cache_control"') > MARKS_MAX and _marks_in(msgspec.json.decode(raw)) > MARKS_MAX:
        raise not_carried(upstream, "messages", f"this model takes at most {MARKS_MAX} marks of 'cache_control'")


def _marks_in(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_marks_in, value))
    if not isinstance(value, dict):
        return 0
    return bool(value.get("cache_control")) + sum(_marks_in(each) for each in value.values())


def _fields(asked: Asked) -> dict[str, Any]:
    check_marks(asked.upstream, asked.params)
    fields = {name: value for name, value in fields_of(asked).items() if name not in _KNOWN}
    return fields | bounds_of(asked) | choice_of(asked)


DASHSCOPE = Vendor(fields=_fields, faults=FAULTS, base="/compatible-mode/v1", completion_path="")
