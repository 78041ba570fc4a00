"""Answers of /v1/chat/completions: one as a stream of chunks, one as a single body.

Owns the OpenAI dialect's projection of usage and its chunk order. Pure text making: the bytes are sent elsewhere.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from steelyard import __version__
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.money import text_from_nano
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event, Order

FINGERPRINT = f"steelyard-{__version__}"
_encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"
FAILED = b"data: %b\n\n" % _encode(
    {
        "error": {
            "message": "The model failed while it answered; what was delivered is charged.",
            "type": "server_error",
            "param": None,
            "code": "upstream_failed",
        }
    }
)


def usage_object(usage: Usage, bill: "Bill | None" = None) -> dict[str, Any]:
    """OpenAI-style usage: `prompt_tokens` includes those read from a cache and written to one, `completion_tokens` the
    reasoning. DeepSeek's two names are given as well, and what this costs so far under `steelyard`."""
    shown: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.generated,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.from_cache, "cache_write_tokens": usage.cache_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "prompt_cache_hit_tokens": usage.from_cache,
        "prompt_cache_miss_tokens": usage.input + usage.cache_write,
    }
    if bill is not None:
        shown["steelyard"] = bill.shown()
    return shown


class Bill(msgspec.Struct, frozen=True):
    """What an answer costs by the price it was asked at, before it is posted."""

    charge_nano: int
    currency: str
    estimated: bool = False  # the upstream gave no counts

    def shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"charge": text_from_nano(self.charge_nano), "currency": self.currency}
        return {**shown, "estimated": True} if self.estimated else shown


class Spoken(msgspec.Struct):
    """What a sequence has said so far, apart from its text."""

    greeted: bool = False
    finish: str | None = None
    estimated: bool = False
    texts: list[str] = []
    reasoning: list[str] = []
    refusal: list[str] = []
    logprobs: list[Any] = []
    block: list[str] = []  # the reasoning whose block has not ended
    blocks: list[dict[str, Any]] = []  # reasoning as its upstream signed it
    calls: dict[int, dict[str, Any]] = {}

    def message(self) -> dict[str, Any]:
        """The whole turn, as an assistant's message."""
        text = "".join(self.texts)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not (self.calls or self.refusal) else None,
            "refusal": "".join(self.refusal) or None,
        }
        if self.reasoning:
            message["reasoning_content"] = message["reasoning"] = "".join(self.reasoning)
        if self.blocks:
            message["thinking_blocks"] = self.blocks
        if self.calls:
            message["tool_calls"] = [self.calls[index] for index in sorted(self.calls)]
        return message

    def proved(self, event: Event) -> dict[str, Any] | None:
        """The block of reasoning that ends with this event, if its upstream wants it back as it was."""
        if event.reasoning:
            self.block.append(event.reasoning)
        block: dict[str, Any]
        if event.redacted:
            block = {"type": "redacted_thinking", "data": event.redacted}
        elif event.signature:
            block = {"type": "thinking", "thinking": "".join(self.block), "signature": event.signature}
            self.block.clear()
        else:
            return None
        self.blocks.append(block)
        return block

    def call(self, piece: CallPiece) -> None:
        """Add a piece of a tool call to the whole one."""
        call = self.calls.setdefault(
            piece.index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = piece.id or call["id"]
        call["function"]["name"] += piece.name or ""
        call["function"]["arguments"] += piece.arguments
        call |= _signed(piece)


def head_of(order: Order, kind: str, created_ns: int, tier: str | None = None) -> dict[str, Any]:
    """The fields every chunk of an answer repeats."""
    head: dict[str, Any] = {
        "id": f"{'cmpl' if order.prompts else 'chatcmpl'}-{order.request_id.hex()}",
        "object": kind,
        "created": created_ns // NS_PER_S,
        "model": order.model,
        "system_fingerprint": FINGERPRINT,
    }
    return {**head, "service_tier": tier} if tier else head


class ChatStream:
    """Server-sent events: role first, text as it comes, a finish per sequence, usage if asked, [DONE]."""

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, order: Order, created_ns: int, include_usage: bool, tier: str | None = None) -> None:
        head = head_of(order, "chat.completion.chunk", created_ns, tier)
        self._prefix = b"data: " + _encode(head)[:-1] + b',"choices":'
        self._suffix = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._include_usage = include_usage
        self._spoken = [Spoken() for _ in range(order.sequences)]
        self._kept = b""  # the end of the only sequence: the closing follows it at once, and leaves with it
        self.bill: Callable[[Usage], Bill] | None = None

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None, logprobs: msgspec.Raw | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._prefix + _encode([choice]) + self._suffix

    def render(self, sequence: int, event: Event) -> bytes:
        """The chunks of one event; empty when it says nothing."""
        pieces: list[bytes] = []
        spoken = self._spoken[sequence]
        spoken.estimated = event.estimated
        if not spoken.greeted:
            spoken.greeted = True
            pieces.append(self._chunk(sequence, {"role": "assistant", "content": ""}, None, None))
        if event.reasoning:
            delta: dict[str, Any] = {"reasoning_content": event.reasoning, "reasoning": event.reasoning}
            pieces.append(self._chunk(sequence, delta, None, None))
        if (block := spoken.proved(event)) is not None:
            delta = {"thinking_blocks": [{"index": len(spoken.blocks) - 1, **block}]}
            pieces.append(self._chunk(sequence, delta, None, None))
        if event.text or event.logprobs is not None:
            pieces.append(self._chunk(sequence, {"content": event.text}, None, event.logprobs))
        if event.refusal:
            pieces.append(self._chunk(sequence, {"refusal": event.refusal}, None, None))
        if event.tool_calls:
            calls = [_call_delta(piece) for piece in one_of_each(event.tool_calls)]
            pieces.append(self._chunk(sequence, {"tool_calls": calls}, None, None))
        if event.finish is not None:
            pieces.append(self._chunk(sequence, {}, event.finish, None))
            if len(self._spoken) == 1:
                self._kept = b"".join(pieces)
                return b""
        return b"".join(pieces)

    def closing(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return self._kept + DONE
        shown = usage_shown(usage, self._spoken, self.bill)
        return self._kept + self._prefix + b'[],"usage":' + _encode(shown) + b"}\n\n" + DONE

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """What the model said leaves; nothing of that is in the rest, so all of it may wait."""
        return self._kept, closing[len(self._kept) :]

    def failing(self, error: UpstreamError) -> bytes:
        """A failure after the first byte, in the form client libraries raise on."""
        return FAILED


class ChatBody:
    """One JSON body, made when every sequence has ended."""

    content_type = b"application/json"

    def __init__(self, order: Order, created_ns: int, tier: str | None = None) -> None:
        self._head = head_of(order, "chat.completion", created_ns, tier)
        self._spoken = [Spoken() for _ in range(order.sequences)]
        self.bill: Callable[[Usage], Bill] | None = None

    def render(self, sequence: int, event: Event) -> bytes:
        """Nothing is sent before the end."""
        gather(self._spoken[sequence], event)
        return b""

    def closing(self, usage: Usage) -> bytes:
        choices = [
            {
                "index": index,
                "message": spoken.message(),
                "logprobs": {"content": spoken.logprobs, "refusal": None} if spoken.logprobs else None,
                "finish_reason": spoken.finish,
            }
            for index, spoken in enumerate(self._spoken)
        ]
        return _encode({**self._head, "choices": choices, "usage": usage_shown(usage, self._spoken, self.bill)})

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """The answer leaves but for its last brace: until that comes no client takes it for whole."""
        return closing[:-1], closing[-1:]

    def failing(self, error: UpstreamError) -> bytes:
        """Never reached by bytes: a body that has not started becomes an HTTP error instead."""
        raise error


def gather(spoken: Spoken, event: Event) -> None:
    """Add what an event says to what the sequence has said."""
    if event.text:
        spoken.texts.append(event.text)
    if event.reasoning:
        spoken.reasoning.append(event.reasoning)
    spoken.proved(event)
    if event.refusal:
        spoken.refusal.append(event.refusal)
    for piece in event.tool_calls:
        spoken.call(piece)
    if event.logprobs is not None:
        spoken.logprobs += msgspec.json.decode(event.logprobs).get("content") or []
    spoken.finish = event.finish or spoken.finish
    spoken.estimated = event.estimated


def usage_shown(usage: Usage, spoken: Sequence[Spoken], bill: Callable[[Usage], Bill] | None) -> dict[str, Any]:
    """The usage object of an answer with what its sequences said and what it costs."""
    if bill is None:
        return usage_object(usage)
    made = bill(usage)
    if any(one.estimated for one in spoken):
        made = msgspec.structs.replace(made, estimated=True)
    return usage_object(usage, made)


def one_of_each(pieces: Sequence[CallPiece]) -> list[CallPiece]:
    """The pieces of one event with those of the same call put together: a client library takes its first list of
    calls as it comes, and two entries of one index for two calls."""
    calls: dict[int, CallPiece] = {}
    for piece in pieces:
        begun = calls.setdefault(piece.index, piece)
        if begun is not piece:
            name, arguments = (begun.name or "") + (piece.name or ""), begun.arguments + piece.arguments
            signature = begun.signature or piece.signature
            calls[piece.index] = CallPiece(piece.index, begun.id or piece.id, name or None, arguments, signature)
    return list(calls.values())


def _call_delta(piece: CallPiece) -> dict[str, Any]:
    """`index` always, id, type and name in the first piece only."""
    if piece.id is None and piece.name is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}, **_signed(piece)}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function, **_signed(piece)}


def _signed(piece: CallPiece) -> dict[str, Any]:
    """What its upstream signed the call with, where Google's clients look for it and send it back."""
    return {"extra_content": {"google": {"thought_signature": piece.signature}}} if piece.signature else {}
