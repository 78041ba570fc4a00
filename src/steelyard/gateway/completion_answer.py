"""Answers of /v1/completions: one as a stream of chunks, one as a single body.

Owns the old dialect's chunks and its parallel lists of log probabilities. Pure text making.
"""

from typing import Any

import msgspec

from steelyard.gateway.chat_answer import DONE, FAILED, Bill, gather, head_of, sequences_of, usage_shown
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event, Order

_encode = msgspec.json.encode


def old_logprobs(tokens: list[Any], offset: int) -> dict[str, Any] | None:
    """A chat's list of tokens as parallel lists; `offset` is where the first token stands in the text."""
    if not tokens:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token.get("logprob") for token in tokens],
        "top_logprobs": [
            {one["token"]: one.get("logprob") for one in token.get("top_logprobs") or ()} or None for token in tokens
        ],
        "text_offset": offsets,
    }


def _tokens_of(event: Event) -> list[Any]:
    return [] if event.logprobs is None else msgspec.json.decode(event.logprobs).get("content") or []


class CompletionStream:
    """Server-sent events: text as it comes, a finish per sequence, usage if asked, [DONE]."""

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, order: Order, created_ns: int, include_usage: bool) -> None:
        self._prefix = b'data: %b,"choices":' % head_of(order, b"text_completion", created_ns)
        self._suffix = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self.shows_usage = include_usage
        self._spoken = sequences_of(order)
        self._lengths = [0] * order.sequences

    def render(self, sequence: int, event: Event) -> bytes:
        """The chunk of one event; empty when it says nothing."""
        spoken = self._spoken[sequence]
        spoken.estimated = event.estimated
        if not event.text and event.logprobs is None and event.finish is None:
            return b""
        logprobs = old_logprobs(_tokens_of(event), self._lengths[sequence])
        self._lengths[sequence] += len(event.text)
        choice = {"text": event.text, "index": sequence, "logprobs": logprobs, "finish_reason": event.finish}
        return self._prefix + _encode([choice]) + self._suffix

    def closing(self, usage: Usage, bill: Bill | None = None) -> bytes:
        if not self.shows_usage:
            return DONE
        shown = usage_shown(usage, self._spoken, bill)
        return self._prefix + b'[],"usage":' + shown + b"}\n\n" + DONE

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """Nothing that the model said is in it, so all of it may wait."""
        return b"", closing

    def failing(self, error: UpstreamError) -> bytes:
        return FAILED


class CompletionBody:
    """One JSON body, made when every sequence has ended."""

    content_type = b"application/json"
    shows_usage = True

    def __init__(self, order: Order, created_ns: int) -> None:
        self._head = head_of(order, b"text_completion", created_ns)
        self._spoken = sequences_of(order)

    def render(self, sequence: int, event: Event) -> bytes:
        """Nothing is sent before the end."""
        gather(self._spoken[sequence], event)
        return b""

    def closing(self, usage: Usage, bill: Bill | None = None) -> bytes:
        choices = [
            {
                "text": "".join(spoken.texts),
                "index": index,
                "logprobs": old_logprobs(spoken.logprobs, 0),
                "finish_reason": spoken.finish,
            }
            for index, spoken in enumerate(self._spoken)
        ]
        shown = usage_shown(usage, self._spoken, bill)
        return b'%b,"choices":%b,"usage":%b}' % (self._head, _encode(choices), shown)

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """The last byte closes the body: without it no client has an answer."""
        return closing[:-1], closing[-1:]

    def failing(self, error: UpstreamError) -> bytes:
        """Never reached by bytes: a body that has not started becomes an HTTP error instead."""
        raise error
