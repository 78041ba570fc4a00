"""Today, the last hour and the last thirty days at a glance. Days and minutes are UTC, by the close of the request."""

from sqlalchemy import Connection

from steelyard.kernel.records import Record
from steelyard.reports.sums import Group, Totals


class Point(Record, frozen=True):
    """One bucket of a chart; a bucket without requests is all zeros."""

    start_ns: int
    requests: int
    tokens: int
    charge_nano: int
    cost_nano: int  # CPU and energy


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
    last_hour: tuple[Series, ...]  # 60 minutes, the running one last
    last_30_days: tuple[Series, ...]  # 30 days, today last
    requests_ever: int  # 0 means that nothing was ever served


def overview(connection: Connection, now_ns: int) -> Overview:
    """All the overview page shows, in one read transaction."""
    raise NotImplementedError
