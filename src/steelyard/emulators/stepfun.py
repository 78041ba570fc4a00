"""StepFun, emulated: errors without a code, reasoning in a field of its own, a count of cached tokens at the top.

Facts: platform.stepfun.com as third parties digest it (accounts, reasoning_format, statuses), read 2026-11. That the
cached tokens stand at the top of its counts is not verified.
"""

from steelyard.emulators.chat import Body, Chat
from steelyard.emulators.script import Script
from steelyard.emulators.server import Heard, Whole


class StepFun(Chat):
    name = "stepfun"
    models = ("step-3.5-flash", "step-5-preview")
    errors = {
        "bad_request": (400, {"type": "request_params_invalid"}),
        "auth": (401, {"type": "invalid_api_key"}),
        "no_money": (402, {"type": "quota_exceeded"}),
        "rate_limited": (429, {"type": "rate_limit_exceeded"}),
        "content": (451, {"type": "censorship_blocked"}),
        "model_missing": (404, {"type": "model_not_found"}),
        "server": (503, {"type": "engine_overloaded"}),
    }

    def check(self, body: Body) -> None:
        if body.get("reasoning_effort") not in {None, "low", "medium", "high"}:
            raise self.refuse("reasoning_effort: low, medium or high")

    def is_thinking(self, body: Body) -> bool:
        return body.get("reasoning_effort") is not None

    def thought(self, text: str) -> Body:
        return {"reasoning": text}

    def usage(self, script: Script) -> Body:
        counts = super().usage(script)
        del counts["prompt_tokens_details"]
        return counts | {"cached_tokens": script.cached_tokens}

    def other(self, heard: Heard) -> Whole | None:
        if heard.path != "/v1/accounts":
            return None
        said = {"object": "account", "type": "prepaid", "balance": 13.77}
        return Whole(200, {**said, "total_cash_balance": 10.0, "total_voucher_balance": 3.77})
