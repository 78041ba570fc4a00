"""Stored responses at real books: found at once, by their own project only; written, bounded, gone when they must."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select
from tests.fakes.ledger import outside
from tests.unit.processes.test_books import House

from steelyard.gateway.responses_kept import items_in
from steelyard.gateway.responses_request import read_responses
from steelyard.gateway.responses_store import Store
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, SystemClock
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.records import Caller
from steelyard.kernel.stored import StoredResponse
from steelyard.ledger.teller_client import TellerClient
from steelyard.storage import tables

pytestmark = pytest.mark.postgres
ACME = Caller(1, 1, 1, "acme", "default", "CNY")
OTHER = Caller(2, 2, 1, "acme", "another", "CNY")
DAY_NS = 24 * 3600 * NS_PER_S


@pytest.fixture
async def house(tmp_path: Path, place: Path | DatabaseUrl) -> AsyncIterator[House]:
    house = House(tmp_path / "data", place)
    await house.open_books()
    yield house
    await house.close()


def stored(house: House, text: str = "Hi", previous: StoredResponse | None = None, age_ns: int = 0) -> StoredResponse:
    item = {"id": f"msg_{text}", "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return StoredResponse(
        house.requests.ids.next(),
        1,
        1,
        None if previous is None else previous.id,
        SystemClock().now_ns() - age_ns,
        msgspec.json.encode([item]),
        msgspec.json.encode({"output": []}),
    )


async def put(client: TellerClient, *given: StoredResponse) -> None:
    await asyncio.gather(*(client.command("response.put", msgspec.structs.asdict(one)) for one in given))


def name(response: StoredResponse) -> str:
    return text_from_id(response.id, "resp")


async def texts(store: Store, response: StoredResponse) -> list[str]:
    return [item["content"][0]["text"] for item in items_in(await store.chain(ACME, response.id))]


async def missing(store: Store, response: StoredResponse, caller: Caller = ACME) -> bool:
    with pytest.raises(CallerError) as caught:
        await store.find(caller, name(response))
    return (caught.value.status, caught.value.code) == (404, "response_not_found")


async def test_what_is_on_its_way_is_found_by_every_worker(house: House) -> None:
    """Its bringer has only sent it: nobody waited for it to be written."""
    one, two = [await house.client(number) for number in range(2)]
    first, reader = Store(one), Store(two)
    for turn in range(20):
        response = stored(house, f"turn {turn}")
        bringing = first.bring(response)
        assert bringing is not None
        await first.taken(bringing)
        assert await reader.find(ACME, name(response)) == response


async def test_a_chain_is_read_in_order_whether_it_is_written_or_not(house: House) -> None:
    client = await house.client(0)
    store, chain = Store(client), [stored(house, "0")]
    for turn in range(1, 5):
        chain.append(stored(house, str(turn), chain[-1]))
    await put(client, *chain[:3])
    brought = [store.bring(one) for one in chain[3:]]
    assert brought[-1] is not None
    await store.taken(brought[-1])
    assert await texts(store, chain[-1]) == ["0", "1", "2", "3", "4"]
    assert await texts(store, chain[1]) == ["0", "1"]
    asked = read_responses(msgspec.json.encode({"model": "m", "previous_response_id": name(chain[2]), "input": "x"}))
    earlier = await store.earlier(ACME, asked)
    assert [item.kind for item in earlier.items] == ["message"] * 3
    await store.drop(ACME, name(chain[1]))
    assert await texts(store, chain[0]) == ["0"]
    assert await store.chain(ACME, chain[4].id) == [], "what goes on from a deleted one leads nowhere"
    with pytest.raises(CallerError) as caught:
        await store.earlier(ACME, asked)
    assert (caught.value.status, caught.value.param) == (400, "previous_response_id")
    assert (await store.find(ACME, name(chain[4]))).id == chain[4].id


async def test_another_project_does_not_see_it(house: House) -> None:
    client = await house.client(0)
    store, response = Store(client), stored(house)
    await put(client, response)
    assert await missing(store, response, OTHER)
    assert await store.chain(OTHER, response.id) == []
    with pytest.raises(CallerError):
        await store.drop(OTHER, name(response))
    assert await store.find(ACME, name(response)) == response


async def test_it_outlives_the_books_and_what_they_had_not_written_is_brought_again(house: House) -> None:
    client = await house.client(0)
    store, before, amid = Store(client), stored(house, "before"), stored(house, "amid")
    await put(client, before)
    await house.close_books()
    assert store.bring(amid) is not None
    await house.open_books()
    async with asyncio.timeout(10):
        while store.on_its_way:
            await asyncio.sleep(0.01)
    assert await store.find(ACME, name(before)) == before
    assert await store.find(ACME, name(amid)) == amid


async def test_the_end_of_an_answer_does_not_wait_for_books_that_are_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESPONSE_TAKEN_WAIT_S", 0.05)
    client = await house.client(0)
    await house.close_books()
    store = Store(client)
    bringing = store.bring(stored(house))
    assert bringing is not None
    await store.taken(bringing)  # returns, though nobody has it
    assert store.on_its_way
    monkeypatch.setattr(limits, "RESPONSES_UNKEPT_BYTES_MAX", 10)
    assert store.bring(stored(house)) is None, "what waits in a worker is bounded"


async def test_putting_it_twice_changes_nothing_and_a_deleted_one_does_not_come_back(house: House) -> None:
    client = await house.client(0)
    store, response = Store(client), stored(house)
    await put(client, response, response)
    await put(client, msgspec.structs.replace(response, body=b'{"output":[1]}'))
    assert await store.find(ACME, name(response)) == response
    await store.drop(ACME, name(response))
    await put(client, response)
    assert await missing(store, response)


async def test_what_is_too_old_is_gone_before_it_is_swept(house: House) -> None:
    client = await house.client(0)
    kept_ns = limits.STORE_DAYS * DAY_NS
    old, young = stored(house, age_ns=kept_ns + NS_PER_S), stored(house, age_ns=kept_ns - 3600 * NS_PER_S)
    await put(client, old, young)
    store = Store(client)
    assert await missing(store, old)
    assert await store.find(ACME, name(young)) == young
    assert house.books is not None
    await house.books._desks._shelf.sweep()
    assert rows(house) == [young.id]


async def test_a_tenants_oldest_give_way(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await house.client(0)
    given = [stored(house, "x" * 100, age_ns=DAY_NS - place * NS_PER_S) for place in range(4)]
    monkeypatch.setattr(limits, "RESPONSES_BYTES_PER_TENANT_MAX", 2 * given[0].size_bytes)
    for one in given:
        await put(client, one)
    assert rows(house) == [one.id for one in given[2:]]


async def test_what_is_too_large_and_chains_that_are_too_long_are_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await house.client(0)
    chain = [stored(house)]
    for _ in range(3):
        chain.append(stored(house, previous=chain[-1]))
    await put(client, *chain)
    monkeypatch.setattr(limits, "RESPONSE_CHAIN_MAX", 3)
    assert len(await Store(client).chain(ACME, chain[2].id)) == 3
    with pytest.raises(CallerError, match="too long"):
        await Store(client).chain(ACME, chain[3].id)
    monkeypatch.setattr(limits, "RESPONSE_CHAIN_BYTES_MAX", 10)
    with pytest.raises(CallerError, match="too long"):
        await Store(client).chain(ACME, chain[0].id)
    monkeypatch.setattr(limits, "RESPONSE_BYTES_MAX", 10)
    with pytest.raises(CallerError, match="too large"):
        await put(client, stored(house))


async def test_what_is_no_response_is_refused(house: House) -> None:
    client = await house.client(0)
    for op, payload in (("put", {"id": b"x"}), ("find", {"project_id": "1", "ids": []}), ("find", {})):
        with pytest.raises(CallerError) as caught:
            await client.command(f"response.{op}", payload)
        assert caught.value.status == 400
    with pytest.raises(CallerError, match="no command"):
        await client.command("response.burn", {"project_id": 1, "ids": []})


async def test_a_house_that_stores_nothing_keeps_nothing(tmp_path: Path, place: Path | DatabaseUrl) -> None:
    house = House(tmp_path / "data", place)
    books = await house.open_books()
    client = await house.client(0)
    response = stored(house)
    books._desks._shelf._kept_ns = 0
    await put(client, response)
    assert await missing(Store(client), response) and rows(house) == []
    await house.close()


def rows(house: House) -> list[Any]:
    """Ids of what is in the database, oldest first."""
    engine = outside(house.data.database)
    columns = tables.responses.c
    with engine.connect() as connection:
        found = list(connection.execute(select(columns.id).order_by(columns.created_ns)).scalars())
    engine.dispose()
    return found
