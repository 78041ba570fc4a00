"""The receipt of a posted request, its lines rated again from the tariff versions it was opened with (I9).

Reads only. Knows no open requests: the books process adds those.
"""

from typing import NamedTuple

from sqlalchemy import Connection, select

from steelyard.catalog.store import tariffs_by_id
from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.errors import BooksError
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.money import text_from_nano
from steelyard.kernel.settled import AmountLine, Receipt
from steelyard.kernel.tariff import Tariff
from steelyard.ledger.chain import UsageRow
from steelyard.ledger.verify import amounts_of, settlement_of
from steelyard.rating.rate import charge_of, cost_of, exchange_of, rate
from steelyard.rating.varied import standing
from steelyard.storage import tables


class Rerated(NamedTuple):
    """A usage row, what it was rated with, and the batch that posted it."""

    row: UsageRow
    price: Tariff
    cost: Tariff
    batch_id: int
    posted_ns: int
    chain: bytes
    exchange: Tariff | None = None

    @property
    def charge(self) -> tuple[AmountLine, ...]:
        return charge_of(settlement_of(self.row).closed.usage, standing(self.price, self.row.price_when))

    @property
    def costs(self) -> tuple[AmountLine, ...]:
        closed = settlement_of(self.row).closed
        return cost_of(closed.billed if self.cost.of_vendor else closed.usage, standing(self.cost, self.row.cost_when))

    @property
    def exchanged(self) -> tuple[AmountLine, ...]:
        """What the costs come to in the customer's currency; nothing where that is theirs."""
        return () if self.exchange is None else exchange_of(self.row.payable_nano, self.exchange)


def rerate(connection: Connection, request_id: bytes) -> Rerated | None:
    """The posted request, or None. Raises BooksError when its tariffs do not give the amounts the books keep."""
    usage, batches = tables.usage.c, tables.batches.c
    query = (
        select(usage.batch_id, batches.posted_ns, batches.hash, *(usage[name] for name in UsageRow._fields))
        .join_from(tables.usage, tables.batches)
        .where(usage.request_id == request_id)
    )
    found = connection.execute(query).one_or_none()
    if found is None:
        return None
    row = UsageRow._make(found[3:])
    settlement = settlement_of(row)
    tariffs = tariffs_by_id(connection, settlement.opened.tariff_ids)
    if len(tariffs) < len(settlement.opened.tariff_ids):
        raise BooksError(f"{text_from_id(request_id)} was rated with a tariff that is gone")
    price, cost, exchange = tariffs[row.price_id], tariffs[row.cost_id], tariffs.get(row.rate_id)
    if amounts_of(rate(settlement, price, cost, exchange)) != amounts_of(row):
        raise BooksError(f"I9: rating {text_from_id(request_id)} again gives another amount than was posted")
    return Rerated(row, price, cost, found.batch_id, found.posted_ns, found.hash, exchange)


def posted_receipt(connection: Connection, request_id: bytes, tenant_id: int | None) -> Receipt | None:
    """The receipt of a posted request; None when there is none, or it is another tenant's."""
    rerated = rerate(connection, request_id)
    if rerated is None or tenant_id not in {None, rerated.row.tenant_id}:
        return None
    return receipt_of(rerated)


def receipt_of(rerated: Rerated) -> Receipt:
    """What the customer sees."""
    row = rerated.row
    return Receipt(
        request_id=text_from_id(row.request_id),
        state="posted",
        model=row.model,
        opened_at=iso_from_ns(row.opened_ns),
        closed_at=iso_from_ns(row.closed_ns),
        end=row.end,
        prompt_tokens=row.input + row.cached_input + row.cache_write + row.reused_input,
        cached_tokens=row.cached_input,
        output_tokens=row.output + row.reasoning + row.reused_output,
        tariff=row.price_id,
        currency=row.currency,
        lines=rerated.charge,
        amount_nano=row.charge_nano,
        amount=text_from_nano(row.charge_nano),
        hold_nano=row.hold_nano,
        short_by_one_read=bool(row.short_by_one_read),
        batch=rerated.batch_id,
        chain=rerated.chain.hex(),
        cache_write_tokens=row.cache_write,
        reasoning_tokens=row.reasoning,
        reused_tokens=row.reused_input + row.reused_output,
        estimated=bool(row.estimated),
    )
