"""How llama.cpp's server is asked for embeddings and ranks: one input after the other, each counted by itself.

Owns that order. The engine would read the inputs of one call in all its slots at once, and its energy clock would take
them for so many requests; a batch was measured to cost as much CPU time as its inputs one by one. Nothing is cut: an
input beyond the context is refused by name before any is read. A rank is the cosine of two vectors.
"""

from collections.abc import Awaitable, Callable, Sequence
from operator import mul
from typing import Any

import msgspec
from msgspec import Raw

from steelyard.kernel import limits
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.upstream.openai_reading import dimensions_refused

Ask = Callable[[str, object], Awaitable[bytes]]
"""Gets a path and a body, gives the body of the answer. Raises UpstreamError."""

Input = str | list[int]
_ADDED_TOKENS = 8  # what a tokenizer puts around an input, at most


class _Vector(msgspec.Struct):
    embedding: Raw


class _Usage(msgspec.Struct):
    prompt_tokens: int


class _Embedded(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage


class _Tokens(msgspec.Struct):
    tokens: list[Any]


_encode = msgspec.json.encode
_embedded_decoder = msgspec.json.Decoder(_Embedded)
_tokens_decoder = msgspec.json.Decoder(_Tokens)
_inputs_decoder = msgspec.json.Decoder(list[str | list[int]])
_texts_decoder = msgspec.json.Decoder(list[str])
_numbers_decoder = msgspec.json.Decoder(list[float])


class Reader:
    """One order to an engine whose model has `context_tokens` of context."""

    def __init__(self, upstream: str, ask: Ask, context_tokens: int) -> None:
        self._upstream = upstream
        self._ask = ask
        self._context_tokens = context_tokens
        self._tokens = 0

    async def read(self, capability: Capability, params: dict[str, Raw]) -> Event:
        """Raises UpstreamError 400 for an input that cannot be read."""
        if capability is Capability.EMBEDDING:
            found = await self._embeddings(params)
        else:
            found = await self._scores(params)
        return Event(usage=Usage(self._tokens), finish="stop", found=tuple(found))

    async def _embeddings(self, params: dict[str, Raw]) -> list[Raw]:
        inputs = _inputs_decoder.decode(params["input"])
        names = [f"input[{place}]" for place in range(len(inputs))] if len(inputs) > 1 else ["input"]
        await self._refuse_too_long(names, inputs)
        found: list[Raw] = []
        for name, one in zip(names, inputs, strict=True):
            found.append(await self._vector(name, one))
            if len(found) == 1:
                dimensions_refused(self._upstream, params, found[0])
        return found

    async def _scores(self, params: dict[str, Raw]) -> list[Raw]:
        query, documents = msgspec.json.decode(params["query"], type=str), _texts_decoder.decode(params["documents"])
        names = ["query", *(f"documents[{place}]" for place in range(len(documents)))]
        await self._refuse_too_long(names, [query, *documents])
        wanted = _numbers_decoder.decode(await self._vector("query", query))
        found: list[Raw] = []
        for name, document in zip(names[1:], documents, strict=True):
            vector = _numbers_decoder.decode(await self._vector(name, document))
            found.append(Raw(_encode(sum(map(mul, wanted, vector)))))  # of vectors of length one: their cosine
        return found

    async def _vector(self, name: str, one: Input) -> Raw:
        try:
            answer = _embedded_decoder.decode(await self._ask("/v1/embeddings", {"input": one}))
            [vector] = answer.data
        except UpstreamError as error:
            if error.status == 400 and not isinstance(one, str):
                message = f"'{name}' has token ids that this model's vocabulary does not have. Send the text instead."
                raise UpstreamError(self._upstream, message, status=400, param=name) from None
            raise
        except (msgspec.DecodeError, ValueError):
            raise UpstreamError(self._upstream, "answered a vector that cannot be read") from None
        self._tokens += answer.usage.prompt_tokens
        return Raw(bytes(vector.embedding))

    async def _refuse_too_long(self, names: Sequence[str], inputs: Sequence[Input]) -> None:
        for name, one in zip(names, inputs, strict=True):
            tokens = await self._tokens_of(one)
            if tokens > self._context_tokens:
                message = (
                    f"'{name}' has {tokens} tokens, but the model's context holds {self._context_tokens} tokens. "
                    "Split it; nothing is cut here."
                )
                raise UpstreamError(self._upstream, message, status=400, param=name)

    async def _tokens_of(self, one: Input) -> int:
        """How many there are, or no fewer: what is certain to fit, or not to, is not counted."""
        if not isinstance(one, str):
            return len(one)
        size = len(one.encode())
        if size + _ADDED_TOKENS <= self._context_tokens:
            return size
        if size > self._context_tokens * limits.TOKEN_BYTES_MAX:
            return size // limits.TOKEN_BYTES_MAX + 1
        try:
            said = await self._ask("/tokenize", {"content": one, "add_special": True})
            return len(_tokens_decoder.decode(said).tokens)
        except msgspec.DecodeError:
            raise UpstreamError(self._upstream, "answered tokens that cannot be read") from None
