"""The receipt of one request: from its usage row (posted) or from its open record (open).

Owns nothing; the lines are rated again from the tariff version the request was opened with, which gives what was
posted (I9). Reads only.
"""

from sqlalchemy import Connection, select

from steelyard.catalog.store import tariffs_by_id
from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.money import text_from_nano
from steelyard.kernel.records import Opened, Receipt
from steelyard.ledger.chain import UsageRow
from steelyard.ledger.verify import settlement_of
from steelyard.rating.rate import rate
from steelyard.storage import tables


def posted_receipt(connection: Connection, request_id: bytes, tenant_id: int | None) -> Receipt | None:
    """The receipt of a posted request; None when there is none, or it is another tenant's."""
    usage = tables.usage.c
    columns = [usage[name] for name in UsageRow._fields]
    query = (
        select(usage.batch_id, tables.batches.c.hash, *columns)
        .join_from(tables.usage, tables.batches)
        .where(usage.request_id == request_id)
    )
    found = connection.execute(query).one_or_none()
    if found is None:
        return None
    batch, chain = found[0], found[1]
    row = UsageRow._make(found[2:])
    if tenant_id is not None and tenant_id != row.tenant_id:
        return None
    tariffs = tariffs_by_id(connection, {row.price_id, row.cost_id})
    rated = rate(settlement_of(row), tariffs[row.price_id], tariffs[row.cost_id])
    return Receipt(
        request_id=text_from_id(request_id),
        state="posted",
        model=row.model,
        opened_at=iso_from_ns(row.opened_ns),
        closed_at=iso_from_ns(row.closed_ns),
        end=row.end,
        prompt_tokens=row.input + row.cached_input,
        cached_tokens=row.cached_input,
        output_tokens=row.output,
        tariff=row.price_id,
        currency=row.currency,
        lines=rated.charge,
        amount_nano=row.charge_nano,
        amount=text_from_nano(row.charge_nano),
        hold_nano=row.hold_nano,
        short_by_one_read=bool(row.short_by_one_read),
        batch=batch,
        chain=chain.hex(),
    )


def open_receipt(opened: Opened, tenant_id: int | None) -> Receipt | None:
    """What can be said of a request that still runs; None when it is another tenant's."""
    if tenant_id is not None and tenant_id != opened.tenant_id:
        return None
    return Receipt(
        request_id=text_from_id(opened.request_id),
        state="open",
        model=opened.model,
        opened_at=iso_from_ns(opened.opened_ns),
        closed_at=None,
        end=None,
        prompt_tokens=0,
        cached_tokens=0,
        output_tokens=0,
        tariff=opened.price_id,
        currency=opened.currency,
        lines=(),
        amount_nano=0,
        amount=text_from_nano(0),
        hold_nano=opened.hold_nano,
    )
