"""What usage would have cost under another price book: per tenant and model, and what is to be moved for it.

Reads only, row by row in bounded memory. A request is rated as if the other book had been in force when it was opened,
its conditions by that moment; its hold stays what it was, so what is above the hold is our overrun again. What was
credited back for it by hand counts against what it would get back, and is not charged again. Integers only. Posts
nothing.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from steelyard.catalog.conditions import met
from steelyard.catalog.price_file import PRICE, TariffDraft
from steelyard.catalog.tariffs import in_force
from steelyard.kernel.frozen import Record
from steelyard.kernel.quantities import Usage
from steelyard.kernel.tariff import Tariff, Thinking
from steelyard.ledger.accounts import BatchKind
from steelyard.ledger.corrections import Correction, corrected
from steelyard.ledger.purses import last_batch_id
from steelyard.rating.rate import charge_of
from steelyard.rating.varied import standing
from steelyard.reports.sums import whole
from steelyard.storage import tables

Progress = Callable[[int, int], None]
"""Is told how many rows are done, of how many."""
_EVERY = 1000


class Difference(Record, frozen=True):
    """One tenant's use of one model. `charge_nano` as it stands, with what was credited back and earlier corrections of
    this very period; `rerated_nano` is what is to stand then."""

    tenant_id: int
    tenant: str
    model: str
    currency: str
    requests: int
    unpriced: int  # requests the other book has no price for: left as they are
    charge_nano: int
    rerated_nano: int
    difference_nano: int
    wallet_nano: int  # of the difference, what the wallet pays; below zero: gets back
    overrun_nano: int  # of the difference, what we bear above holds; below zero: bear less


class Rerating(Record, frozen=True):
    """A whole period under another book."""

    book: str  # SHA-256 of the price file, hexadecimal
    since_ns: int
    until_ns: int
    requests: int
    differences: tuple[Difference, ...]
    last_batch: int  # the newest one that counts in them


class _Sum:
    __slots__ = ("charge", "overrun", "requests", "rerated", "rerated_overrun", "unpriced")

    def __init__(self) -> None:
        self.requests = self.unpriced = self.charge = self.overrun = self.rerated = self.rerated_overrun = 0


class Book(NamedTuple):
    """Price versions by model, and the fingerprint of the file they came from."""

    fingerprint: bytes
    versions: dict[str, tuple[Tariff, ...]]


def book_of(text: str, drafts: Iterable[TariffDraft]) -> Book:
    """The price book in a file. Of its cost book nothing is used."""
    versions: dict[str, tuple[Tariff, ...]] = defaultdict(tuple)
    for number, draft in enumerate(drafts, 1):
        if draft.book == PRICE:
            versions[draft.subject] += (draft.tariff(number),)
    return Book(hashlib.sha256(text.encode()).digest(), dict(versions))


def rerate_period(
    connection: Connection, book: Book, since_ns: int, until_ns: int, progress: Progress = lambda done, total: None
) -> Rerating:
    """Rate every request closed in [since, until) again."""
    usage = tables.usage.c
    within = (usage.closed_ns >= since_ns, usage.closed_ns < until_ns)
    total = connection.execute(select(func.count()).where(*within)).scalar_one()
    columns = (
        usage.tenant_id, usage.model, usage.currency, usage.opened_ns, usage.charge_nano, usage.hold_nano,
        usage.request_id, tables.tariffs.c.tier, usage.thinking,
        usage.input, usage.cached_input, usage.output, usage.cpu_ns, usage.energy_uj,
        usage.cache_write, usage.reasoning, usage.reused_input, usage.reused_output,
    )  # fmt: skip
    credited = _credited(connection, since_ns, until_ns)
    sums: dict[tuple[int, str, str], _Sum] = defaultdict(_Sum)
    rows = connection.execute(
        select(*columns).join(tables.tariffs, tables.tariffs.c.id == usage.price_id).where(*within),
        execution_options={"yield_per": _EVERY},
    )
    done = 0
    for tenant_id, model, currency, opened_ns, charge, hold, request_id, tier, thinking, *counts in rows:
        one = sums[tenant_id, model, currency]
        one.requests += 1
        back = credited.get(request_id, 0)
        one.charge += charge - back
        one.overrun += max(0, charge - hold)
        price = in_force(book.versions.get(model, ()), opened_ns, tier)
        if price is None or price.currency != currency:
            one.unpriced += 1
            again = charge
        else:
            held = standing(price, met(price, opened_ns, Thinking(thinking)))
            again = sum(line.amount_nano for line in charge_of(Usage(*counts), held))
        one.rerated += _kept(min(charge, hold), min(again, hold), back) + max(0, again - hold)
        one.rerated_overrun += max(0, again - hold)
        done += 1
        if done % _EVERY == 0:
            progress(done, total)
    progress(done, total)
    found = _differences(connection, sums, since_ns, until_ns)
    return Rerating(book.fingerprint.hex(), since_ns, until_ns, done, found, last_batch_id(connection))


def _kept(taken_nano: int, again_nano: int, back_nano: int) -> int:
    """What is to stand of a charge within its hold, of which some was credited back: that is given back only once."""
    return again_nano - back_nano if again_nano >= taken_nano else min(again_nano, taken_nano - back_nano)


def _credited(connection: Connection, since_ns: int, until_ns: int) -> dict[bytes, int]:
    """Request → what was credited back for it, of those closed in the period."""
    usage, done = tables.usage.c, tables.operations.c
    query = (
        select(done.request_id, whole(done.amount_nano))
        .join(tables.usage, usage.request_id == done.request_id)
        .where(done.kind == BatchKind.CREDIT, usage.closed_ns >= since_ns, usage.closed_ns < until_ns)
        .group_by(done.request_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _differences(
    connection: Connection, sums: dict[tuple[int, str, str], _Sum], since_ns: int, until_ns: int
) -> tuple[Difference, ...]:
    names = {row.id: row.name for row in connection.execute(select(tables.tenants.c.id, tables.tenants.c.name))}
    before = corrected(connection, since_ns, until_ns)
    found = []
    for (tenant_id, model, currency), one in sums.items():
        earlier = before.get((tenant_id, model, currency), Correction(tenant_id, model, currency, 0, 0))
        overrun = one.rerated_overrun - one.overrun - earlier.overrun_nano
        standing = one.charge + earlier.wallet_nano + earlier.overrun_nano
        found.append(
            Difference(
                tenant_id=tenant_id,
                tenant=names[tenant_id],
                model=model,
                currency=currency,
                requests=one.requests,
                unpriced=one.unpriced,
                charge_nano=standing,
                rerated_nano=one.rerated,
                difference_nano=one.rerated - standing,
                wallet_nano=one.rerated - standing - overrun,
                overrun_nano=overrun,
            )
        )
    return tuple(sorted(found, key=lambda one: (one.tenant, one.model, one.currency)))
