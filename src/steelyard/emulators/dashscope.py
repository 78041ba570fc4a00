"""DashScope in its OpenAI-compatible dialect, emulated: thinking in streams only, a budget of its own, marks counted.

Facts: help.aliyun.com, OpenAI-compatible Chat and error codes, read 2026-11; bodies as clients report them.
"""

from typing import Any

from steelyard.emulators.chat import Body, Chat
from steelyard.emulators.script import Script, capped

_MARKS_MAX = 4
_BOUNDS_BOTH = ("qwen3.7", "qwen3.8", "qwen3.5-plus", "deepseek-v4")
"""Beginnings of names of models that know `max_completion_tokens`."""


def _inner(code: str, kind: str = "") -> Body:
    return {"param": None, "type": kind or code, "code": code}


class DashScope(Chat):
    name = "dashscope"
    base = "/compatible-mode/v1"
    models = ("qwen-plus", "qwen3.7-max", "qwq-plus")
    errors = {
        "bad_request": (400, _inner("invalid_parameter_error", "invalid_request_error")),
        "auth": (401, _inner("invalid_api_key", "invalid_request_error")),
        "no_money": (400, _inner("Arrearage")),
        "rate_limited": (429, _inner("limit_requests")),
        "quota": (429, _inner("insufficient_quota")),
        "content": (400, _inner("data_inspection_failed")),
        "model_missing": (404, _inner("model_not_found", "invalid_request_error")),
        "server": (500, _inner("internal_error", "InternalError")),
    }

    def is_thinking(self, body: Body) -> bool:
        return body.get("enable_thinking") is True or body.get("model", "").startswith("qwq")

    def check(self, body: Body) -> None:
        if self.is_thinking(body) and not body.get("stream"):
            raise self.refuse("This model only support stream mode, please enable the stream parameter.")
        check_words(self, body)

    def script(self, body: Body) -> Script:
        return bounded(body, super().script({**body, "max_tokens": None, "max_completion_tokens": None}))

    def usage(self, script: Script) -> Body:
        counts = super().usage(script)
        if script.scene == "written":
            counts["prompt_tokens_details"] |= {"cache_creation_input_tokens": script.prompt_tokens // 4}
        return counts

    def error_body(self, message: str, inner: Body) -> Body:
        return {"error": {"message": message, **inner}, "request_id": "emulated"}


def check_words(vendor: Chat, fields: Body) -> None:
    """What both dialects check. `fields` has the turns and the parameters."""
    if not isinstance(fields.get("enable_thinking", False), bool):
        raise vendor.refuse("enable_thinking must be a boolean")
    budget = fields.get("thinking_budget", 1)
    if not isinstance(budget, int) or budget < 1:
        raise vendor.refuse("thinking_budget must be a positive integer")
    if _marks_in(fields.get("messages")) > _MARKS_MAX:
        raise vendor.refuse("too many cache_control markers")
    if fields.get("tool_choice") == "required":
        raise vendor.refuse("tool_choice is one of auto, none and a function")
    if fields.get("thinking") is not None:
        raise vendor.refuse("thinking is not a parameter of this model")


def bounded(fields: Body, script: Script) -> Script:
    """The thinking has a budget of its own, `max_tokens` bounds the answer alone, `max_completion_tokens` both."""
    if script.reasoning and fields.get("thinking_budget"):
        budget = fields["thinking_budget"]
        script = script if len(script.reasoning) <= budget else _thinking_less(script, budget)
    if fields.get("max_completion_tokens") and str(fields.get("model")).startswith(_BOUNDS_BOTH):
        return capped(script, fields["max_completion_tokens"])
    if fields.get("max_tokens"):
        return capped(script, len(script.reasoning) + fields["max_tokens"])
    return script


def _thinking_less(script: Script, budget: int) -> Script:
    fields: dict[str, Any] = {name: getattr(script, name) for name in script.__struct_fields__}
    return Script(**(fields | {"reasoning": script.reasoning[:budget]}))


def _marks_in(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_marks_in, value))
    if not isinstance(value, dict):
        return 0
    return bool(value.get("cache_control")) + sum(_marks_in(each) for each in value.values())
