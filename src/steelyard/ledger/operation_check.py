"""Whether the rows beside the books say what the books say: operations and conversions against their batches.

Reads only. What was asked and answered is told from these rows, so they must agree with the entries to the nano.
"""

from collections.abc import Iterator

from sqlalchemy import Connection, select

from steelyard.kernel.money import divide_half_even
from steelyard.ledger.accounts import Fact
from steelyard.storage import tables

_STREAMED = {"yield_per": 1000}


def operation_complaints(connection: Connection) -> Iterator[str]:
    """Where an operation or a conversion is not what its batch posted, in words."""
    yield from _operations(connection)
    yield from _conversions(connection)


def _operations(connection: Connection) -> Iterator[str]:
    """Kind, amount and tenant. A batch of an operation begins with the entry of its amount."""
    done, entries, batches = tables.operations.c, tables.entries.c, tables.batches.c
    debit, credit = tables.accounts.alias("debited"), tables.accounts.alias("credited")
    first = tables.entries.alias("before").c
    query = (
        select(
            done.id, done.kind, done.batch_id, done.tenant_id, done.amount_nano,
            batches.kind.label("posted"), entries.amount_nano.label("booked_nano"),
            debit.c.tenant_id.label("giver"), credit.c.tenant_id.label("taker"),
            tables.tenants.c.currency.label("his"), entries.currency,
        )
        .join(tables.batches, batches.id == done.batch_id, isouter=True)
        .join(tables.entries, entries.batch_id == done.batch_id, isouter=True)
        .join(debit, debit.c.id == entries.debit_account_id, isouter=True)
        .join(credit, credit.c.id == entries.credit_account_id, isouter=True)
        .join(tables.tenants, tables.tenants.c.id == done.tenant_id, isouter=True)
        .where(done.batch_id.is_not(None))
        .where(~select(first.id).where(first.batch_id == entries.batch_id, first.id < entries.id).exists())
        .order_by(done.id)
    )  # fmt: skip
    for row in connection.execute(query, execution_options=_STREAMED):
        name = f"operation {row.id} ({row.kind})"
        if row.posted != row.kind:
            yield f"{name} names batch {row.batch_id}, which is of kind {row.posted}"
        if row.booked_nano != row.amount_nano:
            yield f"{name} is of {row.amount_nano} nano, batch {row.batch_id} posts {row.booked_nano}"
        if row.tenant_id is not None and row.tenant_id not in {row.giver, row.taker}:
            yield f"{name} is of tenant {row.tenant_id}, batch {row.batch_id} is not"
        if row.tenant_id is not None and row.his != row.currency:
            yield f"{name} is in {row.his}, batch {row.batch_id} in {row.currency}"


def _conversions(connection: Connection) -> Iterator[str]:
    """Both entries, both currencies, and the rate between them."""
    rows, entries = tables.conversions, tables.entries.c
    out, into = tables.entries.alias("out"), tables.entries.alias("into")
    query = (
        select(rows, out.c.amount_nano.label("given_nano"), out.c.currency.label("given"),
               into.c.amount_nano.label("taken_nano"), into.c.currency.label("taken"))
        .join(out, (out.c.batch_id == rows.c.batch_id) & (out.c.fact == Fact.FX_OUT.value), isouter=True)
        .join(into, (into.c.batch_id == rows.c.batch_id) & (into.c.fact == Fact.FX_IN.value), isouter=True)
        .order_by(rows.c.id)
    )  # fmt: skip
    for row in connection.execute(query, execution_options=_STREAMED):
        name = f"the conversion of batch {row.batch_id}"
        said = (row.from_nano, row.from_currency, row.to_nano, row.to_currency)
        if said != (row.given_nano, row.given, row.taken_nano, row.taken):
            yield f"{name} says {said}, its entries do not"
        if divide_half_even(row.from_nano * row.rate_numerator, row.rate_denominator) != row.to_nano:
            yield f"{name} does not follow from its rate"
    lone = (
        select(entries.batch_id)
        .join_from(tables.entries, tables.batches)
        .where(entries.fact == Fact.FX_OUT.value, tables.batches.c.kind == "transfer")
        .where(entries.batch_id.not_in(select(rows.c.batch_id)))
    )
    for batch_id in connection.execute(lone).scalars():
        yield f"batch {batch_id} converts without a rate"
