"""The adapter for DashScope's own API: what is sent where, and how an answer or a refusal comes back.

Always streamed, and asked for what is new only; a model that sends all of it again is read all the same. Knows no money
and no customer dialect.
"""

from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.address import address_of
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.records import Event
from steelyard.upstream.credential import Credential
from steelyard.upstream.dashscope import FAULTS
from steelyard.upstream.dashscope_native_answer import Answer
from steelyard.upstream.dashscope_native_request import request_of
from steelyard.upstream.hearing import Heard
from steelyard.upstream.openai_fault import refusal
from steelyard.upstream.pool import Pool, Request, Response
from steelyard.upstream.protocol import Events, writes_only
from steelyard.upstream.vendor import Asked

_BASE = "/api/v1"
"""Where the API begins, unless the address says it."""


class DashScopeNative:
    """One server behind the Upstream Protocol. The pool is shared and not closed here."""

    def __init__(self, name: str, pool: Pool, api_key: str) -> None:
        self._name = name
        self._pool = pool
        self._credential = Credential(name, api_key)
        self._headers = self._credential.headers(
            content_type="application/json",
            accept="text/event-stream",
            x_dashscope_sse="enable",
            authorization="Bearer {key}",
        )

    @property
    def name(self) -> str:
        return self._name

    def stream(
        self, offer: Offer, params: dict[str, Raw], max_tokens: int, request_id: bytes, whole: bool = False
    ) -> Events:
        """See `Upstream.stream`. Counts are the vendor's own from the first event."""
        asked = Asked(self._name, offer.upstream_model, params, max_tokens)
        sent = request_of(asked)
        to = self._pool.destination(self._request(offer, "POST", sent.path))
        return Heard(self._pool, to, sent.body, self, Answer(asked))

    async def read(self, offer: Offer, capability: Capability, params: dict[str, Raw]) -> Event:
        raise writes_only(self._name, capability)

    async def count(self, offer: Offer, params: dict[str, Raw]) -> int | None:
        return None  # its tokenizer is another service, for some of its models

    async def ready(self, offer: Offer) -> bool:
        """Whether it answers HTTP at all and takes our key."""
        try:
            async with await self._pool.request(self._request(offer, "GET", "/models")) as response:
                await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
                return response.status < 500 and response.status not in {401, 403}
        except UpstreamError:
            return False

    def refusal(self, response: Response, body: bytes) -> UpstreamError:
        """See `hearing.Voice`."""
        return refusal(self._name, body, response.status, response.header(b"retry-after"), FAULTS)

    def veiled(self, error: UpstreamError) -> UpstreamError:
        """See `hearing.Voice`."""
        return self._credential.veiled(error)

    def _request(self, offer: Offer, method: str, path: str, body: bytes = b"") -> Request:
        at = address_of(offer.address)
        return Request(self._name, at.host, at.port, method, f"{at.base or _BASE}{path}", self._headers, body, at.tls)
