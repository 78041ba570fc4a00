"""What a server of Anthropic's dialect says while it answers, read into events.

Owns the rules for its counts: the prompt's stand in `message_start`, all of them, cumulative, in `message_delta`; what
is null or zero there says nothing. A block of thinking ends with its signature, in an event of its own, so that it can
be handed back as it was.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event
from steelyard.upstream.anthropic_fault import Complaint, failed
from steelyard.upstream.sse import EventReader
from steelyard.upstream.tally import Tally

log = structlog.get_logger()

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_OWN_WORDS = frozenset({"pause_turn", "model_context_window_exceeded", "refusal"})
"""Ends of which `finish` says less than the upstream did."""


class _Counts(msgspec.Struct):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: dict[str, Any] | None = None


class _Message(msgspec.Struct):
    usage: _Counts | None = None


class _Block(msgspec.Struct):
    type: str = ""
    id: str | None = None
    name: str | None = None
    input: Raw = Raw(b"{}")
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class _Delta(msgspec.Struct):
    """Of a block or, with `stop_reason`, of the message."""

    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None


class _Said(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Counts | None = None
    error: Complaint | str | None = None


_decoder = msgspec.json.Decoder(_Said)


class Answer:
    """The state of one sequence. `asked_bytes` is the size of the prompt's text."""

    def __init__(self, upstream: str, asked_bytes: int) -> None:
        self.done = False
        self._upstream = upstream
        self._reader = EventReader(upstream)
        self._tally = Tally(upstream, lambda: asked_bytes)
        self._ready: list[Event] = []
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[CallPiece] = []
        self._block = _Block()  # the one that is open
        self._signature = ""
        self._call = -1  # the number of the last call
        self._has_arguments = False
        self._stop: _Delta | None = None
        self._prompt: tuple[int, int, int] | None = None  # fresh, written to a cache, read from it
        self._output: int | None = None
        self._thought_tokens: int | None = None

    def hear(self, read: bytes) -> Sequence[Event]:
        """See `hearing.Hearing`."""
        for data in self._reader.feed(read):
            self.take(data)
        return self.events()

    def take(self, data: bytes) -> None:
        """Read one event. Raises UpstreamError for an error in the stream or an event that cannot be read."""
        try:
            said = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(self._upstream, f"sent an event that cannot be read ({error})") from None
        match said.type:
            case "message_start":
                self._count(said.message.usage if said.message else None)
            case "content_block_start":
                self._open(said.content_block or _Block())
            case "content_block_delta":
                self._hear(said.delta or _Delta())
            case "content_block_stop":
                self._close()
            case "message_delta":
                self._end(said.delta or _Delta(), said.usage)
            case "message_stop":
                self.done = True
            case "error":
                raise failed(self._upstream, said.error)

    def _open(self, block: _Block) -> None:
        self._block = block
        self._signature = ""
        match block.type:
            case "text" | "thinking":
                self._hear(_Delta(text=block.text, thinking=block.thinking, signature=block.signature))
            case "tool_use":
                self._call += 1
                self._has_arguments = False
                self._tally.pieces += 1
                self._calls.append(CallPiece(self._call, block.id or None, block.name or ""))
            case "redacted_thinking":
                self._tally.thoughts += 1
                self._flush()
                self._ready.append(self._event(redacted=block.data or ""))
            case _:
                log.warning("block_left_out", upstream=self._upstream, kind=block.type)

    def _hear(self, delta: _Delta) -> None:
        self._signature += delta.signature or ""
        if delta.text:
            self._texts.append(delta.text)
            self._tally.say(delta.text)
            self._tally.pieces += 1
        if delta.thinking:
            self._reasoning.append(delta.thinking)
            self._tally.think(delta.thinking)
        if delta.partial_json and self._block.type == "tool_use":
            self._has_arguments = True
            self._calls.append(CallPiece(self._call, arguments=delta.partial_json))
            self._tally.say(delta.partial_json)
            self._tally.pieces += 1

    def _close(self) -> None:
        if self._block.type == "tool_use" and not self._has_arguments:  # all at once, or a call that takes nothing
            whole = bytes(self._block.input).decode()
            whole = "{}" if whole == "null" else whole
            self._calls.append(CallPiece(self._call, arguments=whole))
            self._tally.say(whole)
        if self._block.type == "thinking" and self._signature:
            self._ready.append(self._event(signature=self._signature))
        self._block = _Block()

    def _end(self, delta: _Delta, counts: _Counts | None) -> None:
        if delta.stop_reason is not None:
            self._stop = delta
        self._count(counts)
        if counts is not None and counts.output_tokens:
            self._output = counts.output_tokens

    def _count(self, counts: _Counts | None) -> None:
        if counts is None:
            return
        fresh, written, read = self._prompt or (0, 0, 0)
        found = (
            fresh if counts.input_tokens is None else max(0, counts.input_tokens),
            written if counts.cache_creation_input_tokens is None else max(0, counts.cache_creation_input_tokens),
            read if counts.cache_read_input_tokens is None else max(0, counts.cache_read_input_tokens),
        )
        if any(found):
            self._prompt = found
        thought = (counts.output_tokens_details or {}).get("thinking_tokens")
        if isinstance(thought, int):
            self._thought_tokens = max(0, thought)

    def events(self) -> Sequence[Event]:
        """What is new since the last time; the finish is kept for `end`, when the last count is known."""
        self._flush()
        ready, self._ready = self._ready, []
        return ready

    def _flush(self) -> None:
        if self._texts or self._reasoning or self._calls:
            self._ready.append(self._event())

    def end(self) -> Event:
        """The last event. Raises UpstreamError when the answer had not come to its end."""
        stop = self._stop
        if stop is None or stop.stop_reason is None:
            raise UpstreamError(self._upstream, "ended its answer without finishing it")
        reason = stop.stop_reason
        explained = (stop.stop_details or {}).get("explanation") if reason == "refusal" else None
        return self._event(
            finish=_FINISH.get(reason, "stop"),
            stop_text=stop.stop_sequence if reason == "stop_sequence" else None,
            ended_by=reason if reason in _OWN_WORDS else None,
            refusal=explained if isinstance(explained, str) else "",
        )

    def _event(self, finish: str | None = None, **said: Any) -> Event:
        usage = self._tally.rising(self._usage(finish))
        event = Event(
            text="".join(self._texts),
            usage=usage,
            finish=finish,
            reasoning="".join(self._reasoning),
            tool_calls=tuple(self._calls),
            estimated=self._prompt is None or self._output is None,
            **said,
        )
        for kept in (self._texts, self._reasoning, self._calls):
            kept.clear()
        return event

    def _usage(self, finish: str | None) -> Usage:
        known = self._prompt is not None and self._output is not None
        ours = self._tally.low() if finish is None or known else self._tally.estimate()
        output, reasoning = ours.output, ours.reasoning
        if self._output is not None:
            reasoning = self._tally.reasoning(self._output, self._thought_tokens)
            output = self._output - reasoning
        fresh, written, read = (ours.input, 0, 0) if self._prompt is None else self._prompt
        return Usage(fresh, read, output, cache_write=written, reasoning=reasoning)
