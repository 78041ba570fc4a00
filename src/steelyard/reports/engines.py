"""What the books say of engines: what each upstream did in every minute of the last hour, by the close of the request.

Posted requests only. Busy time and energy are the shares of requests: what an engine did for nobody is not here.
"""

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, func, select

from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.frozen import Record
from steelyard.reports.sums import whole
from steelyard.storage import tables

MINUTE_NS = 60 * NS_PER_S
_MINUTES = 60


class Minute(Record, frozen=True):
    """Sums over the requests that closed in it; all zeros when there were none. Tokens are disjoint."""

    start_ns: int
    requests: int = 0
    prefill: int = 0  # prompt tokens computed
    cached: int = 0  # prompt tokens read from a cache
    decode: int = 0
    busy_ns: int = 0
    energy_uj: int = 0
    measured_uj: int = 0  # of it; the rest is modelled


def last_hour(connection: Connection, now_ns: int, upstreams: Collection[str]) -> Mapping[str, tuple[Minute, ...]]:
    """Sixty minutes for each of `upstreams`, oldest first, the running one last."""
    first_ns = now_ns - now_ns % MINUTE_NS - (_MINUTES - 1) * MINUTE_NS
    columns = tables.usage.c
    query = (
        select(
            columns.upstream,
            (columns.closed_ns - columns.closed_ns % MINUTE_NS).label("start_ns"),
            func.count().label("requests"),
            whole(columns.input + columns.cache_write).label("prefill"),
            whole(columns.cached_input).label("cached"),
            whole(columns.output + columns.reasoning).label("decode"),
            whole(columns.cpu_ns).label("busy_ns"),
            whole(columns.energy_uj).label("energy_uj"),
            whole(columns.measured_uj).label("measured_uj"),
        )
        .where(columns.closed_ns >= first_ns, columns.closed_ns < first_ns + _MINUTES * MINUTE_NS)
        .where(columns.upstream.in_(upstreams))
        .group_by(columns.upstream, "start_ns")
    )
    found = {
        (row.upstream, row.start_ns): Minute(**{name: getattr(row, name) for name in Minute.__struct_fields__})
        for row in connection.execute(query)
    }
    starts = range(first_ns, first_ns + _MINUTES * MINUTE_NS, MINUTE_NS)
    return {name: tuple(found.get((name, at), Minute(at)) for at in starts) for name in upstreams}
