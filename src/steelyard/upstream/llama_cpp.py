"""The adapter for llama.cpp's server: its OpenAI chat dialect, single sequences, always streamed and metered.

Owns the parameters the engine knows, the reading of its chunks and the meaning of its counts. Knows no customer
dialect and no money. Invariant: an event's usage counts every token whose text was handed out, and never falls.

Counts: every chunk carries `timings` {cache_n, prompt_n, predicted_n}, cumulative for the sequence; prompt_n leaves
cached tokens out. `predicted_n` counts sampled tokens, also those that never become text: the end-of-text token (the
engine's own `completion_tokens` counts it, and so do we) and tokens held back for a stop text or half a character.
"""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import structlog
from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event, Offer
from steelyard.upstream.calls import CallReader, demanded, grammar_of
from steelyard.upstream.http1 import header_block
from steelyard.upstream.plain_turns import joined, need_tools, plain, tools_of, turns_in
from steelyard.upstream.pool import Pool, Request, Response
from steelyard.upstream.sse import EventReader

log = structlog.get_logger()

KNOWN = frozenset(
    {
        *("messages", "stop", "seed", "response_format", "grammar", "ignore_eos"),
        *("temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma", "typical_p"),
        *("xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta", "samplers", "min_keep"),
        *("presence_penalty", "frequency_penalty", "repeat_penalty", "repeat_last_n", "logit_bias"),
        *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
        *("adaptive_target", "adaptive_decay", "logprobs", "top_logprobs"),
        *("tools", "tool_choice", "parallel_tool_calls"),
    }
)
"""What a customer may set and the engine understands under the same name; anything else is not sent."""

_TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
_TRUE = Raw(b"true")
_ALWAYS = {
    "stream": _TRUE,
    "stream_options": Raw(b'{"include_usage":true}'),
    "timings_per_token": _TRUE,
    "cache_prompt": _TRUE,
}
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


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
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


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    timings: _Timings | None = None
    usage: _Counts | None = None
    error: _Fault | None = None


class _FaultBody(msgspec.Struct):
    error: _Fault


class _Caps(msgspec.Struct, frozen=True):
    supports_tools: bool = False


class _Props(msgspec.Struct):
    chat_template_caps: _Caps = _Caps()


_encode = msgspec.json.encode
_chunk_decoder = msgspec.json.Decoder(_Chunk)
_fault_decoder = msgspec.json.Decoder(_FaultBody)
_props_decoder = msgspec.json.Decoder(_Props)


class LlamaCpp:
    """One llama.cpp server behind the Upstream Protocol. The pool is shared and not closed here."""

    def __init__(self, name: str, pool: Pool, api_key: str) -> None:
        self._name = name
        self._pool = pool
        keys = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._with_tools: dict[tuple[str, str], bool] = {}
        self._headers = header_block({"content-type": "application/json", **keys})

    @property
    def name(self) -> str:
        return self._name

    async def stream(
        self, offer: Offer, params: dict[str, Raw], max_tokens: int, request_id: bytes
    ) -> AsyncGenerator[Event, None]:
        """See `Upstream.stream`. `request_id` is not sent: the engine keeps no log of ours."""
        params, reader = await self._prepared(offer, params, request_id)
        body = _body(offer, params, max_tokens)
        response = await self._pool.request(self._request(offer, "POST", "/v1/chat/completions", body))
        try:
            if response.status != 200:
                raise await self._refusal(response)
            events = EventReader(self._name)
            alternatives = _count(params.get("top_logprobs"))
            answer = Answer(self._name, max_tokens, alternatives=alternatives, reader=reader)
            while read := await response.read():
                for data in events.feed(read):
                    answer.take(data)
                if (event := answer.event()) is not None:
                    yield event
                if answer.cut:  # it would go on: closing the connection stops it
                    log.warning("upstream_cut", upstream=self._name, max_tokens=max_tokens)
                    return
            answer.end()
        finally:
            response.close()

    async def _prepared(
        self, offer: Offer, params: dict[str, Raw], request_id: bytes
    ) -> tuple[dict[str, Raw], CallReader | None]:
        """The order as this engine can serve it, and who reads calls out of the answer's text.

        A template that knows tools makes its own calls, unless one is demanded: that is enforced by a grammar here.
        """
        messages, tools = params["messages"], tools_of(params)
        turns = turns_in(messages)
        prepared = {name: raw for name, raw in params.items() if name not in _TOOL_FIELDS}
        if not tools and not need_tools(turns):
            prepared["messages"] = joined(self._name, messages, turns)
            return prepared, None
        must = demanded(params, tools)
        if not must and await self._knows_tools(offer):
            prepared |= {name: params[name] for name in _TOOL_FIELDS if name in params}
            return {**prepared, "messages": joined(self._name, messages, turns)}, None
        prepared["messages"] = plain(self._name, turns, must or tools)
        if must:
            several = bytes(params.get("parallel_tool_calls", b"")) == b"true" and len(tools) == len(must)
            prepared["response_format"] = Raw(_encode(grammar_of(must, several)))
        reader = CallReader(f"call_{request_id.hex()[-24:]}", tools, is_demanded=bool(must)) if tools else None
        return prepared, reader

    async def _knows_tools(self, offer: Offer) -> bool:
        """Whether the chat template of the model at this address takes tools; asked once."""
        place = (offer.address, offer.upstream_model)
        if place not in self._with_tools:
            async with await self._pool.request(self._request(offer, "GET", "/props")) as response:
                body = await response.body(limits.UPSTREAM_PROPS_BYTES_MAX)
                known = response.status == 200
            try:
                self._with_tools[place] = known and _props_decoder.decode(body).chat_template_caps.supports_tools
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._with_tools[place] = False
        return self._with_tools[place]

    async def ready(self, offer: Offer) -> bool:
        try:
            async with await self._pool.request(self._request(offer, "GET", "/health")) as response:
                await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
                return response.status == 200
        except UpstreamError:
            return False

    def _request(self, offer: Offer, method: str, path: str, body: bytes = b"") -> Request:
        host, _, port = offer.address.rpartition(":")
        return Request(self._name, host.strip("[]"), int(port), method, path, self._headers, body)

    async def _refusal(self, response: Response) -> UpstreamError:
        body = await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
        try:
            fault = _fault_decoder.decode(body).error
        except (msgspec.DecodeError, UnicodeDecodeError):
            fault = _Fault(f"answered {response.status} without saying why")
        return _error(self._name, fault, response.status)


class Answer:
    """The state of one sequence: what its chunks said since the last event, and its counts so far."""

    def __init__(
        self, upstream: str, max_tokens: int, *, alternatives: int = 0, reader: CallReader | None = None
    ) -> None:
        self.cut = False  # it went beyond `max_tokens`: what came until then is its end
        self._upstream = upstream
        self._max_tokens = max_tokens
        self._reader = reader
        self._calls: list[CallPiece] = []
        self._reasoning: list[str] = []
        self._alternatives = alternatives
        self._texts: list[str] = []
        self._tokens: list[_Token] = []
        self._usage = Usage()
        self._told = Usage()
        self._finish: str | None = None
        self._counted = self._done = self._estimated = False

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
        if chunk.timings is not None and chunk.timings.predicted_n > self._max_tokens and _goes_on(chunk):
            self._usage = Usage(chunk.timings.prompt_n, chunk.timings.cache_n, self._usage.output)
            self.cut = True
        if self.cut:
            return
        for choice in chunk.choices:
            if choice.delta.reasoning_content:
                self._reasoning.append(choice.delta.reasoning_content)
            if choice.delta.content:
                self._text(choice.delta.content)
            self._calls += [_piece(call) for call in choice.delta.tool_calls or ()]
            if choice.finish_reason is not None:
                self._finish = choice.finish_reason
            self._tokens += (choice.logprobs.content or ()) if choice.logprobs is not None else ()
        if (timings := chunk.timings) is not None:
            self._usage = Usage(timings.prompt_n, timings.cache_n, timings.predicted_n)
        elif chunk.usage is None and any(_says(choice.delta) for choice in chunk.choices):
            self._usage, self._estimated = self._usage + Usage(output=1), True  # a chunk has a token at least
        if chunk.usage is not None:
            self._reconcile(chunk.usage)

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
        final = Usage(counts.prompt_tokens - cached, cached, counts.completion_tokens)
        if final != self._usage and self._usage != Usage():
            log.warning("usage_disagreed", upstream=self._upstream, running=self._usage, closing=final)
        told = self._told
        self._usage = Usage(
            max(final.input, told.input), max(final.cached_input, told.cached_input), max(final.output, told.output)
        )
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
        return Event(text, self._usage, finish, logprobs, reasoning, calls, estimated=estimated, cut=self.cut)

    def _logprobs(self) -> Raw:
        """The tokens of all chunks of the read as one value of the OpenAI dialect."""
        for token in self._tokens:
            del token.top_logprobs[self._alternatives :]
        return Raw(_encode({"content": self._tokens}))

    def end(self) -> None:
        """The body ended. Raises UpstreamError when the answer had not."""
        if not self._done or not self._counted:
            raise UpstreamError(self._upstream, "ended its answer without finishing it")


def _goes_on(chunk: _Chunk) -> bool:
    """Whether the chunk says more than that the answer has ended."""
    spoken = any(_says(choice.delta) or choice.logprobs for choice in chunk.choices)
    return spoken or not (chunk.usage or any(choice.finish_reason for choice in chunk.choices))


def _says(delta: _Delta) -> bool:
    return bool(delta.content or delta.reasoning_content or delta.tool_calls)


def _body(offer: Offer, params: dict[str, Raw], max_tokens: int) -> bytes:
    fields: dict[str, Any] = {name: value for name, value in params.items() if name in KNOWN}
    fields["model"] = offer.upstream_model
    fields["max_tokens"] = max_tokens
    fields.update(_ALWAYS)
    wanted = params.get("logprobs")
    if wanted is not None and bytes(wanted) == b"true" and _count(params.get("top_logprobs")) == 0:
        fields["top_logprobs"] = 1  # the engine takes 0 as "no logprobs at all", and absence as 20
    return _encode(fields)


def _piece(call: _CallDelta) -> CallPiece:
    function = call.function or _CalledFunction()
    return CallPiece(call.index, call.id, function.name, function.arguments or "")


def _count(raw: Raw | None) -> int:
    return 0 if raw is None else msgspec.json.decode(raw, type=int)


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
        return UpstreamError(upstream, f"answered {status}: {message}")
    return UpstreamError(upstream, message, status=status, retryable=status in _RETRYABLE)
