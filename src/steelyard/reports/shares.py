"""What one request put into the entries of its batch: what paid for it, and what it cost.

Entries are sums over the requests of a batch. Which of them drew on which grant follows from the order in which posting
draws (by request id; grants, then the wallet, then what we bear), so the shares of all requests make every entry again.
"""

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection, select

from steelyard.kernel.frozen import Record
from steelyard.ledger.accounts import (
    CLEARING_AMORTISATION,
    CLEARING_ENERGY,
    EXPENSE_CPU,
    EXPENSE_ENERGY,
    EXPENSE_VENDOR,
    FX,
    GRANT,
    OVERRUN,
    PAYABLE,
    REVENUE,
    WALLET,
    Fact,
    account_name,
)
from steelyard.reports.accounts import EntryRow, entries_from
from steelyard.storage import tables


class EntryShare(Record, frozen=True):
    """What one request put into one entry of its batch. Over all requests of the batch the shares make the entry."""

    entry_id: int
    batch_id: int
    fact: str  # "grant-spent", "charge", "overrun", "cpu", "energy", "vendor", "vendor-fx", "payable-fx"
    debit: str  # account names
    credit: str
    currency: str
    share_nano: int
    entry_nano: int


class Charged(NamedTuple):
    """What is needed of a usage row."""

    request_id: bytes
    charge_nano: int
    hold_nano: int


class Booked(NamedTuple):
    """One request as the books have it; names, not ids."""

    request_id: bytes
    batch_id: int
    tenant_id: int
    tenant: str
    model: str
    upstream: str
    currency: str
    cpu_cost_nano: int
    energy_cost_nano: int
    vendor_cost_nano: int
    payable_nano: int
    payable_currency: str


def shares_of(connection: Connection, one: Booked) -> tuple[EntryShare, ...]:
    """The entries that carry this request, in the order of the facts."""
    grants = _grants_spent(connection, one)
    wallet, overrun = account_name(WALLET, one.tenant), account_name(OVERRUN, one.tenant)
    revenue = account_name(REVENUE, one.model)
    cpu, energy = account_name(EXPENSE_CPU, one.upstream), account_name(EXPENSE_ENERGY, one.upstream)
    vendor, payable, fx = account_name(EXPENSE_VENDOR, one.upstream), account_name(PAYABLE, one.upstream), FX.name
    booked = {
        (entry.fact, entry.debit, entry.credit): entry
        for entry in entries_from(connection, one.batch_id, {*grants, wallet, overrun, cpu, energy, vendor, fx})
        if entry.currency == (one.payable_currency if entry.fact == Fact.PAYABLE_FX else one.currency)
    }
    paying = [(Fact.GRANT_SPENT.value, name, revenue) for name in grants]
    paying += [(Fact.CHARGE.value, wallet, revenue), (Fact.OVERRUN.value, overrun, revenue)]
    sources = [booked[pair] for pair in paying if pair in booked]
    shares = list(zip(sources, _drawn(_charged(connection, one), one.request_id, sources), strict=True))
    costs = [
        ((Fact.CPU.value, cpu, account_name(CLEARING_AMORTISATION)), one.cpu_cost_nano),
        ((Fact.ENERGY.value, energy, account_name(CLEARING_ENERGY)), one.energy_cost_nano),
    ]
    if one.payable_currency == one.currency:
        costs.append(((Fact.VENDOR.value, vendor, payable), one.payable_nano))
    elif one.payable_currency:
        costs.append(((Fact.VENDOR_FX.value, vendor, fx), one.vendor_cost_nano))
        costs.append(((Fact.PAYABLE_FX.value, fx, payable), one.payable_nano))
    for pair, cost_nano in costs:
        if pair in booked:
            shares.append((booked[pair], cost_nano))
    return tuple(_share(entry, nano) for entry, nano in shares if nano)


def _drawn(requests: Iterable[Charged], wanted: bytes, sources: list[EntryRow]) -> list[int]:
    """What the wanted request took of each source (overrun last, if there is one), after those before it."""
    left = [entry.amount_nano for entry in sources]
    for request_id, charge_nano, hold_nano in requests:
        due, taken = min(charge_nano, hold_nano), [0] * len(left)
        for at, entry in enumerate(sources):
            if entry.fact == Fact.OVERRUN:
                due += charge_nano - min(charge_nano, hold_nano)
            taken[at] = min(due, left[at])
            left[at] -= taken[at]
            due -= taken[at]
        if request_id == wanted:
            return taken
    return [0] * len(left)


def _charged(connection: Connection, one: Booked) -> Iterable[Charged]:
    """The requests that share its entries, in the order in which they drew."""
    usage = tables.usage.c
    query = (
        select(usage.request_id, usage.charge_nano, usage.hold_nano)
        .where(usage.batch_id == one.batch_id, usage.tenant_id == one.tenant_id, usage.model == one.model)
        .where(usage.currency == one.currency)
        .order_by(usage.request_id)
    )
    return (Charged._make(row) for row in connection.execute(query))


def _grants_spent(connection: Connection, one: Booked) -> list[str]:
    """The grants of the tenant that the batch drew on, in the order in which they are drawn on."""
    entries, accounts, grants = tables.entries.c, tables.accounts.c, tables.grants.c
    query = (
        select(accounts.name, grants.expires_ns, grants.id)
        .join_from(tables.entries, tables.accounts, accounts.id == entries.debit_account_id)
        .join(tables.grants, grants.account_id == accounts.id)
        .where(entries.batch_id == one.batch_id, accounts.kind == GRANT.name, accounts.tenant_id == one.tenant_id)
        .distinct()
        .order_by(grants.expires_ns, grants.id)
    )
    return [row.name for row in connection.execute(query)]


def _share(entry: EntryRow, share_nano: int) -> EntryShare:
    return EntryShare(
        entry.id, entry.batch_id, entry.fact, entry.debit, entry.credit, entry.currency, share_nano, entry.amount_nano
    )
