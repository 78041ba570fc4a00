"""DeepSeek, emulated: thinks unless told not to, wants its reasoning back with tools, keeps the waiting awake.

Facts: api-docs.deepseek.com (thinking mode, errors, balance), read 2026-11; error bodies as clients report them.
"""

from typing import Any

from steelyard.emulators.chat import Body, Chat, thinking_type
from steelyard.emulators.script import Script
from steelyard.emulators.server import Heard, Piece, Whole

_INNER = {"type": "invalid_request_error", "param": None, "code": "invalid_request_error"}
_KEEP_ALIVE = b": keep-alive\n\n"


class DeepSeek(Chat):
    name = "deepseek"
    base = ""
    models = ("deepseek-flash", "deepseek-v4-pro")
    errors = {
        "bad_request": (400, _INNER),
        "auth": (401, {**_INNER, "type": "authentication_error"}),
        "no_money": (402, {**_INNER, "type": "unknown_error"}),
        "rate_limited": (429, {**_INNER, "type": "rate_limit_error"}),
        "content": (400, _INNER),
        "model_missing": (400, _INNER),
        "server": (503, {**_INNER, "type": "service_unavailable_error"}),
    }
    messages = {
        "auth": "Authentication Fails (governor)",
        "no_money": "Insufficient Balance",
        "content": "Content Exists Risk",
        "model_missing": "Model Not Exist",
        "server": "Service is too busy.",
    }
    ends = {"exhausted": "insufficient_system_resource"}

    def is_thinking(self, body: Body) -> bool:
        return thinking_type(body) != "disabled"

    def check(self, body: Body) -> None:
        if thinking_type(body) not in {None, "enabled", "disabled"}:
            raise self.refuse("thinking.type: enabled or disabled")
        if body.get("reasoning_effort", "high") not in {"minimal", "low", "medium", "high", "xhigh", "max"}:
            raise self.refuse("reasoning_effort: unknown variant")
        if self.is_thinking(body):
            for turn in body["messages"]:
                if turn.get("tool_calls") and not isinstance(turn.get("reasoning_content"), str):
                    raise self.refuse("The `reasoning_content` in the thinking mode must be passed back to the API.")

    def usage(self, script: Script) -> Body:
        missed = script.prompt_tokens - script.cached_tokens
        hits = {"prompt_cache_hit_tokens": script.cached_tokens, "prompt_cache_miss_tokens": missed}
        return super().usage(script) | hits

    def before(self, script: Script) -> tuple[Piece, ...]:
        return (b"\n", b"\n") if script.scene == "queued" else ()

    def before_stream(self, script: Script) -> tuple[Piece, ...]:
        return (_KEEP_ALIVE, _KEEP_ALIVE) if script.scene == "queued" else ()

    def other(self, heard: Heard) -> Whole | None:
        if heard.path != "/user/balance":
            return None
        info: dict[str, Any] = {"currency": "CNY", "total_balance": "110.00"}
        info |= {"granted_balance": "10.00", "topped_up_balance": "100.00"}
        return Whole(200, {"is_available": True, "balance_infos": [info]})
