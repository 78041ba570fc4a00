"""What a server of OpenAI's dialect says while it answers, read into events.

Owns the rules for its counts: usage may come never, once, in every chunk or twice; it is cumulative, so the last one
counts and none is ever added. What has been delivered before it comes, or behind it, is counted low, because a count
never falls.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, structs

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import CallPiece, Event
from steelyard.upstream.growth import Growth
from steelyard.upstream.openai_counts import Counts
from steelyard.upstream.openai_fault import Body, failed
from steelyard.upstream.runs import Run, Runs
from steelyard.upstream.sse import EventReader
from steelyard.upstream.tally import Tally
from steelyard.upstream.vendor import FAILED, Asked, Vendor

_DONE = b"[DONE]"
_TEXTS = ("content", "text", "reasoning_content", "reasoning")
_THOUGHTS = frozenset({"reasoning_content", "reasoning"})


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: Any = None  # Gemini: {"google": {"thought_signature": …}}

    @property
    def signature(self) -> str:
        """What its upstream signed the call with; empty when it did not."""
        google = self.extra_content.get("google") if isinstance(self.extra_content, dict) else None
        found = google.get("thought_signature") if isinstance(google, dict) else None
        return found if isinstance(found, str) else ""


class _Delta(msgspec.Struct, frozen=True, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: Any = None  # OpenRouter, MiniMax: a list of pieces, some with a `text`
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    role: Any = None


_NOTHING = _Delta()


class _Choice(msgspec.Struct, gc=False):
    """`delta` of a chat, or the `message` of a whole one; `text` of a completion."""

    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM: the stop text that was met, or a token's id
    matched_stop: Any = None  # SGLang: the same
    logprobs: dict[str, Any] | None = None
    usage: Counts | None = None  # Moonshot: with the end of the choice


class _Chunk(Body, gc=False):
    choices: list[_Choice] | None = None
    usage: Counts | None = None


_encode = msgspec.json.encode
chunk_decoder = msgspec.json.Decoder(_Chunk)


class _Numbers:
    """Which call a piece belongs to: its index says so, but there are servers that give none, or 0 to all."""

    def __init__(self) -> None:
        self._by_id: dict[str, int] = {}
        self._by_index: dict[int | None, int] = {}
        self._used: set[int] = set()
        self._names: dict[int, str] = {}  # as they began

    def of(self, piece: _Call, name: str | None) -> int:
        """A piece without an index belongs to the call before, unless it brings an id or a name; one with the index of
        a call goes on with that, unless it brings both: some servers make up another id for each piece."""
        if piece.id and piece.id in self._by_id:
            return self._by_id[piece.id]
        begins = bool(piece.id or name) if piece.index is None else bool(piece.id and name)
        if not begins and piece.index in self._by_index:
            return self._by_index[piece.index]
        wanted = piece.index
        number = max(self._used, default=-1) + 1 if wanted is None or wanted in self._used else wanted
        self._used.add(number)
        self._by_index[wanted] = self._by_index[None] = number
        if piece.id:
            self._by_id[piece.id] = number
        return number

    def new(self, number: int, piece: _Call, name: str | None) -> tuple[str | None, str | None]:
        """Its id and its name, where they were not told yet: there are servers that repeat them with every piece."""
        before = self._names.get(number)
        if before is None:
            self._names[number] = name or ""
            return piece.id or None, name
        return None, None if name == before else name


_NO_RUNS = Runs()


class Answer:
    """The state of one sequence."""

    __slots__ = (
        *(
            "_asked",
            "_calls",
            "_counted",
            "_counts",
            "_finish",
            "_growing",
            "_logprobs",
            "_most",
            "_numbers",
            "_reader",
            "_reasoning",
        ),
        *("_refusal", "_runs", "_stop_text", "_tally", "_text", "_upstream", "_vendor", "done"),
    )

    def __init__(self, vendor: Vendor, asked: Asked) -> None:
        self.done = False
        self._vendor = vendor
        self._upstream = asked.upstream
        self._most = asked.max_tokens
        self._tally = Tally(asked.upstream, asked.text_bytes)
        self._asked = asked
        self._reader: EventReader | None = None
        self._runs = _NO_RUNS
        if vendor.may_repeat:
            self._growing = Growth(asked.upstream), Growth(asked.upstream)  # text and reasoning
        self._stop_text: str | None = None
        self._text = self._reasoning = self._refusal = ""  # what is new since the last event
        self._calls: list[CallPiece] = []
        self._numbers: _Numbers | None = None  # most answers call nothing
        self._logprobs: list[Any] = []
        self._finish: str | None = None
        self._counts: Usage | None = None
        self._counted = (0, 0)  # pieces and thoughts that these know of

    def hear(self, read: bytes) -> Sequence[Event]:
        """See `hearing.Hearing`. One text that repeats itself is no run: each piece has to be looked at."""
        reader, runs = self._reader, self._runs
        if reader is None:  # what comes in one piece needs none
            reader = self._reader = EventReader(self._upstream)
            runs = self._runs = Runs() if runs is _NO_RUNS else runs
        if self._vendor.may_repeat:
            for data in reader.feed(read):
                self.take(data)
            return self.events()
        run = runs.take(read, 0) if reader.between else None
        if run is not None and run.end == len(read) and self._counts is None and run.field not in _THOUGHTS:
            text, pieces = run.text, run.pieces  # nothing else is new, as in most reads
            return (Event(text, self._tally.said(text, pieces), estimated=True),) if pieces else ()
        reader.feed_runs(read, runs, run, self.take, self._take_run)
        return self.events()

    def _take_run(self, run: Run) -> None:
        """What `_choice` does with such events, for all of them at once."""
        if not run.pieces:
            return
        if run.field in _THOUGHTS:
            self._reasoning += run.text
            self._tally.think(run.text, run.pieces)
        else:
            self._text += run.text
            self._tally.pieces += run.pieces
            if self._counts is None:
                self._tally.say(run.text)

    def take(self, data: bytes) -> None:
        """Read one chunk. Raises UpstreamError for an error in the stream or a chunk that cannot be read."""
        if data == _DONE:
            self.done = True
            return
        try:
            chunk = chunk_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(self._upstream, f"sent a chunk that cannot be read ({error})") from None
        choices = chunk.choices
        if choices is None or chunk.error is not None or chunk.base_resp is not None:
            if (complaint := chunk.complaint(is_answer=choices is not None)) is not None:
                raise failed(self._upstream, complaint, self._vendor.faults)
            choices = choices or []
        said = ""
        for choice in choices:
            said += self._choice(choice)
            if choice.usage is not None:
                self._count(choice.usage)
        counts = chunk.usage
        if counts is not None:
            self._count(counts)
        if said and self._counts is None:  # for an estimate
            self._tally.say(said)
        if counts is not None or len(choices) != 1:
            return
        only = choices[0]
        if only.finish_reason:
            return
        if only.delta is not None and only.delta.role and self._tally.pieces + self._tally.thoughts == 1:
            return  # the first words, with a role: those behind them will hardly have one
        if field := _only(only):
            self._runs.learn(field, data)

    def _choice(self, choice: _Choice) -> str:
        """Take in what a choice says. Returns its text, which the tally has not been told of."""
        delta, tally = choice.delta or choice.message or _NOTHING, self._tally
        text, reasoning = delta.content or choice.text or "", delta.reasoning_content or delta.reasoning or ""
        if delta.reasoning_details is not None and not reasoning and isinstance(delta.reasoning_details, list):
            reasoning = "".join(map(_thought, delta.reasoning_details))
        if self._vendor.may_repeat:
            texts, thoughts = self._growing
            last = bool(choice.finish_reason)
            text, reasoning = texts.feed(text, last=last), thoughts.feed(reasoning, last=last or bool(text))
        if text:
            self._text += text
        if delta.refusal:
            self._refusal += delta.refusal
            tally.say(delta.refusal)
        if reasoning:
            self._reasoning += reasoning
            tally.think(reasoning)
        if delta.tool_calls:
            self._call(delta.tool_calls)
        if choice.logprobs is not None:
            self._logprobs += _tokens(choice.logprobs)
        if text or delta.refusal or delta.tool_calls:
            tally.pieces += 1
        if choice.finish_reason:
            end = self._vendor.ends[choice.finish_reason]
            if end == FAILED:
                raise UpstreamError(self._upstream, f"ended its answer with {choice.finish_reason!r}", retryable=True)
            self._finish = end
        for met in (choice.stop_reason, choice.matched_stop):
            if met is not None and isinstance(met, str) and met in self._asked.stops:
                self._stop_text = met
        return text

    def _call(self, pieces: Sequence[_Call]) -> None:
        self._numbers = self._numbers or _Numbers()
        for piece in pieces:
            function = piece.function or _Function()
            name, arguments = function.name or None, function.arguments or ""
            number = self._numbers.of(piece, name)
            told = self._numbers.new(number, piece, name)
            self._calls.append(CallPiece(number, *told, arguments, piece.signature))
            self._tally.say(arguments)

    def _count(self, counts: Counts) -> None:
        """The last usage wins."""
        found = counts.usage(self._tally, hides_thoughts=self._vendor.hides_thoughts)
        if found is not None:
            self._counts, self._counted = found, (self._tally.pieces, self._tally.thoughts)

    def _used(self, counts: Usage) -> Usage:
        """These counts and, of what came behind them, a token for each piece: a server may count at the beginning, and
        not again before it is cut."""
        pieces, thoughts = self._counted
        output, reasoning = self._tally.pieces - pieces, self._tally.thoughts - thoughts
        if not (output or reasoning):
            return counts
        return structs.replace(counts, output=counts.output + output, reasoning=counts.reasoning + reasoning)

    def events(self) -> Sequence[Event]:
        """What is new since the last time; the finish is kept for `end`, when the last count is known."""
        if not (self._text or self._reasoning or self._refusal or self._calls or self._logprobs):
            return ()
        counts = self._counts
        if self.done and self._finish is not None and counts is not None and counts.generated <= self._most:
            return ()  # it goes with the end; were that beyond the cap, what was said would be kept from the customer
        return (self._event(self._tally.low() if counts is None else self._used(counts), None),)

    def end(self) -> Event:
        """The last event. Raises UpstreamError when the answer had not come to its end."""
        if self._finish is None:
            raise UpstreamError(self._upstream, "ended its answer without finishing it")
        counts = self._counts
        return self._event(self._tally.estimate() if counts is None else self._used(counts), self._finish)

    def _event(self, usage: Usage, finish: str | None) -> Event:
        estimated = usage is not self._counts
        usage = self._tally.rising(usage)
        text, self._text = self._text, ""
        if not (self._reasoning or self._refusal or self._calls or self._logprobs):
            stop_text = None if finish is None else self._stop_text
            return Event(text, usage, finish, estimated=estimated, stop_text=stop_text)
        event = Event(
            text=text,
            usage=usage,
            finish=finish,
            logprobs=Raw(_encode({"content": self._logprobs})) if self._logprobs else None,
            reasoning=self._reasoning,
            tool_calls=tuple(self._calls),
            refusal=self._refusal,
            estimated=estimated,
            stop_text=None if finish is None else self._stop_text,
        )
        self._reasoning = self._refusal = ""
        self._calls.clear()
        self._logprobs.clear()
        return event


def _only(choice: _Choice) -> str:
    """The field in which a choice that does not end says a text, if it says nothing else."""
    delta = choice.delta or _NOTHING
    if (
        choice.logprobs is not None
        or choice.usage is not None
        or choice.stop_reason is not None
        or choice.matched_stop is not None
        or delta.refusal
        or delta.tool_calls
        or delta.reasoning_details is not None
    ):
        return ""
    found = ""
    texts = (delta.content, choice.text, delta.reasoning_content, delta.reasoning)
    for field, text in zip(_TEXTS, texts, strict=True):
        if text:
            if found:
                return ""
            found = field
    return found


def _thought(piece: Any) -> str:
    text = piece.get("text") if isinstance(piece, dict) else None
    return text if isinstance(text, str) else ""


def _tokens(found: dict[str, Any]) -> list[Any]:
    """A chat's list of tokens; a completion's parallel lists are turned into one."""
    if isinstance(found.get("content"), list):
        return list(found["content"])
    tokens, chances, tops = (found.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs"))
    return [
        {
            "token": token,
            "logprob": chances[place] if place < len(chances) else None,
            "bytes": None,
            "top_logprobs": [
                {"token": other, "logprob": chance, "bytes": None}
                for other, chance in ((tops[place] or {}) if place < len(tops) else {}).items()
            ],
        }
        for place, token in enumerate(tokens)
    ]
