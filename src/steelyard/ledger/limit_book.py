"""Sub-limits in the database: the latest row of a subject and kind is in force, and none is ever changed.

Owns reading what the books say of the time before, so that the teller counts on where it stood. Knows no hold.
Every function works in the caller's transaction.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, case, func, insert, select

from steelyard.kernel.calendar import Calendar, Every
from steelyard.kernel.clock import NS_PER_HOUR, NS_PER_S
from steelyard.kernel.records import Limit, LimitKind, Scope
from steelyard.ledger.gauges import WINDOW_NS, Seed
from steelyard.storage import tables

# A request may be opened shortly before a window's end and held after it, or be dated ahead of a clock that stepped
# back.
_ASIDE_NS = 60 * NS_PER_S
_RATES = frozenset({LimitKind.RPM, LimitKind.TPM})


class Written(NamedTuple):
    """A limit as it stands in the books."""

    id: int
    tenant: str
    limit: Limit
    set_ns: int
    reason: str
    actor: str


def write_limit(connection: Connection, limit: Limit, set_ns: int, reason: str, actor: str) -> int:
    """Put a limit in force; an amount of None lifts it. Returns its row."""
    row = {
        "scope": limit.scope.value,
        "subject_id": limit.subject_id,
        "tenant_id": limit.tenant_id,
        "name": limit.name,
        "kind": limit.kind.value,
        "amount": limit.amount,
        "every": limit.every,
        "zone": limit.zone,
        "week_start": limit.week_start,
        "set_ns": set_ns,
        "reason": reason,
        "actor": actor,
    }
    return int(connection.execute(insert(tables.sublimits).values(row)).inserted_primary_key[0])  # type: ignore[index]


def limits_in_force(connection: Connection, tenant_id: int | None = None) -> list[Written]:
    """All limits in force, or those of one tenant, in the order they were set."""
    columns = tables.sublimits.c
    latest = select(func.max(columns.id)).group_by(columns.scope, columns.subject_id, columns.kind, columns.every)
    query = (
        select(tables.sublimits, tables.tenants.c.currency, tables.tenants.c.name.label("tenant"))
        .join_from(tables.sublimits, tables.tenants)
        .where(columns.id.in_(latest), columns.amount.is_not(None))
        .order_by(columns.id)
    )
    if tenant_id is not None:
        query = query.where(columns.tenant_id == tenant_id)
    return [_written(row) for row in connection.execute(query)]


def seeds(connection: Connection, limits: Sequence[Limit], now_ns: int) -> list[Seed]:
    """Each limit with what the usage rows say was spent in its present window and in one close by, and who asked in
    the last minutes."""
    windows = {limit: _windows(limit, now_ns) for limit in limits if limit.kind is LimitKind.BUDGET}
    spent = {window: _spent(connection, window) for window in {one for some in windows.values() for one in some}}
    recent = _recent(connection, now_ns) if any(limit.kind in _RATES for limit in limits) else {}
    return [
        Seed(
            limit,
            tuple((start, spent[start, end].get(_subject(limit), 0)) for start, end in windows.get(limit, ())),
            tuple(recent.get(_subject(limit), ())) if limit.kind in _RATES else (),
        )
        for limit in limits
    ]


def _windows(limit: Limit, now_ns: int) -> tuple[tuple[int, int], ...]:
    calendar = Calendar(Every(limit.every), limit.zone, limit.week_start)
    return tuple({calendar.window(now_ns + aside_ns) for aside_ns in (-_ASIDE_NS, 0, _ASIDE_NS)})


def _spent(connection: Connection, window: tuple[int, int]) -> dict[tuple[Scope, int], int]:
    """What every tenant, project and key was charged for requests opened in the window."""
    usage = tables.usage.c
    taken = case((usage.charge_nano < usage.hold_nano, usage.charge_nano), else_=usage.hold_nano)
    query = (
        select(usage.tenant_id, usage.project_id, usage.key_id, func.sum(taken))
        .where(*_opened(*window))
        .group_by(usage.tenant_id, usage.project_id, usage.key_id)
    )
    sums: dict[tuple[Scope, int], int] = {}
    for tenant_id, project_id, key_id, nano in connection.execute(query):
        for subject in ((Scope.TENANT, tenant_id), (Scope.PROJECT, project_id), (Scope.KEY, key_id)):
            sums[subject] = sums.get(subject, 0) + int(nano)
    return sums


def _recent(connection: Connection, now_ns: int) -> Mapping[tuple[Scope, int], list[tuple[int, int]]]:
    usage = tables.usage.c
    tokens = usage.input + usage.cached_input + usage.cache_write + usage.output + usage.reasoning
    tokens += usage.reused_input + usage.reused_output
    query = select(usage.tenant_id, usage.project_id, usage.key_id, usage.opened_ns, tokens).where(
        *_opened(now_ns - 2 * WINDOW_NS, now_ns + WINDOW_NS)
    )
    found: dict[tuple[Scope, int], list[tuple[int, int]]] = {}
    for tenant_id, project_id, key_id, opened_ns, count in connection.execute(query):
        for subject in ((Scope.TENANT, tenant_id), (Scope.PROJECT, project_id), (Scope.KEY, key_id)):
            found.setdefault(subject, []).append((opened_ns, count))
    return found


def _opened(since_ns: int, until_ns: int) -> tuple[ColumnElement[bool], ...]:
    """Requests opened in a window. The bound on the close is for its index, and wide: other clocks wrote it."""
    usage = tables.usage.c
    return usage.closed_ns >= since_ns - NS_PER_HOUR, usage.opened_ns >= since_ns, usage.opened_ns < until_ns


def _written(row: Row[Any]) -> Written:
    kind = LimitKind(row.kind)
    currency = row.currency if kind is LimitKind.BUDGET else ""
    limit = Limit(
        Scope(row.scope),
        row.subject_id,
        row.tenant_id,
        row.name,
        kind,
        row.amount,
        currency,
        row.every,
        row.zone,
        row.week_start,
    )
    return Written(row.id, row.tenant, limit, row.set_ns, row.reason, row.actor)


def _subject(limit: Limit) -> tuple[Scope, int]:
    return limit.scope, limit.subject_id
