"""Sub-limits through the real socket: exact over many workers, counted on after restarts, set while requests run."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.ledger import COST, PRICE, Requests, books
from tests.unit.processes.test_books import House, bare, clean, held, until

from steelyard.kernel.clock import NS_PER_S, ManualClock, SystemClock
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import CallerError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Granted, HoldAsk
from steelyard.kernel.settled import Opened, Settlement
from steelyard.ledger.posting import post
from steelyard.ledger.teller_client import TellerClient
from steelyard.metering.journal import Journal
from steelyard.processes.office import Office
from steelyard.rating.rate import rate

clock = SystemClock()
USAGE = Usage(100, 20, 30, 5_000_000_000, 50_000_000)  # 97,000 nano
EVERY_BUCKET = Usage(60, 20, 20, 5_000_000_000, 50_000_000, 40, 10)  # the same amount


@pytest.fixture
async def house(tmp_path: Path, place: Path | DatabaseUrl) -> AsyncIterator[House]:
    house = House(tmp_path / "data", place)
    office = await house.furnish()
    await office.command("key.add", {"tenant": "acme", "name": "backend"})
    yield house
    await house.close()


def ask(house: House, want: int = 1_000_000, floor: int = 1000) -> HoldAsk:
    return HoldAsk(house.requests.ids.next(), 1, want, floor, 1, 1, clock.now_ns(), 100, 200)


async def tried(client: TellerClient, asked: HoldAsk) -> Granted | CallerError:
    try:
        return await held(client, asked)
    except CallerError as error:
        return error


def opened(house: House, asked: HoldAsk, granted: Granted) -> Opened:
    made = house.requests.opened(hold_nano=granted.amount_nano)
    return msgspec.structs.replace(
        made, request_id=asked.request_id, opened_ns=asked.opened_ns, max_tokens=granted.max_tokens
    )


async def served(house: House, client: TellerClient, journal: Journal, *, close: bool = True) -> Opened:
    asked = ask(house)
    record = opened(house, asked, await held(client, asked))
    journal.append(record)
    if close:
        journal.append(msgspec.structs.replace(house.requests.closed(record, USAGE), closed_ns=clock.now_ns()))
        client.closed()
    journal.sync()
    return record


async def limit(house: House, **asked: Any) -> Any:
    return await house.clients[0].command("limit.set", {"key": 1} | asked)


@pytest.mark.parametrize(
    ("asked", "most", "status"),
    [({"rpm": 7}, 7, 429), ({"concurrency": 5}, 5, 429), ({"budget": "0.006"}, 6, 402), ({"tpm": 1500}, 5, 429)],
)
async def test_a_limit_is_exact_over_many_workers(house: House, asked: dict[str, Any], most: int, status: int) -> None:
    await limit(house, **asked)
    clients = [await house.client(number) for number in range(4)]
    results = await asyncio.gather(*(tried(clients[n % 4], ask(house, floor=1_000_000)) for n in range(40)))
    granted = [one for one in results if isinstance(one, Granted)]
    refusals = [one for one in results if isinstance(one, CallerError)]
    assert [bare(one) for one in granted] == [Granted(1_000_000, 200)] * most
    assert {error.status for error in refusals} == {status}
    assert {error.retry_after_s is None for error in refusals} == {status == 402}
    assert sum(client.open_holds for client in clients) == most


async def test_what_just_ended_makes_room_before_a_refusal(house: House) -> None:
    """Closes are announced before they are synced and posted; a limit does not bite on them."""
    await limit(house, concurrency=1)
    client, journal = await house.worker()
    for _ in range(5):
        asked = ask(house)
        record = opened(house, asked, await held(client, asked))
        journal.append(record)
        journal.append(house.requests.closed(record))
        client.closed()


async def test_a_released_hold_is_no_request(house: House) -> None:
    await limit(house, rpm=1, budget="1", tpm=1000, concurrency=1)
    client = await house.client()
    for _ in range(3):
        asked = ask(house)
        assert bare(await held(client, asked)) == Granted(1_000_000, 200)
        client.release(asked.request_id)


@pytest.mark.postgres
async def test_a_limit_counts_on_after_a_restart_of_the_books(house: House) -> None:
    """One request is posted, one runs, one is held and not opened yet: all three count as before."""
    await limit(house, rpm=3, tpm=1000, budget="1", concurrency=10)
    client, journal = await house.worker()
    await served(house, client, journal)
    await until(lambda: client.open_holds == 0, "the first to be posted")
    await served(house, client, journal, close=False)
    await held(client, ask(house))
    await house.close_books()
    await until(lambda: not client.connected, "the loss to be noticed")
    again = await house.open_books()
    await until(lambda: client.connected, "the reconnect")
    refusal = await tried(client, ask(house))
    assert isinstance(refusal, CallerError)
    assert "3 requests in 60 seconds" in refusal.message
    await house.clients[0].command("limit.lift", {"key": 1, "kinds": ["rpm"]})
    fourth = await held(client, ask(house))
    assert fourth.max_tokens == 1000 - 150 - 300 - 300 - 100  # the posted one's counts, the others' reservations
    await house.clients[0].command("limit.lift", {"key": 1, "kinds": ["tpm"]})
    rest = await held(client, ask(house, want=1_000_000_000))
    assert rest.amount_nano == 1_000_000_000 - 97_000 - 2_000_000 - fourth.amount_nano
    assert again.teller.complaints() == []


async def test_a_commit_that_happened_and_failed_counts(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the simulator: what such a commit had posted was known at the next try, and no limit counted it."""
    await limit(house, rpm=2, budget="1")
    client, journal = await house.worker()
    dialect = house.books._engine.dialect
    commit, failed = dialect.do_commit, []

    def commit_and_fail(connection: Any) -> None:
        commit(connection)
        if not failed:
            failed.append(True)
            raise sqlite3.OperationalError("disk I/O error")

    asked = ask(house)
    record = opened(house, asked, await held(client, asked))
    monkeypatch.setattr(dialect, "do_commit", commit_and_fail)
    journal.append(record)
    journal.append(msgspec.structs.replace(house.requests.closed(record, USAGE), closed_ns=clock.now_ns()))
    client.closed()
    journal.sync()
    posting = house.books._posting
    await until(lambda: bool(failed) and not client.open_holds and not posting.trouble, "the second try")
    rest = await held(client, ask(house, want=1_000_000_000))
    assert rest.amount_nano == 1_000_000_000 - 97_000
    await house.clients[0].command("limit.lift", {"key": 1, "kinds": ["budget"]})
    refusal = await tried(client, ask(house))
    assert isinstance(refusal, CallerError)
    assert "2 requests in 60 seconds" in refusal.message


async def test_a_dead_workers_requests_count_no_longer_than_they_run(house: House) -> None:
    await limit(house, concurrency=2)
    client, journal = await house.worker()
    record = await served(house, client, journal, close=False)
    await held(client, ask(house))
    other = await house.client(1)
    assert isinstance(await tried(other, ask(house)), CallerError)
    await client.close()
    journal.close()
    assert house.books is not None
    teller = house.books.teller
    await until(lambda: teller.find(record.request_id) is None, "its requests to be settled")
    assert bare(await held(other, ask(house))) == Granted(1_000_000, 200)
    assert bare(await held(other, ask(house))) == Granted(1_000_000, 200)


async def test_a_limit_set_while_requests_run_counts_them_and_lifting_ends_it(house: House) -> None:
    client, journal = await house.worker()
    await served(house, client, journal)
    await served(house, client, journal, close=False)
    rows = await limit(house, concurrency=1, budget="0.001", zone="Asia/Shanghai", every="day")
    assert [row["kind"] for row in rows] == ["budget", "concurrency"]
    for text in ("at the same time", "begins anew at"):
        refusal = await tried(client, ask(house))
        assert isinstance(refusal, CallerError)
        await house.clients[0].command("limit.lift", {"key": 1, "kinds": ["concurrency"]})
        if text == "begins anew at":
            assert text in refusal.message
            assert "T00:00:00+08:00" in refusal.message
    ended = await house.clients[0].command("limit.lift", {"key": 1})
    assert ended["lifted"] == 1
    assert bare(await held(client, ask(house))) == Granted(1_000_000, 200)
    assert await house.clients[0].command("limit.list", {"tenant": "acme"}) == []
    await clean(house.clients[0])


@pytest.mark.postgres
def test_what_a_limit_may_be(place: Path | DatabaseUrl) -> None:
    engine = books(place)
    office = Office(engine, ManualClock())
    key = office.command("key.add", {"tenant": "acme", "name": "backend"})["id"]
    operator = office.command("operator.add", {"name": "root"})["id"]
    for payload, said in (
        ({"tenant": "acme"}, "Name a limit"),
        ({"rpm": 1}, "Name a tenant"),
        ({"tenant": "acme", "rpm": 0}, ">= 1"),
        ({"tenant": "acme", "budget": "0"}, "above 0"),
        ({"tenant": "acme", "budget": "x"}, "not a decimal"),
        ({"tenant": "acme", "budget": "1", "every": "year"}, "'every' must be one of"),
        ({"tenant": "acme", "budget": "1", "zone": "Mars"}, "no time zone"),
        ({"tenant": "nobody", "rpm": 1}, "no tenant"),
        ({"tenant": "acme", "project": "none", "rpm": 1}, "no project"),
        ({"key": 99, "rpm": 1}, "no key"),
        ({"key": operator, "rpm": 1}, "an operator's"),
        ({"key": key, "tenant": "beta", "rpm": 1}, "belongs to acme"),
    ):
        with pytest.raises(CallerError, match=said):
            office.command("limit.set", payload)
    assert office.command("limit.list", {}) == []
    office.command("limit.set", {"tenant": "acme", "rpm": 5, "actor": "ann"})
    office.command("limit.set", {"tenant": "acme", "rpm": 6, "budget": "2.50", "reason": "trial"})
    office.command("limit.set", {"tenant": "acme", "project": "default", "tpm": 9})
    office.command("limit.set", {"tenant": "beta", "concurrency": 2, "tpm": 150_000_000})  # as great vendors have it
    rows = office.command("limit.list", {"tenant": "acme"})
    assert [(row["kind"], row["scope"], row.get("amount", row.get("amount_nano"))) for row in rows] == [
        ("budget", "tenant", 2_500_000_000),
        ("rpm", "tenant", 6),
        ("tpm", "project", 9),
    ]
    assert office.command("limit.lift", {"tenant": "acme"})["lifted"] == 2
    assert office.command("limit.lift", {"tenant": "acme"})["lifted"] == 0
    assert len(office.command("limit.list", {})) == 3
    engine.dispose()


@pytest.mark.postgres
def test_seeds_come_from_the_rows_of_the_window(place: Path | DatabaseUrl) -> None:
    """What was opened before the window, or before the last minutes, does not count; an overrun is nobody's budget."""

    manual = ManualClock(1_796_054_400 * NS_PER_S)  # 2026-11-30T16:00:00Z: midnight in Shanghai, December begins
    engine = books(place, clock=manual)
    requests = Requests(manual)
    office = Office(engine, manual)
    office.command("limit.set", {"tenant": "acme", "budget": "1", "zone": "Asia/Shanghai", "rpm": 9, "tpm": 9})
    rated = []
    for seconds, hold_nano in ((-1, 10**6), (0, 10**6), (1, 50_000)):
        record = requests.opened(hold_nano=hold_nano)
        record = msgspec.structs.replace(record, opened_ns=manual.now_ns() + seconds * NS_PER_S)
        rated.append(rate(Settlement(record, requests.closed(record, EVERY_BUCKET)), PRICE, COST))
    with engine.begin() as connection:
        post(connection, rated, {}, manual)
    manual.advance(30 * NS_PER_S)
    budget, rpm, tpm = office.seeds()
    start_ns = rated[1].settlement.opened.opened_ns
    assert dict(budget.spent)[start_ns] == 97_000 + 50_000
    assert len(rpm.recent) == 3
    assert [tokens for _, tokens in tpm.recent] == [150] * 3
    assert office.command("limit.list", {})[0]["spent_nano"] == 147_000
    stepped_back = Office(engine, ManualClock(start_ns - 3 * NS_PER_S))  # what workers opened is still dated ahead
    assert dict(stepped_back.seeds()[0].spent)[start_ns] == 97_000 + 50_000
    engine.dispose()
