"""A commit whose answer is lost, in PostgreSQL: done or not, the request is posted once and the wallet is right."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text
from tests.fakes.ledger import outside
from tests.fakes.postgres_line import Line
from tests.unit.processes.test_books import House, clean, until, wallet

from steelyard.catalog.demo import demo_price_text
from steelyard.kernel.errors import CallerError, WriterLost
from steelyard.storage import tables

if TYPE_CHECKING:
    from tests.fakes.postgres import Server

CHARGE_NANO = 97_000


@pytest.fixture
def line(postgres: "Server") -> Iterator[Line]:
    with postgres.database() as url:
        line = Line(url)
        yield line
        line.close()


async def opened_house(root: Path, line: Line) -> House:
    house = House(root, line.url)
    await house.furnish()
    return house


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_lost_commit_is_posted_exactly_once(tmp_path: Path, line: Line, cut: str) -> None:
    house = await opened_house(tmp_path / "data", line)
    client, journal = await house.worker()
    opened = await house.held(client)
    line.cut = cut
    journal.append(opened)
    journal.append(house.requests.closed(opened))
    journal.sync()
    client.closed()
    await until(lambda: line.cuts == 1, "the line is cut at the commit")
    await until(lambda: not client.open_holds, "the request is settled")
    assert await wallet(client) == (5_000_000_000 - CHARGE_NANO, 0)
    engine = outside(line.url)
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(tables.usage)).scalar_one() == 1
    engine.dispose()
    await clean(client)
    await house.close()


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_who_moves_money_is_told_that_nobody_knows_whether_it_moved(tmp_path: Path, line: Line, cut: str) -> None:
    house = await opened_house(tmp_path / "data", line)
    client, _ = await house.worker()
    line.cut = cut
    topup = {"tenant": "acme", "amount": "1", "idempotency_key": "k"}
    with pytest.raises(CallerError, match="look before you do it again, or use the same idempotency key") as lost:
        await client.command("wallet.topup", topup)
    assert (lost.value.status, lost.value.retry_after_s, line.cuts) == (503, None, 1), "no client repeats it by itself"
    assert (await client.command("wallet.topup", topup))["balance_nano"] == 6_000_000_000
    await until(lambda: house.books and house.books.teller.balance(1) == 6_000_000_000, "the teller knows by then")
    await clean(client)
    await house.close()


async def test_what_was_changed_by_a_lost_commit_is_told_to_all_workers(tmp_path: Path, line: Line) -> None:
    """A revoked key had gone on working, and models at the old price, until the books were started anew."""
    house = await opened_house(tmp_path / "data", line)
    client, _ = await house.worker()
    key = await client.command("key.add", {"tenant": "acme", "name": "laptop"})
    assert client.snapshot.callers.of_key(key["id"]) is not None
    version = client.snapshot.version
    for op, payload, known in (
        ("key.revoke", {"id": key["id"]}, lambda: client.snapshot.callers.of_key(key["id"]) is None),
        ("prices.load", {"text": demo_price_text()}, lambda: client.snapshot.version > version),
    ):
        line.cut = "after"
        with pytest.raises(CallerError, match="Perhaps it is done"):
            await client.command(op, payload)
        await until(known, "the worker knows it")
        await until(lambda: house.books and not house.books._posting._away, "no doubt is left")
    assert client.snapshot.prices
    await house.close()


async def test_while_postgresql_is_away_nobody_gets_a_hold_and_afterwards_all_is_booked(
    tmp_path: Path, line: Line, postgres: "Server"
) -> None:
    house = await opened_house(tmp_path / "data", line)
    client, journal = await house.worker()
    opened = await house.held(client)
    name = postgres.admin.execute("SELECT max(datname) FROM pg_stat_activity WHERE datname LIKE 'test%'").fetchone()
    assert name is not None
    postgres.admin.execute(f"ALTER DATABASE {name[0]} ALLOW_CONNECTIONS false")
    postgres.admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)

    async def trouble() -> str:
        return (await client.command("status", {}))["trouble"]

    async with asyncio.timeout(20):
        while not await trouble():  # noticed while there is nothing to post
            await asyncio.sleep(0.05)
    journal.append(opened)
    journal.append(house.requests.closed(opened))
    journal.sync()
    client.closed()
    postgres.admin.execute(f"ALTER DATABASE {name[0]} ALLOW_CONNECTIONS true")
    await until(lambda: not client.open_holds, "the request is settled", seconds=30)
    assert await wallet(client) == (5_000_000_000 - CHARGE_NANO, 0)
    await clean(client)
    await house.close()


async def test_books_that_had_another_writer_meanwhile_end(tmp_path: Path, line: Line) -> None:
    house = await opened_house(tmp_path / "data", line)
    other = outside(line.url)
    with other.begin() as connection:
        connection.execute(text("UPDATE counters SET value = value + 1 WHERE name = 'writer'"))
    with other.begin() as connection:
        query = (
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'steelyard books'"
        )
        connection.execute(text(query + " AND datname = current_database()"))
    other.dispose()
    assert house._running is not None
    with pytest.raises(WriterLost):
        await house._running
    house.books = None
    await house.close()
