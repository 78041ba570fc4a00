"""Volcengine Ark, emulated: one cap of two, thinking by a switch, errors with a request id, a hit of the moderation.

Facts: volcengine-ark-runtime 5.0.54 for paths, fields and counts; volcengine.com document 82379/1494384 for the caps.
"""

from collections.abc import Iterator

from steelyard.emulators.chat import Body, Chat, event, thinking_type
from steelyard.emulators.script import Script, capped
from steelyard.emulators.server import Piece

_EFFORTS = {"minimal", "low", "medium", "high"}


def _inner(code: str, kind: str) -> Body:
    return {"code": code, "param": "", "type": kind}


class Ark(Chat):
    name = "ark"
    base = "/api/v3"
    models = ("doubao-seed-2-1-pro", "doubao-seed-2-1-lite", "ep-20260101000000-abcde")
    errors = {
        "bad_request": (400, _inner("InvalidParameter", "BadRequest")),
        "auth": (401, _inner("AuthenticationError", "Unauthorized")),
        "no_money": (403, _inner("AccountOverdueError", "Forbidden")),
        "rate_limited": (429, _inner("RateLimitExceeded.EndpointTPMExceeded", "TooManyRequests")),
        "quota": (429, _inner("SetLimitExceeded", "TooManyRequests")),
        "content": (400, _inner("InputTextSensitiveContentDetected", "BadRequest")),
        "model_missing": (404, _inner("InvalidEndpointOrModel.NotFound", "NotFound")),
        "server": (500, _inner("InternalServiceError", "InternalServerError")),
    }
    ends = {"moderated": "content_filter"}

    def check(self, body: Body) -> None:
        if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
            raise self.refuse("max_tokens and max_completion_tokens cannot be set at the same time")
        kind = thinking_type(body)
        if kind not in {None, "enabled", "disabled", "auto"}:
            raise self.refuse("thinking.type")
        effort = body.get("reasoning_effort")
        if effort is not None and (effort not in _EFFORTS or (kind == "disabled" and effort != "minimal")):
            raise self.refuse("reasoning_effort")
        if body.get("service_tier") not in {None, "auto", "default"}:
            raise self.refuse("service_tier")

    def is_thinking(self, body: Body) -> bool:
        return thinking_type(body) != "disabled"

    def script(self, body: Body) -> Script:
        """Its `max_tokens` bounds the answer alone."""
        if body.get("max_completion_tokens") is not None or body.get("max_tokens") is None:
            return super().script(body)
        script = super().script({**body, "max_tokens": None})
        return capped(script, len(script.reasoning) + body["max_tokens"])

    def usage(self, script: Script) -> Body:
        counts = super().usage(script)
        counts["prompt_tokens_details"] |= {"provisioned_tokens": None, "audio_tokens": None}
        counts["completion_tokens_details"] |= {"provisioned_tokens": None}
        return counts

    def closing(self, body: Body, script: Script, end: Body) -> Iterator[Piece]:
        (choice,) = end["choices"]
        if script.scene == "encrypted":
            yield event(
                {**end, "choices": [{**choice, "delta": {"encrypted_content": "b3BhcXVl"}, "finish_reason": None}]}
            )
        if script.scene == "moderated":
            end = {**end, "choices": [{**choice, "moderation_hit_type": "severe_violation"}]}
        yield from super().closing(body, script, {**end, "service_tier": "default"})

    def error_body(self, message: str, inner: Body) -> Body:
        return {"error": {**inner, "message": f"{message} Request id: 0217"}}
