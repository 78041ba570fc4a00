"""Today, the last hour and the last thirty days at a glance. Days and minutes are UTC, by the close of the request."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, func, select

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S, day_of
from steelyard.kernel.frozen import Record
from steelyard.reports.sums import DAY_NS, By, Group, Scope, Totals, report, whole
from steelyard.storage import tables

MINUTE_NS = 60 * NS_PER_S
CURRENCY_WITHOUT_TENANTS = "CNY"


class Point(Record, frozen=True):
    """One bucket of a chart; a bucket without requests is all zeros."""

    start_ns: int
    requests: int
    tokens: int
    charge_nano: int
    cost_nano: int  # CPU, energy and vendors


class Series(Record, frozen=True):
    """A chart in one currency: consecutive buckets, oldest first."""

    currency: str
    bucket_ns: int
    points: tuple[Point, ...]


class Overview(Record, frozen=True):
    """One Totals and one Series per currency that any tenant has (CNY when there is no tenant yet), in the same order:
    the currency with most revenue today first. So `today[0]`, `last_hour[0]` and `last_30_days[0]` always exist."""

    now_ns: int
    day_start_ns: int
    today: tuple[Totals, ...]
    models_today: tuple[Group, ...]  # largest charge first, at most limits.OVERVIEW_ROWS
    tenants_today: tuple[Group, ...]
    models_left_out: int  # of those that had requests today
    tenants_left_out: int
    last_hour: tuple[Series, ...]  # 60 minutes, the running one last
    last_30_days: tuple[Series, ...]  # 30 days, today last
    requests_ever: int  # 0 means that nothing was ever served
    energy_output: int  # output tokens of today's models that used energy: of a vendor's nobody knows it


def overview(connection: Connection, now_ns: int) -> Overview:
    """All the overview page shows, in one read transaction."""
    day_start_ns = day_of(now_ns)
    today_only = Scope(day_start_ns, day_start_ns + DAY_NS)
    models = report(connection, By.MODEL, today_only)
    tenants = report(connection, By.TENANT, today_only)
    earned = {totals.currency: totals for totals in models.totals}
    currencies = sorted(
        _currencies(connection) | set(earned),
        key=lambda currency: (-earned.get(currency, Totals(currency)).charge_nano, currency),
    )
    minute_ns = now_ns - now_ns % MINUTE_NS
    return Overview(
        now_ns=now_ns,
        day_start_ns=day_start_ns,
        today=tuple(earned.get(currency, Totals(currency)) for currency in currencies),
        models_today=models.groups[: limits.OVERVIEW_ROWS],
        tenants_today=tenants.groups[: limits.OVERVIEW_ROWS],
        models_left_out=len(models.groups[limits.OVERVIEW_ROWS :]),
        tenants_left_out=len(tenants.groups[limits.OVERVIEW_ROWS :]),
        last_hour=_series(connection, _minutes, (minute_ns - 59 * MINUTE_NS, 60, MINUTE_NS), currencies),
        last_30_days=_series(connection, _days, (day_start_ns - 29 * DAY_NS, 30, DAY_NS), currencies),
        requests_ever=connection.execute(
            select(whole(tables.rollups.c.requests)).where(tables.rollups.c.grain == "day")
        ).scalar_one(),
        energy_output=sum(group.totals.generated for group in models.groups if group.totals.energy_uj),
    )


def _currencies(connection: Connection) -> set[str]:
    found = set(connection.execute(select(tables.tenants.c.currency).distinct()).scalars())
    return found or {CURRENCY_WITHOUT_TENANTS}


def _series(
    connection: Connection,
    source: Callable[[int, int], Select[Any]],
    axis: tuple[int, int, int],
    currencies: Sequence[str],
) -> tuple[Series, ...]:
    """`axis` is the first bucket's start, the number of buckets and the width of one."""
    first_ns, count, bucket_ns = axis
    found = {
        (row.currency, row.start_ns): Point(row.start_ns, row.requests, row.tokens, row.charge_nano, row.cost_nano)
        for row in connection.execute(source(first_ns, first_ns + count * bucket_ns))
    }
    starts = range(first_ns, first_ns + count * bucket_ns, bucket_ns)
    return tuple(
        Series(currency, bucket_ns, tuple(found.get((currency, at), Point(at, 0, 0, 0, 0)) for at in starts))
        for currency in currencies
    )


def _minutes(since_ns: int, until_ns: int) -> Select[Any]:
    columns = tables.usage.c
    return (
        select(
            (columns.closed_ns - columns.closed_ns % MINUTE_NS).label("start_ns"),
            columns.currency,
            func.count().label("requests"),
            _tokens(tables.usage).label("tokens"),
            whole(columns.charge_nano).label("charge_nano"),
            whole(columns.cpu_cost_nano + columns.energy_cost_nano + columns.vendor_cost_nano).label("cost_nano"),
        )
        .where(columns.closed_ns >= since_ns, columns.closed_ns < until_ns)
        .group_by("start_ns", columns.currency)
    )


def _tokens(source: Table) -> ColumnElement[int]:
    columns = source.c
    prompt = columns.input + columns.cached_input + columns.cache_write + columns.reused_input
    return whole(prompt + columns.output + columns.reasoning + columns.reused_output)


def _days(since_ns: int, until_ns: int) -> Select[Any]:
    columns = tables.rollups.c
    return (
        select(
            columns.start_ns,
            columns.currency,
            whole(columns.requests).label("requests"),
            _tokens(tables.rollups).label("tokens"),
            whole(columns.charge_nano).label("charge_nano"),
            whole(columns.cost_nano).label("cost_nano"),
        )
        .where(columns.grain == "day", columns.start_ns >= since_ns, columns.start_ns < until_ns)
        .group_by(columns.start_ns, columns.currency)
    )
