"""What DashScope's own API says while it answers, read into events.

Usage comes with every chunk and is cumulative: the last one counts. The text may be what is new or all of it so far
(see `growth`), in a string or in parts; an end that has not come is the string "null"; an error has a `code`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event
from steelyard.upstream.dashscope import FAULTS
from steelyard.upstream.growth import Growth
from steelyard.upstream.openai_fault import Complaint, failed
from steelyard.upstream.sse import EventReader
from steelyard.upstream.tally import Tally
from steelyard.upstream.vendor import Asked

_UNFINISHED = frozenset({None, "", "null"})


class _Part(msgspec.Struct):
    text: str | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    """`text` where `result_format` was not heeded."""

    choices: list[_Choice] | None = None
    text: str | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Counts(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Said(msgspec.Struct):
    output: _Output | None = None
    usage: _Counts | None = None
    code: Any = None
    message: Any = None


_decoder = msgspec.json.Decoder(_Said)
_encode = msgspec.json.encode


class _CallSaid:
    """One call in the making: its id and its name are told once, its arguments grow."""

    def __init__(self, upstream: str) -> None:
        self.id: str | None = None
        self.name: str | None = None
        self.arguments = Growth(upstream)


class Answer:
    """The state of one sequence; see `hearing.Hearing`."""

    whole = False
    done = False  # it ends with the connection's answer, which nothing announces

    def __init__(self, asked: Asked) -> None:
        self._upstream = asked.upstream
        self._reader = EventReader(asked.upstream)
        self._tally = Tally(asked.upstream, asked.text_bytes)
        self._text, self._thought = Growth(asked.upstream), Growth(asked.upstream)
        self._known: dict[int, _CallSaid] = {}
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[CallPiece] = []
        self._logprobs: list[Any] = []
        self._finish: str | None = None
        self._counts: Usage | None = None

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
        if said.code:
            said_so = said.message if isinstance(said.message, str) else None
            raise failed(self._upstream, Complaint(said_so, code=said.code), FAULTS)
        output = said.output or _Output()
        choices = output.choices or [_Choice(_Message(output.text), output.finish_reason)]
        self._choice(choices[0])
        if said.usage is not None:
            self._count(said.usage)

    def _choice(self, choice: _Choice) -> None:
        message = choice.message or _Message()
        last = choice.finish_reason not in _UNFINISHED
        content = _joined(message.content)
        # What comes before something else does not grow any more: if it is there at all, it is there again.
        text = self._text.feed(content, last=last or bool(message.tool_calls))
        thought = self._thought.feed(message.reasoning_content or "", last=last or bool(content or message.tool_calls))
        if text:
            self._texts.append(text)
            self._tally.say(text)
        if thought:
            self._reasoning.append(thought)
            self._tally.think(thought)
        called = [self._call(call, place, last) for place, call in enumerate(message.tool_calls or ())]
        self._calls += (piece for piece in called if piece is not None)
        self._tally.pieces += bool(text or any(called))
        if choice.logprobs is not None:
            self._logprobs += choice.logprobs.get("content") or []
        if last:
            self._finish = choice.finish_reason

    def _call(self, call: _Call, place: int, last: bool) -> CallPiece | None:
        """What a piece of a call adds, if anything."""
        index = place if call.index is None else call.index
        known = self._known.setdefault(index, _CallSaid(self._upstream))
        function = call.function or _Function()
        call_id = call.id if call.id and known.id is None else None
        name = function.name if function.name and known.name is None else None
        known.id, known.name = known.id or call_id, known.name or name
        arguments = known.arguments.feed(function.arguments or "", last=last)
        self._tally.say(arguments)
        if not (call_id or name or arguments):
            return None
        return CallPiece(index, call_id, name, arguments)

    def _count(self, counts: _Counts) -> None:
        prompt, output = max(0, counts.input_tokens or 0), max(0, counts.output_tokens or 0)
        if not prompt and not output:
            return
        details = counts.prompt_tokens_details or _PromptDetails()
        cached = min(max(details.cached_tokens or 0, 0), prompt)
        written = min(max(details.cache_creation_input_tokens or 0, 0), prompt - cached)
        thought = counts.output_tokens_details
        reasoning = self._tally.reasoning(output, thought.reasoning_tokens if thought else None)
        fresh = prompt - cached - written
        self._counts = Usage(fresh, cached, output - reasoning, cache_write=written, reasoning=reasoning)

    def events(self) -> Sequence[Event]:
        """What is new since the last time; the finish is kept for `end`, when the last count is known."""
        if not (self._texts or self._reasoning or self._calls or self._logprobs):
            return ()
        return (self._event(self._counts or self._tally.low(), None),)

    def end(self) -> Event:
        """The last event. Raises UpstreamError when the answer had not come to its end."""
        if self._finish is None:
            raise UpstreamError(self._upstream, "ended its answer without finishing it")
        return self._event(self._counts or self._tally.estimate(), self._finish)

    def _event(self, usage: Usage, finish: str | None) -> Event:
        event = Event(
            text="".join(self._texts),
            usage=self._tally.rising(usage),
            finish=finish,
            logprobs=Raw(_encode({"content": self._logprobs})) if self._logprobs else None,
            reasoning="".join(self._reasoning),
            tool_calls=tuple(self._calls),
            estimated=self._counts is None,
        )
        for kept in (self._texts, self._reasoning, self._calls, self._logprobs):
            kept.clear()
        return event


def _joined(content: str | list[_Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text or "" for part in content)
    return content or ""
