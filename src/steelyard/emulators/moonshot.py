"""Moonshot (Kimi), emulated: counts with the end of the choice, an empty account under 429, balances as numbers.

Facts: platform.kimi.ai (balance, limits) and clients' reports of its errors, read 2026-11.
"""

from collections.abc import Iterator

from steelyard.emulators.chat import Body, Chat, event, thinking_type
from steelyard.emulators.script import Script
from steelyard.emulators.server import Heard, Piece, Whole


class Moonshot(Chat):
    name = "moonshot"
    models = ("kimi-k3", "kimi-k3.1-pro")
    errors = {
        "bad_request": (400, {"type": "invalid_request_error"}),
        "auth": (401, {"type": "invalid_authentication_error"}),
        "no_money": (429, {"type": "exceeded_current_quota_error"}),
        "rate_limited": (429, {"type": "rate_limit_reached_error"}),
        "content": (400, {"type": "content_filter"}),
        "model_missing": (404, {"type": "resource_not_found_error"}),
        "server": (500, {"type": "server_error"}),
    }

    def is_thinking(self, body: Body) -> bool:
        return thinking_type(body) != "disabled"

    def check(self, body: Body) -> None:
        if body.get("reasoning_effort") == "none":
            raise self.refuse("Invalid request: reasoning_effort")

    def usage(self, script: Script) -> Body:
        counts = super().usage(script)
        del counts["prompt_tokens_details"]
        return counts | {"cached_tokens": script.cached_tokens}

    def closing(self, body: Body, script: Script, end: Body) -> Iterator[Piece]:
        """The counts stand within the choice."""
        if script.is_counted:
            (choice,) = end["choices"]
            end = {**end, "choices": [{**choice, "usage": self.usage(script)}]}
        yield event(end)

    def other(self, heard: Heard) -> Whole | None:
        if heard.path == "/v1/tokenizers/estimate-token-count":
            return Whole(200, {"data": {"total_tokens": self.script(heard.body).prompt_tokens}})
        if heard.path != "/v1/users/me/balance":
            return None
        data = {"available_balance": 49.58894, "voucher_balance": 46.58893, "cash_balance": 3.00001}
        return Whole(200, {"code": 0, "data": data, "scode": "0x0", "status": True})
