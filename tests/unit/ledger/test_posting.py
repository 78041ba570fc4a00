"""Posting: what entries, usage rows, roll-ups, totals and watermarks a batch leaves; duplicates, overrun, refusals."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Engine, func, select, text
from tests.fakes.ledger import COST, PRICE, TOPUP_NANO, Requests, books

from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import BooksError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Closed, Position, Settlement
from steelyard.ledger.posting import post, post_topup, posted_ids, read_watermarks
from steelyard.ledger.purses import wallet_balances
from steelyard.rating.rate import rate
from steelyard.storage import tables

pytestmark = pytest.mark.postgres


@pytest.fixture
def engine(place: Path | DatabaseUrl) -> Iterator[Engine]:
    engine = books(place)
    yield engine
    engine.dispose()


def _balances(engine: Engine) -> dict[str, tuple[int, int]]:
    with engine.connect() as connection:
        rows = connection.execute(select(tables.accounts))
        return {row.name: (row.debit_nano, row.credit_nano) for row in rows}


def test_a_request_becomes_balanced_entries(engine: Engine) -> None:
    requests = Requests()
    rated = requests.rated()
    with engine.begin() as connection:
        assert post(connection, [rated], {"w0-1": Position(0, 512)}, requests.clock) == [rated]
    accounts = _balances(engine)
    charge, cpu, energy = 100 * 500 + 20 * 100 + 30 * 1500, 277_778, 11_111
    assert rated.charge_nano == charge
    assert rated.cost_nano == cpu + energy
    assert accounts["wallet:acme"] == (charge, TOPUP_NANO)
    assert accounts["revenue:small"] == (0, charge)
    assert accounts["expense-cpu:local"] == (cpu, 0)
    assert accounts["expense-energy:local"] == (energy, 0)
    assert accounts["clearing-amortisation"] == (0, cpu)
    assert accounts["clearing-energy"] == (0, energy)
    assert "overrun:acme" not in accounts
    with engine.connect() as connection:
        assert read_watermarks(connection) == {"w0-1": Position(0, 512)}
        assert wallet_balances(connection) == {1: TOPUP_NANO - charge, 2: TOPUP_NANO}
        row = connection.execute(select(tables.usage)).one()
        assert (row.input, row.cached_input, row.output, row.charge_nano) == (100, 20, 30, charge)
        assert (row.cpu_cost_nano, row.energy_cost_nano, row.end) == (cpu, energy, "complete")


def test_every_column_of_a_usage_row_is_what_its_name_says(engine: Engine) -> None:
    requests = Requests()
    plain = requests.opened()
    opened = msgspec.structs.replace(
        plain, opened_ns=11, project_id=12, key_id=13, sequences=14, max_tokens=15, hold_nano=16, stream=False
    )
    closed = Closed(plain.request_id, 17, Usage(18, 19, 20, 21, 22, 25, 26), "drained", 23, 24, True, estimated=True)
    rated = rate(Settlement(opened, closed), PRICE, COST)
    with engine.begin() as connection:
        post(connection, [rated], {}, requests.clock)
        row = connection.execute(select(tables.usage)).one()._asdict()
    told = msgspec.structs.asdict(opened) | msgspec.structs.asdict(closed) | msgspec.structs.asdict(closed.usage)
    told |= {"charge_nano": rated.charge_nano, "cpu_cost_nano": 0, "energy_cost_nano": 0, "batch_id": row["batch_id"]}
    told |= {"vendor_cost_nano": 0, "payable_nano": 0, "payable_currency": "", "cost_estimated": False, "heard": ""}
    assert row == {name: told[name] for name in row}
    assert (rated.cost_nano, row["currency"], row["end"]) == (0, "CNY", "drained")


def test_entries_of_a_batch_are_added_up_by_accounts(engine: Engine) -> None:
    requests = Requests()
    with engine.begin() as connection:
        post(connection, [requests.rated(tenant_id=1 + number % 2) for number in range(10)], {}, requests.clock)
        charges = connection.execute(select(tables.entries.c.amount_nano).where(tables.entries.c.fact == "charge"))
        assert list(charges.scalars()) == [5 * 97_000, 5 * 97_000]


def test_a_request_is_posted_once(engine: Engine) -> None:
    requests = Requests()
    first, second = requests.rated(), requests.rated()
    with engine.begin() as connection:
        assert post(connection, [first, first], {}, requests.clock) == [first]
        assert post(connection, [first, second], {}, requests.clock) == [second]
        assert post(connection, [second], {"w0-1": Position(1, 7)}, requests.clock) == []
        assert connection.execute(select(func.count()).select_from(tables.usage)).scalar_one() == 2
        assert connection.execute(select(func.count()).select_from(tables.batches)).scalar_one() == 4
        assert read_watermarks(connection) == {"w0-1": Position(1, 7)}
        ids = [one.settlement.opened.request_id for one in (first, second)]
        assert posted_ids(connection, [*ids, bytes(16)]) == set(ids)


def test_what_is_above_the_hold_is_our_overrun(engine: Engine) -> None:
    requests = Requests()
    with engine.begin() as connection:
        post(connection, [requests.rated(hold_nano=90_000)], {}, requests.clock)
    accounts = _balances(engine)
    assert accounts["wallet:acme"] == (90_000, TOPUP_NANO)
    assert accounts["overrun:acme"] == (7_000, 0)
    assert accounts["revenue:small"] == (0, 97_000)


def test_a_wallet_never_goes_below_zero(engine: Engine) -> None:
    requests = Requests()
    dear = Usage(output=3_000_000)  # 4.5 CNY
    with engine.begin() as connection:
        post(connection, [requests.rated(hold_nano=10**10, usage=dear) for _ in range(2)], {}, requests.clock)
    accounts = _balances(engine)
    assert accounts["wallet:acme"] == (TOPUP_NANO, TOPUP_NANO)
    assert accounts["overrun:acme"] == (9_000_000_000 - TOPUP_NANO, 0)


def test_nothing_used_leaves_a_usage_row_and_no_entry(engine: Engine) -> None:
    requests = Requests()
    with engine.begin() as connection:
        post(connection, [requests.rated(usage=Usage())], {}, requests.clock)
        query = select(func.count()).select_from(tables.entries).where(tables.entries.c.fact != "topup")
        assert connection.execute(query).scalar_one() == 0
        assert connection.execute(select(tables.usage.c.charge_nano)).scalar_one() == 0


def test_rollups_add_up_by_hour_and_day(engine: Engine) -> None:
    requests = Requests()
    with engine.begin() as connection:
        post(connection, [requests.rated(), requests.rated()], {}, requests.clock)
        requests.clock.advance(3600 * 10**9)
        post(connection, [requests.rated()], {}, requests.clock)
        rows = connection.execute(
            select(tables.rollups.c.grain, tables.rollups.c.requests).order_by("grain", "start_ns")
        ).all()
    assert [tuple(row) for row in rows] == [("day", 3), ("hour", 2), ("hour", 1)]


def test_batches_are_chained(engine: Engine) -> None:
    requests = Requests()
    with engine.begin() as connection:
        post(connection, [requests.rated()], {}, requests.clock)
        rows = connection.execute(select(tables.batches).order_by("id")).all()
    assert rows[0].previous_hash == bytes(32)
    assert [row.previous_hash for row in rows[1:]] == [row.hash for row in rows[:-1]]
    assert len({row.hash for row in rows}) == len(rows)


def test_a_failure_leaves_nothing_behind(engine: Engine) -> None:
    requests = Requests()
    before = _balances(engine)
    with pytest.raises(BooksError, match="no wallet"), engine.begin() as connection:
        post(connection, [requests.rated(), requests.rated(tenant_id=9)], {"w0-1": Position(0, 9)}, requests.clock)
    assert _balances(engine) == before
    with engine.connect() as connection:
        assert read_watermarks(connection) == {}


def test_a_topup_is_more_than_zero(engine: Engine) -> None:
    with engine.begin() as connection, pytest.raises(BooksError):
        post_topup(connection, 1, 0, "", Requests().clock)


def test_an_account_cannot_overflow(engine: Engine) -> None:
    with pytest.raises(BooksError, match="is full"), engine.begin() as connection:
        connection.execute(text("UPDATE accounts SET debit_nano = 9223372036854775800 WHERE name = 'cash'"))
        post_topup(connection, 1, 100, "", Requests().clock)
