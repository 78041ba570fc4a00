"""The usage rows of a batch, and what they add up to.

A lot is what is alike in a batch: the rows of one hour, tenant, model, upstream and pair of currencies. Entries and
roll-ups are made from lots, so that each row is looked at once. Pure. Knows no account and no table.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from operator import add, itemgetter
from typing import NamedTuple

from msgspec.structs import astuple

from steelyard.kernel.clock import NS_PER_HOUR, day_of, hour_of
from steelyard.kernel.errors import BooksError
from steelyard.kernel.settled import End, Rated
from steelyard.ledger.chain import SUMMED, UsageRow, heard_text

_CUT = frozenset(end.value for end in End if not (end.whole or end is End.REFUSED))
"""How an answer ended whose vendor may have counted more than we heard. What he refused he does not bill."""
_MONEY = ("cpu_cost_nano", "energy_cost_nano", "vendor_cost_nano", "payable_nano", "hold_nano")
_added_of = itemgetter(*map(UsageRow._fields.index, (*SUMMED, *_MONEY)))
_CHARGE = SUMMED.index("charge_nano")
_row = partial(tuple.__new__, UsageRow)


class Alike(NamedTuple):
    """What the rows of a lot have in common."""

    hour_ns: int  # the start of the hour they count in
    tenant_id: int
    model: str
    upstream: str
    currency: str
    payable_currency: str


class Lot(NamedTuple):
    """Rows that are alike, added up."""

    alike: Alike
    requests: int
    summed: tuple[int, ...]  # in the order of SUMMED
    charge_nano: int
    due_nano: int  # of the charges: never more than was set aside for each
    cpu_cost_nano: int
    energy_cost_nano: int
    vendor_cost_nano: int
    payable_nano: int


def lots_of(rated: Iterable[Rated], closed_until_ns: int) -> tuple[list[UsageRow], list[Lot]]:
    """The usage rows in the order of `rated`, and all of them in lots.

    What comes late for a closed period counts in the open one. By position: by name it takes twice as long. Raises
    BooksError on a negative amount.
    """
    usage: list[UsageRow] = []
    alike: dict[tuple[int, int, str, str, str, str], list[UsageRow]] = defaultdict(list)
    hour_ns = next_hour_ns = 0
    for one in rated:
        settlement, charge, cpu_cost, energy_cost, vendor_cost, payable, payable_currency = astuple(one)
        closed, rate_id, heard, cost_estimated = settlement.closed, 0, "", False
        if payable_currency:
            rate_id, heard = settlement.opened.rate_id, heard_text(closed.heard)
            cost_estimated = closed.estimated or closed.end in _CUT
        fresh, cached, output, cpu_ns, energy_uj, cache_write, reasoning, *reused = astuple(closed.usage)
        (
            request_id, opened_ns, _slot, tenant_id, project_id, key_id, model, upstream, price_id, cost_id, currency,
            hold, max_tokens, sequences, stream, _lease, _rate_id, _why, _tried, price_when, cost_when, thinking, *_,
        ) = astuple(settlement.opened)  # fmt: skip
        if charge < 0 or cpu_cost < 0 or energy_cost < 0 or vendor_cost < 0 or hold < 0:
            raise BooksError(f"{request_id.hex()} has a negative amount")
        closed_ns = max(closed.closed_ns, closed_until_ns)
        if not hour_ns <= closed_ns < next_hour_ns:
            hour_ns = hour_of(closed_ns)
            next_hour_ns = hour_ns + NS_PER_HOUR
        row = _row((
            request_id, opened_ns, closed_ns, tenant_id, project_id, key_id, model, upstream, price_id, cost_id,
            currency, sequences, stream, max_tokens,
            fresh, cached, output, cpu_ns, energy_uj, hold, charge, cpu_cost, energy_cost,
            str(closed.end), closed.first_token_ns, closed.duration_ns, closed.short_by_one_read,
            cache_write, reasoning, closed.estimated,
            vendor_cost, payable, payable_currency, rate_id, cost_estimated, heard,
            price_when, cost_when, thinking, *reused, closed.measured_uj,
        ))  # fmt: skip
        usage.append(row)
        alike[hour_ns, tenant_id, model, upstream, currency, payable_currency].append(row)
    return usage, [_lot(Alike._make(same), rows) for same, rows in alike.items()]


def _lot(alike: Alike, rows: list[UsageRow]) -> Lot:
    *summed, cpu_costs, energy_costs, vendor_costs, payables, holds = zip(*map(_added_of, rows), strict=True)
    due_nano = sum(map(min, summed[_CHARGE], holds))
    sums = tuple(map(sum, summed))
    costs = sum(cpu_costs), sum(energy_costs), sum(vendor_costs)
    return Lot(alike, len(rows), sums, sums[_CHARGE], due_nano, *costs, sum(payables))


def rollups_of(lots: Iterable[Lot]) -> list[tuple[object, ...]]:
    """What lots add to the roll-ups, by hour and day of the close: grain, start, tenant, model, currency, requests,
    SUMMED, cost."""
    added: dict[tuple[str, int, int, str, str], tuple[int, ...]] = {}
    for lot in lots:
        hour_ns, tenant_id, model, _, currency, _ = lot.alike
        sums = (lot.requests, *lot.summed, lot.cpu_cost_nano + lot.energy_cost_nano + lot.vendor_cost_nano)
        for grain, start_ns in (("hour", hour_ns), ("day", day_of(hour_ns))):
            key = grain, start_ns, tenant_id, model, currency
            before = added.get(key)
            added[key] = sums if before is None else tuple(map(add, before, sums))
    return [(*key, *sums) for key, sums in added.items()]
