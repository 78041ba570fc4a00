"""Answers of /v1/messages: one as a stream of events, one as a single body.

Owns the Anthropic dialect's projection of usage (`input_tokens` leaves out what a cache gave), its order of events and
its reasons to stop. Blocks never interleave: what belongs to a later block waits until the call before it is whole.
Pure text making: the bytes are sent elsewhere.
"""

from typing import Any

import msgspec

from steelyard.gateway.chat_answer import Bill, Spoken, gather
from steelyard.gateway.chat_turns import OUR_SIGNATURE
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event, Order

_encode = msgspec.json.encode
_OWN_REASONS = frozenset({"pause_turn", "model_context_window_exceeded"})
STREAM_END = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def usage_object(usage: Usage, bill: Bill | None = None, *, estimated: bool = False) -> dict[str, Any]:
    """Disjoint input counts, cumulative; what this costs so far under `steelyard`."""
    shown: dict[str, Any] = {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.from_cache,
        "output_tokens": usage.generated,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
        "service_tier": "standard",
    }
    return shown if bill is None else {**shown, "steelyard": bill.shown(estimated=estimated)}


def stop_reason(event: Event, called: bool, refused: bool) -> str:
    """Why a sequence ended, from its last event."""
    if event.ended_by in _OWN_REASONS:
        return event.ended_by
    if refused or event.finish == "content_filter":
        return "refusal"
    if event.finish == "length":
        return "max_tokens"
    if called:
        return "tool_use"
    return "stop_sequence" if event.stop_text is not None else "end_turn"


def explains(event: Event) -> bool:
    """Whether a refusal is the upstream's word about its answer, not a part of it."""
    return event.ended_by == "refusal"


def stop_details(last: Event) -> dict[str, Any]:
    """Why it refused, where the upstream says so."""
    if not explains(last) or not last.refusal:
        return {}
    return {"stop_details": {"type": "refusal", "category": None, "explanation": last.refusal}}


def message_id(order: Order) -> str:
    return f"msg_{order.request_id.hex()}"


def signature(order: Order) -> str:
    """Clients hand thinking back only with one; where its upstream gave none, nobody reads it."""
    return f"{OUR_SIGNATURE}{order.request_id.hex()}"


def _sse(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **fields}))


class Blocks:
    """Content blocks of one answer in the making: one is open at a time."""

    def __init__(self, order: Order, is_thinking_shown: bool) -> None:
        self.called = False
        self._order = order
        self._is_thinking_shown = is_thinking_shown
        self._out: list[bytes] = []
        self._place = -1
        self._kind: str | None = None  # of the open block
        self._call = -1  # which call the open block is
        self._arguments: list[str] = []  # of that call, so far
        self._signature = ""  # of the open block
        self._held: list[tuple[str, str | CallPiece]] = []

    def take(self, event: Event) -> bytes:
        """The events of what this event says; after its finish no block holds anything back."""
        if event.reasoning:
            self._add("thinking", event.reasoning)
        if event.signature:
            self._add("signature", event.signature)
        if event.redacted:
            self._add("redacted_thinking", event.redacted)
        if said := event.text + ("" if explains(event) else event.refusal):
            self._add("text", said)
        for piece in event.tool_calls:
            self._add("tool_use", piece)
        while event.finish is not None and self._held:
            self._release()
        return self._flush()

    def close(self) -> bytes:
        """The end of the open block."""
        self._close()
        return self._flush()

    def _flush(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _add(self, kind: str, said: str | CallPiece) -> None:
        own = isinstance(said, CallPiece) and said.index == self._call
        if self._kind == "tool_use" and not own:
            self._held.append((kind, said))
            if self._is_call_whole():
                self._release()
        else:
            self._write(kind, said)

    def _is_call_whole(self) -> bool:
        """Arguments that have not begun may still come."""
        try:
            msgspec.json.decode("".join(self._arguments))
        except msgspec.DecodeError:
            return False
        return True

    def _release(self) -> None:
        """Close the call that is open; what waited for that comes next, the first of it for certain."""
        held, self._held = self._held, []
        self._close()
        for kind, said in held:
            self._add(kind, said)

    def _write(self, kind: str, said: str | CallPiece) -> None:
        if isinstance(said, CallPiece):
            if said.index != self._call:
                self._open(kind, self._tool_block(said))
                self._call, self._arguments = said.index, []
            self._arguments.append(said.arguments)
            if said.arguments:
                self._delta({"type": "input_json_delta", "partial_json": said.arguments})
        elif kind == "text":
            if self._kind != kind:
                self._open(kind, {"type": "text", "text": ""})
            self._delta({"type": "text_delta", "text": said})
        elif kind == "redacted_thinking":
            self._open(kind, {"type": kind, "data": said})
            self._close()
        else:
            if self._kind != "thinking":
                self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            if kind == "signature":
                self._signature = said
                self._close()
            elif self._is_thinking_shown:
                self._delta({"type": "thinking_delta", "thinking": said})

    def _tool_block(self, piece: CallPiece) -> dict[str, Any]:
        self.called = True
        call_id = piece.id or f"toolu_{self._order.request_id.hex()}{piece.index}"
        return {"type": "tool_use", "id": call_id, "name": piece.name or "", "input": {}}

    def _open(self, kind: str, block: dict[str, Any]) -> None:
        self._close()
        self._place += 1
        self._kind = kind
        self._out.append(_sse("content_block_start", index=self._place, content_block=block))

    def _delta(self, delta: dict[str, Any]) -> None:
        self._out.append(_sse("content_block_delta", index=self._place, delta=delta))

    def _close(self) -> None:
        if self._kind is None:
            return
        if self._kind == "thinking":
            self._delta({"type": "signature_delta", "signature": self._signature or signature(self._order)})
            self._signature = ""
        self._out.append(_sse("content_block_stop", index=self._place))
        self._kind, self._call = None, -1


class MessageStream:
    """Server-sent events: message_start, blocks one after another, message_delta with all counts, message_stop."""

    content_type = b"text/event-stream; charset=utf-8"
    shows_usage = True

    def __init__(self, order: Order, is_thinking_shown: bool) -> None:
        self._order = order
        self._blocks = Blocks(order, is_thinking_shown)
        self._greeted = False
        self._refused = False
        self._last = Event()

    def render(self, sequence: int, event: Event) -> bytes:
        """The events of one event; the first one opens the message."""
        greeting = b"" if self._greeted else self._greeting(event.usage)
        self._refused = self._refused or bool(event.refusal)
        self._last = event
        return greeting + self._blocks.take(event)

    def _greeting(self, usage: Usage) -> bytes:
        self._greeted = True
        message: dict[str, Any] = {
            "id": message_id(self._order),
            "type": "message",
            "role": "assistant",
            "model": self._order.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_object(usage),
        }
        return _sse("message_start", message=message)

    def closing(self, usage: Usage, bill: Bill | None = None) -> bytes:
        greeting = b"" if self._greeted else self._greeting(usage)
        last = self._last
        delta = {
            "stop_reason": stop_reason(last, self._blocks.called, self._refused),
            "stop_sequence": last.stop_text,
            **stop_details(last),
        }
        shown = usage_object(usage, bill, estimated=last.estimated)
        return greeting + self._blocks.close() + _sse("message_delta", delta=delta, usage=shown) + STREAM_END

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """Nothing that the model said is in it, so all of it may wait."""
        return b"", closing

    def failing(self, error: UpstreamError) -> bytes:
        """A failure after the first byte, in the form client libraries raise on."""
        kind = "overloaded_error" if error.status in {429, 529} else "api_error"
        inner = {"type": kind, "message": "The model failed while it answered; what was delivered is charged."}
        return _sse("error", error=inner, request_id=f"req_{self._order.request_id.hex()}")


class MessageBody:
    """One JSON body, made when the sequence has ended."""

    content_type = b"application/json"
    shows_usage = True

    def __init__(self, order: Order, is_thinking_shown: bool) -> None:
        self._order = order
        self._is_thinking_shown = is_thinking_shown
        self._spoken = Spoken()
        self._last = Event()

    def render(self, sequence: int, event: Event) -> bytes:
        """Nothing is sent before the end."""
        gather(self._spoken, msgspec.structs.replace(event, refusal="") if explains(event) else event)
        self._last = event
        return b""

    def closing(self, usage: Usage, bill: Bill | None = None) -> bytes:
        spoken, last = self._spoken, self._last
        return _encode(
            {
                "id": message_id(self._order),
                "type": "message",
                "role": "assistant",
                "model": self._order.model,
                "content": self._content(),
                "stop_reason": stop_reason(last, bool(spoken.calls), bool(spoken.refusal)),
                "stop_sequence": last.stop_text,
                **stop_details(last),
                "usage": usage_object(usage, bill, estimated=last.estimated),
            }
        )

    def _content(self) -> list[dict[str, Any]]:
        spoken = self._spoken
        blocks: list[dict[str, Any]] = []
        for block in spoken.blocks:
            blocks.append({**block, "thinking": ""} if "thinking" in block and not self._is_thinking_shown else block)
        if spoken.block:
            thinking = "".join(spoken.block) if self._is_thinking_shown else ""
            blocks.append({"type": "thinking", "thinking": thinking, "signature": signature(self._order)})
        if text := "".join([*spoken.texts, *spoken.refusal]):
            blocks.append({"type": "text", "text": text})
        for index in sorted(spoken.calls):
            call = spoken.calls[index]
            call_id = call["id"] or f"toolu_{self._order.request_id.hex()}{index}"
            given = arguments_of(call["function"]["arguments"])
            blocks.append({"type": "tool_use", "id": call_id, "name": call["function"]["name"], "input": given})
        return blocks

    def parted(self, closing: bytes) -> tuple[bytes, bytes]:
        """The answer leaves but for its last brace: until that comes no client takes it for whole."""
        return closing[:-1], closing[-1:]

    def failing(self, error: UpstreamError) -> bytes:
        """Never reached by bytes: a body that has not started becomes an HTTP error instead."""
        raise error


def arguments_of(text: str) -> dict[str, Any]:
    """A call's arguments as an object; empty when the answer was cut in the middle of them."""
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
