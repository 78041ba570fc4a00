"""Gemini in its OpenAI dialect, emulated: errors in a list, thoughts in the total only, calls that must be signed.

Facts: ai.google.dev, OpenAI compatibility and thought signatures, read 2026-11; error bodies and counts as clients
report them. The form of an error within a stream is not verified.
"""

from collections.abc import Iterator
from typing import Any

from steelyard.emulators.chat import Body, Chat, event
from steelyard.emulators.script import Call, Script
from steelyard.emulators.server import CUT, HELD, Piece

_EFFORTS = {"none", "minimal", "low", "medium", "high"}
_KNOWN = {
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p"),
    *("n", "stop", "tools", "tool_choice", "response_format", "reasoning_effort", "extra_body", "presence_penalty"),
    *("frequency_penalty", "seed", "logprobs", "top_logprobs", "parallel_tool_calls", "user"),
}
_KEY_INVALID = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
}
_PER_DAY = {
    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}],
}

_UNSIGNED = "skip_thought_signature_validator"


def _signature(call_id: str) -> str:
    return f"signed:{call_id}"


class Gemini(Chat):
    name = "gemini"
    base = "/v1beta/openai"
    models = ("gemini-3.8-flash", "gemini-3-pro")
    errors = {
        "bad_request": (400, {"status": "INVALID_ARGUMENT"}),
        "auth": (400, {"status": "INVALID_ARGUMENT", "details": [_KEY_INVALID]}),
        "no_money": (400, {"status": "FAILED_PRECONDITION"}),
        "rate_limited": (429, {"status": "RESOURCE_EXHAUSTED"}),
        "quota": (429, {"status": "RESOURCE_EXHAUSTED", "details": [_PER_DAY]}),
        "content": (400, {"status": "INVALID_ARGUMENT", "details": [{"reason": "PROHIBITED_CONTENT"}]}),
        "model_missing": (404, {"status": "NOT_FOUND"}),
        "server": (503, {"status": "UNAVAILABLE"}),
    }
    messages = {"auth": "API key not valid. Please pass a valid API key."}

    def error_body(self, message: str, inner: Any) -> Any:
        status = next((code for code, each in self.errors.values() if each is inner), 400)
        return [{"error": {"code": status, "message": message, **inner}}]

    def check(self, body: Body) -> None:
        for name in body.keys() - _KNOWN:
            raise self.refuse(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
        if body.get("reasoning_effort") not in {None, *_EFFORTS}:
            raise self.refuse("reasoning_effort")
        for turn in body["messages"]:
            for name in turn.keys() - {"role", "content", "name", "tool_calls", "tool_call_id"}:
                raise self.refuse(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
            if calls := turn.get("tool_calls"):
                signature = (calls[0].get("extra_content") or {}).get("google", {}).get("thought_signature")
                if not signature:
                    raise self.refuse("Function call is missing a thought_signature in functionCall parts.")
                if signature not in {_UNSIGNED, _signature(calls[0]["id"])}:
                    raise self.refuse("Corrupted thought signature.")

    def is_thinking(self, body: Body) -> bool:
        return body.get("reasoning_effort") != "none"

    def thought(self, text: str) -> Body:
        """Thoughts are not shown."""
        return {}

    def beside(self, call: Call, place: int) -> Body:
        """The first call of an answer is signed."""
        return {} if place else {"extra_content": {"google": {"thought_signature": _signature(call.id)}}}

    def usage(self, script: Script) -> Body:
        counts = super().usage(script)
        del counts["completion_tokens_details"]
        return counts | {"completion_tokens": script.output_tokens - len(script.reasoning)}

    def closing(self, body: Body, script: Script, end: Body) -> Iterator[Piece]:
        """The counts ride on the last chunk."""
        asked = (body.get("stream_options") or {}).get("include_usage")
        yield event(end | ({"usage": self.usage(script)} if script.is_counted and asked else {}))

    def _then(self, what: str) -> Iterator[Piece]:
        if what == "error":
            yield event(self.refusal("server").body[0])
        else:
            yield CUT if what == "cut" else HELD
