"""Answers of /v1/chat/completions: one as a stream of chunks, one as a single body.

Owns the OpenAI dialect's projection of usage and its chunk order. Pure text making: the bytes are sent elsewhere.
"""

from binascii import hexlify
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import msgspec
from msgspec import structs

from steelyard import __version__
from steelyard.kernel import limits
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


_FINGERPRINT = _encode(FINGERPRINT)
_HEAD = b'{"id":"%b-%b","object":"%b","created":%d,"model":%b,"system_fingerprint":%b'
_USAGE = (
    b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
    b'"prompt_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d},'
    b'"completion_tokens_details":{"reasoning_tokens":%d},'
    b'"prompt_cache_hit_tokens":%d,"prompt_cache_miss_tokens":%d'
)
_WHOLE = _HEAD + b',"choices":%b%b%b,"usage":' + _USAGE + b',"steelyard":{"charge":"%b","currency":%b}}}'
"""A body of one text, in one piece."""


class Bill(msgspec.Struct, frozen=True):
    """What an answer costs by the price it was asked at, before it is posted."""

    charge_nano: int
    currency: str

    def shown(self, *, estimated: bool) -> dict[str, Any]:
        """`estimated`: the upstream gave no counts."""
        shown: dict[str, Any] = {"charge": text_from_nano(self.charge_nano), "currency": self.currency}
        if estimated:
            shown["estimated"] = True
        return shown


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
            "refusal": "".join(self.refusal) if self.refusal else None,
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


def call_id(order: Order, sequence: int, index: int) -> str:
    """Of a call to which its upstream gave none: without one its result could not say what it answers."""
    return f"call_{order.request_id.hex()}{sequence}_{index}"


def sequences_of(order: Order) -> list[Spoken]:
    """One for each sequence, nothing said yet."""
    return [Spoken()] if order.sequences == 1 else [Spoken() for _ in range(order.sequences)]


def head_of(order: Order, kind: bytes, created_ns: int, tier: str | None = None) -> bytes:
    """The fields every chunk of an answer repeats, as the beginning of a JSON object."""
    family, request_id = b"cmpl" if order.prompts else b"chatcmpl", hexlify(order.request_id)
    head = _HEAD % (family, request_id, kind, created_ns // NS_PER_S, _json(order.model), _FINGERPRINT)
    return b'%b,"service_tier":%b' % (head, _encode(tier)) if tier else head


@lru_cache(maxsize=256)
def _json(name: str) -> bytes:
    return _encode(name)


def _choice(index: int, delta: dict[str, Any], finish: str | None = None, logprobs: msgspec.Raw | None = None) -> bytes:
    return _encode([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])


@lru_cache(maxsize=limits.SEQUENCES_MAX)
def _greeting(index: int) -> bytes:
    return _choice(index, {"role": "assistant", "content": ""})


@lru_cache(maxsize=limits.SEQUENCES_MAX)
def _around_text(index: int) -> tuple[bytes, bytes]:
    """What stands before and behind a text that is said."""
    return _cut(_choice(index, {"content": ""}))


@lru_cache(maxsize=limits.SEQUENCES_MAX)
def _finishing(index: int, finish: str) -> bytes:
    return _choice(index, {}, finish)


def _whole(index: int, spoken: Spoken) -> dict[str, Any]:
    """The choice of a sequence that has ended."""
    return {
        "index": index,
        "message": spoken.message(),
        "logprobs": {"content": spoken.logprobs, "refusal": None} if spoken.logprobs else None,
        "finish_reason": spoken.finish,
    }


@lru_cache(maxsize=64)
def _around_whole(finish: str) -> tuple[bytes, bytes]:
    """What stands before and behind the text of the only sequence, when that says nothing else."""
    return _cut(_encode([_whole(0, Spoken(finish=finish))]))


def _cut(choice: bytes) -> tuple[bytes, bytes]:
    before, _, behind = choice.partition(b'""')
    return before, behind


class ChatStream:
    """Server-sent events: role first, text as it comes, a finish per sequence, usage if asked, [DONE]."""

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, order: Order, created_ns: int, include_usage: bool, tier: str | None = None) -> None:
        self._prefix = b'data: %b,"choices":' % head_of(order, b"chat.completion.chunk", created_ns, tier)
        self._suffix = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self.shows_usage = include_usage
        self._order = order
        self._spoken = sequences_of(order)
        self._around: dict[int, tuple[bytes, bytes]] = {}  # what stands before and behind a text of each sequence
        self._kept = b""  # the end of the only sequence: the closing follows it at once, and leaves with it

    def render(self, sequence: int, event: Event) -> bytes:
        """The chunks of one event; empty when it says nothing."""
        spoken, prefix, suffix = self._spoken[sequence], self._prefix, self._suffix
        spoken.estimated = event.estimated
        said = b""
        if not spoken.greeted:
            spoken.greeted = True
            said = prefix + _greeting(sequence) + suffix
            before, behind = _around_text(sequence)
            self._around[sequence] = prefix + before, behind + suffix
        if event.reasoning or event.signature or event.redacted:
            said += self._thought(sequence, event)
        if event.logprobs is not None:
            said += prefix + _choice(sequence, {"content": event.text}, None, event.logprobs) + suffix
        elif event.text:
            before, behind = self._around[sequence]
            said += before + _encode(event.text) + behind
        if event.refusal:
            said += prefix + _choice(sequence, {"refusal": event.refusal}) + suffix
        if event.tool_calls:
            calls = [_call_delta(self._named(sequence, piece)) for piece in one_of_each(event.tool_calls)]
            said += prefix + _choice(sequence, {"tool_calls": calls}) + suffix
        if event.finish is not None:
            said += prefix + _finishing(sequence, event.finish) + suffix
            if len(self._spoken) == 1:
                self._kept = said
                return b""
        return said

    def _named(self, sequence: int, piece: CallPiece) -> CallPiece:
        """With an id, if the call begins with it."""
        begun = self._spoken[sequence].calls
        if piece.index in begun:
            return piece
        begun[piece.index] = {}
        return piece if piece.id else structs.replace(piece, id=call_id(self._order, sequence, piece.index))

    def _thought(self, sequence: int, event: Event) -> bytes:
        spoken, said = self._spoken[sequence], b""
        if event.reasoning:
            delta: dict[str, Any] = {"reasoning_content": event.reasoning, "reasoning": event.reasoning}
            said = self._prefix + _choice(sequence, delta) + self._suffix
        if (block := spoken.proved(event)) is not None:
            delta = {"thinking_blocks": [{"index": len(spoken.blocks) - 1, **block}]}
            said += self._prefix + _choice(sequence, delta) + self._suffix
        return said

    def closing(self, usage: Usage, bill: Bill | None = None) -> bytes:
        if not self.shows_usage:
            return self._kept + DONE
        shown = usage_shown(usage, self._spoken, bill)
        return b'%b%b[],"usage":%b}\n\n%b' % (self._kept, self._prefix, shown, DONE)

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """What the model said leaves; nothing of that is in the rest, so all of it may wait."""
        return self._kept, closing[len(self._kept) :]

    def failing(self, error: UpstreamError) -> bytes:
        """A failure after the first byte, in the form client libraries raise on."""
        return FAILED


class ChatBody(msgspec.Struct):
    """One JSON body, made when every sequence has ended."""

    content_type: ClassVar = b"application/json"
    shows_usage: ClassVar = True
    order: Order
    created_ns: int
    tier: str | None = None
    only: Event | None = None  # a text and its end in one, as most answers are: nothing that `gather` would keep beside
    spoken: list[Spoken] = []  # of all others

    def render(self, sequence: int, event: Event) -> bytes:
        """Nothing is sent before the end."""
        if not self.spoken:
            only = self.only
            if only is None and event.finish and self.order.sequences == 1:
                said = event.reasoning or event.refusal or event.tool_calls or event.signature or event.redacted
                if not said and event.logprobs is None:
                    self.only = event
                    return b""
            self.spoken, self.only = sequences_of(self.order), None
            if only is not None:
                gather(self.spoken[0], only)
        gather(self.spoken[sequence], event)
        return b""

    def closing(self, usage: Usage, bill: Bill | None = None) -> bytes:
        only, order = self.only, self.order
        if only is None or bill is None or only.estimated or self.tier:
            return self._gathered(usage, bill)
        head = (
            b"chatcmpl",
            hexlify(order.request_id),
            b"chat.completion",
            self.created_ns // NS_PER_S,
            _json(order.model),
        )
        before, behind = _around_whole(only.finish or "")
        charge = text_from_nano(bill.charge_nano).encode()
        shown = *_counts(usage), charge, _json(bill.currency)
        return _WHOLE % (*head, _FINGERPRINT, before, _encode(only.text), behind, *shown)

    def _gathered(self, usage: Usage, bill: Bill | None) -> bytes:
        """However much was said."""
        spoken = self.spoken or sequences_of(self.order)
        if self.only is not None:
            gather(spoken[0], self.only)
        head = head_of(self.order, b"chat.completion", self.created_ns, self.tier)
        for sequence, one in enumerate(spoken):
            for index, call in one.calls.items():
                call["id"] = call["id"] or call_id(self.order, sequence, index)
        choices = [_whole(place, one) for place, one in enumerate(spoken)]
        return b'%b,"choices":%b,"usage":%b}' % (head, _encode(choices), usage_shown(usage, spoken, bill))

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
    if event.reasoning or event.signature or event.redacted:
        spoken.proved(event)
    if event.refusal:
        spoken.refusal.append(event.refusal)
    for piece in event.tool_calls:
        spoken.call(piece)
    if event.logprobs is not None:
        spoken.logprobs += msgspec.json.decode(event.logprobs).get("content") or []
    spoken.finish = event.finish or spoken.finish
    spoken.estimated = event.estimated


def usage_shown(usage: Usage, spoken: Sequence[Spoken | Event], bill: Bill | None) -> bytes:
    """OpenAI-style usage: `prompt_tokens` includes those read from a cache and written to one, `completion_tokens` the
    reasoning. DeepSeek's two names are given as well, and what this costs so far under `steelyard`."""
    shown = _USAGE % _counts(usage)
    if bill is None:
        return shown + b"}"
    estimated = False
    for one in spoken:
        estimated = estimated or one.estimated
    billed = bill.shown(estimated=estimated)
    return b'%b,"steelyard":%b}' % (shown, _encode(billed))


def _counts(usage: Usage) -> tuple[int, ...]:
    """As they stand in `_USAGE`."""
    prompt, generated, cached = usage.projected
    return prompt, generated, prompt + generated, cached, usage.cache_write, usage.reasoning, cached, prompt - cached


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
