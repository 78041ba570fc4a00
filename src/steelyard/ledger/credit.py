"""Credit limits: how far below zero a wallet may go, as dated rows of which the latest counts.

A limit is in force for the batches behind the one that was last when it was set, so that replaying the books finds it
in force at the same places (I12), whatever the clock did. Works in the caller's transaction.
"""

from typing import NamedTuple

from sqlalchemy import Connection, insert, select

from steelyard.kernel.clock import Clock
from steelyard.ledger.purses import greater_limit, last_batch_id, limits_since
from steelyard.storage import tables


class LimitHistory(NamedTuple):
    """The limits of one tenant: (after batch, set_ns, limit), oldest first."""

    rows: tuple[tuple[int, int, int], ...]

    def greatest(self, batch_id: int, since_ns: int | None = None) -> int:
        """The greatest limit in force for a batch since then (None: when it was posted)."""
        found = 0
        for after, set_ns, limit in self.rows:
            if after < batch_id:
                found = greater_limit(found, limit, set_ns, since_ns)
        return found


def limit_histories(connection: Connection) -> dict[int, LimitHistory]:
    """Tenant → his limits; tenants who never had one are not in it."""
    columns = tables.credit_limits.c
    query = select(columns.tenant_id, columns.after_batch_id, columns.set_ns, columns.limit_nano).order_by(columns.id)
    found: dict[int, list[tuple[int, int, int]]] = {}
    for tenant_id, *row in connection.execute(query):
        found.setdefault(tenant_id, []).append((row[0], row[1], row[2]))
    return {tenant_id: LimitHistory(tuple(rows)) for tenant_id, rows in found.items()}


def set_limit(
    connection: Connection, tenant_id: int, limit_nano: int, why: tuple[str, str], clock: Clock, held_ns: int = 0
) -> bool:
    """Set a tenant's limit; `why` is reason and actor. False when it is what it was.

    It is dated behind `held_ns`, the opening of the newest request that was held for before: also when the clock has
    stepped back since, that request is paid for under the limit its hold was given under.
    """
    if limits_since(connection, {tenant_id: None}).get(tenant_id, 0) == limit_nano:
        return False
    reason, actor = why
    set_ns = max(clock.now_ns(), held_ns + 1)
    row = {"tenant_id": tenant_id, "limit_nano": limit_nano, "set_ns": set_ns, "reason": reason, "actor": actor}
    connection.execute(insert(tables.credit_limits).values(row | {"after_batch_id": last_batch_id(connection)}))
    return True
