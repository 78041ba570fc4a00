"""The adapter for any server of OpenAI's chat dialect (vLLM, SGLang, Ollama, vendors).

Owns what is asked of it and how its answer is read. The last usage it gives is the answer's; one that gives none is
estimated and flagged, never taken for nothing. What would change its price or its counts is not passed on. Knows no
money and no customer dialect.
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
from steelyard.upstream.credential import Credential
from steelyard.upstream.openai_answer import Answer
from steelyard.upstream.openai_fault import refusal
from steelyard.upstream.openai_reading import PATHS, answer_of
from steelyard.upstream.pool import Pool, Request, Response
from steelyard.upstream.proofs import without_proofs
from steelyard.upstream.sse import EventReader

log = structlog.get_logger()

WITHHELD = frozenset(
    {
        *("model", "n", "best_of", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
        *("service_tier", "store", "models", "provider", "route", "plugins", "transforms"),
        *("anthropic_beta", "echo", "prompt_logprobs", "chat_template", "kv_transfer_params", "use_beam_search"),
    }
)
"""Ours to set, or not a customer's to choose: they change what is counted, what we pay, or who answers.
A beta of another dialect means nothing here."""

_ALWAYS = {"stream": Raw(b"true"), "stream_options": Raw(b'{"include_usage":true}')}


class OpenAI:
    """One server behind the Upstream Protocol. The pool is shared and not closed here."""

    def __init__(self, name: str, pool: Pool, api_key: str) -> None:
        self._name = name
        self._pool = pool
        self._credential = Credential(name, api_key)
        self._headers = self._credential.headers(
            content_type="application/json", accept="application/json, text/event-stream", authorization="Bearer {key}"
        )

    @property
    def name(self) -> str:
        return self._name

    async def stream(
        self, offer: Offer, params: dict[str, Raw], max_tokens: int, request_id: bytes
    ) -> AsyncGenerator[Event, None]:
        """See `Upstream.stream`. Counts before the closing ones are lower estimates unless the server tells its own."""
        path = "/completions" if "prompt" in params else "/chat/completions"
        response = await self._pool.request(self._request(offer, "POST", path, _body(offer, params, max_tokens)))
        try:
            if response.status != 200:
                raise await self._refusal(response)
            if not response.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
                raise UpstreamError(self._name, "answered without a stream of events")
            events = EventReader(self._name)
            answer = Answer(self._name, _asked_bytes(params), _stops(params))
            failure: UpstreamError | None = None
            while read := await response.read():
                try:
                    for data in events.feed(read):
                        answer.take(data)
                except UpstreamError as error:
                    failure = error  # what came before it is delivered
                if (event := answer.event()) is not None:
                    yield event
                if failure is not None:
                    raise failure
                if answer.done:
                    break
            if answer.done:
                response.release()
            yield answer.end()
        except UpstreamError as error:
            raise self._credential.veiled(error) from None
        finally:
            response.close()

    async def read(self, offer: Offer, capability: Capability, params: dict[str, Raw]) -> Event:
        fields = {name: value for name, value in params.items() if name not in WITHHELD}
        body = msgspec.json.encode({**fields, "model": offer.upstream_model})
        try:
            async with await self._pool.request(self._request(offer, "POST", PATHS[capability], body)) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                said = await response.body(limits.READING_ANSWER_BYTES_MAX)
            read = answer_of(self._name, capability, params, said)
        except UpstreamError as error:
            raise self._credential.veiled(error) from None
        if read.estimated:
            log.warning("usage_estimated", upstream=self._name)
        return read

    async def count(self, offer: Offer, params: dict[str, Raw]) -> int | None:
        return None  # the dialect has no word for it

    async def ready(self, offer: Offer) -> bool:
        try:
            async with await self._pool.request(self._request(offer, "GET", "/models")) as response:
                await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
                return response.status == 200
        except UpstreamError:
            return False

    async def _refusal(self, response: Response) -> UpstreamError:
        body = await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
        return refusal(self._name, body, response.status, response.headers.get(b"retry-after", b""))

    def _request(self, offer: Offer, method: str, path: str, body: bytes = b"") -> Request:
        at = address_of(offer.address)
        return Request(self._name, at.host, at.port, method, at.api(path), self._headers, body, at.tls)


def _body(offer: Offer, params: dict[str, Raw], max_tokens: int) -> bytes:
    fields: dict[str, Any] = {name: value for name, value in params.items() if name not in WITHHELD}
    if "messages" in fields:
        fields["messages"] = without_proofs(fields["messages"])
    if "prompt" in params and "logprobs" in fields:  # a completion's `logprobs` is the number of alternatives
        fields["logprobs"] = fields.pop("top_logprobs", 1)
    fields["model"] = offer.upstream_model
    fields["max_tokens"] = max_tokens
    return msgspec.json.encode(fields | _ALWAYS)


def _asked_bytes(params: dict[str, Raw]) -> int:
    """How much text the model reads, for estimates of a prompt."""
    return sum(len(bytes(params[name])) for name in ("messages", "prompt", "tools") if name in params)


def _stops(params: dict[str, Raw]) -> list[str]:
    """The texts that end an answer."""
    raw = params.get("stop")
    stops: str | list[str] = [] if raw is None else msgspec.json.decode(raw, type=str | list[str])
    return [stops] if isinstance(stops, str) else stops
