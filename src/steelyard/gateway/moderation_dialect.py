"""POST /v1/moderations: OpenAI's dialect of judgements about contents.

Owns validation and the answer's frame; judgements are passed on as the upstream's model gave them. There is no model of
that kind in the house: a refusal says how one is offered.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from steelyard.gateway.chat_dialect import Chat
from steelyard.gateway.chat_request import HARMLESS
from steelyard.gateway.completion_request import ADDED_TOKENS
from steelyard.gateway.dialect import Asked
from steelyard.gateway.json_body import read_json
from steelyard.gateway.reading_answer import ReadingBody
from steelyard.gateway.wire import Body, Headers, Heads
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.offers import Capability
from steelyard.kernel.records import Order

_MODEL_DEFAULT = "omni-moderation-latest"  # of the dialect
_HOW_TO_OFFER = (
    " To have contents judged here, the operator offers a model that does it: `steelyard models offer NAME --for "
    "moderation …`."
)


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    text: Annotated[str, Meta(min_length=1)]


class ImageUrl(msgspec.Struct):
    url: Annotated[str, Meta(min_length=1)]


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    image_url: ImageUrl


Texts = Annotated[list[str], Meta(min_length=1, max_length=limits.MODERATION_INPUTS_MAX)]
Parts = Annotated[list[TextPart | ImagePart], Meta(min_length=1, max_length=limits.MODERATION_INPUTS_MAX)]


class ModerationRequest(msgspec.Struct, kw_only=True):
    """The fields we read."""

    input: Raw
    model: Annotated[str, Meta(min_length=1)] | None = None
    stream: Literal[False] | None = None


_READ_HERE = frozenset({"model", "stream"})
_KNOWN = frozenset(ModerationRequest.__struct_fields__) | HARMLESS
_request_decoder = msgspec.json.Decoder(ModerationRequest)
_text_decoder = msgspec.json.Decoder(str)
_texts_decoder = msgspec.json.Decoder(Texts)
_parts_decoder = msgspec.json.Decoder(Parts)


class Moderations(Chat):
    name = b"moderations"

    def read(self, body: Body, heads: Heads, request_id: bytes, created_ns: int) -> Asked:
        request, fields = read_json(bytes(body), _request_decoder)
        inputs, tokens_max = judged(request.input)
        model = request.model or _MODEL_DEFAULT
        unknown = tuple(sorted(fields.keys() - _KNOWN))
        params = {name: raw for name, raw in fields.items() if name not in _READ_HERE and name not in HARMLESS}
        params["input"] = Raw(msgspec.json.encode(inputs))
        order = Order(
            request_id=request_id,
            model=model,
            params=params,
            prompt_tokens_max=tokens_max,
            max_tokens=0,
            sequences=1,
            stream=False,
            capability=Capability.MODERATION,
            parts=len(inputs),
        )

        def compose(found: tuple[Raw, ...], usage: dict[str, Any]) -> dict[str, Any]:
            return {"id": f"modr-{text_from_id(request_id)}", "model": model, "results": found, "usage": usage}

        return Asked(order, ReadingBody(compose), unknown)

    def refusal(self, error: CallerError, request_id: bytes) -> tuple[int, Headers, bytes]:
        if error.code in {"model_not_found", "wrong_capability"}:
            error = CallerError(error.status, error.code, error.message + _HOW_TO_OFFER, param=error.param)
        return super().refusal(error, request_id)


def judged(raw: Raw) -> tuple[list[str] | list[TextPart | ImagePart], int]:
    """What is to be judged, and the tokens it can have at most. Raises CallerError 400."""
    try:
        texts = [_text_decoder.decode(raw)]
    except msgspec.ValidationError:
        try:
            texts = _texts_decoder.decode(raw)
        except msgspec.ValidationError:
            return _parts(raw)
    for place, text in enumerate(texts):
        if not text:
            where = f"input[{place}]" if len(texts) > 1 else "input"
            raise bad_request(f"'{where}' must not be empty.", where)
    return texts, sum(ADDED_TOKENS + len(text.encode()) for text in texts)


def _parts(raw: Raw) -> tuple[list[TextPart | ImagePart], int]:
    try:
        parts = _parts_decoder.decode(raw)
    except msgspec.ValidationError:
        raise bad_request(
            f"'input' must be a text, a list of texts, or a list of parts of the types text and image_url; at most "
            f"{limits.MODERATION_INPUTS_MAX} of them.",
            "input",
        ) from None
    sizes = [len(part.text.encode()) if isinstance(part, TextPart) else limits.PART_TOKENS_MAX for part in parts]
    return parts, sum(ADDED_TOKENS + size for size in sizes)
