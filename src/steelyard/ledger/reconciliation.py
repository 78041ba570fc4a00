"""What a vendor's bill says of what we owe him, posted: payable up or down, once for each file and period.

Works in the caller's transaction. That a file was posted is an operation, so it has reason, actor and answer; what was
posted for a period before counts against what another bill of the same period would add.
"""

import hashlib
import json
from typing import NamedTuple

from sqlalchemy import Connection, select

from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import CallerError
from steelyard.ledger.accounts import EXPENSE_VENDOR, PAYABLE, BatchKind, Fact, account_name
from steelyard.ledger.operations import Operation, Why, record
from steelyard.ledger.posting import Pair, write_batch
from steelyard.storage import tables


class Adjustment(NamedTuple):
    """What is to be added to the payable of a vendor, below zero taken from it, by a bill for [since, until); `before`
    is what earlier bills of exactly this period are known to have added."""

    vendor: str
    file: str  # SHA-256 of the bill, hexadecimal
    currency: str
    since_ns: int
    until_ns: int
    amount_nano: int
    before_nano: int


class Posted(NamedTuple):
    """`batch_id` None: there was nothing to adjust. `again`: this file was posted before, nothing was done now."""

    batch_id: int | None
    again: bool


def post_adjustment(connection: Connection, asked: Adjustment, why: Why, clock: Clock) -> Posted:
    """Post it. CallerError 409 when a bill was posted that covers a part of the period, and not just the same one, or
    one of the same that was not known."""
    key = hashlib.sha256(f"{asked.vendor}\0{asked.file}".encode()).hexdigest()
    columns = tables.operations.c
    done = select(columns.batch_id).where(columns.kind == BatchKind.RECONCILE.value, columns.idempotency_key == key)
    before = connection.execute(done).one_or_none()
    if before is not None:
        return Posted(before.batch_id, again=True)
    _refuse_overlap(connection, asked)
    if asked.before_nano != adjusted_before(connection, asked.vendor, asked.currency, asked.since_ns, asked.until_ns):
        sentence = "Another bill of this period was posted meanwhile. Nothing was posted; compare once more."
        raise CallerError(409, "changed_meanwhile", sentence)
    batch_id = None
    if asked.amount_nano:
        expense, payable = account_name(EXPENSE_VENDOR, asked.vendor), account_name(PAYABLE, asked.vendor)
        debit, credit = (expense, payable) if asked.amount_nano > 0 else (payable, expense)
        pair = Pair(Fact.VENDOR, debit, credit, asked.currency)
        batch_id = write_batch(connection, BatchKind.RECONCILE, why.note, {pair: abs(asked.amount_nano)}, clock)
    stands_for = (asked.vendor, asked.currency, asked.since_ns, asked.until_ns, asked.amount_nano)
    amount = abs(asked.amount_nano) if batch_id is not None else None
    done_now = Operation(
        str(BatchKind.RECONCILE), None, stands_for, {"batch": batch_id}, batch_id, amount_nano=amount, key=key
    )
    record(connection, done_now, why, clock)
    return Posted(batch_id, again=False)


def adjusted_before(connection: Connection, vendor: str, currency: str, since_ns: int, until_ns: int) -> int:
    """What earlier bills of exactly this period have added."""
    same = (vendor, currency, since_ns, until_ns)
    return sum(amount for *place, amount in _posted(connection) if tuple(place) == same)


def _refuse_overlap(connection: Connection, asked: Adjustment) -> None:
    for vendor, currency, since_ns, until_ns, _ in _posted(connection):
        if (vendor, currency) != (asked.vendor, asked.currency):
            continue
        if (since_ns, until_ns) == (asked.since_ns, asked.until_ns):
            continue
        if since_ns < asked.until_ns and until_ns > asked.since_ns:
            raise CallerError(
                409,
                "period_overlaps",
                f"A bill of {vendor} was posted that covers a part of this period. Post bills of exactly its period, "
                "or of others (--since, --until).",
            )


def _posted(connection: Connection) -> list[tuple[str, str, int, int, int]]:
    columns = tables.operations.c
    query = select(columns.asked).where(columns.kind == BatchKind.RECONCILE.value)
    return [tuple(json.loads(asked)) for asked in connection.execute(query).scalars()]
