"""The answer cache: what one tenant was answered is given to him again when he asks the very same.

Owns what is kept, for whom, how long and how much of it; in the memory of one worker. Only who asked for it takes part,
and only with requests that would be answered alike. A hit is counted in buckets of its own: nothing was computed for
it, and no vendor bills it; what it costs the customer is his tariff's affair.
"""

from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import msgspec

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, Clock, SystemClock
from steelyard.kernel.errors import bad_request
from steelyard.kernel.offers import Capability, Model
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, Event, Order, Quote, Terms
from steelyard.kernel.reuse import ANSWER_CACHE, Reuse
from steelyard.kernel.routes import Route, Routes

HEADER = "x-steelyard-cache"
_ANSWER, _ANY, _REFRESH, _OFF = "answer", "any", "refresh", "off"
_WORDS = (_ANSWER, _ANY, _REFRESH, _OFF)
_WHOLE = frozenset({"stop", "length", "tool_calls"})
_BYPASS = Reuse()
_NONE = msgspec.Raw(b"null")
Said = tuple[int, Event, Usage]


class _Piece(msgspec.Struct, array_like=True):
    """An event as it is kept: a JSON value that may be missing cannot be read back as a field of its record."""

    event: Event
    logprobs: msgspec.Raw = _NONE


_decoder = msgspec.json.Decoder(list[_Piece])


class Speech(Protocol):
    """What an upstream says, event by event."""

    def __anext__(self) -> Awaitable[Said]: ...
    def aclose(self) -> Awaitable[None]: ...


class _Kept(NamedTuple):
    """`max_tokens`: what bounded the answer, where that ended it; 0: it came to its own end."""

    tenant_id: int
    kept_ns: int
    tokens: int
    max_tokens: int
    events: bytes


class AnswerCache:
    """One per worker; `clock` tells how old an answer is."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()  # longest unused first
        self._bytes_of: defaultdict[int, int] = defaultdict(int)  # by tenant
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def look(self, order: Order, caller: Caller, terms: Terms, routes: Routes) -> Reuse | None:
        """What becomes of the order here; None where nobody wants it to be looked for.

        Raises CallerError 400 for a word that means nothing.
        """
        rule = routes.keys.get(caller.key_id)
        if not order.reuse and (rule is None or not rule.answers_s):
            return None
        max_tokens = terms.max_tokens
        word, age_s = _asked(order.reuse, rule)
        if word == _OFF:
            return None
        if not _may_be_kept(order) or not (word == _ANY or _is_repeatable(order.params)):
            return _BYPASS
        try:
            key = _key(order, caller.tenant_id, terms.model)
        except msgspec.DecodeError:  # a number beyond all numbers, in a field that nobody here knows
            return _BYPASS
        kept = self._kept.get(key) if word != _REFRESH else None
        age_ns = self._clock.monotonic_ns() - kept.kept_ns if kept is not None else 0
        if (
            kept is None
            or age_ns >= age_s * NS_PER_S
            or kept.tokens > max_tokens
            or (kept.max_tokens and kept.max_tokens != max_tokens)
        ):
            return Reuse(key, _REFRESH if word == _REFRESH else "miss")
        self._kept.move_to_end(key)
        return Reuse(key, f"hit; age={age_ns // NS_PER_S}", kept.events)

    def speaking(self, first: Quote, call: Callable[[Quote, bool], Any]) -> Callable[[Quote, bool], Any]:
        """How to call whoever a quote names: the cache itself for a hit, of the first model or of one that answers in
        its place; what others say is kept where it may be."""
        if first.reuse is None or not first.reuse.key:
            return call

        def spoken(quote: Quote, whole: bool) -> AsyncGenerator[Said, None]:
            found = quote.reuse.events if quote.reuse is not None else b""
            return _again(found) if found else self._keeping(quote, call(quote, whole))

        return spoken

    async def _keeping(self, quote: Quote, speech: Speech) -> AsyncGenerator[Said, None]:
        """Pass on what is said, and keep it once it came to its end."""
        events: list[Event] = []
        try:
            while True:
                try:
                    said = await speech.__anext__()
                except StopAsyncIteration:
                    break
                events.append(said[1])
                yield said
        finally:
            await speech.aclose()
        self._keep(quote, events)

    def _keep(self, quote: Quote, events: list[Event]) -> None:
        if not events or quote.reuse is None:
            return
        last = events[-1]
        by_cap = last.finish == "length"
        if last.finish not in _WHOLE or (by_cap and quote.lowered) or any(event.cut for event in events):
            return
        text = _text_of(_shortened(events))
        if len(text) > limits.ANSWER_CACHED_BYTES_MAX:
            return
        tenant_id = quote.caller.tenant_id
        self._drop(quote.reuse.key)
        bound = quote.max_tokens if by_cap else 0
        kept = _Kept(tenant_id, self._clock.monotonic_ns(), last.usage.generated, bound, text)
        self._kept[quote.reuse.key] = kept
        self._bytes_of[tenant_id] += len(text)
        self.bytes += len(text)
        while self._bytes_of[tenant_id] > limits.ANSWER_CACHE_BYTES_PER_TENANT_MAX:
            self._drop(next(key for key, one in self._kept.items() if one.tenant_id == tenant_id))
        while self.bytes > limits.ANSWER_CACHE_BYTES_MAX or len(self._kept) > limits.ANSWER_CACHE_ENTRIES_MAX:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= len(kept.events)
            self._bytes_of[kept.tenant_id] -= len(kept.events)
            if not self._bytes_of[kept.tenant_id]:
                del self._bytes_of[kept.tenant_id]


async def _again(text: bytes) -> AsyncGenerator[Said, None]:
    for event, logprobs in [(piece.event, piece.logprobs) for piece in _decoder.decode(text)]:
        said = event if logprobs == _NONE else msgspec.structs.replace(event, logprobs=logprobs)
        yield 0, said, said.usage


def _text_of(events: list[Event]) -> bytes:
    pieces = [_Piece(msgspec.structs.replace(one, logprobs=None), one.logprobs or _NONE) for one in events]
    return msgspec.json.encode(pieces)


def _asked(said: str, rule: Route | None) -> tuple[str, int]:
    """The word, and how many seconds old an answer may be: "answer; max-age=60"."""
    word, _, rest = said.partition(";")
    word = word.strip() or _ANSWER
    age_s = rule.answers_s if rule is not None and rule.answers_s else limits.ANSWER_CACHED_S
    if word not in _WORDS:
        raise bad_request(f"{HEADER} may be {', '.join(_WORDS)}, and '; max-age=SECONDS'.", HEADER)
    if rest.strip():
        name, _, value = rest.strip().partition("=")
        if name != "max-age" or not (value.isascii() and value.isdigit() and len(value) <= 9):
            raise bad_request(f"{HEADER} may say '; max-age=SECONDS' behind its word, and nothing else.", HEADER)
        age_s = min(int(value), limits.ANSWER_CACHED_S_MAX)
    return word, age_s


def _may_be_kept(order: Order) -> bool:
    return order.capability is Capability.TEXT and order.sequences == 1 and not order.prompts


def _is_repeatable(params: Mapping[str, msgspec.Raw]) -> bool:
    """Whether the customer asked for the same answer every time: no temperature, or a seed."""
    if "seed" in params:
        return True
    temperature = params.get("temperature")
    return temperature is not None and float(bytes(temperature)) == 0


def _key(order: Order, tenant_id: int, model: Model) -> bytes:
    """The same for what is asked alike, in whatever dialect and however it was written down.

    What serves the model is part of it: another model under the same name does not answer for this one.
    """
    served = [(offer.upstream, offer.upstream_model) for offer in model.offers]
    params = {name: msgspec.json.decode(raw) for name, raw in order.params.items()}
    asked = (tenant_id, model.name, served, order.max_tokens, params)
    return blake2b(msgspec.json.encode(asked, order="deterministic"), digest_size=16).digest()


def _shortened(events: list[Event]) -> list[Event]:
    """The same answer in as few events as say it, counted as one that was given before."""
    found: list[Event] = []
    text: list[str] = []
    for one in events:
        usage = Usage(reused_input=one.usage.prompt, reused_output=one.usage.generated)
        event = msgspec.structs.replace(one, usage=usage)
        plain = event == Event(event.text, usage, estimated=event.estimated)
        if plain and found and text:
            text.append(event.text)
            found[-1] = event
            continue
        if text:
            found[-1] = msgspec.structs.replace(found[-1], text="".join(text))
        text = [event.text] if plain else []
        found.append(event)
    if text:
        found[-1] = msgspec.structs.replace(found[-1], text="".join(text))
    return found


__all__ = ["ANSWER_CACHE", "HEADER", "AnswerCache", "Reuse"]
