"""Rates usage with tariffs.

Pure: integers in, integers out. Knows no wallet and no database. Each line is rounded once, half-even, at nano (I9: the
same settlement and tariffs always give the same amounts). What has no price is refused, never rated at nothing.
"""

from collections.abc import Iterable, Mapping, Sequence

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError
from steelyard.kernel.quantities import WORK_METERS, Meter, Usage, Work, counter
from steelyard.kernel.settled import AmountLine, Opened, Rated, Settlement
from steelyard.kernel.tariff import Tariff
from steelyard.rating.sheet import CALL_METERS, PRICE_METERS, RATE_METERS, Sheet, cost_meters
from steelyard.rating.varied import Varied

_work_counts, _price_counts = counter(WORK_METERS), counter(PRICE_METERS)
_kept: dict[int, tuple[Tariff, Sheet | Varied]] = {}
"""By the identity of the tariff, which is kept alive with it. What is kept is never more than what was made."""


def rate(settlement: Settlement, price: Tariff, cost: Tariff, exchange: Tariff | None = None) -> Rated:
    """The settlement with its money. Raises BooksError when these are not the tariffs it was opened with."""
    opened = settlement.opened
    tariffs = {opened.price_id: price, opened.cost_id: cost}
    return rate_all([settlement], tariffs if exchange is None else tariffs | {opened.rate_id: exchange})[0]


def rate_all(settlements: Iterable[Settlement], tariffs: Mapping[int, Tariff]) -> list[Rated]:
    """`rate` for many: each set of tariffs, found by the ids the requests were opened with, is looked at once."""
    known: dict[tuple[int, int, str, int], tuple[Sheet | Varied, Sheet | Varied | VendorSheet]] = {}
    rated = []
    for one in settlements:
        opened, usage = one.opened, one.closed.usage
        key = (opened.price_id, opened.cost_id, opened.currency, opened.rate_id)
        sheets = known.get(key)
        if sheets is None:
            sheets = known[key] = _sheets(opened, tariffs)
        price, cost = sheets
        if isinstance(price, Varied):
            charged = price.amounts(usage, opened.price_when)
        elif usage.cache_write or usage.reasoning or usage.is_reused:
            charged = price.amounts(_price_counts(usage))
        else:
            charged = price.amounts((usage.input, usage.cached_input, usage.output))
        if isinstance(cost, Sheet):
            cpu_cost, energy_cost = cost.amounts((usage.cpu_ns, usage.energy_uj))
            rated.append(Rated(one, sum(charged), cpu_cost, energy_cost))
        elif isinstance(cost, Varied):
            cpu_cost, energy_cost = cost.amounts(usage, opened.cost_when)
            rated.append(Rated(one, sum(charged), cpu_cost, energy_cost))
        else:
            rated.append(Rated(one, sum(charged), 0, 0, *cost.amounts(one.closed.billed, opened.cost_when)))
    return rated


class VendorSheet:
    """A vendor's tariff made ready, with the rate that turns his currency into the customer's."""

    __slots__ = ("_currency", "_rate", "_sheet")

    def __init__(self, cost: Tariff, rate: Tariff | None) -> None:
        self._currency = cost.currency
        self._sheet = _sheet(cost, PRICE_METERS)
        self._rate = Sheet(rate, RATE_METERS) if rate is not None else None

    def amounts(self, billed: Usage, met: int) -> tuple[int, int, str]:
        """Cost in the customer's currency, and what is payable in the vendor's: its sum is turned over as one."""
        if isinstance(self._sheet, Varied):
            payable = sum(self._sheet.amounts(billed, met))
        else:
            payable = sum(self._sheet.amounts([billed.of(meter) for meter in PRICE_METERS]))
        return self._rate.amounts((payable,))[0] if self._rate else payable, payable, self._currency


def _sheets(opened: Opened, tariffs: Mapping[int, Tariff]) -> tuple[Sheet | Varied, Sheet | Varied | VendorSheet]:
    price, cost, rate = tariffs[opened.price_id], tariffs[opened.cost_id], tariffs.get(opened.rate_id)
    if not (price.id == opened.price_id and cost.id == opened.cost_id and (rate.id if rate else 0) == opened.rate_id):
        ids = f"{opened.price_id}, {opened.cost_id} and {opened.rate_id}"
        raise BooksError(f"the request was opened with tariffs {ids}, not these")
    turned = (rate.subject, rate.currency) if rate and cost.of_vendor else (opened.currency, opened.currency)
    if price.currency != opened.currency or (cost.currency, opened.currency) != turned:
        raise BooksError(f"tariffs in {price.currency} and {cost.currency} for a request in {opened.currency}")
    return _sheet(price, PRICE_METERS), VendorSheet(cost, rate) if cost.of_vendor else _sheet(cost, cost_meters(cost))


def _sheet(tariff: Tariff, meters: Sequence[Meter]) -> Sheet | Varied:
    if meters is PRICE_METERS and has_call(tariff):
        return Varied(tariff, CALL_METERS)
    return Varied(tariff, meters) if tariff.variants else Sheet(tariff, meters)


def has_call(tariff: Tariff) -> bool:
    """Whether a fee per request is among its prices."""
    return any(line.meter is Meter.CALL for line in tariff.lines)


def charge_of(usage: Usage, price: Tariff) -> tuple[AmountLine, ...]:
    """What a customer pays for this usage: one line per meter with a count, in the order of the meters.

    Of a tariff with variants those count whose conditions are met by `price.met`.
    """
    return _lines(usage, price, PRICE_METERS)


def charge_nano(usage: Usage, price: Tariff) -> int:
    """What the lines of `charge_of` add up to. For those who ask with every request: a tariff is made ready once."""
    kept = _kept.get(id(price))
    sheet = kept[1] if kept is not None and kept[0] is price else _readied(price)
    if isinstance(sheet, Varied):
        return sum(sheet.amounts(usage, price.met))
    if usage.reused_output or usage.reused_input:
        return sum(sheet.amounts(_price_counts(usage)))
    counts = usage.input, usage.cached_input, usage.output, usage.cache_write, usage.reasoning
    return sum(sheet.amounts(counts))  # in the order of PRICE_METERS, which all but reused answers have the first of


def _readied(price: Tariff) -> Sheet | Varied:
    """One that has variants is another object for each request (`met`), and not worth keeping."""
    sheet = _sheet(price, PRICE_METERS)
    if not price.variants:
        if len(_kept) >= limits.TARIFFS_READY_MAX:
            _kept.clear()
        _kept[id(price)] = price, sheet
    return sheet


def cost_of(usage: Usage, cost: Tariff) -> tuple[AmountLine, ...]:
    """What this usage cost us: one line per meter with a count, in the order of the meters.

    In the tariff's currency; of what a vendor served, `usage` is what he bills (`Closed.billed`).
    """
    return _lines(usage, cost, cost_meters(cost))


def work_of(work: Work, tariff: Tariff) -> tuple[AmountLine, ...]:
    """What work that is not text comes to: one line per meter with a count. Raises BooksError for what has no price."""
    return Sheet(tariff, WORK_METERS).lines(_work_counts(work))


def exchange_of(payable_nano: int, exchange: Tariff) -> tuple[AmountLine, ...]:
    """What an amount in the rate's own currency is worth in the other."""
    return Sheet(exchange, RATE_METERS).lines([payable_nano])


def _lines(usage: Usage, tariff: Tariff, meters: Sequence[Meter]) -> tuple[AmountLine, ...]:
    sheet = _sheet(tariff, meters)
    if isinstance(sheet, Varied):
        return sheet.lines(usage, tariff.met)
    return sheet.lines([usage.of(meter) for meter in meters])
