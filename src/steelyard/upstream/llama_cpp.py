"""The adapter for llama.cpp's server: chats and completions, single sequences, always streamed and metered.

Owns the parameters the engine knows and how an order is put to it: tools told in words where its template knows none,
demanded calls as a grammar. Knows no customer dialect and no money.
"""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import structlog
from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.address import address_of
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.records import Event
from steelyard.scheduling.wish import TURN_HEADER, Turn
from steelyard.upstream.calls import CallReader, demanded, grammar_of
from steelyard.upstream.head import header_block
from steelyard.upstream.llama_answer import Answer, refusal
from steelyard.upstream.llama_reading import Reader
from steelyard.upstream.plain_turns import is_plain, joined, need_tools, plain, tools_of, turns_in
from steelyard.upstream.pool import Pool, Request
from steelyard.upstream.proofs import without_proofs
from steelyard.upstream.protocol import writes_only
from steelyard.upstream.sse import EventReader

log = structlog.get_logger()

KNOWN = frozenset(
    {
        *("messages", "prompt", "stop", "seed", "response_format", "grammar", "ignore_eos"),
        *("temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma", "typical_p"),
        *("xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta", "samplers", "min_keep"),
        *("presence_penalty", "frequency_penalty", "repeat_penalty", "repeat_last_n", "logit_bias"),
        *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
        *("adaptive_target", "adaptive_decay", "logprobs", "top_logprobs"),
        *("tools", "tool_choice", "parallel_tool_calls"),
    }
)
"""What a customer may set and the engine understands under the same name; anything else is not sent."""

_CONNECTIONS = limits.CONNECTIONS_PER_ENGINE_MAX
_TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
_TRUE = Raw(b"true")
_NO_LOGPROBS = frozenset({b"false", b"null"})
_ALWAYS = {
    "stream": _TRUE,
    "stream_options": Raw(b'{"include_usage":true}'),
    "timings_per_token": _TRUE,
    "cache_prompt": _TRUE,
}


class _Caps(msgspec.Struct, frozen=True):
    supports_tools: bool = False


class _Counted(msgspec.Struct):
    input_tokens: int


class _Slot(msgspec.Struct):
    speculative: bool = False


class _Props(msgspec.Struct):
    chat_template_caps: _Caps = _Caps()
    total_slots: int = 0


_ANYBODY = Turn()
_encode = msgspec.json.encode
_counted_decoder = msgspec.json.Decoder(_Counted)
_props_decoder = msgspec.json.Decoder(_Props)
_slots_decoder = msgspec.json.Decoder(list[_Slot])


class LlamaCpp:
    """One llama.cpp server behind the Upstream Protocol. The pool is shared and not closed here."""

    def __init__(self, name: str, pool: Pool, api_key: str) -> None:
        self._name = name
        self._pool = pool
        keys = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._with_tools: dict[tuple[str, str], bool] = {}
        self._with_drafts: dict[tuple[str, str], bool] = {}
        self._headers = header_block({"content-type": "application/json", **keys})

    @property
    def name(self) -> str:
        return self._name

    async def stream(
        self,
        offer: Offer,
        params: dict[str, Raw],
        max_tokens: int,
        request_id: bytes,
        whole: bool = False,
        turn: Turn = _ANYBODY,
    ) -> AsyncGenerator[Event, None]:
        """See `Upstream.stream`. `request_id` is not sent: the engine keeps no log of ours. A turn begins with the head
        of the answer, which one with a line of its own sends when it takes a sequence out of that; what rests then
        is told inside the answer."""
        await self._refuse_logprobs_of_drafts(offer, params)
        params, reader = await self._prepared(offer, params, request_id)
        path = "/v1/completions" if "prompt" in params else "/v1/chat/completions"
        body = _body(offer, params, max_tokens, turn.slot)
        if len(body) > offer.context_tokens * limits.TOKEN_BYTES_MAX:  # the engine would take half a minute to say so
            message = f"This prompt is longer than the model's context of {offer.context_tokens} tokens. Shorten it."
            raise UpstreamError(self._name, message, status=400)
        answer = Answer(self._name, max_tokens, turn, alternatives=_count(params.get("top_logprobs")), reader=reader)
        response = await self._pool.request(self._request(offer, "POST", path, body, turn))
        try:
            if response.status != 200:
                said = await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
                raise refusal(self._name, said, response.status)
            answer.runs(True)
            events = EventReader(self._name)
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
            answer.runs(False)
            response.close()

    async def _prepared(
        self, offer: Offer, params: dict[str, Raw], request_id: bytes
    ) -> tuple[dict[str, Raw], CallReader | None]:
        """The order as this engine can serve it, and who reads calls out of the answer's text.

        A template that knows tools makes its own calls, unless one is demanded: that is enforced by a grammar here.
        """
        if "prompt" in params or ("tools" not in params and is_plain(params["messages"])):
            return params, None
        params = {**params, "messages": without_proofs(params["messages"])}
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
            several = [bytes(params.get(name, b"")) for name in _TOOL_FIELDS[1:]] == [b'"required"', b"true"]
            prepared["response_format"] = Raw(_encode(grammar_of(must, several)))
        reader = CallReader(f"call_{request_id.hex()[-24:]}", tools, is_demanded=bool(must)) if tools else None
        return prepared, reader

    async def _refuse_logprobs_of_drafts(self, offer: Offer, params: dict[str, Raw]) -> None:
        """llama.cpp tells no log probability of a token it drafted, so an answer's would have holes; asked once."""
        if bytes(params.get("logprobs", b"false")) in _NO_LOGPROBS:
            return
        place = (offer.address, offer.upstream_model)
        if place not in self._with_drafts:
            try:
                slots = _slots_decoder.decode(await self._told(offer, "/slots"))
            except (msgspec.DecodeError, UnicodeDecodeError):  # one that keeps them to itself
                slots = []
            self._with_drafts[place] = any(slot.speculative for slot in slots)
        if self._with_drafts[place]:
            message = "'logprobs' are not told by an engine that drafts tokens. Leave them out."
            raise UpstreamError(self._name, message, status=400, param="logprobs")

    async def _knows_tools(self, offer: Offer) -> bool:
        """Whether the chat template of the model at this address takes tools; asked once."""
        place = (offer.address, offer.upstream_model)
        if place not in self._with_tools:
            self._with_tools[place] = (await self._props(offer)).chat_template_caps.supports_tools
        return self._with_tools[place]

    async def read(self, offer: Offer, capability: Capability, params: dict[str, Raw]) -> Event:
        if capability is Capability.MODERATION:
            raise writes_only(self._name, capability)

        async def ask(path: str, body: object) -> bytes:
            async with await self._pool.request(self._request(offer, "POST", path, _encode(body))) as response:
                if response.status != 200:
                    said = await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
                    raise refusal(self._name, said, response.status)
                return await response.body(limits.READING_ANSWER_BYTES_MAX)

        return await Reader(self._name, ask, offer.context_tokens).read(capability, params)

    async def count(self, offer: Offer, params: dict[str, Raw]) -> int | None:
        """The engine's own template and tokenizer, on the very turns that `stream` would send."""
        prepared, _ = await self._prepared(offer, params, b"")
        fields: dict[str, Any] = {name: prepared[name] for name in ("messages", *_TOOL_FIELDS) if name in prepared}
        request = self._request(offer, "POST", "/v1/chat/completions/input_tokens", _encode(fields))
        async with await self._pool.request(request) as response:
            body = await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
            if response.status != 200:
                raise refusal(self._name, body, response.status)
        try:
            return _counted_decoder.decode(body).input_tokens
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise UpstreamError(self._name, "answered a count that cannot be read") from None

    async def ready(self, offer: Offer) -> bool:
        try:
            async with await self._pool.request(self._request(offer, "GET", "/health")) as response:
                await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
                return response.status == 200
        except UpstreamError:
            return False

    async def slots(self, offer: Offer) -> int:
        """How many sequences the engine at this address decodes at once; 0 when it does not say."""
        return (await self._props(offer)).total_slots

    async def _props(self, offer: Offer) -> _Props:
        try:
            return _props_decoder.decode(await self._told(offer, "/props"))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _Props()

    async def _told(self, offer: Offer, path: str) -> bytes:
        """What the engine tells of itself there; empty when it does not."""
        async with await self._pool.request(self._request(offer, "GET", path)) as response:
            body = await response.body(limits.UPSTREAM_PROPS_BYTES_MAX)
            return body if response.status == 200 else b""

    def _request(self, offer: Offer, method: str, path: str, body: bytes = b"", turn: Turn = _ANYBODY) -> Request:
        at = address_of(offer.address)
        headers = self._headers
        if turn.tenant_id and turn.slot < 0:
            headers += b"%b: %b\r\n" % (TURN_HEADER, turn.header)
        return Request(self._name, at.host, at.port, method, at.under(path), headers, body, at.tls, _CONNECTIONS)


def _body(offer: Offer, params: dict[str, Raw], max_tokens: int, slot: int) -> bytes:
    fields: dict[str, Any] = {name: value for name, value in params.items() if name in KNOWN}
    fields["model"] = offer.upstream_model
    fields["max_tokens"] = max_tokens
    fields.update(_ALWAYS)
    if slot >= 0:
        fields["id_slot"] = slot
    if "stop" in fields and _may_tell_all(params, max_tokens):
        fields["verbose"] = _TRUE  # the last chunk says which stop text it was, and repeats the prompt and the answer
    wanted = params.get("logprobs")
    if "prompt" in params:
        if wanted is not None:  # a completion's `logprobs` is the number of alternatives
            fields["logprobs"] = max(1, _count(fields.pop("top_logprobs", None)))
        return _encode(fields)
    if wanted is not None and bytes(wanted) == b"true" and _count(params.get("top_logprobs")) == 0:
        fields["top_logprobs"] = 1  # the engine takes 0 as "no logprobs at all", and absence as 20
    return _encode(fields)


def _may_tell_all(params: dict[str, Raw], max_tokens: int) -> bool:
    """Whether a chunk that holds the whole exchange stays far below the longest we read."""
    return "messages" in params and len(bytes(params["messages"])) + 16 * max_tokens < limits.SSE_EVENT_BYTES_MAX // 4


def _count(raw: Raw | None) -> int:
    return 0 if raw is None else msgspec.json.decode(raw, type=int)
