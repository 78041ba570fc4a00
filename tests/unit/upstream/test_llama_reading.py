"""Embeddings and ranks of the engine: one input at a time, each counted, none cut."""

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.fakes.engine import Exchange, offer_at, scripted

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.upstream.llama_cpp import LlamaCpp
from steelyard.upstream.pool import Pool

VECTORS = {"north": [1.0, 0.0], "east": [0.0, 1.0], "between": [0.6, 0.8]}


async def engine(exchange: Exchange) -> None:
    """As many tokens as words and two; knows three words, and no id above 9."""
    body = json.loads(exchange.body)
    if b" /tokenize " in exchange.head:
        tokens = [{"id": 1}] * (len(body["content"].split()) + 2)
        return await exchange.answer(json.dumps({"tokens": tokens}).encode())
    one = body["input"]
    if isinstance(one, list) and max(one) > 9:
        return await exchange.answer(b'{"error":{"code":400,"message":"Prompt contains invalid tokens"}}', 400)
    tokens = len(one) if isinstance(one, list) else len(one.split()) + 2
    data = [{"embedding": VECTORS.get(one if isinstance(one, str) else "north", [0.5, 0.5]), "index": 0}]
    return await exchange.answer(json.dumps({"data": data, "usage": {"prompt_tokens": tokens}}).encode())


async def read(capability: Capability, context: int = 2048, **params: Any) -> tuple[Event, list[bytes]]:
    encoded = {name: Raw(msgspec.json.encode(value)) for name, value in params.items()}
    async with scripted(engine) as server:
        pool = Pool()
        try:
            offer = msgspec.structs.replace(offer_at(server.port), context_tokens=context)
            event = await LlamaCpp("local", pool, "key").read(offer, capability, encoded)
        finally:
            await pool.close()
        return event, [exchange.head.split()[1] for exchange in server.exchanges]


def found(event: Event) -> list[Any]:
    return [json.loads(bytes(raw)) for raw in event.found]


async def test_inputs_go_one_by_one_and_their_counts_add_up() -> None:
    event, places = await read(Capability.EMBEDDING, input=["north", "east", "between"], user="x")
    assert found(event) == [VECTORS["north"], VECTORS["east"], VECTORS["between"]]
    assert (event.usage, event.finish, event.estimated) == (Usage(9), "stop", False)
    assert places == [b"/v1/embeddings"] * 3


async def test_a_rank_is_a_cosine_and_the_query_is_counted_once() -> None:
    event, _ = await read(Capability.RERANK, query="north", documents=["between", "east", "north"])
    assert found(event) == [0.6, 0.0, 1.0]
    assert event.usage == Usage(4 * 3)


@pytest.mark.parametrize(
    ("params", "where", "places"),
    [
        ({"input": ["a", "w " * 20]}, "input[1]", [b"/tokenize"]),
        ({"input": ["w " * 20]}, "input", [b"/tokenize"]),
        ({"input": [[1] * 21]}, "input", []),
        ({"input": ["x" * 128 * 21]}, "input", []),  # no use to count so much
    ],
)
async def test_what_is_too_long_is_refused_by_name_before_anything_is_read(
    params: Any, where: str, places: list[bytes]
) -> None:
    seen: list[bytes] = []

    async def watched(exchange: Exchange) -> None:
        seen.append(exchange.head.split()[1])
        await engine(exchange)

    async with scripted(watched) as server:
        pool = Pool()
        encoded = {name: Raw(msgspec.json.encode(value)) for name, value in params.items()}
        offer = msgspec.structs.replace(offer_at(server.port), context_tokens=20)
        with pytest.raises(UpstreamError) as caught:
            await LlamaCpp("local", pool, "key").read(offer, Capability.EMBEDDING, encoded)
        await pool.close()
    assert (caught.value.status, caught.value.param, seen) == (400, where, places)
    assert f"'{where}' has 2" in caught.value.message and "holds 20 tokens" in caught.value.message


async def test_what_just_fits_is_read() -> None:
    event, places = await read(Capability.EMBEDDING, 20, input=["w " * 18, [1] * 20])
    assert event.usage == Usage(40)
    assert places == [b"/tokenize", b"/v1/embeddings", b"/v1/embeddings"]


async def test_ids_of_another_vocabulary_are_refused_by_name() -> None:
    with pytest.raises(UpstreamError, match=r"'input\[1\]' has token ids.*vocabulary") as caught:
        await read(Capability.EMBEDDING, input=[[1], [10]])
    assert (caught.value.status, caught.value.param) == (400, "input[1]")


async def test_no_vector_is_cut_to_the_dimensions_asked_for() -> None:
    event, _ = await read(Capability.EMBEDDING, input=["north"], dimensions=2)
    assert found(event) == [[1.0, 0.0]]
    with pytest.raises(UpstreamError) as caught:
        await read(Capability.EMBEDDING, input=["north", "east"], dimensions=1)
    assert (caught.value.status, caught.value.param) == (400, "dimensions")


async def test_it_judges_nothing() -> None:
    with pytest.raises(UpstreamError) as caught:
        await read(Capability.MODERATION, input=["north"])
    assert caught.value.status == 400
