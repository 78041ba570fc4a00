"""Closed periods: from their end on nothing is posted before it, and the balances they ended with are kept as a hash.

What comes late for a closed period counts in the open one (ledger.posting). Works in the caller's transaction.
"""

from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

import msgspec
from sqlalchemy import BigInteger, Connection, cast, func, insert, select

from steelyard.kernel.clock import Clock, iso_from_ns
from steelyard.kernel.errors import CallerError
from steelyard.ledger.operations import Why
from steelyard.ledger.purses import last_batch_id
from steelyard.ledger.standing import read_standing
from steelyard.storage import tables


class Balance(NamedTuple):
    """The totals of an account at the end of a period."""

    name: str
    currency: str
    debit_nano: int
    credit_nano: int


class ClosedPeriod(NamedTuple):
    """A closed period; it begins where the one before ends."""

    id: int
    until_ns: int
    zone: str
    last_batch_id: int
    balances_hash: bytes
    reason: str
    actor: str
    closed_ns: int


def close_period(connection: Connection, until_ns: int, zone: str, why: Why, clock: Clock) -> ClosedPeriod:
    """Close everything before `until_ns`. Closing it again answers the first time.

    CallerError 409 when it is in the future or before the end of a period that is closed already.
    """
    found = [one for one in closed_periods(connection) if one.until_ns == until_ns]
    if found:
        return found[0]
    if until_ns > clock.now_ns():
        raise CallerError(409, "period_not_over", "A period can be closed when it is over.", param="until")
    closed_until_ns = read_standing(connection).closed_until_ns
    if until_ns <= closed_until_ns:
        end = iso_from_ns(closed_until_ns)
        raise CallerError(
            409, "period_closed", f"The books are closed until {end}. Close a later period.", param="until"
        )
    batches = tables.batches.c
    last = select(func.coalesce(func.max(batches.id), 0)).where(batches.posted_ns < until_ns)
    last_id = int(connection.execute(last).scalar_one())
    row = {"until_ns": until_ns, "zone": zone, "last_batch_id": last_id, "after_batch_id": last_batch_id(connection)}
    row |= {"balances_hash": balances_hash(_balances(connection, last_id)), "closed_ns": clock.now_ns()}
    connection.execute(insert(tables.periods).values(row | why._asdict()))
    return closed_periods(connection)[-1]


def closed_periods(connection: Connection) -> list[ClosedPeriod]:
    """Oldest first."""
    columns = [tables.periods.c[name] for name in ClosedPeriod._fields]
    return [ClosedPeriod(*row) for row in connection.execute(select(*columns).order_by(tables.periods.c.until_ns))]


def balances_hash(balances: Iterable[Balance]) -> bytes:
    """Over all accounts that were used, by name and currency."""
    used = sorted(balance for balance in balances if balance.debit_nano or balance.credit_nano)
    return sha256(msgspec.msgpack.encode(used)).digest()


def _balances(connection: Connection, last_id: int) -> list[Balance]:
    entries = tables.entries.c
    sums: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for side, column in enumerate((entries.debit_account_id, entries.credit_account_id)):
        query = select(column, cast(func.sum(entries.amount_nano), BigInteger)).where(entries.batch_id <= last_id)
        for account_id, amount in connection.execute(query.group_by(column)):
            sums[account_id][side] = amount
    accounts = tables.accounts.c
    names = connection.execute(select(accounts.id, accounts.name, accounts.currency))
    return [Balance(row.name, row.currency, *sums[row.id]) for row in names if row.id in sums]
