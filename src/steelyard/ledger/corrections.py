"""Corrections of charges after the fact: reversals of the charge's own entries, never a change of what was posted.

A customer who paid too much gets the entry of the charge swapped (revenue → wallet), one who paid too little another
charge (wallet → revenue); the part that we bear moves the same way on `overrun`. The same book corrects the same period
once. Works in the caller's transaction.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, insert, or_, select

from steelyard.kernel.clock import Clock
from steelyard.kernel.errors import BooksError, CallerError
from steelyard.ledger.accounts import OVERRUN, REVENUE, BatchKind, Fact, account_name
from steelyard.ledger.operations import Why
from steelyard.ledger.posting import Pair, wallets, write_batch
from steelyard.storage import tables


class Correction(NamedTuple):
    """What one tenant's use of one model costs more (or, below zero, less) than was posted, and who bears it."""

    tenant_id: int
    model: str
    currency: str
    wallet_nano: int
    overrun_nano: int


class Period(NamedTuple):
    """Requests closed in [since, until), rated with the price file of this fingerprint."""

    book_hash: bytes
    since_ns: int
    until_ns: int


class Posted(NamedTuple):
    """What became of a correction. `taken` is what each wallet gave, or got where it is below zero."""

    batch_id: int | None
    taken: dict[int, int]
    again: bool  # it had been posted before, and nothing was done now


def post_correction(
    connection: Connection,
    period: Period,
    corrections: Sequence[Correction],
    available: Mapping[int, int],
    why: tuple[str, str],
    clock: Clock,
) -> Posted:
    """Post what is to be corrected; `why` is reason and actor. A wallet gives at most `available`, the rest we bear.

    Raises CallerError 409 when another correction covers a part of the period, and not just the same period.
    """
    before = _before(connection, period)
    if before is not None:
        return Posted(before[0], {}, again=True)
    _refuse_overlap(connection, period)
    found = wallets(connection, {one.tenant_id for one in corrections})
    pairs: dict[Pair, int] = defaultdict(int)
    taken: dict[int, int] = defaultdict(int)
    for one in sorted(corrections, key=lambda one: one.wallet_nano):  # what is given back comes first
        name, currency = found[one.tenant_id].name, found[one.tenant_id].currency
        if one.currency != currency:
            raise BooksError(f"{name} is in {currency}, the correction in {one.currency}")
        room = max(0, available.get(one.tenant_id, 0) - taken[one.tenant_id])
        pays = min(one.wallet_nano, room)
        taken[one.tenant_id] += pays
        revenue = account_name(REVENUE, one.model)
        overrun = account_name(OVERRUN, name.partition(":")[2])
        _move(pairs, Pair(Fact.CHARGE, name, revenue, currency), pays)
        _move(pairs, Pair(Fact.OVERRUN, overrun, revenue, currency), one.overrun_nano + one.wallet_nano - pays)
    reason, actor = why
    batch_id = None
    if any(pairs.values()):
        batch_id = write_batch(connection, BatchKind.RERATE, Why(reason, actor).note, pairs, clock)
    row = period._asdict() | {"batch_id": batch_id, "reason": reason, "actor": actor, "posted_ns": clock.now_ns()}
    connection.execute(insert(tables.corrections).values(row))
    return Posted(batch_id, {tenant_id: amount for tenant_id, amount in taken.items() if amount}, again=False)


def refuse_newer(connection: Connection, period: Period, last_batch_id: int) -> None:
    """CallerError 409 when requests of the period were credited or corrected behind this batch, the last that a
    difference was made from: what was given back then would be given back again."""
    if _before(connection, period) is not None:
        return
    done, usage, columns = tables.operations.c, tables.usage.c, tables.corrections.c
    within = (usage.closed_ns >= period.since_ns, usage.closed_ns < period.until_ns)
    credits = (
        select(done.id)
        .join(tables.usage, usage.request_id == done.request_id)
        .where(done.kind == BatchKind.CREDIT.value, done.batch_id > last_batch_id, *within)
    )
    same = (columns.since_ns == period.since_ns, columns.until_ns == period.until_ns)
    again = select(columns.id).where(*same, columns.batch_id > last_batch_id)
    if connection.execute(credits.union_all(again)).first() is not None:
        raise CallerError(
            409,
            "changed_meanwhile",
            "Requests of this period were credited or corrected while they were rated again. Nothing was posted; do it "
            "once more.",
        )


def corrected(connection: Connection, since_ns: int, until_ns: int) -> dict[tuple[int, str, str], Correction]:
    """What earlier corrections of exactly this period moved, by (tenant, model, currency)."""
    columns = tables.corrections.c
    same = (columns.since_ns == since_ns, columns.until_ns == until_ns, columns.batch_id.is_not(None))
    batch_ids = select(columns.batch_id).where(*same)
    accounts = {row.id: row.name for row in connection.execute(select(tables.accounts.c.id, tables.accounts.c.name))}
    tenants = {row.name: row.id for row in connection.execute(select(tables.tenants.c.id, tables.tenants.c.name))}
    sums: dict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in connection.execute(select(tables.entries).where(tables.entries.c.batch_id.in_(batch_ids))):
        debit, credit, sign = accounts[row.debit_account_id], accounts[row.credit_account_id], 1
        if debit.startswith(REVENUE.name + ":"):
            debit, credit, sign = credit, debit, -1
        place = (tenants[debit.partition(":")[2]], credit.partition(":")[2], row.currency)
        sums[place][row.fact == Fact.OVERRUN] += sign * row.amount_nano
    return {place: Correction(*place, wallet, overrun) for place, (wallet, overrun) in sums.items()}


def _move(pairs: dict[Pair, int], pair: Pair, amount_nano: int) -> None:
    """Below zero the entry is reversed: the same fact, debit and credit swapped."""
    if amount_nano < 0:
        pair, amount_nano = pair._replace(debit=pair.credit, credit=pair.debit), -amount_nano
    pairs[pair] += amount_nano


def _before(connection: Connection, period: Period) -> tuple[int | None] | None:
    columns = tables.corrections.c
    same = [columns[name] == value for name, value in period._asdict().items()]
    found = connection.execute(select(columns.batch_id).where(*same)).one_or_none()
    return None if found is None else (found.batch_id,)


def _refuse_overlap(connection: Connection, period: Period) -> None:
    columns = tables.corrections.c
    found = connection.execute(
        select(columns.id).where(
            columns.since_ns < period.until_ns,
            columns.until_ns > period.since_ns,
            or_(columns.since_ns != period.since_ns, columns.until_ns != period.until_ns),
        )
    ).first()
    if found is not None:
        raise CallerError(
            409,
            "period_overlaps",
            f"Correction {found.id} covers a part of this period. Correct exactly its period again, or another one.",
        )
