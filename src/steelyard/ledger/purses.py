"""Purses as the books have them: wallet accounts, grants with something left, credit limits in force.

Reads only, in the caller's transaction. What is in force is decided by the rows that are there, never by the clock, so
that replaying the same rows in the same order draws on the same money (I12).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from sqlalchemy import BindParameter, Connection, bindparam, func, select

from steelyard.ledger.accounts import GRANT, WALLET
from steelyard.ledger.purse import Grant, Purse
from steelyard.storage import tables

_IDS_PER_QUERY = 500
_accounts, _grants, _limits = tables.accounts.c, tables.grants.c, tables.credit_limits.c
_THESE: BindParameter[list[int]] = bindparam("tenants", expanding=True)
# Made once: posting asks these for every batch, and making a statement takes longer than running it.
_BALANCES = select(_accounts.tenant_id, _accounts.credit_nano - _accounts.debit_nano).where(
    _accounts.kind == WALLET.name
)
_LIVE_GRANTS = (
    select(
        _grants.tenant_id, _grants.expires_ns, _grants.id, _accounts.name, _accounts.credit_nano - _accounts.debit_nano
    )
    .join_from(tables.accounts, tables.grants, _grants.account_id == _accounts.id)
    .where(_accounts.kind == GRANT.name, _accounts.credit_nano > _accounts.debit_nano, _accounts.tenant_id.in_(_THESE))
)
_LIMITS = (
    select(_limits.tenant_id, _limits.limit_nano, _limits.set_ns)
    .where(_limits.tenant_id.in_(_THESE))
    .order_by(_limits.id)
)


def wallet_balances(connection: Connection) -> dict[int, int]:
    """Tenant → balance of the wallet account (credit − debit)."""
    return {row[0]: row[1] for row in connection.execute(_BALANCES)}


def read_purses(connection: Connection, tenant_ids: Iterable[int] | None = None) -> dict[int, Purse]:
    """The purses of these tenants, or of all; their limits are those of now."""
    balances = wallet_balances(connection) if tenant_ids is None else {}
    if tenant_ids is not None:
        for some in _in_parts(tenant_ids):
            query = _BALANCES.where(tables.accounts.c.tenant_id.in_(some))
            balances |= {row[0]: row[1] for row in connection.execute(query)}
    grants = live_grants(connection, balances)
    limits = limits_since(connection, dict.fromkeys(balances))
    return {one: Purse(balance, limits.get(one, 0), grants.get(one, ())) for one, balance in sorted(balances.items())}


def live_grants(connection: Connection, tenant_ids: Iterable[int]) -> dict[int, tuple[Grant, ...]]:
    """Tenant → grants with something left, in the order in which they are drawn on."""
    found: dict[int, list[Grant]] = defaultdict(list)
    for some in _in_parts(tenant_ids):
        for row in connection.execute(_LIVE_GRANTS, {"tenants": some}):
            found[row[0]].append(Grant(*row[1:]))
    return {tenant_id: tuple(sorted(some)) for tenant_id, some in found.items()}


def limits_since(connection: Connection, since: Mapping[int, int | None]) -> dict[int, int]:
    """Tenant → the greatest credit limit in force at some moment since then (None: now); no limit, no entry.

    A request is paid for under the limit that its hold was given under, even if it was lowered meanwhile.
    """
    found: dict[int, int] = {}
    for some in _in_parts(since):
        for tenant_id, limit, set_ns in connection.execute(_LIMITS, {"tenants": some}):
            found[tenant_id] = greater_limit(found.get(tenant_id, 0), limit, set_ns, since[tenant_id])
    return found


def greater_limit(before_nano: int, limit_nano: int, set_ns: int, since_ns: int | None) -> int:
    """The greatest limit since then, told one after the other as they were set; `before_nano` is that so far."""
    return max(limit_nano, before_nano) if since_ns is not None and set_ns > since_ns else limit_nano


def last_batch_id(connection: Connection) -> int:
    """The newest batch; 0 when there is none."""
    return int(connection.execute(select(func.coalesce(func.max(tables.batches.c.id), 0))).scalar_one())


def _in_parts(ids: Iterable[int]) -> Iterable[list[int]]:
    ordered = sorted(ids)
    return (ordered[start : start + _IDS_PER_QUERY] for start in range(0, len(ordered), _IDS_PER_QUERY))
