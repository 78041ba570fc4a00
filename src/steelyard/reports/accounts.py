"""The general ledger: every account with its balance and meaning, and the entries behind it."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import CompoundSelect, Connection, Select, or_, select, union

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError
from steelyard.kernel.frozen import Record
from steelyard.ledger.accounts import CHART, balance_nano, kind_of
from steelyard.reports.sums import whole
from steelyard.storage import tables


class AccountRow(Record, frozen=True):
    """An account. `balance_nano` stands on the account's normal side."""

    id: int
    name: str  # "wallet:acme"
    kind: str
    sort: str  # "asset", "liability", "income", "expense"
    side: str  # "debit" or "credit": where it grows
    meaning: str
    currency: str
    debit_nano: int
    credit_nano: int
    balance_nano: int


class EntryRow(Record, frozen=True):
    """One entry: `amount_nano` from the credited to the debited account."""

    id: int
    batch_id: int
    posted_ns: int
    kind: str  # of the batch: "usage" or "topup"
    note: str
    fact: str
    debit: str
    credit: str
    currency: str
    amount_nano: int


class EntryPage(Record, frozen=True):
    """Entries, newest first. `older` is the `before` of the next page."""

    rows: tuple[EntryRow, ...]
    older: int | None


class TrialBalance(Record, frozen=True):
    """Sums of one currency over all accounts; equal on both sides in sound books (I1)."""

    currency: str
    debit_nano: int
    credit_nano: int


def accounts(connection: Connection) -> list[AccountRow]:
    """Every account in the order of the chart, then by name and currency."""
    place = {kind.name: index for index, kind in enumerate(CHART)}
    rows = []
    for row in connection.execute(select(tables.accounts)):
        kind = kind_of(row.name)
        rows.append(
            AccountRow(
                id=row.id,
                name=row.name,
                kind=kind.name,
                sort=kind.sort,
                side=kind.side.value,
                meaning=kind.meaning,
                currency=row.currency,
                debit_nano=row.debit_nano,
                credit_nano=row.credit_nano,
                balance_nano=balance_nano(kind, row.debit_nano, row.credit_nano),
            )
        )
    return sorted(rows, key=lambda row: (place[row.kind], row.name, row.currency))


def trial_balance(connection: Connection) -> list[TrialBalance]:
    """Debits and credits per currency."""
    columns = tables.accounts.c
    query = (
        select(columns.currency, whole(columns.debit_nano), whole(columns.credit_nano))
        .group_by(columns.currency)
        .order_by(columns.currency)
    )
    return [TrialBalance(*row) for row in connection.execute(query)]


def entries(
    connection: Connection,
    account: str | None = None,
    *,
    batch_id: int | None = None,
    before: int | None = None,
    limit: int = limits.PAGE_ROWS,
) -> EntryPage:
    """Entries of all accounts or of one (on either side); CallerError 404 when no account has that name."""
    columns = tables.entries.c
    limit = max(1, min(limit, limits.PAGE_ROWS_MAX))
    query = _entries()
    if before is not None:
        query = query.where(columns.id < before)
    if batch_id is not None:
        query = query.where(columns.batch_id == batch_id)
    if account is not None:
        ids = _account_ids(connection, account)
        touching = or_(columns.debit_account_id.in_(ids), columns.credit_account_id.in_(ids))
        query = query.where(touching if batch_id is not None else columns.id.in_(_newest(ids, before, limit + 1)))
    rows = tuple(EntryRow(**row._mapping) for row in connection.execute(query.limit(limit + 1)))
    return EntryPage(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)


def entries_from(connection: Connection, batch_id: int, debited: Collection[str]) -> list[EntryRow]:
    """The entries of one batch that debit an account of these names."""
    ids = select(tables.accounts.c.id).where(tables.accounts.c.name.in_(debited))
    columns = tables.entries.c
    query = _entries().where(columns.batch_id == batch_id, columns.debit_account_id.in_(ids))
    return [EntryRow(**row._mapping) for row in connection.execute(query)]


def _newest(account_ids: Collection[int], before: int | None, most: int) -> CompoundSelect[Any]:
    """The newest entries of these accounts, looked for side by side in the indexes: all of them may be millions."""
    columns = tables.entries.c
    sides = [
        select(columns.id).where(side == one).order_by(columns.id.desc()).limit(most)
        for side in (columns.debit_account_id, columns.credit_account_id)
        for one in account_ids
    ]
    if before is not None:
        sides = [side.where(columns.id < before) for side in sides]
    return union(*(select(side.subquery().c.id) for side in sides))


def _entries() -> Select[Any]:
    columns = tables.entries.c
    debit, credit = tables.accounts.alias("debited"), tables.accounts.alias("credited")
    return (
        select(
            columns.id,
            columns.batch_id,
            tables.batches.c.posted_ns,
            tables.batches.c.kind,
            tables.batches.c.note,
            columns.fact,
            debit.c.name.label("debit"),
            credit.c.name.label("credit"),
            columns.currency,
            columns.amount_nano,
        )
        .join_from(tables.entries, tables.batches)
        .join(debit, debit.c.id == columns.debit_account_id)
        .join(credit, credit.c.id == columns.credit_account_id)
        .order_by(columns.id.desc())
    )


def _account_ids(connection: Connection, name: str) -> list[int]:
    """The account of that name in each currency it has."""
    columns = tables.accounts.c
    ids = list(connection.execute(select(columns.id).where(columns.name == name)).scalars())
    if not ids:
        raise CallerError(404, "not_found", f"There is no account named {name!r}.", param="account")
    return ids
