"""The adapter for any server of Anthropic's Messages API: Anthropic's own, and vendors that offer its dialect.

Owns the exchange: what is sent where, how an answer or a refusal comes back, how a prompt is counted. Always streamed
and metered. Knows no money and no customer dialect.
"""

import msgspec
from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.address import address_of
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.records import Event
from steelyard.upstream.anthropic_answer import Answer
from steelyard.upstream.anthropic_fault import refusal
from steelyard.upstream.anthropic_names import in_canonical_words
from steelyard.upstream.anthropic_request import Sent, request_of
from steelyard.upstream.credential import Credential
from steelyard.upstream.head import header_block
from steelyard.upstream.hearing import Heard
from steelyard.upstream.pool import Pool, Request, Response
from steelyard.upstream.protocol import Events, writes_only

VERSION = "2023-06-01"
"""The dialect's version that every server of it knows. Ours, not the customer's: his answer is made here."""


class _Counted(msgspec.Struct):
    input_tokens: int


_counted_decoder = msgspec.json.Decoder(_Counted)


class _Voice:
    """How the server refuses what was sent; see `hearing.Voice`."""

    def __init__(self, upstream: str, credential: Credential, sent: Sent) -> None:
        self._upstream = upstream
        self._credential = credential
        self._sent = sent

    def refusal(self, response: Response, body: bytes) -> UpstreamError:
        if response.status == 200:
            return UpstreamError(self._upstream, "answered without a stream of events")
        error = refusal(self._upstream, body, response.status, response.header(b"retry-after"))
        return in_canonical_words(error, self._sent)

    def veiled(self, error: UpstreamError) -> UpstreamError:
        return self._credential.veiled(error)


class Anthropic:
    """One server behind the Upstream Protocol. The pool is shared and not closed here."""

    def __init__(self, name: str, pool: Pool, api_key: str) -> None:
        self._name = name
        self._pool = pool
        self._credential = Credential(name, api_key)
        self._headers = self._credential.headers(
            content_type="application/json", anthropic_version=VERSION, x_api_key="{key}"
        )

    @property
    def name(self) -> str:
        return self._name

    def stream(
        self, offer: Offer, params: dict[str, Raw], max_tokens: int, request_id: bytes, whole: bool = False
    ) -> Events:
        """See `Upstream.stream`. The prompt's counts are exact from the first event, the output's at the last."""
        sent = request_of(self._name, offer, params, max_tokens)
        to = self._pool.destination(self._request(offer, "/v1/messages", sent, sent.body))
        voice = _Voice(self._name, self._credential, sent)
        return Heard(self._pool, to, sent.body, voice, Answer(self._name, len(sent.body)))

    async def read(self, offer: Offer, capability: Capability, params: dict[str, Raw]) -> Event:
        raise writes_only(self._name, capability)  # the dialect has no place for it

    async def count(self, offer: Offer, params: dict[str, Raw]) -> int | None:
        """The vendor's own count of what `stream` would send; None where it has none."""
        sent = request_of(self._name, offer, params, offer.max_output_tokens)
        request = self._request(offer, "/v1/messages/count_tokens", sent, sent.counted)
        voice = _Voice(self._name, self._credential, sent)
        async with await self._pool.request(request) as response:
            body = await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
            if response.status in {404, 405, 501}:
                return None
            if response.status != 200:
                raise voice.veiled(voice.refusal(response, body))
        try:
            return _counted_decoder.decode(body).input_tokens
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise UpstreamError(self._name, "answered a count that cannot be read") from None

    async def ready(self, offer: Offer) -> bool:
        """Whether it answers HTTP at all: not every server of this dialect lists its models."""
        try:
            async with await self._pool.request(self._request(offer, "/v1/models")) as response:
                await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
                return response.status < 500 and response.status not in {401, 403}
        except UpstreamError:
            return False

    def _request(self, offer: Offer, path: str, sent: Sent | None = None, body: bytes = b"") -> Request:
        at = address_of(offer.address)
        headers = self._headers
        if sent is not None and sent.betas:
            headers += header_block({"anthropic-beta": sent.betas})
        method = "POST" if body else "GET"
        base = at.base.removesuffix("/v1")  # what clients of this dialect are given ends before it; others' does not
        return Request(self._name, at.host, at.port, method, f"{base}{path}", headers, body, at.tls)
