"""Posted requests: the latest ones page by page, and one in full with its receipt and its share of the ledger."""

from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, select

from steelyard.kernel import limits
from steelyard.kernel.errors import bad_request
from steelyard.kernel.frozen import Record
from steelyard.kernel.ids import id_from_text, text_from_id
from steelyard.kernel.settled import AmountLine, Receipt
from steelyard.kernel.tariff import Tariff
from steelyard.ledger.accounts import Fact
from steelyard.reports.receipts import receipt_of, rerate
from steelyard.reports.shares import Booked, EntryShare, shares_of
from steelyard.reports.ways import RequestWay, way_of
from steelyard.storage import tables


class RequestRow(Record, frozen=True):
    """One usage row with the names behind its ids."""

    request_id: str  # "req_…"
    batch_id: int
    opened_ns: int
    closed_ns: int
    tenant_id: int
    tenant: str
    project: str
    key_id: int
    key: str  # its name
    key_shown: str  # "sk-sy-abc123…"
    model: str
    upstream: str
    stream: bool
    sequences: int
    max_tokens: int
    input: int
    cached_input: int
    output: int
    cpu_ns: int
    energy_uj: int
    currency: str
    hold_nano: int
    charge_nano: int
    cpu_cost_nano: int
    energy_cost_nano: int
    cost_nano: int  # CPU, energy and vendor
    overrun_nano: int  # the part of the charge that we bear: above the hold; in a detail, whatever nothing was left for
    margin_nano: int  # charge − cost − overrun
    price_id: int
    cost_id: int
    end: str  # a kernel.settled.End
    first_token_ns: int  # from open to the first delivered byte; 0 when nothing was delivered
    duration_ns: int
    short_by_one_read: bool
    cache_write: int
    reasoning: int
    estimated: bool  # the upstream gave no counts: they are ours
    vendor_cost_nano: int
    payable_nano: int  # what its vendor will bill, in `payable_currency`
    payable_currency: str  # empty: an engine served it
    rate_id: int  # turned the one currency into the other; 0: they are the same
    cost_estimated: bool  # the answer was cut, or its counts are ours: the vendor may bill another sum
    heard: str  # the counts the vendor bills where they are not the row's, see ledger.chain
    reused_input: int
    reused_output: int
    measured_uj: int  # of energy_uj; the rest is modelled

    @property
    def prompt(self) -> int:
        """Prompt tokens, those read from a cache and written to one included."""
        return self.input + self.cached_input + self.cache_write + self.reused_input

    @property
    def generated(self) -> int:
        """All output tokens, reasoning included."""
        return self.output + self.reasoning + self.reused_output


class RequestFilter(Record, frozen=True):
    """Which requests are wanted; None wants all. Names, not ids; an unknown name finds nothing."""

    tenant: str | None = None
    model: str | None = None
    end: str | None = None
    key_id: int | None = None
    batch_id: int | None = None


class RequestPage(Record, frozen=True):
    """Requests, newest first (by request id, which is by open time). `older` is the `before` of the next page."""

    rows: tuple[RequestRow, ...]
    older: str | None


class RequestDetail(Record, frozen=True):
    """One request in full. The lines are rated again from the tariff rows and add up to the row's amounts (I9)."""

    row: RequestRow
    receipt: Receipt  # what the customer sees; state "posted"
    charge: tuple[AmountLine, ...]
    cost: tuple[AmountLine, ...]  # in the cost tariff's currency
    exchange: tuple[AmountLine, ...]  # what these come to in the row's currency, where it is another
    price: Tariff
    cost_tariff: Tariff
    entries: tuple[EntryShare, ...]
    posted_ns: int
    chain: str  # the batch's hash, hexadecimal
    way: RequestWay | None = None  # why it went where it went; None: it had no choice


_EVERY = RequestFilter()


def latest(
    connection: Connection,
    wanted: RequestFilter = _EVERY,
    *,
    before: str | None = None,
    limit: int = limits.PAGE_ROWS,
) -> RequestPage:
    """One page of posted requests. `before` is a page's `older`; CallerError 400 when it is no request id."""
    usage = tables.usage.c
    conditions = {
        tables.tenants.c.name: wanted.tenant,
        usage.model: wanted.model,
        usage.end: wanted.end,
        usage.key_id: wanted.key_id,
        usage.batch_id: wanted.batch_id,
    }
    query = _requests().where(*(column == value for column, value in conditions.items() if value is not None))
    if before is not None:
        query = query.where(usage.request_id < _id_from_cursor(before))
    limit = max(1, min(limit, limits.PAGE_ROWS_MAX))
    found = connection.execute(query.order_by(usage.request_id.desc()).limit(limit + 1))
    rows = tuple(_request_row(row) for row in found)
    return RequestPage(rows[:limit], rows[limit - 1].request_id if len(rows) > limit else None)


def detail(connection: Connection, request_id: bytes) -> RequestDetail | None:
    """The request, or None when it is unknown or not posted yet.

    Raises BooksError when rating it again gives another amount than the books keep.
    """
    found = connection.execute(_requests().where(tables.usage.c.request_id == request_id)).one_or_none()
    rerated = rerate(connection, request_id)
    if found is None or rerated is None:
        return None
    row, shares = _request_row(found), _shares(connection, found)
    overrun_nano = sum(share.share_nano for share in shares if share.fact == Fact.OVERRUN)
    margin_nano = row.charge_nano - row.cost_nano - overrun_nano
    return RequestDetail(
        row=msgspec.structs.replace(row, overrun_nano=overrun_nano, margin_nano=margin_nano),
        receipt=receipt_of(rerated),
        charge=rerated.charge,
        cost=rerated.costs,
        exchange=rerated.exchanged,
        price=rerated.price,
        cost_tariff=rerated.cost,
        entries=shares,
        posted_ns=rerated.posted_ns,
        chain=rerated.chain.hex(),
        way=way_of(connection, request_id),
    )


def filter_choices(connection: Connection) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the tenants and of the models that a filter can offer, each sorted."""
    tenants = connection.execute(select(tables.tenants.c.name).order_by(tables.tenants.c.name)).scalars()
    sold = connection.execute(
        select(tables.rollups.c.model).where(tables.rollups.c.grain == "day").distinct()
    ).scalars()
    offered = connection.execute(select(tables.models.c.name)).scalars()
    return tuple(tenants), tuple(sorted({*sold, *offered}))


def _id_from_cursor(text: str) -> bytes:
    try:
        return id_from_text(text)
    except ValueError:
        raise bad_request(
            f"{text!r} is no request id. It looks like req_ and 32 hexadecimal digits.", "before"
        ) from None


def _requests() -> Select[Any]:
    usage, keys = tables.usage.c, tables.keys.c
    return select(
        *tables.usage.columns,
        tables.tenants.c.name.label("tenant"),
        tables.projects.c.name.label("project"),
        keys.name.label("key"),
        keys.shown.label("key_shown"),
    ).select_from(
        tables.usage.join(tables.tenants, tables.tenants.c.id == usage.tenant_id)
        .outerjoin(tables.projects, tables.projects.c.id == usage.project_id)
        .outerjoin(tables.keys, keys.id == usage.key_id)
    )


def _request_row(row: Row[Any]) -> RequestRow:
    cost_nano = row.cpu_cost_nano + row.energy_cost_nano + row.vendor_cost_nano
    overrun_nano = max(0, row.charge_nano - row.hold_nano)
    fields = dict(row._mapping) | {
        "request_id": text_from_id(row.request_id),
        "project": row.project or f"#{row.project_id}",
        "key": row.key or f"#{row.key_id}",
        "key_shown": row.key_shown or "",
        "cost_nano": cost_nano,
        "overrun_nano": overrun_nano,
        "margin_nano": row.charge_nano - cost_nano - overrun_nano,
    }
    return RequestRow(**{name: fields[name] for name in RequestRow.__struct_fields__})


def _shares(connection: Connection, row: Row[Any]) -> tuple[EntryShare, ...]:
    return shares_of(connection, Booked(*(row._mapping[name] for name in Booked._fields)))
