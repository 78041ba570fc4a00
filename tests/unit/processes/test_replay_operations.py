"""The replay where everything happened to money: what was posted between requests decides how they are posted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.unit.processes.test_replay import Shop

from steelyard.identity.store import add_tenant
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.directory import DatabaseUrl
from steelyard.ledger.posting import open_wallet
from steelyard.ledger.purses import wallet_balances
from steelyard.processes.office import Office
from steelyard.storage import tables

pytestmark = pytest.mark.postgres
WHY = {"reason": "agreed", "actor": "mia"}


@pytest.fixture
def world(tmp_path: Path, place: Path | DatabaseUrl) -> Iterator[Shop]:
    """Grants spent and expired, a wallet below zero, a conversion, a closed period with a late close, and a credit."""
    shop = Shop(tmp_path, place)
    office = Office(shop._engine, shop.clock)
    with shop._engine.begin() as connection:
        gamma = add_tenant(connection, "gamma", "USD", shop.clock)
        open_wallet(connection, gamma.id, gamma.name, gamma.currency)

    def do(op: str, **payload: Any) -> dict[str, Any]:
        reply: dict[str, Any] = office.command(op, payload)
        return reply

    def serve(tenant_id: int, times: int = 1) -> None:
        for _ in range(times):
            shop.serve(tenant_id)  # 97 000 nano each
        shop.post()

    soon, later = (shop.clock.now_ns() + seconds * NS_PER_S for seconds in (60, 3600))
    do("wallet.grant", tenant="acme", amount="0.0005", expires_ns=later, **WHY)
    do("wallet.grant", tenant="acme", amount="0.0003", expires_ns=soon, **WHY)
    serve(1, 2)
    shop.clock.advance(60 * NS_PER_S)
    office.command("time.passed", {"due": {1: 10**9}})  # what is left of the second one
    serve(1)
    do("wallet.refund", tenant="beta", amount="5", **WHY)
    do("wallet.limit", tenant="beta", amount="1", **WHY)
    serve(2, 3)
    do("wallet.transfer", tenant="acme", to="gamma", amount="3.6", rate="5/36", source="bank", **WHY)
    late = shop.serve(1)
    shop.clock.advance(60 * NS_PER_S)
    do("ledger.close", until_ns=shop.clock.now_ns(), **WHY)
    shop.clock.advance(NS_PER_S)
    shop.post()  # the close from before
    do("wallet.credit", request_id=late.request_id, **WHY)
    do("wallet.limit", tenant="beta", amount="0", **WHY)
    serve(1, 2)
    yield shop
    shop.close()


def test_everything_that_happens_to_money_replays_to_the_same_bytes(world: Shop) -> None:
    with world._engine.connect() as connection:
        kinds = set(connection.execute(select(tables.batches.c.kind)).scalars())
        facts = set(connection.execute(select(tables.entries.c.fact)).scalars())
        wallets = wallet_balances(connection)
        until_ns = connection.execute(select(tables.periods.c.until_ns)).scalar_one()
        clamped = connection.execute(select(tables.usage.c.closed_ns).where(tables.usage.c.closed_ns == until_ns)).all()
    assert kinds >= {"usage", "grant", "expiry", "refund", "transfer", "credit"}
    assert facts >= {"grant-spent", "grant-expired", "fx-out", "fx-in", "charge"}
    assert "overrun" not in facts
    assert wallets[2] == -3 * 97_000
    assert len(clamped) == 1
    assert world.red() == set()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage SET closed_ns = closed_ns - 1 WHERE closed_ns = (SELECT until_ns FROM periods)",
        "UPDATE periods SET until_ns = until_ns + 1",
        "UPDATE credit_limits SET limit_nano = 100000 WHERE limit_nano > 0",
        "UPDATE grants SET expires_ns = expires_ns + 7200000000000 WHERE amount_nano = 300000",  # drawn on second then
        "UPDATE accounts SET debit_nano = debit_nano + 1 WHERE name = 'grant:acme#1'",
        "UPDATE entries SET amount_nano = amount_nano + 1 WHERE fact = 'grant-expired'",
        "UPDATE entries SET amount_nano = amount_nano - 1 WHERE fact = 'fx-in'",
    ],
)
def test_i12_a_row_of_an_operation_that_is_another(world: Shop, statement: str) -> None:
    world.damage(statement)
    assert world.red() == {"I12"}
