"""POST /v1/embeddings: OpenAI's dialect of vectors, asked and answered.

Owns validation (every error names the field) and the two formats of a vector: numbers as the model gave them, or
their 32-bit floats, little-endian, in base64. Nothing is cut here, neither an input nor a vector.
"""

import base64
import sys
from array import array
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from steelyard.gateway.chat_dialect import Chat
from steelyard.gateway.chat_request import HARMLESS
from steelyard.gateway.completion_request import ADDED_TOKENS, TokenIds
from steelyard.gateway.dialect import Asked
from steelyard.gateway.json_body import read_json
from steelyard.gateway.reading_answer import ReadingBody
from steelyard.gateway.wire import Body, Heads
from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request
from steelyard.kernel.offers import Capability
from steelyard.kernel.records import Order


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """The fields we read."""

    model: Annotated[str, Meta(min_length=1)]
    input: Raw
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=limits.DIMENSIONS_MAX)] | None = None
    stream: bool | None = None


_READ_HERE = frozenset({"model", "encoding_format", "stream"})
_KNOWN = frozenset(EmbeddingRequest.__struct_fields__) | HARMLESS
_REFUSED = {"messages": "/v1/chat/completions", "prompt": "/v1/completions", "documents": "/v1/rerank"}
_request_decoder = msgspec.json.Decoder(EmbeddingRequest)
_vector_decoder = msgspec.json.Decoder(list[float])
_shapes: tuple[tuple[msgspec.json.Decoder[Any], bool], ...] = (
    (msgspec.json.Decoder(str), False),
    (msgspec.json.Decoder(list[str]), True),
    (msgspec.json.Decoder(TokenIds), False),
    (msgspec.json.Decoder(list[TokenIds]), True),
)
"""What an input may be, and whether it is a list of inputs."""


class Embeddings(Chat):
    name = b"embeddings"

    def read(self, body: Body, heads: Heads, request_id: bytes, created_ns: int) -> Asked:
        request, fields = read_json(bytes(body), _request_decoder)
        for name, place in _REFUSED.items():
            if name in fields:
                raise bad_request(f"'{name}' belongs to {place}; here send 'input'.", name)
        if request.stream:
            raise bad_request("'stream' is not possible: an embedding comes whole.", "stream")
        inputs = inputs_of(request.input)
        unknown = tuple(sorted(fields.keys() - _KNOWN))
        params = {name: raw for name, raw in fields.items() if name not in _READ_HERE and name not in HARMLESS}
        params["input"] = Raw(msgspec.json.encode(inputs))
        order = Order(
            request_id=request_id,
            model=request.model,
            params=params,
            prompt_tokens_max=sum(map(tokens_max, inputs)),
            max_tokens=0,
            sequences=1,
            stream=False,
            capability=Capability.EMBEDDING,
            parts=len(inputs),
        )
        packed = request.encoding_format == "base64"

        def compose(found: tuple[Raw, ...], usage: dict[str, Any]) -> dict[str, Any]:
            vectors = [packed_vector(vector) for vector in found] if packed else found
            data = [{"object": "embedding", "index": place, "embedding": one} for place, one in enumerate(vectors)]
            return {"object": "list", "data": data, "model": request.model, "usage": usage}

        return Asked(order, ReadingBody(compose), unknown)


def inputs_of(raw: Raw) -> list[str] | list[TokenIds]:
    """The inputs one by one. Raises CallerError 400."""
    for decoder, is_list in _shapes:
        try:
            found = decoder.decode(raw)
        except msgspec.ValidationError:
            continue
        inputs: list[str] | list[TokenIds] = found if is_list else [found]
        if not inputs:
            raise bad_request("'input' must not be empty.", "input")
        if len(inputs) > limits.EMBEDDING_INPUTS_MAX:
            message = f"'input' has {len(inputs)} inputs; at most {limits.EMBEDDING_INPUTS_MAX} are read at once."
            raise bad_request(message, "input")
        for place, one in enumerate(inputs):
            if not one:
                where = f"input[{place}]" if is_list else "input"
                raise bad_request(f"'{where}' must not be empty.", where)
        return inputs
    raise bad_request("'input' must be a text, a list of texts, a list of token ids or a list of such lists.", "input")


def tokens_max(part: str | TokenIds) -> int:
    """No byte-level tokenizer makes more tokens than bytes."""
    return ADDED_TOKENS + (len(part.encode()) if isinstance(part, str) else len(part))


def packed_vector(vector: Raw) -> str:
    """A list of numbers as 32-bit floats in base64."""
    floats = array("f", _vector_decoder.decode(vector))
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()
