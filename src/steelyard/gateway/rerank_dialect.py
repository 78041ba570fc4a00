"""POST /v1/rerank: documents put in the order of a query, in the shape Jina, Cohere, vLLM and SiliconFlow share.

Owns validation (every error names the field), the order and the cut to `top_n`: an upstream is asked for all scores,
because reading all documents is what is paid for. What a document is shown as is what the customer sent.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from steelyard.gateway.chat_dialect import Chat
from steelyard.gateway.chat_request import HARMLESS
from steelyard.gateway.completion_request import ADDED_TOKENS
from steelyard.gateway.dialect import Asked
from steelyard.gateway.json_body import read_json
from steelyard.gateway.reading_answer import ReadingBody
from steelyard.gateway.wire import Body, Heads
from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.offers import Capability
from steelyard.kernel.records import Order


class Document(msgspec.Struct):
    """A document as an object; only its text is read."""

    text: str


class RerankRequest(msgspec.Struct, kw_only=True):
    """The fields we read."""

    model: Annotated[str, Meta(min_length=1)]
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=limits.RERANK_DOCUMENTS_MAX)]
    top_n: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    return_documents: bool | None = None


_READ_HERE = frozenset({"model", "top_n", "return_documents"})
_KNOWN = frozenset(RerankRequest.__struct_fields__) | HARMLESS
_request_decoder = msgspec.json.Decoder(RerankRequest)
_score_decoder = msgspec.json.Decoder(float)


class Rerank(Chat):
    name = b"rerank"

    def read(self, body: Body, heads: Heads, request_id: bytes, created_ns: int) -> Asked:
        request, fields = read_json(bytes(body), _request_decoder)
        texts = [one if isinstance(one, str) else one.text for one in request.documents]
        for place, text in enumerate(texts):
            if not text:
                raise bad_request(f"'documents[{place}]' must not be empty.", f"documents[{place}]")
        unknown = tuple(sorted(fields.keys() - _KNOWN))
        params = {name: raw for name, raw in fields.items() if name not in _READ_HERE and name not in HARMLESS}
        params["documents"] = Raw(msgspec.json.encode(texts))
        pair_tokens = len(request.query.encode()) + 2 * ADDED_TOKENS  # some models read the query with each document
        order = Order(
            request_id=request_id,
            model=request.model,
            params=params,
            prompt_tokens_max=sum(pair_tokens + len(text.encode()) for text in texts) + pair_tokens,
            max_tokens=0,
            sequences=1,
            stream=False,
            capability=Capability.RERANK,
            parts=len(texts) + 1,
        )

        def compose(found: tuple[Raw, ...], usage: dict[str, Any]) -> dict[str, Any]:
            results = ranked(found, texts, request.top_n, request.return_documents is not False)
            tokens = {"input_tokens": usage["prompt_tokens"], "output_tokens": 0}
            answer = {"object": "list", "model": request.model, "results": results}
            return {"id": f"rerank-{text_from_id(request_id)}", **answer, "usage": usage, "meta": {"tokens": tokens}}

        return Asked(order, ReadingBody(compose), unknown)


def ranked(scores: tuple[Raw, ...], texts: list[str], top_n: int | None, with_documents: bool) -> list[dict[str, Any]]:
    """The best first; of equal scores the earlier document."""
    values = [_score_decoder.decode(score) for score in scores]
    places = sorted(range(len(texts)), key=lambda place: -values[place])[:top_n]
    results = []
    for place in places:
        result: dict[str, Any] = {"index": place, "relevance_score": scores[place]}
        results.append({**result, "document": {"text": texts[place]}} if with_documents else result)
    return results
