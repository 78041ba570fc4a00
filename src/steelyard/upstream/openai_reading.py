"""What is asked of a server of OpenAI's dialect that only reads (embeddings, ranks, judgements), and what it answers.

Owns the three shapes and the rules for their one count: the prompt's, under whichever name it comes. An answer without
one is estimated and flagged, never taken for nothing; one that does not fit what was asked is no answer.
"""

import base64
import binascii
import re
import struct
from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event

PATHS = {
    Capability.EMBEDDING: "/embeddings",
    Capability.RERANK: "/rerank",
    Capability.MODERATION: "/moderations",
}
_READ = {
    Capability.EMBEDDING: ("input",),
    Capability.RERANK: ("query", "documents"),
    Capability.MODERATION: ("input",),
}
"""The fields whose text the model reads."""

_BYTES_PER_TOKEN = 4  # of an answer without a count
_FLOAT_BYTES = 4
_NUMBERS = re.compile(rb"\[[-+0-9.eE,\s]+\]")
_encode = msgspec.json.encode


class _Tokens(msgspec.Struct):
    input_tokens: int | None = None


class _Counts(msgspec.Struct):
    """OpenAI's names; some servers tell only the total, which is the prompt's where nothing is generated."""

    prompt_tokens: int | None = None
    total_tokens: int | None = None


class _Meta(msgspec.Struct):
    tokens: _Tokens | None = None


class _Counted(msgspec.Struct):
    usage: _Counts | None = None
    tokens: _Tokens | None = None
    meta: _Meta | None = None


class _Vector(msgspec.Struct):
    embedding: Raw
    index: int | None = None


class _Vectors(_Counted):
    data: list[_Vector] = []


class _Score(msgspec.Struct):
    index: int
    relevance_score: float


class _Scores(_Counted):
    results: list[_Score] = []


class _Judgements(_Counted):
    results: list[dict[str, Any]] = []


_vectors_decoder = msgspec.json.Decoder(_Vectors)
_scores_decoder = msgspec.json.Decoder(_Scores)
_judgements_decoder = msgspec.json.Decoder(_Judgements)
_list_decoder = msgspec.json.Decoder(list[Raw])


def answer_of(upstream: str, capability: Capability, params: dict[str, Raw], body: bytes) -> Event:
    """The whole answer as one event. Raises UpstreamError for an answer that is not what was asked for."""
    if len(body) >= limits.READING_ANSWER_BYTES_MAX:
        raise UpstreamError(upstream, f"answered more than {limits.READING_ANSWER_BYTES_MAX} bytes")
    counted: _Counted
    try:
        if capability is Capability.EMBEDDING:
            counted = vectors = _vectors_decoder.decode(body)
            found = _vectors_of(upstream, vectors, params)
        elif capability is Capability.RERANK:
            counted = scores = _scores_decoder.decode(body)
            found = _scores_of(upstream, scores, params)
        else:
            counted = judgements = _judgements_decoder.decode(body)
            found = tuple(Raw(_encode(result)) for result in judgements.results)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(upstream, f"sent an answer that cannot be read ({error})") from None
    if not found:
        raise UpstreamError(upstream, "answered without a result")
    tokens = _tokens_of(counted)
    usage = Usage(tokens or _estimate(capability, params))
    return Event(usage=usage, finish="stop", estimated=not tokens, found=found)


def _vectors_of(upstream: str, answer: _Vectors, params: dict[str, Raw]) -> tuple[Raw, ...]:
    """The vectors in the order of the inputs, as the numbers that were sent."""
    inputs = len(_list_decoder.decode(params["input"]))
    placed = {place if one.index is None else one.index: one.embedding for place, one in enumerate(answer.data)}
    if sorted(placed) != list(range(inputs)) or len(answer.data) != inputs:
        raise UpstreamError(upstream, f"answered {len(answer.data)} vectors for {inputs} inputs")
    vectors = tuple(_vector(upstream, placed[place]) for place in range(inputs))
    dimensions_refused(upstream, params, vectors[0])
    return vectors


def dimensions_refused(upstream: str, params: dict[str, Raw], vector: Raw) -> None:
    """Raises UpstreamError 400 when vectors of another length were asked for: none is cut here."""
    asked, given = params.get("dimensions"), bytes(vector).count(b",") + 1
    if asked is not None and int(bytes(asked)) != given:
        message = f"This model gives vectors of {given} dimensions and no others. Ask for {given}, or for none."
        raise UpstreamError(upstream, message, status=400, param="dimensions")


def _vector(upstream: str, raw: Raw) -> Raw:
    text = bytes(raw)
    if _NUMBERS.fullmatch(text):
        return Raw(text)
    try:
        packed = base64.b64decode(msgspec.json.decode(text, type=str), validate=True)
        return Raw(_encode(struct.unpack(f"<{len(packed) // _FLOAT_BYTES}f", packed)))
    except (msgspec.ValidationError, binascii.Error, struct.error):
        raise UpstreamError(upstream, "answered a vector that is no list of numbers") from None


def _scores_of(upstream: str, answer: _Scores, params: dict[str, Raw]) -> tuple[Raw, ...]:
    """The scores in the order of the documents; all of them were asked for."""
    documents = len(_list_decoder.decode(params["documents"]))
    scores = {one.index: one.relevance_score for one in answer.results}
    if sorted(scores) != list(range(documents)):
        raise UpstreamError(upstream, f"answered {len(answer.results)} scores for {documents} documents")
    return tuple(Raw(_encode(scores[place])) for place in range(documents))


def _tokens_of(answer: _Counted) -> int:
    """0 when it does not say."""
    meta = answer.meta or _Meta()
    counts = answer.usage or _Counts()
    told = [counts.prompt_tokens, counts.total_tokens]
    told += [tokens.input_tokens for tokens in (answer.tokens, meta.tokens) if tokens is not None]
    return next((count for count in told if count and count > 0), 0)


def _estimate(capability: Capability, params: dict[str, Raw]) -> int:
    """Token ids are as many as they are; of texts a quarter of the bytes."""
    tokens = 0
    for name in _READ[capability]:
        raw = bytes(params[name])
        parts = _list_decoder.decode(raw) if raw.startswith(b"[") else [Raw(raw)]
        for part in map(bytes, parts):
            is_ids = _NUMBERS.fullmatch(part) is not None
            tokens += part.count(b",") + 1 if is_ids else -(-(len(part) - 2) // _BYTES_PER_TOKEN)
    return max(1, tokens)
