"""What llama.cpp's server says while it answers: its chunks, read into events with exact counts.

Owns the state of one sequence and the meaning of the engine's counts and errors. Knows no connection. Invariant: an
event's usage counts every token whose text was handed out, and never falls.

Counts: every chunk carries `timings` {cache_n, prompt_n, predicted_n}, cumulative for the sequence; prompt_n leaves
cached tokens out. `predicted_n` counts sampled tokens, also those that never become text: the end-of-text token (the
engine's own `completion_tokens` counts it, and so do we) and tokens held back for a stop text or half a character.
"""

import msgspec
import structlog
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event
from steelyard.scheduling.wish import Turn
from steelyard.upstream.calls import CallReader
from steelyard.upstream.tally import risen

log = structlog.get_logger()

_RETRYABLE = frozenset({408, 425, 429, 502, 503, 504})
_DONE = b"[DONE]"
_TOO_LONG = "exceed_context_size_error"


class _TokenChoice(msgspec.Struct):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None


class _Token(_TokenChoice):
    top_logprobs: list[_TokenChoice] = []


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _CalledFunction(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _CalledFunction | None = None


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(msgspec.Struct):
    """`delta` of a chat, `text` of a completion."""

    delta: _Delta = _Delta()
    text: str = ""
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Timings(msgspec.Struct):
    prompt_n: int
    predicted_n: int
    cache_n: int = 0


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Counts(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Fault(msgspec.Struct):
    message: str = ""
    type: str = ""
    code: int | str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class _Verbose(msgspec.Struct, frozen=True):
    """What the engine adds to its last chunk when it is asked to tell all."""

    stopping_word: str = ""


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    timings: _Timings | None = None
    usage: _Counts | None = None
    error: _Fault | None = None
    verbose: _Verbose = msgspec.field(default=_Verbose(), name="__verbose")
    rests: bool | None = None  # said by an engine of ours: it makes way for others from here on, or goes on


class _FaultBody(msgspec.Struct):
    error: _Fault


_encode = msgspec.json.encode
_chunk_decoder = msgspec.json.Decoder(_Chunk)
_fault_decoder = msgspec.json.Decoder(_FaultBody)


class Answer:
    """The state of one sequence: what its chunks said since the last event, and its counts so far."""

    def __init__(
        self, upstream: str, max_tokens: int, turn: Turn, *, alternatives: int = 0, reader: CallReader | None = None
    ) -> None:
        self.cut = False  # it went beyond `max_tokens`: what came until then is its end
        self._upstream = upstream
        self._max_tokens = max_tokens
        self._turn = turn
        self._runs = False
        self._reader = reader
        self._calls: list[CallPiece] = []
        self._reasoning: list[str] = []
        self._alternatives = alternatives
        self._texts: list[str] = []
        self._tokens: list[_Token] = []
        self._usage = Usage()
        self._told = Usage()
        self._finish: str | None = None
        self._stop_text: str | None = None
        self._counted = self._done = self._estimated = False

    def runs(self, now: bool) -> None:
        """The engine is busy with it from here on, or is not."""
        if now is not self._runs:
            self._runs = now
            (self._turn.begins if now else self._turn.stops)()

    def take(self, data: bytes) -> None:
        """Read one chunk. Raises UpstreamError for an error in the stream or a chunk that cannot be read."""
        self._done = self._done or data == _DONE
        if self._done:  # what comes behind it is no part of the answer
            return
        try:
            chunk = _chunk_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(self._upstream, f"sent a chunk that cannot be read ({error})") from None
        if chunk.error is not None:
            raise _error(self._upstream, chunk.error, 0)
        self.runs(self._runs if chunk.rests is None else not chunk.rests)
        if chunk.timings is not None and chunk.timings.predicted_n > self._max_tokens and _goes_on(chunk):
            fresh, cached, was = chunk.timings.prompt_n, chunk.timings.cache_n, self._usage
            self._usage = Usage(fresh, cached, was.output, reasoning=was.reasoning)
            self.cut = True
        if self.cut:
            return
        thinks = False
        for choice in chunk.choices:
            if choice.delta.reasoning_content:
                thinks = True
                self._reasoning.append(choice.delta.reasoning_content)
            if text := choice.delta.content or choice.text:
                self._text(text)
            self._calls += [_piece(call) for call in choice.delta.tool_calls or ()]
            if choice.finish_reason is not None:
                self._finish = choice.finish_reason
            self._tokens += (choice.logprobs.content or ()) if choice.logprobs is not None else ()
        if (timings := chunk.timings) is not None:
            self._generated(Usage(timings.prompt_n, timings.cache_n), timings.predicted_n, thinks)
        elif chunk.usage is None and any(_says(choice) for choice in chunk.choices):
            self._generated(self._usage, self._usage.generated + 1, thinks)  # a chunk has a token at least
            self._estimated = True
        self._stop_text = chunk.verbose.stopping_word or self._stop_text
        if chunk.usage is not None:
            self._reconcile(chunk.usage)

    def _generated(self, prompt: Usage, tokens: int, thinks: bool) -> None:
        """So many in all: those that came with a piece of reasoning were reasoning."""
        was = self._usage
        reasoning = tokens - was.output if thinks else was.reasoning
        reasoning = min(max(reasoning, was.reasoning), tokens)
        self._usage = Usage(prompt.input, prompt.cached_input, tokens - reasoning, reasoning=reasoning)

    def _text(self, text: str) -> None:
        if self._reader is not None:
            text, calls = self._reader.feed(text)
            self._calls += calls
        if text:
            self._texts.append(text)

    def _ended(self, finish: str) -> str:
        """The reason as customers know it; text the reader held back comes out."""
        if self._reader is None:
            return finish
        if rest := self._reader.rest():
            self._texts.append(rest)
        return "tool_calls" if finish == "stop" and self._reader.calls else finish

    def _reconcile(self, counts: _Counts) -> None:
        """Compare the engine's closing counts with its running ones.

        Both are the engine's own and agree in every version tested. Should they ever differ, the closing ones are
        what the engine calls the answer's usage, so they win, except that a count already handed out never falls:
        its bytes may have left with that number as their weight.
        """
        cached = counts.prompt_tokens_details.cached_tokens if counts.prompt_tokens_details else 0
        fresh, reasoning = counts.prompt_tokens - cached, min(self._usage.reasoning, counts.completion_tokens)
        final = Usage(fresh, cached, counts.completion_tokens - reasoning, reasoning=reasoning)
        if final != self._usage and self._usage != Usage():
            log.warning("usage_disagreed", upstream=self._upstream, running=self._usage, closing=final)
        told = self._told
        output, reasoning = risen(final, told)
        fresh, cached = max(final.input, told.input), max(final.cached_input, told.cached_input)
        self._usage = Usage(fresh, cached, output, reasoning=reasoning)
        self._counted = True

    def event(self) -> Event | None:
        """What is new since the last event; None when the read said nothing a customer or a meter cares for.

        The finish waits for the closing counts, which may come one read later.
        """
        finish = "length" if self.cut else self._finish if self._counted else None
        if finish is not None:
            finish, self._finish = self._ended(finish), None
        said = self._texts or self._reasoning or self._calls or self._tokens or finish is not None
        if not said and self._usage == self._told:
            return None
        text = self._texts[0] if len(self._texts) == 1 else "".join(self._texts)
        logprobs = self._logprobs() if self._tokens else None
        self._texts.clear()
        self._tokens = []
        self._told = self._usage
        estimated = self._estimated and not self._counted
        reasoning, calls = "".join(self._reasoning), tuple(self._calls)
        self._reasoning.clear()
        self._calls.clear()
        event = Event(text, self._usage, finish, logprobs, reasoning, calls, estimated=estimated, cut=self.cut)
        if finish is None or self._stop_text is None:
            return event
        return msgspec.structs.replace(event, stop_text=self._stop_text)

    def _logprobs(self) -> Raw:
        """The tokens of all chunks of the read as one value of the OpenAI dialect."""
        for token in self._tokens:
            del token.top_logprobs[self._alternatives :]
        return Raw(_encode({"content": self._tokens}))

    def end(self) -> None:
        """The body ended. Raises UpstreamError when the answer had not."""
        if not self._done or not self._counted:
            raise UpstreamError(self._upstream, "ended its answer without finishing it")


def refusal(upstream: str, body: bytes, status: int) -> UpstreamError:
    """The error behind an answer that is none."""
    try:
        fault = _fault_decoder.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        fault = _Fault(f"answered {status} without saying why")
    return _error(upstream, fault, status)


def _goes_on(chunk: _Chunk) -> bool:
    """Whether the chunk says more than that the answer has ended."""
    spoken = any(_says(choice) or choice.logprobs for choice in chunk.choices)
    return spoken or not (chunk.usage or any(choice.finish_reason for choice in chunk.choices))


def _says(choice: _Choice) -> bool:
    delta = choice.delta
    return bool(delta.content or choice.text or delta.reasoning_content or delta.tool_calls)


def _piece(call: _CallDelta) -> CallPiece:
    function = call.function or _CalledFunction()
    return CallPiece(call.index, call.id, function.name, function.arguments or "")


def _error(upstream: str, fault: _Fault, status: int) -> UpstreamError:
    """`status` 0 stands for an error inside a stream that had begun."""
    if fault.type == _TOO_LONG and fault.n_prompt_tokens and fault.n_ctx:
        message = (
            f"This prompt has {fault.n_prompt_tokens} tokens, but the model's context holds {fault.n_ctx} tokens. "
            "Shorten the messages."
        )
    else:
        message = fault.message or "failed without saying why"
    if status in {401, 403, 404}:  # our own key or address is wrong: nothing a customer could mend
        ours = Fault.MODEL_MISSING if status == 404 else Fault.AUTH
        return UpstreamError(upstream, f"answered {status}: {message}").known_as(ours)
    return UpstreamError(upstream, message, status=status, retryable=status in _RETRYABLE)
