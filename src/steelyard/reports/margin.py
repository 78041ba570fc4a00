"""What was earned and what it cost, by model, tenant or day. Owns nothing but the choice of groups."""

from sqlalchemy import Connection

from steelyard.kernel import limits
from steelyard.reports.sums import By, Report, Scope, report

MARGIN_BY = (By.MODEL, By.TENANT, By.DAY)


def margin(
    connection: Connection,
    by: By,
    since_ns: int | None = None,
    until_ns: int | None = None,
    limit: int = limits.PAGE_ROWS_MAX,
) -> Report:
    """Revenue, cost and margin of requests closed in [since, until); None means no bound on that side.

    Bounds on whole UTC hours or days are answered from roll-ups, others from usage rows. Percentages are left to
    whoever shows them.
    """
    return report(connection, by, Scope(since_ns, until_ns), limit)
