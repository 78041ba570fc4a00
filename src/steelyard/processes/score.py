"""Compares what arrived at the customers with what the books say. Reads only, decides nothing about money.

A row that no customer can name (its worker died before the first byte was read) must be worth nothing: nothing arrived.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, func, select

from steelyard.kernel.frozen import Record
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.settled import End
from steelyard.ledger.accounts import GRANT, WALLET
from steelyard.processes.customers import Arrival
from steelyard.storage import tables

_NEVER_BEGAN = frozenset({End.UPSTREAM_ERROR.value, End.REFUSED.value})


class Score(Record, frozen=True):
    """The outcome of a proof; the last five are promised to be zero."""

    requests: int  # served, or cut off by a death while they were; not those an upstream refused at once
    interrupted: int  # of these not delivered whole: cut by the customer, or by a death
    exact: int  # billed exactly what arrived
    short_by_one_read: int  # billed less than arrived, by one read at most, and flagged
    over_billed: int  # billed more than arrived, or than was asked for
    lost: int  # arrived and not billed: a request without a row, or tokens missing without a flag
    double: int  # counted more than once in any of the books, or charged again under one Idempotency-Key
    wallets_overspent: int  # below zero, charged more than was paid in or given, or more than a budget allows
    solvent_refusals: int  # 402, or "wait", for a wallet with more than enough money

    @property
    def ok(self) -> bool:
        promised = (self.over_billed, self.lost, self.double, self.wallets_overspent, self.solvent_refusals)
        return self.requests > 0 and promised == (0, 0, 0, 0, 0)


def score(connection: Connection, arrivals: Iterable[Arrival], budgets: Mapping[str, int] | None = None) -> Score:
    """Every usage row against its arrival, every arrival against its row. `budgets`: tenant → what he may spend."""
    served: dict[str, Arrival] = {}
    refusals = 0
    for one in arrivals:
        refusals += one.solvent and (one.status == 402 or one.held)
        before = served.get(one.request_id)
        if one.status == 200 and (before is None or (one.tokens or 0) > (before.tokens or 0)):
            served[one.request_id] = one  # a repeat of an answer that was cut may have brought the rest
    found: Counter[str] = Counter()
    charged: Counter[str] = Counter()
    usage = tables.usage.c
    output = (usage.output + usage.reasoning).label("output")
    columns = (usage.request_id, output, usage.end, usage.short_by_one_read, usage.charge_nano)
    rows = select(*columns, usage.max_tokens, usage.sequences)
    for row in connection.execute(rows, execution_options={"yield_per": 1000}):
        arrival = served.pop(text_from_id(row.request_id), None)
        found["rows"] += 1
        if arrival is None and not row.output and row.end in _NEVER_BEGAN:
            continue
        if arrival is not None and arrival.key and row.charge_nano:
            charged[arrival.key] += 1
        found["interrupted"] += not End(row.end).whole
        asked = row.max_tokens * row.sequences
        found["over" if row.output > asked else _judged(arrival, row.output, row.short_by_one_read)] += 1
    return Score(
        requests=sum(found[judgement] for judgement in ("exact", "short", "over", "lost")) + len(served),
        interrupted=found["interrupted"],
        exact=found["exact"],
        short_by_one_read=found["short"],
        over_billed=found["over"],
        lost=found["lost"] + len(served),
        double=_counted_twice(connection, found["rows"]) + sum(times - 1 for times in charged.values()),
        wallets_overspent=_overspent(connection, budgets or {}),
        solvent_refusals=refusals,
    )


def _judged(arrival: Arrival | None, billed: int, flagged: bool) -> str:
    arrived = 0 if arrival is None else arrival.tokens
    if arrival is not None and arrived is None:  # the real engine: only its own counts tell, and only at the end
        arrived = billed if arrival.told is None else arrival.told
    if arrived is None or billed == arrived:
        in_order = arrival is None or arrival.in_order
        return "exact" if in_order else "lost"
    if billed > arrived:
        return "over"
    return "short" if flagged else "lost"


def _counted_twice(connection: Connection, rows: int) -> int:
    """By how much batches, hours or days count more requests than there are rows; each row has an id of its own."""
    rollups = tables.rollups.c
    counts = [connection.execute(select(func.sum(tables.batches.c.requests))).scalar_one() or 0]
    for grain in ("hour", "day"):
        query = select(func.sum(rollups.requests)).where(rollups.grain == grain)
        counts.append(connection.execute(query).scalar_one() or 0)
    return max(0, max(counts) - rows)


def _overspent(connection: Connection, budgets: Mapping[str, int]) -> int:
    """Tenants with a wallet or grant below zero, and those who were charged more than they paid in or were given (our
    overrun, but promised not to be) or more than their budget."""
    accounts, usage = tables.accounts.c, tables.usage.c
    query = select(usage.tenant_id, func.sum(usage.charge_nano)).group_by(usage.tenant_id)
    charged: dict[int, int] = {row[0]: row[1] for row in connection.execute(query)}
    tenants = select(tables.tenants.c.id, tables.tenants.c.name).where(tables.tenants.c.name.in_(budgets))
    overspent = {row.id for row in connection.execute(tenants) if charged.get(row.id, 0) > budgets[row.name]}
    had: Counter[int] = Counter()
    purses = select(accounts.tenant_id, accounts.credit_nano, accounts.debit_nano)
    for row in connection.execute(purses.where(accounts.kind.in_([WALLET.name, GRANT.name]))):
        had[row.tenant_id] += row.credit_nano
        if row.debit_nano > row.credit_nano:
            overspent.add(row.tenant_id)
    return len(overspent | {tenant_id for tenant_id, nano in had.items() if charged.get(tenant_id, 0) > nano})
