"""Verification: clean books are clean, and each kind of damage turns exactly its own invariant red.

Whoever damages rows that are chained also forges the chain (`_rechain`), or I11 would be red beside it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, Engine, select, text
from tests.fakes.ledger import TARIFFS, Requests, books, outside

from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.quantities import Meter
from steelyard.kernel.settled import Rated, Settlement
from steelyard.kernel.tariff import Tariff, TariffLine
from steelyard.ledger.chain import GENESIS, EntryRow, UsageRow, content_of, hash_unsealed, link
from steelyard.ledger.posting import post
from steelyard.ledger.verify import TITLES, verify
from steelyard.rating.rate import rate
from steelyard.storage import tables


@pytest.fixture
def engine(place: Path | DatabaseUrl) -> Iterator[Engine]:
    engine = books(place)
    requests = Requests()
    with engine.begin() as connection:
        for _ in range(3):
            batch = [requests.rated(tenant_id=1 + number % 2) for number in range(4)]
            post(connection, batch, {}, requests.clock)
        post(connection, [requests.rated(hold_nano=50_000)], {}, requests.clock)
    yield engine
    engine.dispose()


def _red(engine: Engine, tariffs: dict[int, Tariff] | None = None, live: tuple[str, ...] = ()) -> set[str]:
    with engine.connect() as connection:
        findings = verify(connection, rate, tariffs or TARIFFS, live)
    assert [finding.invariant for finding in findings] == list(TITLES)
    assert all(finding.ok == (finding.detail == "") for finding in findings)
    return {finding.invariant for finding in findings if not finding.ok}


def _rechain(connection: Connection, sealed: bool = True) -> None:
    """Forge every hash anew, as someone who knows the code could."""
    accounts = {row.id: row.name for row in connection.execute(select(tables.accounts))}
    previous = GENESIS
    for batch in connection.execute(select(tables.batches).order_by("id")).all():
        columns = tables.entries.c
        entries = [
            EntryRow(
                row.fact, accounts[row.debit_account_id], accounts[row.credit_account_id], row.currency, row.amount_nano
            )
            for row in connection.execute(
                select(tables.entries).where(columns.batch_id == batch.id).order_by(columns.id)
            )
        ]
        usage_columns = [tables.usage.c[name] for name in UsageRow._fields]
        usage = [
            UsageRow._make(row)
            for row in connection.execute(
                select(*usage_columns).where(tables.usage.c.batch_id == batch.id).order_by(tables.usage.c.request_id)
            )
        ]
        header = (batch.id, batch.posted_ns, batch.kind, batch.note, batch.requests)
        if sealed:
            content = content_of(header, entries, usage, batch.salt)
            digest = link(previous, content)
        else:
            content, digest = None, hash_unsealed(previous, header, entries, usage)
        values = {"previous_hash": previous, "hash": digest, "content": content, "salt": batch.salt if sealed else None}
        connection.execute(tables.batches.update().where(tables.batches.c.id == batch.id).values(values))
        previous = digest


def _damage(engine: Engine, *statements: str, forge: bool = False) -> None:
    with engine.begin() as connection:
        for statement in statements:
            assert connection.execute(text(statement)).rowcount > 0, statement
        if forge:
            _rechain(connection)


@pytest.mark.postgres
def test_clean_books_are_clean(engine: Engine) -> None:
    assert _red(engine) == set()


def test_forging_the_chain_alone_changes_nothing(engine: Engine) -> None:
    _damage(engine, forge=True)
    assert _red(engine) == set()


@pytest.mark.postgres
def test_batches_from_before_the_salts_still_verify_and_cannot_be_changed(engine: Engine) -> None:
    with engine.begin() as connection:
        _rechain(connection, sealed=False)
    assert _red(engine) == set()
    _damage(engine, "UPDATE batches SET note = 'x' WHERE id = 1")
    assert _red(engine) == {"I11"}


def test_i11_a_content_that_is_not_the_rows(engine: Engine) -> None:
    _damage(engine, "UPDATE batches SET content = salt WHERE id = 1")
    assert _red(engine) == {"I11"}


@pytest.mark.postgres
def test_i1_an_account_total_that_is_not_the_sum_of_its_entries(engine: Engine) -> None:
    _damage(engine, "UPDATE accounts SET debit_nano = debit_nano + 1 WHERE name = 'cash'")
    assert _red(engine) == {"I1"}


def test_i1_an_entry_in_another_currency_than_its_accounts(engine: Engine) -> None:
    _damage(engine, "UPDATE entries SET currency = 'USD' WHERE fact = 'topup' AND id = 1", forge=True)
    assert _red(engine) == {"I1"}


def test_i1_a_fact_between_accounts_that_it_does_not_join(engine: Engine) -> None:
    energy = "(SELECT id FROM accounts WHERE name = 'clearing-energy')"
    cpu = "(SELECT id FROM accounts WHERE name = 'clearing-amortisation')"
    entry = "(SELECT min(id) FROM entries WHERE fact = 'cpu')"
    amount = f"(SELECT amount_nano FROM entries WHERE id = {entry})"
    _damage(
        engine,
        f"UPDATE accounts SET credit_nano = credit_nano - {amount} WHERE id = {cpu}",
        f"UPDATE accounts SET credit_nano = credit_nano + {amount} WHERE id = {energy}",
        f"UPDATE entries SET credit_account_id = {energy} WHERE id = {entry}",
        forge=True,
    )
    assert _red(engine) == {"I1"}


@pytest.mark.postgres
def test_i2_a_cost_entry_that_no_usage_explains(engine: Engine) -> None:
    _damage(
        engine,
        "UPDATE entries SET amount_nano = amount_nano + 1 WHERE id = (SELECT max(id) FROM entries WHERE fact = 'cpu')",
        "UPDATE accounts SET debit_nano = debit_nano + 1 WHERE name = 'expense-cpu:local'",
        "UPDATE accounts SET credit_nano = credit_nano + 1 WHERE name = 'clearing-amortisation'",
        forge=True,
    )
    assert _red(engine) == {"I2"}


@pytest.mark.postgres
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rollups SET requests = requests + 1 WHERE grain = 'hour' AND tenant_id = 1",
        "UPDATE rollups SET measured_uj = measured_uj + 1 WHERE grain = 'hour' AND tenant_id = 1",
        "DELETE FROM rollups WHERE grain = 'day' AND tenant_id = 2",
        "INSERT INTO rollups SELECT grain, start_ns + 1, tenant_id, model, currency, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, "
        "1, 1 FROM rollups WHERE grain = 'day' AND tenant_id = 2",
    ],
)
def test_i3_a_rollup_that_is_not_its_usage(engine: Engine, statement: str) -> None:
    _damage(engine, statement)
    assert _red(engine) == {"I3"}


def test_i4_a_wallet_below_zero(engine: Engine) -> None:
    """Money taken back by a balanced, chained entry: everything agrees, but the wallet is overdrawn."""
    wallet = "(SELECT id FROM accounts WHERE name = 'wallet:acme')"
    _damage(
        engine,
        f"UPDATE entries SET amount_nano = 1 WHERE fact = 'topup' AND credit_account_id = {wallet}",
        "UPDATE accounts SET credit_nano = credit_nano - 4999999999 WHERE name = 'wallet:acme'",
        "UPDATE accounts SET debit_nano = debit_nano - 4999999999 WHERE name = 'cash'",
        forge=True,
    )
    assert _red(engine) == {"I4"}


def test_i4_what_the_live_teller_complains_about(engine: Engine) -> None:
    assert _red(engine, live=("tenant 1: held is not the sum of open holds",)) == {"I4"}


@pytest.mark.postgres
def test_i5_a_charge_above_its_hold(engine: Engine) -> None:
    _damage(
        engine,
        "UPDATE usage SET hold_nano = 1 WHERE request_id = (SELECT min(request_id) FROM usage)",
        forge=True,
    )
    assert _red(engine) == {"I5"}


def test_i5_a_request_that_is_counted_and_has_no_usage_row(engine: Engine) -> None:
    _damage(engine, "UPDATE batches SET requests = requests + 1 WHERE id = 4", forge=True)
    assert _red(engine) == {"I5"}


def test_i9_a_tariff_that_was_edited(engine: Engine) -> None:
    dearer = (TariffLine(Meter.INPUT, "0.6", 600_000, 1), *TARIFFS[1].lines[1:])
    edited = Tariff(1, TARIFFS[1].subject, "CNY", 0, dearer)
    assert _red(engine, {1: edited, 2: TARIFFS[2]}) == {"I9"}


def test_i9_a_tariff_that_is_gone(engine: Engine) -> None:
    assert _red(engine, {2: TARIFFS[2]}) == {"I9"}


@pytest.mark.postgres
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage SET first_token_ns = first_token_ns + 1 WHERE request_id = (SELECT min(request_id) FROM usage)",
        "UPDATE batches SET note = 'second money' WHERE id = 1",
        "UPDATE batches SET posted_ns = posted_ns + 1 WHERE id = 4",
        "UPDATE batches SET hash = previous_hash WHERE id = (SELECT max(id) FROM batches)",
        "UPDATE batches SET previous_hash = hash WHERE id = 3",
    ],
)
def test_i11_a_row_that_is_not_what_was_hashed(engine: Engine, statement: str) -> None:
    _damage(engine, statement)
    assert _red(engine) == {"I11"}


@pytest.mark.postgres
def test_a_lost_batch_is_noticed(engine: Engine, place: Path | DatabaseUrl) -> None:
    unchecked = outside(place)
    with unchecked.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET session_replication_role = replica"))  # no foreign key is looked at
        connection.execute(text("DELETE FROM batches WHERE id = 4"))
    unchecked.dispose()
    assert "I11" in _red(engine)


def test_many_complaints_are_counted_not_listed(engine: Engine) -> None:
    def dearer(settlement: Settlement, price: Tariff, cost: Tariff, exchange: Tariff | None) -> Rated:
        rated = rate(settlement, price, cost, exchange)
        return replace(rated, charge_nano=2 * rated.charge_nano)

    with engine.connect() as connection:
        found = {finding.invariant: finding for finding in verify(connection, dearer, TARIFFS)}
    assert found["I9"].detail.count("was rated") == 5
    assert found["I9"].detail.endswith("and 8 more")
