"""Answers of /v1/chat/completions: one as a stream of chunks, one as a single body.

Owns the OpenAI dialect's projection of usage and its chunk order. Pure text making: the bytes are sent elsewhere.
"""

from typing import Any

import msgspec

from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order

_encode = msgspec.json.encode
_DONE = b"data: [DONE]\n\n"


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI-style usage: `prompt_tokens` includes the cached ones. DeepSeek's two names are given as well."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input},
        "completion_tokens_details": {"reasoning_tokens": 0},
        "prompt_cache_hit_tokens": usage.cached_input,
        "prompt_cache_miss_tokens": usage.input,
    }


class ChatStream:
    """Server-sent events: role first, text as it comes, a finish per sequence, usage if asked, [DONE]."""

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, order: Order, created_ns: int, include_usage: bool) -> None:
        head = {
            "id": f"chatcmpl-{order.request_id.hex()}",
            "object": "chat.completion.chunk",
            "created": created_ns // NS_PER_S,
            "model": order.model,
        }
        self._prefix = b"data: " + _encode(head)[:-1] + b',"choices":'
        self._suffix = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._include_usage = include_usage
        self._greeted = bytearray(order.sequences)

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None, logprobs: msgspec.Raw | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._prefix + _encode([choice]) + self._suffix

    def render(self, sequence: int, event: Event) -> bytes:
        """The chunks of one event; empty when it says nothing."""
        pieces: list[bytes] = []
        if not self._greeted[sequence]:
            self._greeted[sequence] = 1
            pieces.append(self._chunk(sequence, {"role": "assistant", "content": ""}, None, None))
        if event.text or event.logprobs is not None:
            pieces.append(self._chunk(sequence, {"content": event.text}, None, event.logprobs))
        if event.finish is not None:
            pieces.append(self._chunk(sequence, {}, event.finish, None))
        return b"".join(pieces)

    def closing(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return _DONE
        return self._prefix + b'[],"usage":' + _encode(usage_object(usage)) + b"}\n\n" + _DONE

    def failing(self, error: UpstreamError) -> bytes:
        """A failure after the first byte, in the form client libraries raise on."""
        inner = {
            "message": "The model failed while it answered; what was delivered is charged.",
            "type": "server_error",
            "param": None,
            "code": "upstream_failed",
        }
        return b"data: " + _encode({"error": inner}) + b"\n\n"


class ChatBody:
    """One JSON body, made when every sequence has ended."""

    content_type = b"application/json"

    def __init__(self, order: Order, created_ns: int) -> None:
        self._order = order
        self._created_s = created_ns // NS_PER_S
        self._texts: list[list[str]] = [[] for _ in range(order.sequences)]
        self._finish: list[str | None] = [None] * order.sequences
        self._logprobs: list[list[Any]] = [[] for _ in range(order.sequences)]

    def render(self, sequence: int, event: Event) -> bytes:
        """Nothing is sent before the end."""
        self._texts[sequence].append(event.text)
        if event.finish is not None:
            self._finish[sequence] = event.finish
        if event.logprobs is not None:
            self._logprobs[sequence] += msgspec.json.decode(event.logprobs).get("content") or []
        return b""

    def closing(self, usage: Usage) -> bytes:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(texts), "refusal": None},
                "logprobs": {"content": self._logprobs[index]} if self._logprobs[index] else None,
                "finish_reason": self._finish[index],
            }
            for index, texts in enumerate(self._texts)
        ]
        return _encode(
            {
                "id": f"chatcmpl-{self._order.request_id.hex()}",
                "object": "chat.completion",
                "created": self._created_s,
                "model": self._order.model,
                "choices": choices,
                "usage": usage_object(usage),
            }
        )

    def failing(self, error: UpstreamError) -> bytes:
        """Never reached by bytes: a body that has not started becomes an HTTP error instead."""
        raise error
