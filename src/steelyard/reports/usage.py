"""Who used what: tokens and charges by model, tenant, key or day, for everybody or one tenant."""

from sqlalchemy import Connection

from steelyard.identity.store import find_tenant
from steelyard.kernel import limits
from steelyard.reports.sums import By, Report, Scope, report

USAGE_BY = (By.MODEL, By.TENANT, By.KEY, By.DAY)


def usage(
    connection: Connection,
    by: By,
    since_ns: int | None = None,
    until_ns: int | None = None,
    tenant: str | None = None,
    limit: int = limits.PAGE_ROWS_MAX,
) -> Report:
    """Usage of requests closed in [since, until), of all tenants or of the one named.

    Raises CallerError 404 for a tenant that does not exist.
    """
    tenant_id = None if tenant is None else find_tenant(connection, tenant).id
    return report(connection, by, Scope(since_ns, until_ns, tenant_id), limit)
