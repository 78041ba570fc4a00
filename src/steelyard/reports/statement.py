"""The statement of one tenant's wallet: what came in, what went out, and why. It re-adds to the nano.

Read from the ledger entries of the wallet, dated by when their batch was posted (within a second of the close), so
that statements of neighbouring periods join without a gap.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, select

from steelyard.identity.store import Tenant, find_tenant
from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.errors import BooksError
from steelyard.kernel.frozen import Record
from steelyard.ledger.accounts import WALLET, BatchKind, Fact
from steelyard.reports.sums import DAY_NS, whole
from steelyard.storage import tables


class TopUp(Record, frozen=True):
    batch_id: int
    posted_ns: int
    note: str
    amount_nano: int


class ChargeLine(Record, frozen=True):
    """What one model took from the wallet on one UTC day, and for what."""

    day: str  # "2026-11-23"
    day_start_ns: int
    model: str
    requests: int
    input: int
    cached_input: int
    output: int
    amount_nano: int
    cache_write: int
    reasoning: int
    reused_input: int
    reused_output: int


class CorrectionLine(Record, frozen=True):
    """What a re-rating charged afterwards or, below zero, gave back."""

    batch_id: int
    posted_ns: int
    note: str
    amount_nano: int


class MoveLine(Record, frozen=True):
    """What an operation put into the wallet or, below zero, took from it: refund, transfer, adjustment, credit, …"""

    batch_id: int
    posted_ns: int
    kind: str  # of its batch
    note: str
    amount_nano: int


class GrantLine(Record, frozen=True):
    """What became of free credit within the period: it is beside the wallet, and used before it."""

    account: str  # "grant:acme#3"
    expires_ns: int
    granted_nano: int
    spent_nano: int
    taken_back_nano: int  # expired or reversed


class Statement(Record, frozen=True):
    """opening + top-ups − charges − corrections + moves = closing; grants are told beside it."""

    tenant_id: int
    tenant: str
    currency: str
    since_ns: int | None
    until_ns: int | None
    opening_nano: int
    topups: tuple[TopUp, ...]
    topups_nano: int
    charges: tuple[ChargeLine, ...]  # by day, then model
    charges_nano: int
    closing_nano: int
    corrections: tuple[CorrectionLine, ...] = ()
    corrections_nano: int = 0
    moves: tuple[MoveLine, ...] = ()
    moves_nano: int = 0
    grants: tuple[GrantLine, ...] = ()


def statement(
    connection: Connection, tenant: str, since_ns: int | None = None, until_ns: int | None = None
) -> Statement:
    """The wallet of the tenant of that name in [since, until). CallerError 404 when there is no such tenant."""
    found = find_tenant(connection, tenant)
    opening_nano = 0 if since_ns is None else _balance_nano(connection, found, since_ns)
    topups = tuple(TopUp(**row._mapping) for row in connection.execute(_topups(found, since_ns, until_ns)))
    charges = _charges(connection, found, since_ns, until_ns)
    topups_nano = sum(topup.amount_nano for topup in topups)
    charges_nano = sum(line.amount_nano for line in charges)
    corrections = _corrections(connection, found, since_ns, until_ns)
    corrections_nano = sum(line.amount_nano for line in corrections)
    moves = _moves(connection, found, since_ns, until_ns)
    moves_nano = sum(line.amount_nano for line in moves)
    closing_nano = _balance_nano(connection, found, until_ns)
    if opening_nano + topups_nano - charges_nano - corrections_nano + moves_nano != closing_nano:
        raise BooksError(f"the statement of {tenant} does not re-add: its wallet has entries of another kind")
    return Statement(
        tenant_id=found.id,
        tenant=found.name,
        currency=found.currency,
        since_ns=since_ns,
        until_ns=until_ns,
        opening_nano=opening_nano,
        topups=topups,
        topups_nano=topups_nano,
        charges=charges,
        charges_nano=charges_nano,
        closing_nano=closing_nano,
        corrections=corrections,
        corrections_nano=corrections_nano,
        moves=moves,
        moves_nano=moves_nano,
        grants=_grants(connection, found, since_ns, until_ns),
    )


def _wallet_ids(tenant: Tenant) -> Select[Any]:
    columns = tables.accounts.c
    return select(columns.id).where(
        columns.kind == WALLET.name, columns.tenant_id == tenant.id, columns.currency == tenant.currency
    )


def _within(query: Select[Any], since_ns: int | None, until_ns: int | None) -> Select[Any]:
    posted_ns = tables.batches.c.posted_ns
    if since_ns is not None:
        query = query.where(posted_ns >= since_ns)
    if until_ns is not None:
        query = query.where(posted_ns < until_ns)
    return query


def _balance_nano(connection: Connection, tenant: Tenant, at_ns: int | None) -> int:
    """The wallet as of `at_ns`, from its entries alone."""
    columns = tables.entries.c
    wallets = list(connection.execute(_wallet_ids(tenant)).scalars())
    signed: ColumnElement[int] = case(
        (columns.credit_account_id.in_(wallets), columns.amount_nano), else_=-columns.amount_nano
    )
    query = (
        select(whole(signed))
        .join_from(tables.entries, tables.batches)
        .where(columns.credit_account_id.in_(wallets) | columns.debit_account_id.in_(wallets))
    )
    return int(connection.execute(_within(query, None, at_ns)).scalar_one())


def _topups(tenant: Tenant, since_ns: int | None, until_ns: int | None) -> Select[Any]:
    columns, batches = tables.entries.c, tables.batches.c
    query = (
        select(columns.batch_id, batches.posted_ns, batches.note, columns.amount_nano)
        .join_from(tables.entries, tables.batches)
        .where(columns.fact == Fact.TOPUP.value, columns.credit_account_id.in_(_wallet_ids(tenant)))
        .order_by(columns.id)
    )
    return _within(query, since_ns, until_ns)


def _corrections(
    connection: Connection, tenant: Tenant, since_ns: int | None, until_ns: int | None
) -> tuple[CorrectionLine, ...]:
    columns, batches = tables.entries.c, tables.batches.c
    wallets = list(connection.execute(_wallet_ids(tenant)).scalars())
    signed: ColumnElement[int] = case(
        (columns.debit_account_id.in_(wallets), columns.amount_nano), else_=-columns.amount_nano
    )
    query = (
        select(columns.batch_id, batches.posted_ns, batches.note, whole(signed).label("amount_nano"))
        .join_from(tables.entries, tables.batches)
        .where(batches.kind == BatchKind.RERATE)
        .where(columns.credit_account_id.in_(wallets) | columns.debit_account_id.in_(wallets))
        .group_by(columns.batch_id, batches.posted_ns, batches.note)
        .order_by(columns.batch_id)
    )
    return tuple(CorrectionLine(**row._mapping) for row in connection.execute(_within(query, since_ns, until_ns)))


def _moves(connection: Connection, tenant: Tenant, since_ns: int | None, until_ns: int | None) -> tuple[MoveLine, ...]:
    """Whatever else touched the wallet, by batch."""
    columns, batches = tables.entries.c, tables.batches.c
    wallets = list(connection.execute(_wallet_ids(tenant)).scalars())
    signed: ColumnElement[int] = case(
        (columns.credit_account_id.in_(wallets), columns.amount_nano), else_=-columns.amount_nano
    )
    told = (BatchKind.TOPUP, BatchKind.USAGE, BatchKind.RERATE)
    query = (
        select(columns.batch_id, batches.posted_ns, batches.kind, batches.note, whole(signed).label("amount_nano"))
        .join_from(tables.entries, tables.batches)
        .where(batches.kind.not_in(told))
        .where(columns.credit_account_id.in_(wallets) | columns.debit_account_id.in_(wallets))
        .group_by(columns.batch_id, batches.posted_ns, batches.kind, batches.note)
        .order_by(columns.batch_id)
    )
    return tuple(MoveLine(**row._mapping) for row in connection.execute(_within(query, since_ns, until_ns)))


def _grants(
    connection: Connection, tenant: Tenant, since_ns: int | None, until_ns: int | None
) -> tuple[GrantLine, ...]:
    """Grants that something happened to in the period."""
    columns, grants, accounts = tables.entries.c, tables.grants.c, tables.accounts.c
    query = (
        select(
            accounts.name,
            grants.expires_ns,
            whole(case((columns.credit_account_id == accounts.id, columns.amount_nano), else_=0)),
            whole(case((columns.fact == Fact.GRANT_SPENT.value, columns.amount_nano), else_=0)),
            whole(case((columns.debit_account_id == accounts.id, columns.amount_nano), else_=0)),
        )
        .join_from(tables.entries, tables.batches)
        .join(tables.accounts, (accounts.id == columns.credit_account_id) | (accounts.id == columns.debit_account_id))
        .join(tables.grants, grants.account_id == accounts.id)
        .where(grants.tenant_id == tenant.id)
        .group_by(grants.id, accounts.name, grants.expires_ns)
        .order_by(grants.id)
    )
    rows = connection.execute(_within(query, since_ns, until_ns))
    return tuple(GrantLine(row[0], row[1], row[2], row[3], row[4] - row[3]) for row in rows)


def _charges(
    connection: Connection, tenant: Tenant, since_ns: int | None, until_ns: int | None
) -> tuple[ChargeLine, ...]:
    """What the entries took, by day of posting and model, beside the tokens of the usage rows they stand for."""
    columns, batches, usage = tables.entries.c, tables.batches.c, tables.usage.c
    day = (batches.posted_ns - batches.posted_ns % DAY_NS).label("day_ns")
    taken = (
        select(day, tables.accounts.c.name, whole(columns.amount_nano).label("amount_nano"))
        .join_from(tables.entries, tables.batches)
        .join(tables.accounts, tables.accounts.c.id == columns.credit_account_id)
        .where(columns.fact == Fact.CHARGE.value, columns.debit_account_id.in_(_wallet_ids(tenant)))
        .where(batches.kind != BatchKind.RERATE)
        .group_by("day_ns", tables.accounts.c.name)
    )
    amounts = {
        (row.day_ns, row.name.partition(":")[2]): row.amount_nano
        for row in connection.execute(_within(taken, since_ns, until_ns))
    }
    used = (
        select(
            day,
            usage.model,
            func.count().label("requests"),
            whole(usage.input).label("input"),
            whole(usage.cached_input).label("cached_input"),
            whole(usage.output).label("output"),
            whole(usage.cache_write).label("cache_write"),
            whole(usage.reasoning).label("reasoning"),
            whole(usage.reused_input).label("reused_input"),
            whole(usage.reused_output).label("reused_output"),
        )
        .join_from(tables.usage, tables.batches)
        .where(usage.tenant_id == tenant.id)
        .group_by("day_ns", usage.model)
        .order_by("day_ns", usage.model)
    )
    return tuple(
        ChargeLine(
            day=iso_from_ns(row.day_ns)[:10],
            day_start_ns=row.day_ns,
            model=row.model,
            requests=row.requests,
            input=row.input,
            cached_input=row.cached_input,
            output=row.output,
            amount_nano=amounts.get((row.day_ns, row.model), 0),
            cache_write=row.cache_write,
            reasoning=row.reasoning,
            reused_input=row.reused_input,
            reused_output=row.reused_output,
        )
        for row in connection.execute(_within(used, since_ns, until_ns))
    )
