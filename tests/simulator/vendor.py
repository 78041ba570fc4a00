"""The reference of what a vendor's answers cost: what he has said, at his prices, in his currency and the customer's.

Written against docs/explain/ledger.md alone, with fractions of its own. Says where the books differ.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select
from tests.simulator.customers import MODEL, UPSTREAM

from steelyard.kernel.quantities import Usage
from steelyard.kernel.tariff import Tariff
from steelyard.ledger.chain import UsageRow
from steelyard.storage import tables

if TYPE_CHECKING:
    from tests.simulator.oracle import Oracle

COSTS = f"""
[[cost]]
upstream = "{UPSTREAM}"
currency = "USD"
effective_from = 2020-01-01T00:00:00Z
per = "1M tokens"
input = "0.1003"
cached_input = "0.0107"
output = "0.7001"
source = "for all of it"

[[cost]]
upstream = "{UPSTREAM}"
model = "{MODEL}"
currency = "CNY"
effective_from = 2026-09-21T16:00:00Z
per = "1M tokens"
input = "1.0005"
cached_input = "0.1"
output = "5.0015"
source = "at midnight, for this model"

[[rate]]
from = "USD"
to = "CNY"
rate = "7.1034"
effective_from = 2020-01-01T00:00:00Z
source = "the bank"
"""
LIKE = {"cache_write": "input", "reasoning": "output"}


class Said:
    """What each call of an answer has told so far: a cell per call, never below what it held."""

    def __init__(self) -> None:
        self.calls: dict[bytes, list[int]] = {}

    def call(self, request_id: bytes) -> list[int]:
        """The cells of this request, with one more at the end."""
        cells = self.calls.setdefault(request_id, [])
        cells.append(0)
        return cells

    def most(self, request_id: bytes) -> int:
        return sum(self.calls.get(request_id, ()))


def check(connection: Connection, oracle: "Oracle", rows: Iterable[UsageRow], tariffs: Mapping[int, Tariff]) -> None:
    """Every row costs what its vendor said, at the tariff in force, and the accounts are the sums of the rows."""
    owed: Counter[tuple[str, str]] = Counter()
    rate = next(one for one in tariffs.values() if one.subject == "USD")
    costs = [one for one in tariffs.values() if one.subject == UPSTREAM]
    for row in rows:
        cost = max((one for one in costs if one.effective_from_ns <= row.opened_ns), key=lambda one: one.model)
        billed = _billed(row)
        payable = _price(billed, cost)
        abroad = cost.currency != row.currency
        turned = round(payable * Fraction(rate.lines[0].text)) if abroad else payable
        booked = (row.cost_id, row.rate_id, row.payable_currency, row.payable_nano, row.vendor_cost_nano)
        due = (cost.id, rate.id if abroad else 0, cost.currency, payable, turned)
        name = f"{row.request_id.hex()} ({row.end})"
        if booked != due:
            oracle.fault(f"{name} costs {booked}, its vendor said {due}")
        told, said = sum(billed.values()), oracle.said.most(row.request_id)
        # One call is heard as it speaks, and may take one token back; of several some is not taken up any more, nor of
        # one that is cut at its cap.
        alone = row.sequences == 1 and row.request_id not in oracle.above_cap
        heard = alone and row.end in ("client_gone", "upstream_error", "drained")
        if not (said - 1 if heard else 0) <= told <= said and not oracle.requests[row.request_id].vague:
            oracle.fault(f"{name} is billed {billed}, its vendor said {said} tokens")
        if row.end not in ("complete", "money_ended", "refused") and not row.cost_estimated:
            oracle.fault(f"{name} does not say that its cost is estimated")
        owed["payable:" + UPSTREAM, cost.currency] += payable
        owed["expense-vendor:" + UPSTREAM, row.currency] -= turned
        if abroad:
            owed["fx", cost.currency] -= payable
            owed["fx", row.currency] += turned
    accounts = connection.execute(select(tables.accounts).where(tables.accounts.c.kind.in_(_KINDS)))
    found = Counter({(one.name, one.currency): one.credit_nano - one.debit_nano for one in accounts})
    for place in found.keys() | owed.keys():
        if found[place] != owed[place]:
            oracle.fault(f"{place} has {found[place]} nano, {owed[place]} are owed")


_KINDS = ("payable", "expense-vendor", "fx")


def _billed(row: UsageRow) -> dict[str, int]:
    """By the row's own word: what was heard, where that is more than what reached the customer."""
    names = ("input", "cached_input", "cache_write", "output", "reasoning")
    counts = map(int, row.heard.split(",")) if row.heard else (getattr(row, name) for name in names)
    return dict(zip(names, counts, strict=True))


def _price(billed: Mapping[str, int], cost: Tariff) -> int:
    lines = {line.meter.value: line for line in cost.lines}
    priced = ((lines.get(name) or lines[LIKE[name]], count) for name, count in billed.items())
    return sum(round(Fraction(count * line.pico, line.per * 1000)) for line, count in priced)


def least(row: UsageRow, left: Usage) -> bool:
    """Whether at least what reached the customer is billed to us."""
    return sum(_billed(row).values()) >= left.total
