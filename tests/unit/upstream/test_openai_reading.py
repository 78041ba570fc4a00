"""Embeddings, ranks and judgements of OpenAI-compatible servers: counts, order, and answers that are none."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.emulators.openai_server import OpenAIServer
from tests.emulators.reading_scenes import vector

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.offers import Capability, Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.upstream.kinds import ByKind
from steelyard.upstream.pool import Pool

TEXTS = ["one two", "three"]


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


async def read(server: OpenAIServer, capability: Capability, **params: Any) -> Event:
    encoded = {name: Raw(msgspec.json.encode(value)) for name, value in params.items()}
    offer = Offer(1, "m", "vendor", f"127.0.0.1:{server.port}", "their-m", 512, 0, "openai", (capability,))
    pool = Pool()
    try:
        return await ByKind("vendor", pool, "secret").read(offer, capability, encoded)
    finally:
        await pool.close()


async def embedded(server: OpenAIServer, *texts: Any, **params: Any) -> Event:
    return await read(server, Capability.EMBEDDING, input=list(texts), **params)


def found(event: Event) -> list[Any]:
    return [json.loads(bytes(raw)) for raw in event.found]


async def test_vectors_come_in_the_order_of_the_inputs_with_the_servers_count(server: OpenAIServer) -> None:
    event = await embedded(server, *TEXTS)
    assert found(event) == [vector(text) for text in TEXTS]
    assert (event.usage, event.finish, event.estimated) == (Usage(3), "stop", False)
    assert server.bodies[-1] == {"model": "their-m", "input": TEXTS}
    assert server.heads[-1].startswith(b"POST /v1/embeddings ")
    assert b"Bearer secret" in server.heads[-1]


@pytest.mark.parametrize("scene", ["base64", "backwards"])
async def test_packed_and_disordered_vectors_are_put_right(server: OpenAIServer, scene: str) -> None:
    texts = [f"scene: {scene}", "another"]
    assert found(await embedded(server, *texts)) == [vector(text) for text in texts]


@pytest.mark.parametrize(("scene", "tokens"), [("usage_total", 7), ("usage_meta", 8)])
async def test_the_count_is_taken_from_wherever_it_stands(server: OpenAIServer, scene: str, tokens: int) -> None:
    event = await embedded(server, f"scene: {scene}")
    assert (event.usage, event.estimated) == (Usage(tokens), False)


async def test_an_answer_without_a_count_is_estimated_and_says_so(server: OpenAIServer) -> None:
    event = await embedded(server, "scene: usage_never", "12345678")
    assert (event.usage, event.estimated) == (Usage(5 + 2), True)  # a quarter of the bytes of each, rounded up


@pytest.mark.parametrize("scene", ["one_missing", "nan", "nothing"])
async def test_an_answer_that_does_not_fit_the_question_is_none(server: OpenAIServer, scene: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        await embedded(server, f"scene: {scene}", "another")
    assert caught.value.status == 0  # not the customer's fault


@pytest.mark.parametrize(("scene", "status", "retryable"), [("refused", 400, False), ("busy", 429, True)])
async def test_a_refusal_keeps_its_status(server: OpenAIServer, scene: str, status: int, retryable: bool) -> None:
    with pytest.raises(UpstreamError) as caught:
        await embedded(server, f"scene: {scene}")
    assert (caught.value.status, caught.value.retryable) == (status, retryable)


async def test_dimensions_that_the_server_ignored_are_refused_by_name(server: OpenAIServer) -> None:
    assert len((await embedded(server, "a", dimensions=4)).found) == 1
    with pytest.raises(UpstreamError) as caught:
        await embedded(server, "a", dimensions=3)
    assert (caught.value.status, caught.value.param) == (400, "dimensions")
    assert "4 dimensions" in caught.value.message


async def test_scores_come_in_the_order_of_the_documents(server: OpenAIServer) -> None:
    documents = ["red fox", "blue whale", "a red red fox"]
    event = await read(server, Capability.RERANK, query="red fox", documents=documents)
    assert found(event) == [0.2, 0.0, 0.2]
    assert event.usage == Usage(2 * 3 + 2 + 2 + 4)
    assert server.bodies[-1] == {"model": "their-m", "query": "red fox", "documents": documents}


async def test_a_rerank_without_all_its_scores_is_none(server: OpenAIServer) -> None:
    with pytest.raises(UpstreamError):
        await read(server, Capability.RERANK, query="scene: best_only", documents=["a", "b"])


async def test_judgements_are_passed_on_whole_and_counted_by_us(server: OpenAIServer) -> None:
    event = await read(server, Capability.MODERATION, input=["a bad word", "a good one"])
    assert [one["flagged"] for one in found(event)] == [True, False]
    assert found(event)[0]["category_scores"] == {"violence": 0.5}
    assert (event.usage, event.estimated) == (Usage(3 + 3), True)
