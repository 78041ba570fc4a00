"""Receipts as a file that proves itself: lines of JSON from which amounts and hashes can be recomputed without us.

    file     what this is
    tariff   a price version the receipts below were rated with
    batch    the batch of the receipts below: header, digest of its entries, digests of all its usage rows
    receipt  a receipt, its row's canonical bytes, the salted digest of the columns that are our own affair
    link     a batch with none of the wanted rows: only what its hash adds to the one before

Reads only, one batch at a time. Shows nothing of other tenants but digests. `reports.check` reads these files.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, and_, select, true

from steelyard.catalog.store import tariffs_by_id
from steelyard.kernel.frozen import Record
from steelyard.kernel.settled import Receipt
from steelyard.kernel.tariff import Tariff
from steelyard.ledger.chain import EntryRow, UsageRow, entries_digest, header_bytes, row_digest, seal_row
from steelyard.reports.receipts import Rerated, receipt_of
from steelyard.storage import tables

FORMAT = 1


class FileLine(Record, frozen=True, tag="file", tag_field="line"):
    steelyard: str  # "receipts"
    format: int


class TariffLine(Record, frozen=True, tag="tariff", tag_field="line"):
    tariff: Tariff


class BatchLine(Record, frozen=True, tag="batch", tag_field="line"):
    """`header` is empty for a batch from before the salts; such a one proves nothing."""

    id: int
    previous: bytes
    hash: bytes
    header: bytes = b""
    entries: bytes = b""
    rows: tuple[bytes, ...] = ()


class ReceiptLine(Record, frozen=True, tag="receipt", tag_field="line"):
    receipt: Receipt
    row: bytes
    private: bytes


class LinkLine(Record, frozen=True, tag="link", tag_field="line"):
    """`content` is empty for a batch from before the salts."""

    id: int
    hash: bytes
    content: bytes = b""


Line = FileLine | TariffLine | BatchLine | ReceiptLine | LinkLine


class Wanted(NamedTuple):
    """Which receipts: one by its id, or all of a period (by their close) and tenant."""

    request_id: bytes | None = None
    tenant_id: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None

    def condition(self) -> ColumnElement[bool]:
        usage = tables.usage.c
        asked: list[ColumnElement[bool]] = []
        if self.request_id is not None:
            asked.append(usage.request_id == self.request_id)
        if self.tenant_id is not None:
            asked.append(usage.tenant_id == self.tenant_id)
        if self.since_ns is not None:
            asked.append(usage.closed_ns >= self.since_ns)
        if self.until_ns is not None:
            asked.append(usage.closed_ns < self.until_ns)
        return and_(true(), *asked)

    def takes(self, row: UsageRow) -> bool:
        return (
            self.request_id in {None, row.request_id}
            and self.tenant_id in {None, row.tenant_id}
            and (self.since_ns is None or row.closed_ns >= self.since_ns)
            and (self.until_ns is None or row.closed_ns < self.until_ns)
        )


def export(connection: Connection, wanted: Wanted, links_max: int | None = None) -> Iterator[bytes]:
    """The lines of the file; nothing when no posted request is wanted. At most `links_max` batches follow the last
    receipt's."""
    usage, batches = tables.usage.c, tables.batches.c
    query = select(usage.batch_id).where(wanted.condition()).distinct().order_by(usage.batch_id)
    holders = iter(connection.execute(query, execution_options={"yield_per": 1000}).scalars())
    holder = next(holders, None)
    if holder is None:
        return
    yield _encoded(FileLine("receipts", FORMAT))
    told: set[int] = set()
    following = 0
    chain = select(tables.batches).where(batches.id >= holder).order_by(batches.id)
    for batch in connection.execute(chain, execution_options={"yield_per": 100}):
        if batch.id == holder:
            for line in _batch(connection, batch, wanted, told):
                yield _encoded(line)
            holder = next(holders, None)
            continue
        if holder is None:
            following += 1
            if links_max is not None and following > links_max:
                return
        yield _encoded(LinkLine(batch.id, batch.hash, batch.content or b""))


def _batch(connection: Connection, batch: Row[Any], wanted: Wanted, told: set[int]) -> Iterator[Line]:
    """A batch with its wanted receipts; tariffs that were not told before come first."""
    usage = tables.usage.c
    query = (
        select(*(usage[name] for name in UsageRow._fields)).where(usage.batch_id == batch.id).order_by(usage.request_id)
    )
    rows = [UsageRow._make(row) for row in connection.execute(query)]
    mine = [row for row in rows if wanted.takes(row)]
    tariffs = tariffs_by_id(connection, {id for row in mine for id in (row.price_id, row.cost_id)})
    for price_id in sorted({row.price_id for row in mine} - told):
        yield TariffLine(tariffs[price_id])
        told.add(price_id)
    salt = batch.salt or b""
    if batch.salt is None:
        yield BatchLine(batch.id, batch.previous_hash, batch.hash)
    else:
        header = header_bytes((batch.id, batch.posted_ns, batch.kind, batch.note, batch.requests))
        digests = tuple(row_digest(seal_row(row, salt)) for row in rows)
        entries = entries_digest(_entries(connection, batch.id), salt)
        yield BatchLine(batch.id, batch.previous_hash, batch.hash, header, entries, digests)
    for row in mine:
        price, cost = tariffs[row.price_id], tariffs[row.cost_id]
        found = Rerated(row, price, cost, batch.id, batch.posted_ns, batch.hash)
        sealed = seal_row(row, salt)
        yield ReceiptLine(receipt_of(found), sealed.public, sealed.private_digest if batch.salt else b"")


def _entries(connection: Connection, batch_id: int) -> Iterator[EntryRow]:
    columns = tables.entries.c
    debit, credit = tables.accounts.alias(), tables.accounts.alias()
    query = (
        select(columns.fact, debit.c.name, credit.c.name, columns.currency, columns.amount_nano)
        .join_from(tables.entries, debit, debit.c.id == columns.debit_account_id)
        .join(credit, credit.c.id == columns.credit_account_id)
        .where(columns.batch_id == batch_id)
        .order_by(columns.id)
    )
    return (EntryRow._make(row) for row in connection.execute(query))


def _encoded(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"
