"""The adapter for any server of OpenAI's chat dialect (vLLM, SGLang, Ollama, vendors).

Owns the exchange: what is sent where, with which credential, and how an answer or a refusal comes back. What one vendor
does differently stands in its `Vendor`. Knows no money and no customer dialect.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.address import address_of
from steelyard.kernel.clock import Clock, SystemClock
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.records import Event
from steelyard.upstream.balance import Balance
from steelyard.upstream.credential import Credential, Signed
from steelyard.upstream.hearing import Heard
from steelyard.upstream.openai_answer import Answer
from steelyard.upstream.openai_fault import refusal
from steelyard.upstream.openai_reading import PATHS, answer_of
from steelyard.upstream.openai_whole import WholeAnswer
from steelyard.upstream.pool import Destination, Pool, Request, Response
from steelyard.upstream.protocol import Events
from steelyard.upstream.vendor import ANY_VENDOR, WITHHELD, Asked, Vendor, fields_of
from steelyard.upstream.whose import not_carried

log = structlog.get_logger()

_LINES = {
    "content_type": "application/json",
    "accept": "application/json, text/event-stream",
    "authorization": "Bearer {key}",
}
_encode = msgspec.json.encode
Fields = Callable[[Asked], dict[str, Any]]


class OpenAI:
    """One server behind the Upstream Protocol. The pool is shared and not closed here."""

    def __init__(
        self, name: str, pool: Pool, api_key: str, vendor: Vendor = ANY_VENDOR, clock: Clock | None = None
    ) -> None:
        self._name = name
        self._pool = pool
        self._vendor = vendor
        self._credential = Credential(name, api_key)
        lines = {**_LINES, **vendor.headers}
        self._signed = vendor.token and Signed(self._credential, lines, vendor.token, clock or SystemClock())
        self._headers = b"" if self._signed else self._credential.headers(**lines)
        self._known: dict[tuple[str, str, str], tuple[Destination, Fields]] = {}  # by address, path and model

    @property
    def name(self) -> str:
        return self._name

    def stream(
        self, offer: Offer, params: dict[str, Raw], max_tokens: int, request_id: bytes, whole: bool = False
    ) -> Events:
        """See `Upstream.stream`. Counts before the closing ones are lower estimates unless the server tells its own."""
        vendor = self._vendor
        path = vendor.completion_path if "prompt" in params else vendor.chat_path
        if not path:
            raise not_carried(self._name, "prompt", "this model answers conversations only; ask /v1/chat/completions")
        asked = Asked(self._name, offer.upstream_model, params, max_tokens, whole)
        try:
            to, fields = self._known[offer.address, path, offer.upstream_model]
        except KeyError:
            to, fields = self._way(offer, path)
        body = _encode(fields(asked))
        if whole:
            return Heard(self._pool, to, body, self, None, WholeAnswer(asked, vendor))
        return Heard(self._pool, to, body, self, Answer(vendor, asked))

    async def read(self, offer: Offer, capability: Capability, params: dict[str, Raw]) -> Event:
        fields = {name: value for name, value in params.items() if name not in WITHHELD}
        body = _encode({**fields, "model": offer.upstream_model})
        said = await self._answer(self._request(offer, "POST", PATHS[capability], body))
        read = answer_of(self._name, capability, params, said)
        if read.estimated:
            log.warning("usage_estimated", upstream=self._name)
        return read

    async def count(self, offer: Offer, params: dict[str, Raw]) -> int | None:
        at = self._vendor.count  # the dialect itself has no word for it
        if at is None or "prompt" in params:
            return None
        fields = at.fields(self._vendor.fields(Asked(self._name, offer.upstream_model, params, 1)))
        if fields is None:
            return None
        return at.read(await self._answer(self._request(offer, "POST", at.path, _encode(fields))))

    async def balance(self, offer: Offer) -> tuple[Balance, ...] | None:
        """What is left of our money there, one for each currency; None where it cannot be asked. Raises
        UpstreamError as `stream` does."""
        at = self._vendor.balance
        if at is None:
            return None
        place = address_of(offer.address)
        path = f"{place.base.removesuffix('/v1')}{at.path}"
        said = await self._answer(self._request(offer, "GET", path, is_whole=True))
        return at.of(self._name, said, place.host)

    async def ready(self, offer: Offer) -> bool:
        """Whether it answers HTTP and takes the key: not every vendor lists its models."""
        try:
            async with await self._pool.request(self._request(offer, "GET", "/models")) as response:
                await response.body(limits.UPSTREAM_ERROR_BYTES_MAX)
                return response.status < 500 and response.status not in {401, 403}
        except UpstreamError:
            return False

    def refusal(self, response: Response, body: bytes) -> UpstreamError:
        """See `hearing.Voice`."""
        wait = response.header(b"retry-after")
        return refusal(self._name, body, response.status, wait, self._vendor.faults)

    def veiled(self, error: UpstreamError) -> UpstreamError:
        """See `hearing.Voice`."""
        return self._credential.veiled(error)

    async def _answer(self, request: Request) -> bytes:
        """The body of an answer that is no stream."""
        try:
            async with await self._pool.request(request) as response:
                if response.status != 200:
                    raise self.refusal(response, await response.body(limits.UPSTREAM_ERROR_BYTES_MAX))
                return await response.body(limits.READING_ANSWER_BYTES_MAX)
        except UpstreamError as error:
            raise self.veiled(error) from None

    def _way(self, offer: Offer, path: str) -> tuple[Destination, Fields]:
        """Where orders for an offer go, and what makes bodies of them."""
        vendor = self._vendor
        fields = vendor.fields
        if vendor.is_own is not None and not vendor.is_own(offer.upstream_model):
            fields = vendor.at_host.get(address_of(offer.address).host, fields_of)
        way = self._pool.destination(self._request(offer, "POST", path)), fields
        if not self._signed:  # whose headers do not stay as they are
            if len(self._known) >= limits.ADDRESSES_KNOWN_MAX:
                self._known.clear()
            self._known[offer.address, path, offer.upstream_model] = way
        return way

    def _request(self, offer: Offer, method: str, path: str, body: bytes = b"", *, is_whole: bool = False) -> Request:
        """`path` lies below the API, unless it `is_whole`."""
        at = address_of(offer.address)
        headers = self._signed.block() if self._signed else self._headers
        place = path if is_whole else f"{at.base or self._vendor.base}{path}"
        return Request(self._name, at.host, at.port, method, place, headers, body, at.tls)
