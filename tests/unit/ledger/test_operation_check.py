"""Rows beside the books that say another thing than their batch are told by verify."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from tests.fakes.ledger import TARIFFS, Requests, books, outside

from steelyard.identity.store import add_tenant
from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.directory import DatabaseUrl
from steelyard.ledger.posting import open_wallet, post
from steelyard.ledger.verify import verify
from steelyard.processes.office import Office
from steelyard.rating.rate import rate

pytestmark = pytest.mark.postgres


def complaints(engine: Engine) -> str:
    with engine.connect() as connection:
        found = [one for one in verify(connection, rate, TARIFFS) if not one.ok]
    assert {one.invariant for one in found} <= {"I4"}
    return "; ".join(one.detail for one in found)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE operations SET amount_nano = amount_nano + 1 WHERE kind = 'refund'", "nano, batch"),
        ("UPDATE operations SET amount_nano = amount_nano - 1 WHERE kind = 'credit'", "nano, batch"),
        ("UPDATE operations SET tenant_id = 2 WHERE kind = 'refund'", "is of tenant 2"),
        ("UPDATE operations SET kind = 'topup' WHERE kind = 'refund'", "which is of kind refund"),
        ("UPDATE tenants SET currency = 'EUR' WHERE id = 1", "is in EUR"),
        ("UPDATE conversions SET to_nano = to_nano + 1", "its entries do not"),
        ("UPDATE conversions SET from_currency = 'EUR'", "its entries do not"),
        ("UPDATE conversions SET rate_numerator = rate_numerator + 1", "does not follow from its rate"),
        ("DELETE FROM conversions", "converts without a rate"),
    ],
)
def test_i4_a_row_beside_the_books(place: Path | DatabaseUrl, statement: str, said: str) -> None:
    clock = ManualClock(1_800_000_000 * NS_PER_S)
    engine = books(place, clock=clock)
    with engine.begin() as connection:
        gamma = add_tenant(connection, "gamma", "USD", clock)
        open_wallet(connection, gamma.id, gamma.name, gamma.currency)
        rated = Requests(clock).rated()
        post(connection, [rated], {}, clock)
    do = Office(engine, clock).command
    why = {"reason": "agreed", "actor": "mia"}
    do("wallet.topup", {"tenant": "acme", "amount": "1"} | why)
    do("wallet.refund", {"tenant": "acme", "amount": "1"} | why)
    do("wallet.adjust", {"tenant": "acme", "amount": "-1"} | why)
    do("wallet.grant", {"tenant": "acme", "amount": "1", "expires_ns": 2 * clock.now_ns()} | why)
    do("wallet.limit", {"tenant": "acme", "amount": "1"} | why)
    do("wallet.allowance", {"tenant": "acme", "amount": "1", "every": "day"} | why)
    do("wallet.credit", {"request_id": rated.settlement.opened.request_id} | why)
    do("wallet.transfer", {"tenant": "acme", "to": "gamma", "amount": "0.72", "rate": "5/36", "source": "bank"} | why)
    moved = do("wallet.transfer", {"tenant": "acme", "to": "beta", "amount": "1"} | why)
    do("ledger.reverse", {"batch": moved["batch"]} | why)
    converted = do(
        "wallet.transfer", {"tenant": "acme", "to": "gamma", "amount": "0.36", "rate": "5/36", "source": "x"}
    )
    do("ledger.reverse", {"batch": converted["batch"]} | why)
    assert complaints(engine) == ""
    outer = outside(place)
    with outer.begin() as connection:
        assert connection.execute(text(statement)).rowcount
    outer.dispose()
    assert said in complaints(engine)
    engine.dispose()
