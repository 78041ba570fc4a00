"""What vendors cost, in the books: entries that balance in each currency, and a check that finds what was altered."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine, select, text
from tests.fakes.ledger import PRICE, TARIFFS, Requests, books
from tests.unit.ledger.test_verify import _rechain

from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.money import NANO_PER_UNIT
from steelyard.kernel.quantities import Meter, Usage
from steelyard.kernel.settled import End, Rated, Settlement
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.ledger.chain import UsageRow, heard_from_text, heard_text
from steelyard.ledger.posting import post
from steelyard.ledger.verify import verify
from steelyard.rating.rate import rate
from steelyard.reports.payables import PayableRow, payables
from steelyard.storage import tables

TOKENS = (
    TariffLine(Meter.INPUT, "1", 10**12, 10**6),
    TariffLine(Meter.CACHED_INPUT, "0.02", 2 * 10**10, 10**6),
    TariffLine(Meter.OUTPUT, "4", 4 * 10**12, 10**6),
)
NEAR = Tariff(3, "near", "CNY", 0, TOKENS, "their list", model="near-1")
FAR = Tariff(4, "far", "USD", 0, TOKENS, "their list")
USD_CNY = Tariff(5, "USD", "CNY", 0, (TariffLine(Meter.MONEY, "7.1034", 7_103_400_000_000, NANO_PER_UNIT),))
KNOWN = TARIFFS | {one.id: one for one in (NEAR, FAR, USD_CNY)}
USED = Usage(100, 20, 31)
PAYABLE = 100 * 1000 + 20 * 20 + 31 * 4000


def sold(
    requests: Requests, cost: Tariff, end: End = End.COMPLETE, usage: Usage = USED, heard: Usage | None = None
) -> Rated:
    exchange = USD_CNY if cost.currency == "USD" else None
    plain = requests.opened()
    opened = replace(plain, upstream=cost.subject, cost_id=cost.id, rate_id=exchange.id if exchange else 0)
    closed = replace(requests.closed(opened, usage), end=end.value, heard=heard)
    return rate(Settlement(opened, closed), PRICE, cost, exchange)


@pytest.fixture
def requests() -> Requests:
    return Requests()


@pytest.fixture
def engine(place: Path | DatabaseUrl, requests: Requests) -> Iterator[Engine]:
    engine = books(place)
    with engine.begin() as connection:
        post(connection, [requests.rated(), sold(requests, NEAR), sold(requests, FAR)], {}, requests.clock)
        cut = sold(requests, FAR, End.CLIENT_GONE, Usage(), Usage(100, 0, 3))
        post(connection, [cut, sold(requests, NEAR, End.REFUSED, Usage())], {}, requests.clock)
    yield engine
    engine.dispose()


def red(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        findings = verify(connection, rate, KNOWN)
    return {finding.invariant: finding.detail for finding in findings if not finding.ok}


def altered(engine: Engine, *statements: str) -> dict[str, str]:
    """By one who forges the chain as well."""
    with engine.begin() as connection:
        for statement in statements:
            assert connection.execute(text(statement)).rowcount > 0, statement
        _rechain(connection)
    return red(engine)


@pytest.mark.postgres
def test_vendor_costs_balance_in_each_currency(engine: Engine) -> None:
    turned, heard = round(PAYABLE * 71_034 / 10_000), 100 * 1000 + 3 * 4000
    heard_turned = round(heard * 71_034 / 10_000)
    with engine.connect() as connection:
        found = {
            (row.name, row.currency): row.credit_nano - row.debit_nano
            for row in connection.execute(select(tables.accounts))
        }
    assert found["expense-vendor:near", "CNY"] == -PAYABLE
    assert found["payable:near", "CNY"] == PAYABLE
    assert found["payable:far", "USD"] == PAYABLE + heard
    assert found["expense-vendor:far", "CNY"] == -(turned + heard_turned)
    assert found["fx", "USD"] == -found["payable:far", "USD"]
    assert found["fx", "CNY"] == turned + heard_turned
    with engine.connect() as connection:
        assert payables(connection) == [
            PayableRow("far", "USD", 2, PAYABLE + heard, PAYABLE + heard, 1, heard),
            PayableRow("near", "CNY", 2, PAYABLE, PAYABLE, 0, 0),
        ]
    for currency in ("CNY", "USD"):
        assert sum(amount for (_, of), amount in found.items() if of == currency) == 0
    assert red(engine) == {}


def test_rows_keep_what_is_payable_and_say_what_is_estimated(engine: Engine) -> None:
    columns = tables.usage.c
    query = select(
        columns.upstream, columns.payable_nano, columns.payable_currency, columns.rate_id, columns.cost_estimated,
        columns.heard, columns.charge_nano > 0,
    ).order_by(columns.request_id)  # fmt: skip
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(query)]
        costs = connection.execute(select(tables.rollups.c.cost_nano).where(tables.rollups.c.grain == "day")).scalars()
        spent = connection.execute(
            select(columns.cpu_cost_nano + columns.energy_cost_nano + columns.vendor_cost_nano)
        ).scalars()
        assert sum(costs) == sum(spent)
    assert rows == [
        ("local", 0, "", 0, False, "", True),
        ("near", PAYABLE, "CNY", 0, False, "", True),
        ("far", PAYABLE, "USD", 5, False, "", True),
        ("far", 112_000, "USD", 5, True, "100,0,0,3,0", False),
        ("near", 0, "CNY", 0, False, "", False),
    ]


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ("UPDATE usage SET vendor_cost_nano = vendor_cost_nano - 1 WHERE upstream = 'far'", {"I2", "I3", "I9"}),
        ("UPDATE usage SET payable_nano = payable_nano + 1 WHERE upstream = 'near'", {"I2", "I9"}),
        ("UPDATE usage SET payable_currency = 'CNY' WHERE upstream = 'far'", {"I2", "I9"}),
        ("UPDATE usage SET rate_id = 0 WHERE upstream = 'far'", {"I9"}),
        ("UPDATE usage SET heard = '99,0,0,3,0' WHERE heard != ''", {"I9"}),
        ("UPDATE usage SET heard = 'x' WHERE heard != ''", {"I9"}),
        ("UPDATE entries SET amount_nano = amount_nano + 1 WHERE fact = 'payable-fx'", {"I1", "I2"}),
        ("UPDATE entries SET fact = 'vendor' WHERE fact = 'vendor-fx'", {"I1", "I2"}),
    ],
)
def test_what_was_altered_is_found(engine: Engine, change: str, broken: set[str]) -> None:
    found = altered(engine, change)
    assert found.keys() == broken, found


@pytest.mark.parametrize(
    "change",
    [
        "vendor_cost_nano = 1", "payable_nano = 1", "payable_currency = 'CNY'", "rate_id = 1", "cost_estimated = true",
        "heard = '1,0,0,0,0'",
    ],
)  # fmt: skip
def test_no_column_of_a_row_from_before_changes_unseen(engine: Engine, change: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE usage SET {change} WHERE upstream = 'local'"))
    assert "I11" in red(engine)


def test_heard_counts_read_back_as_they_were_written() -> None:
    heard = Usage(1, 2, 3, cache_write=4, reasoning=5)
    assert heard_from_text(heard_text(heard)) == heard
    assert heard_text(heard) == "1,2,4,3,5"
    assert heard_from_text(heard_text(None)) is None
    assert UsageRow._field_defaults["heard"] == ""
