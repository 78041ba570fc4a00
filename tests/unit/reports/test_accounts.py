"""Accounts balance with their entries, and entries page without gaps."""

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import insert, select
from tests.unit.reports.shop import Shop

from steelyard.kernel.errors import CallerError
from steelyard.ledger.accounts import CHART
from steelyard.reports.accounts import EntryRow, accounts, entries, entries_from, trial_balance
from steelyard.storage import tables


def all_entries(shop: Shop, account: str | None = None, limit: int = 1000) -> list[EntryRow]:
    found: list[EntryRow] = []
    before = None
    while True:
        page = entries(shop.books, account, before=before, limit=limit)
        found += page.rows
        if page.older is None:
            return found
        before = page.older


def test_debits_equal_credits_in_every_currency(busy: Shop) -> None:
    balance = trial_balance(busy.books)
    assert [one.currency for one in balance] == ["CNY", "USD"]
    assert all(one.debit_nano == one.credit_nano > 0 for one in balance)


def test_every_account_is_the_sum_of_its_entries(busy: Shop) -> None:
    debits: Counter[tuple[str, str]] = Counter()
    credits: Counter[tuple[str, str]] = Counter()
    for entry in all_entries(busy):
        debits[entry.debit, entry.currency] += entry.amount_nano
        credits[entry.credit, entry.currency] += entry.amount_nano
    for account in accounts(busy.books):
        key = account.name, account.currency
        assert (account.debit_nano, account.credit_nano) == (debits[key], credits[key])
        grown, shrunk = (debits, credits) if account.side == "debit" else (credits, debits)
        assert account.balance_nano == grown[key] - shrunk[key]
        assert account.balance_nano >= 0 or account.kind == "fx", "only what conversions leave goes either way"


def test_accounts_stand_in_the_order_of_the_chart_with_their_meaning(busy: Shop) -> None:
    rows = accounts(busy.books)
    chart = {kind.name: (index, kind) for index, kind in enumerate(CHART)}
    assert [chart[row.kind][0] for row in rows] == sorted(chart[row.kind][0] for row in rows)
    assert all((row.meaning, row.sort) == (chart[row.kind][1].meaning, chart[row.kind][1].sort) for row in rows)
    assert [row.name for row in rows if row.kind == "wallet"] == ["wallet:acme", "wallet:beta", "wallet:gamma"]
    assert [row.currency for row in rows if row.name == "cash"] == ["CNY", "USD"]


@pytest.mark.parametrize("limit", [1, 10, 1000])
def test_pages_of_entries_join(busy: Shop, limit: int) -> None:
    ids = [entry.id for entry in all_entries(busy, limit=limit)]
    assert ids == list(range(ids[0], 0, -1))


def test_entries_of_an_account_are_all_that_touch_it(busy: Shop) -> None:
    for name in ("wallet:acme", "cash", "clearing-energy"):
        expected = [entry for entry in all_entries(busy) if name in {entry.debit, entry.credit}]
        assert expected
        assert all_entries(busy, name, limit=7) == expected


def test_a_page_of_an_account_takes_no_longer_for_all_that_came_before(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**9)
    row = dict(shop.books.execute(select(tables.entries)).mappings().one())
    del row["id"]
    shop.books.execute(insert(tables.entries), [row] * 5000)
    steps: list[None] = []
    driver: Any = shop.books.connection.driver_connection
    driver.set_progress_handler(lambda: steps.append(None), 100)
    page = entries(shop.books, "cash", before=4000, limit=10)
    assert [one.id for one in page.rows] == list(range(3999, 3989, -1))
    assert len(steps) < 100, "hundreds of steps of the database, not hundreds of thousands"
    driver.set_progress_handler(None, 0)


def test_entries_of_a_batch(busy: Shop) -> None:
    newest = all_entries(busy)[0]
    expected = [entry for entry in all_entries(busy) if entry.batch_id == newest.batch_id]
    assert list(entries(busy.books, batch_id=newest.batch_id).rows) == expected
    assert entries_from(busy.books, newest.batch_id, {newest.debit}) == [
        entry for entry in expected if entry.debit == newest.debit
    ]


def test_top_ups_keep_their_note(busy: Shop) -> None:
    first = all_entries(busy)[-1]
    assert (first.fact, first.kind, first.note, first.debit, first.credit) == (
        "topup",
        "topup",
        "first",
        "cash",
        "wallet:acme",
    )


def test_an_unknown_account_is_refused(busy: Shop) -> None:
    with pytest.raises(CallerError) as caught:
        entries(busy.books, "wallet:nobody")
    assert (caught.value.status, caught.value.param) == (404, "account")
