"""Grants: free credit with an expiry, given by hand or by an allowance once in each of its windows.

A grant lives until its expiry is posted: the entry of the grant, swapped, for what is left of it. Works in the caller's
transaction; knows no hold (what is still held for is told by the teller).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select, update

from steelyard.kernel import limits
from steelyard.kernel.calendar import Calendar, Every
from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import CallerError
from steelyard.ledger.accounts import GRANT, PROMOTION, BatchKind, Fact, account_name
from steelyard.ledger.operations import Why
from steelyard.ledger.posting import Pair, wallets, write_batch
from steelyard.ledger.purses import live_grants
from steelyard.storage import tables
from steelyard.storage.bulk import bulk


class Given(NamedTuple):
    """One grant to be posted; `window` is (allowance, start of its window)."""

    tenant_id: int
    amount_nano: int
    expires_ns: int
    window: tuple[int, int] | None = None


class Allowance(NamedTuple):
    """A grant in every window of a calendar, until it is stopped."""

    id: int
    tenant_id: int
    amount_nano: int
    calendar: Calendar


class GrantRow(NamedTuple):
    """A grant with what is left of it."""

    account: str
    amount_nano: int
    left_nano: int
    granted_ns: int
    expires_ns: int


def post_grants(connection: Connection, given: Sequence[Given], why: Why, clock: Clock) -> int:
    """Post grants as one batch, each to an account of its own; at midnight they are many. Returns the batch."""
    found = wallets(connection, {one.tenant_id for one in given})
    columns = tables.grants.c
    query = select(columns.tenant_id, func.count()).where(columns.tenant_id.in_(found)).group_by(columns.tenant_id)
    numbers = Counter({row[0]: row[1] for row in connection.execute(query)})
    accounts: list[dict[str, object]] = []
    pairs: dict[Pair, int] = {}
    for one in given:
        wallet = found[one.tenant_id]
        numbers[one.tenant_id] += 1
        name = account_name(GRANT, f"{wallet.name.partition(':')[2]}#{numbers[one.tenant_id]}")
        row = {"name": name, "kind": GRANT.name, "currency": wallet.currency, "tenant_id": one.tenant_id}
        accounts.append(row | {"debit_nano": 0, "credit_nano": 0})
        pairs[Pair(Fact.GRANT, account_name(PROMOTION), name, wallet.currency)] = one.amount_nano
    connection.execute(insert(tables.accounts), accounts)
    batch_id = write_batch(connection, BatchKind.GRANT, why.note, pairs, clock)
    names = [pair.credit for pair in pairs]
    ids = {row[0]: row[1] for row in bulk(connection).find(connection, tables.accounts, ("name", "id"), names)}
    rows = []
    for one, name in zip(given, names, strict=True):
        allowance_id, start_ns = one.window or (None, None)
        row = {"tenant_id": one.tenant_id, "account_id": ids[name], "batch_id": batch_id}
        row |= {"amount_nano": one.amount_nano, "granted_ns": clock.now_ns(), "expires_ns": one.expires_ns}
        rows.append(row | {"allowance_id": allowance_id, "window_start_ns": start_ns})
    connection.execute(insert(tables.grants), rows)
    return batch_id


def post_expiry(connection: Connection, due: Mapping[int, int], clock: Clock) -> int | None:
    """Take back what is left of grants whose time has come, at most `due` of each tenant: the rest is still held for.

    Returns the batch; None when nothing was left.
    """
    now_ns = clock.now_ns()
    currencies = {one: account.currency for one, account in wallets(connection, set(due)).items()} if due else {}
    pairs: dict[Pair, int] = {}
    for tenant_id, grants in live_grants(connection, due).items():
        most = due[tenant_id]
        for grant in reversed(grants):  # those that are drawn on first stay for what is held
            taken = min(most, grant.left_nano) if grant.expires_ns <= now_ns else 0
            most -= taken
            pair = Pair(Fact.GRANT_EXPIRED, grant.account, account_name(PROMOTION), currencies[tenant_id])
            pairs[pair] = taken
    if not any(pairs.values()):
        return None
    return write_batch(connection, BatchKind.EXPIRY, "", pairs, clock)


def grant_rows(connection: Connection, tenant_id: int) -> list[GrantRow]:
    """A tenant's grants that have something left, in the order in which they are drawn on."""
    columns, accounts = tables.grants.c, tables.accounts.c
    left = accounts.credit_nano - accounts.debit_nano
    query = (
        select(accounts.name, columns.amount_nano, left, columns.granted_ns, columns.expires_ns)
        .join_from(tables.grants, tables.accounts, accounts.id == columns.account_id)
        .where(columns.tenant_id == tenant_id, accounts.credit_nano > accounts.debit_nano)
        .order_by(columns.expires_ns, columns.id)
    )
    return [GrantRow(*row) for row in connection.execute(query)]


# --- allowances ---------------------------------------------------------------------------------------------------


def allowances(connection: Connection, tenant_id: int | None = None) -> list[Allowance]:
    """Those that are not stopped."""
    columns = tables.allowances.c
    query = select(tables.allowances).where(columns.stopped_ns.is_(None)).order_by(columns.id)
    if tenant_id is not None:
        query = query.where(columns.tenant_id == tenant_id)
    return [
        Allowance(row.id, row.tenant_id, row.amount_nano, Calendar(Every(row.every), row.zone, row.week_start))
        for row in connection.execute(query)
    ]


def start_allowance(
    connection: Connection, tenant_id: int, amount_nano: int, calendar: Calendar, why: Why, clock: Clock
) -> None:
    """CallerError 409 when the tenant has one."""
    if allowances(connection, tenant_id):
        raise CallerError(409, "already_exists", "The tenant has an allowance. Stop it first.", param="tenant")
    row = {"tenant_id": tenant_id, "amount_nano": amount_nano, "every": str(calendar.every), "zone": calendar.zone}
    row |= {"week_start": calendar.week_start, "started_ns": clock.now_ns(), **why._asdict()}
    connection.execute(insert(tables.allowances).values(row))


def stop_allowance(connection: Connection, tenant_id: int, clock: Clock) -> bool:
    """Give no further grants; the last one lives until it expires. False when there was none."""
    columns = tables.allowances.c
    here = (columns.tenant_id == tenant_id, columns.stopped_ns.is_(None))
    return connection.execute(update(tables.allowances).where(*here).values(stopped_ns=clock.now_ns())).rowcount > 0


def post_allowances(connection: Connection, clock: Clock) -> tuple[frozenset[int], int | None]:
    """Grant what the windows of this moment give and have not given yet; windows that were slept through are gone.

    Returns the tenants who got something, and when the next window begins (None: there is no allowance).
    """
    now_ns, running = clock.now_ns(), allowances(connection)
    windows = {calendar: calendar.window(now_ns) for calendar in {one.calendar for one in running}}
    given = _given(connection, {window.start_ns for window in windows.values()}) if windows else set()
    due: list[Given] = []
    for one in running:
        window = windows[one.calendar]
        # By tenant as well: one that is stopped and started anew gives nothing twice in a window.
        if given.isdisjoint({(one.id, window.start_ns), (one.tenant_id, *window)}):
            due.append(Given(one.tenant_id, one.amount_nano, window.end_ns, (one.id, window.start_ns)))
    for start in range(0, len(due), limits.GRANTS_PER_BATCH_MAX):
        post_grants(connection, due[start : start + limits.GRANTS_PER_BATCH_MAX], Why("allowance", ""), clock)
    return frozenset(one.tenant_id for one in due), min((window.end_ns for window in windows.values()), default=None)


def _given(connection: Connection, starts: set[int]) -> set[tuple[int, ...]]:
    """What allowances gave in windows that begin at these moments: (allowance, start) and (tenant, start, end).

    By way of the allowances, whose index it is: grants are as many as days have passed.
    """
    columns = tables.grants.c
    here = (columns.allowance_id.in_(select(tables.allowances.c.id)), columns.window_start_ns.in_(starts))
    query = select(columns.allowance_id, columns.tenant_id, columns.window_start_ns, columns.expires_ns).where(*here)
    found: set[tuple[int, ...]] = set()
    for allowance_id, tenant_id, start_ns, end_ns in connection.execute(query):
        found |= {(allowance_id, start_ns), (tenant_id, start_ns, end_ns)}
    return found
