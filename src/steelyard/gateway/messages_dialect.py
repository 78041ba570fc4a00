"""The dialect of /v1/messages: Anthropic's. Where its key stands, how it refuses, which places belong to it."""

import re

import msgspec

from steelyard.gateway.dialect import Asked
from steelyard.gateway.errors import error_headers
from steelyard.gateway.left import anthropic_rates
from steelyard.gateway.messages_answer import STREAM_END, MessageBody, MessageStream
from steelyard.gateway.messages_request import parse_messages
from steelyard.gateway.wire import Body, Headers, Heads, text_of
from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.left import Left

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OVERLOADED = 529
NAMES = (
    (re.compile(r"^stop$"), "stop_sequences"),
    (re.compile(r"^response_format\b.*"), "output_config.format"),
    (re.compile(r"^reasoning_effort$"), "output_config.effort"),
    (re.compile(r"^(tools\[\d+\])\.function\.parameters\b"), r"\1.input_schema"),
    (re.compile(r"^(tools\[\d+\])\.function\b"), r"\1"),
)
BASES = ("/v1", "/v1/v1", "")
"""Clients add `/v1/messages` or `/messages` to the base they were given, which may end in `/v1` itself."""


def is_messages_path(path: str) -> bool:
    """Whether what goes wrong at this place is told in this dialect."""
    return any(path == f"{base}/messages" or path.startswith(f"{base}/messages/") for base in BASES)


class Messages:
    name = b"messages"
    stream_end = STREAM_END

    def authorization(self, heads: Heads) -> str | None:
        """The header x-api-key, or else a Bearer."""
        key = text_of(heads, b"x-api-key")
        return f"Bearer {key}" if key else text_of(heads, b"authorization")

    def read(self, body: Body, heads: Heads, request_id: bytes, created_ns: int) -> Asked:
        parsed = parse_messages(bytes(body), request_id, text_of(heads, b"anthropic-beta"))
        form = MessageStream if parsed.order.stream else MessageBody
        return Asked(parsed.order, form(parsed.order, parsed.is_thinking_shown), parsed.unknown, parsed.places, NAMES)

    def rates(self, left: Left, now_ns: int) -> Headers:
        return anthropic_rates(left, now_ns)

    def refusal(self, error: CallerError, request_id: bytes) -> tuple[int, Headers, bytes]:
        """A busy house is 529 here; what waiting will not help is told as in every dialect."""
        status = _OVERLOADED if error.code == "overloaded" else error.status
        kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        inner = {"type": kind, "message": error.message, "code": error.code, "param": error.param}
        body = msgspec.json.encode({"type": "error", "error": inner, "request_id": text_from_id(request_id)})
        return status, error_headers(error), body
