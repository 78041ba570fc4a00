"""The operations of the admin API as one table: method, path, what is taken, and which command or report answers.

Routes and the OpenAPI document are both made from it, so they cannot differ. Decides nothing and speaks no HTTP.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from steelyard.gateway.figures import flat, period_ns
from steelyard.gateway.limit_operations import LIMIT_OPERATIONS
from steelyard.gateway.money_operations import MONEY_OPERATIONS
from steelyard.gateway.openapi import document
from steelyard.gateway.operation import PREFIX, AdminHouse, Asked, ByTenant, Call, Operation, Run, commanded
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError
from steelyard.kernel.ids import id_from_text
from steelyard.reports.accounts import accounts, entries, trial_balance
from steelyard.reports.margin import margin
from steelyard.reports.payables import payables
from steelyard.reports.requests import RequestFilter, detail, latest
from steelyard.reports.statement import statement
from steelyard.reports.sums import By, Report
from steelyard.reports.usage import usage


class NewTenant(Asked):
    """A customer of the platform."""

    name: str
    currency: str = "CNY"


class NewKey(Asked):
    """A credential of a tenant's project."""

    tenant: str
    name: str
    project: str = "default"


class NewOperator(Asked):
    """A credential for this API and the console."""

    name: str


class Prices(Asked):
    """A price file as TOML text; see `steelyard prices lint`."""

    text: str


class ById(Asked):
    id: int


class ByRequest(Asked):
    request_id: str


class KeyFilter(Asked):
    tenant: str | None = None


Rows = Annotated[int, msgspec.Meta(ge=1, le=limits.PAGE_ROWS_MAX)]
Moment = Annotated[str, msgspec.Meta(description="a date, a time, or an age such as 24h or 7d")]


class ByModelTenantOrDay(Asked):
    by: Literal["model", "tenant", "day"] = "model"
    since: Moment | None = None
    until: Moment | None = None


class ByAnything(Asked):
    by: Literal["model", "tenant", "key", "day"] = "model"
    tenant: str | None = None
    since: Moment | None = None
    until: Moment | None = None


class Period(Asked):
    since: Moment | None = None
    until: Moment | None = None


class EntriesWanted(Asked):
    account: str | None = None
    batch: int | None = None
    before: Annotated[int, msgspec.Meta(description="`older` of the page before")] | None = None
    limit: Rows = limits.PAGE_ROWS


class RequestsWanted(Asked):
    tenant: str | None = None
    model: str | None = None
    end: str | None = None
    key_id: int | None = None
    batch: int | None = None
    before: Annotated[str, msgspec.Meta(description="`older` of the page before")] | None = None
    limit: Rows = limits.PAGE_ROWS


def reported(report: Callable[[Connection, Call, int], Any]) -> Run:
    """A report, read in a thread of the pool; it gets the time of now for ages such as 7d."""

    async def run(house: AdminHouse, call: Call) -> Any:
        def read() -> Any:
            with house.read() as connection:
                return report(connection, call, house.clock.now_ns())

        return await run_in_threadpool(read)

    return run


def _period(call: Call, now_ns: int) -> tuple[int | None, int | None]:
    return period_ns(call.query.since, call.query.until, now_ns)


def _sums(found: Report) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain | {"groups": [flat(group) for group in found.groups]}


def usage_report(connection: Connection, call: Call, now_ns: int) -> Any:
    return _sums(usage(connection, By(call.query.by), *_period(call, now_ns), call.query.tenant))


def margin_report(connection: Connection, call: Call, now_ns: int) -> Any:
    return _sums(margin(connection, By(call.query.by), *_period(call, now_ns)))


def payable_list(connection: Connection, call: Call, now_ns: int) -> Any:
    return payables(connection)


def statement_report(connection: Connection, call: Call, now_ns: int) -> Any:
    return statement(connection, call.place.tenant, *_period(call, now_ns))


def account_list(connection: Connection, call: Call, now_ns: int) -> Any:
    return {"accounts": accounts(connection), "totals": trial_balance(connection)}


def entry_page(connection: Connection, call: Call, now_ns: int) -> Any:
    wanted = call.query
    return entries(connection, wanted.account, batch_id=wanted.batch, before=wanted.before, limit=wanted.limit)


def request_page(connection: Connection, call: Call, now_ns: int) -> Any:
    asked = call.query
    wanted = RequestFilter(asked.tenant, asked.model, asked.end, asked.key_id, asked.batch)
    return latest(connection, wanted, before=asked.before, limit=asked.limit)


def request_detail(connection: Connection, call: Call, now_ns: int) -> Any:
    missing = CallerError(404, "request_not_found", "There is no posted request with this id.", param="request_id")
    try:
        found = detail(connection, id_from_text(call.place.request_id))
    except ValueError:
        raise missing from None
    if found is None:
        raise missing
    return found


async def model_list(house: AdminHouse, call: Call) -> Any:
    return list(house.snapshot.models.values())


async def openapi(house: AdminHouse, call: Call) -> Any:
    return document(OPERATIONS)


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", f"{PREFIX}/openapi.json", "openapi", "This document", openapi),
    Operation(
        "POST", f"{PREFIX}/tenants", "addTenant", "Add a tenant", commanded("tenant.add"), status=201, body=NewTenant
    ),
    Operation("GET", f"{PREFIX}/tenants", "listTenants", "All tenants with their wallets", commanded("tenant.list")),
    Operation(
        "POST",
        f"{PREFIX}/keys",
        "addKey",
        "Add a key; its secret is shown this once",
        commanded("key.add"),
        status=201,
        body=NewKey,
    ),
    Operation("GET", f"{PREFIX}/keys", "listKeys", "All keys, or a tenant's", commanded("key.list"), query=KeyFilter),
    Operation("DELETE", f"{PREFIX}/keys/{{id}}", "revokeKey", "Revoke a key", commanded("key.revoke"), place=ById),
    Operation(
        "POST",
        f"{PREFIX}/operators",
        "addOperator",
        "Add an operator key; its secret is shown this once",
        commanded("operator.add"),
        status=201,
        body=NewOperator,
    ),
    *MONEY_OPERATIONS,
    *LIMIT_OPERATIONS,
    Operation("GET", f"{PREFIX}/prices", "listPrices", "Every tariff version", commanded("prices.list")),
    Operation(
        "POST",
        f"{PREFIX}/prices",
        "loadPrices",
        "Load a price file",
        commanded("prices.load"),
        status=201,
        body=Prices,
        body_bytes_max=limits.BODY_BYTES_MAX,
    ),
    Operation("GET", f"{PREFIX}/models", "listModels", "Models and their offers", model_list),
    Operation("GET", f"{PREFIX}/usage", "usage", "Who used what", reported(usage_report), query=ByAnything),
    Operation(
        "GET",
        f"{PREFIX}/margin",
        "margin",
        "Revenue, cost and margin",
        reported(margin_report),
        query=ByModelTenantOrDay,
    ),
    Operation("GET", f"{PREFIX}/payables", "payables", "What vendors are owed", reported(payable_list)),
    Operation(
        "GET",
        f"{PREFIX}/statements/{{tenant}}",
        "statement",
        "A wallet's statement: opening + top-ups − charges = closing",
        reported(statement_report),
        place=ByTenant,
        query=Period,
    ),
    Operation("GET", f"{PREFIX}/ledger/accounts", "listAccounts", "Accounts and trial balance", reported(account_list)),
    Operation(
        "GET",
        f"{PREFIX}/ledger/entries",
        "listEntries",
        "Entries, newest first",
        reported(entry_page),
        query=EntriesWanted,
    ),
    Operation(
        "GET",
        f"{PREFIX}/requests",
        "listRequests",
        "Requests, newest first",
        reported(request_page),
        query=RequestsWanted,
    ),
    Operation(
        "GET",
        f"{PREFIX}/requests/{{request_id}}",
        "showRequest",
        "A request with its receipt, its rated lines and its share of the ledger",
        reported(request_detail),
        place=ByRequest,
    ),
    Operation("GET", f"{PREFIX}/verify", "verify", "Check the books' invariants", commanded("verify")),
    Operation("GET", f"{PREFIX}/status", "status", "How the platform is", commanded("status")),
)
