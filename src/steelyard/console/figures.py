"""How figures are written on a page: counts, durations, percentages, energy, prices. Integers in, text out, no floats.

Amounts go through kernel.money; the page shows few decimals and keeps the exact text beside them.
"""

from dataclasses import dataclass

from steelyard.kernel.clock import NS_PER_HOUR, NS_PER_MS, NS_PER_S, iso_from_ns
from steelyard.kernel.money import CURRENCIES, NANO_PER_UNIT, divide_half_even, money_from_nano
from steelyard.kernel.quantities import Meter, Source
from steelyard.kernel.settled import AmountLine

NONE = "–"
ESTIMATED = "overview.estimated"
"""The key of the words for an amount that is our own estimate."""
_OF_TOKENS = (
    Meter.INPUT,
    Meter.CACHED_INPUT,
    Meter.CACHE_WRITE,
    Meter.OUTPUT,
    Meter.REASONING,
    Meter.REUSED_INPUT,
    Meter.REUSED_OUTPUT,
)
_PER = {
    **{(meter, 10**6): "1M" for meter in _OF_TOKENS},
    **{(meter, 1000): "1K" for meter in _OF_TOKENS},
    (Meter.CPU, NS_PER_HOUR): "h",
    (Meter.GPU, NS_PER_HOUR): "h",
    (Meter.ENERGY, 3_600_000_000_000): "kWh",
}
_MINUS = "−"


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount to show: `text` is short and of even width in a column, `exact` has every decimal the books keep."""

    text: str
    exact: str
    negative: bool


def amount(nano: int, currency: str, places: int | None = None) -> Amount:
    """Money for a page. Without `places` the size of the amount decides how many decimals help."""
    shown = _places(nano) if places is None else places
    text = money_from_nano(nano, currency, shown)
    whole, _, fraction = text.partition(".")
    short = f"{_grouped_text(whole)}.{fraction.ljust(shown, '0')}" if shown else _grouped_text(whole)
    return Amount(short.replace("-", _MINUS), money_from_nano(nano, currency), nano < 0)


def _places(nano: int) -> int:
    size = abs(nano)
    if size >= 100 * NANO_PER_UNIT or size == 0:
        return 2
    if size >= NANO_PER_UNIT:
        return 4
    return 6 if size >= 1000 else 9


def _grouped_text(whole: str) -> str:
    digits = whole.lstrip("-¥$€ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    return whole[: len(whole) - len(digits)] + (f"{int(digits):,}" if digits else "")


def count(value: int) -> str:
    """12,345."""
    return f"{value:,}"


def compact(value: int) -> str:
    """An axis label: 950, 12k, 3.5M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            whole, rest = divmod(value * 10 // size, 10)
            return f"{whole}.{rest}{letter}" if rest and whole < 100 else f"{whole}{letter}"
    return str(value)


def axis_money(nano: int, currency: str) -> str:
    """An amount as an axis label: no more decimals than it needs."""
    text = money_from_nano(nano, currency)
    return text.removesuffix(".00")


def percent(part: int, whole: int) -> str:
    """`part` of `whole` with one decimal, by integer arithmetic; a dash when there is no whole."""
    if whole <= 0:
        return NONE
    tenths = divide_half_even(part * 1000, whole)
    sign = _MINUS if tenths < 0 else ""
    return f"{sign}{abs(tenths) // 10}.{abs(tenths) % 10} %"


def duration(ns: int) -> str:
    """412 ms, 3.21 s, 2 min 05 s, 3 h 07 min, 2 d 05 h; a dash for nothing."""
    if ns <= 0:
        return NONE
    if ns < 10 * NS_PER_MS:
        return f"{_fixed(ns, NS_PER_MS, 1)} ms"
    if ns < NS_PER_S:
        return f"{ns // NS_PER_MS} ms"
    if ns < 60 * NS_PER_S:
        return f"{_fixed(ns, NS_PER_S, 2)} s"
    minutes, seconds = divmod(ns // NS_PER_S, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


def moment(ns: int) -> str:
    """2026-11-23 21:20 UTC."""
    return f"{iso_from_ns(ns)[:16].replace('T', ' ')} UTC"


def energy(microjoules: int) -> str:
    """Joules, or watt-hours from 3,600 J on, or kilowatt-hours."""
    if microjoules < 3600 * 10**6:
        return f"{_fixed(microjoules, 10**6, 2 if microjoules >= 10**6 else 3)} J"
    if microjoules < 3600 * 10**9:
        return f"{_fixed(microjoules, 3600 * 10**6, 2)} Wh"
    return f"{_fixed(microjoules, 3600 * 10**9, 2)} kWh"


def energy_per_token(microjoules: int, tokens: int) -> str:
    """Joules per token; a dash when no token left."""
    return energy(divide_half_even(microjoules, tokens)) if tokens > 0 else NONE


def label_of(source: Source) -> str:
    """The key of the words for where energy comes from; empty: there is none."""
    return "" if source is Source.NONE else f"energy.{source}"


def quantity(meter: Meter, value: int) -> str:
    """The count a receipt line prices, in the unit people use for it."""
    match meter:
        case Meter.CPU | Meter.GPU:
            return duration(value)
        case Meter.ENERGY:
            return energy(value)
        case _:
            return count(value)


def price(line: AmountLine, currency: str) -> str:
    """A line's price exactly as its source wrote it, with the currency's sign and what it buys: `¥0.50 / 1M`."""
    return (
        f"{CURRENCIES.get(currency, currency + ' ')}{line.text} / {_PER.get((line.meter, line.per), count(line.per))}"
    )


def _fixed(value: int, unit: int, places: int) -> str:
    shown = divide_half_even(value * 10**places, unit)
    whole, fraction = divmod(shown, 10**places)
    return f"{whole:,}.{fraction:0{places}d}"
