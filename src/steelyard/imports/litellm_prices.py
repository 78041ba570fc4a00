"""Reads LiteLLM's price table (model_prices_and_context_window.json).

Owns its field names: prices per token, `_above_128k_tokens`, `tiered_pricing`, `off_peak_pricing`, `_batches`. Its
numbers are USD. What our books have no meter for is told, never guessed. Layout read from litellm 1.110.2.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from steelyard.imports.amounts import MISSHAPEN, Rounding, Unfit, decimal_of, exactly, per_million
from steelyard.imports.price_text import Left, PriceEntry, Read, When, whole_prices, whole_whens

Table = Mapping[str, Any]
_METER_FIELDS = {
    "input_cost_per_token": "input",
    "input_cost_per_token_cache_hit": "cached_input",  # the older name of the next one
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
}
_FIELD = re.compile(r"(?P<name>[a-z_]+?)(?:_above_(?P<above>\d+)k_tokens)?(?P<tier>_batches)?")
_WRITES_TEXT = frozenset({"chat", "completion", "responses"})
_ONLY_READS = frozenset({"embedding", "rerank", "moderation"})
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES_PER_DAY = 24 * 60
_BATCH = "batch"


class Asked(NamedTuple):
    """What is wanted of a table. `provider` as the table names it; empty: all. `read_on` is a date: 2026-11-27."""

    provider: str
    effective_from: str
    read_on: str
    rounding: Rounding = exactly


def litellm_prices(table: Table, asked: Asked) -> Read:
    """The token prices of a table, and what of it cannot be carried over."""
    entries: dict[tuple[str, str, str], PriceEntry] = {}
    left: list[Left] = []
    for name, row in table.items():
        if name == "sample_spec" or not isinstance(row, dict):
            continue
        provider = str(row.get("litellm_provider", ""))
        if asked.provider and provider != asked.provider:
            continue
        try:
            found = tuple(_entries(name, provider, row, asked))
        except Unfit as why:
            left.append(Left(name, f"{why}."))
            continue
        except MISSHAPEN:
            left.append(Left(name, "Its shape is not that of LiteLLM's table."))
            continue
        left += [Left(name, sentence) for sentence in _untold(row)]
        for entry in found:
            first = entries.setdefault((entry.vendor, entry.model, entry.tier), entry)
            if (first.prices, first.whens) != (entry.prices, entry.whens):
                left.append(Left(name, f"Another entry of {provider} names the same model with other prices."))
    return Read(tuple(entries.values()), tuple(left))


def bare_name(name: str, provider: str) -> str:
    """The name the vendor knows: without the provider's prefix."""
    return name.removeprefix(f"{provider}/")


def _entries(name: str, provider: str, row: Table, asked: Asked) -> Iterator[PriceEntry]:
    mode = row.get("mode", "chat")
    if mode not in _WRITES_TEXT | _ONLY_READS:
        raise Unfit(f"it is of the mode {mode}, which the books have no meter for")
    base, whens = priced(row, "", asked.rounding)
    if mode in _ONLY_READS:
        base, whens = _without_output(base), tuple(when for when in whens if "input" in when.prices)
    elif "output" not in base:
        raise Unfit("it has no price per output token")
    origin = f", {row['source']}" if isinstance(row.get("source"), str) else ""
    source = f"LiteLLM's price table{origin}, read {asked.read_on}"
    model = bare_name(name, provider)
    yield PriceEntry(provider, model, "USD", asked.effective_from, whole_prices(base), source, whole_whens(base, whens))
    batch, batch_whens = priced(row, _BATCH, asked.rounding) if "input_cost_per_token_batches" in row else ({}, ())
    if batch and ("output" in batch) == ("output" in base):
        prices = whole_prices({"cached_input": base.get("cached_input", batch["input"])} | batch)
        whens = batch_whens if "cached_input" in base else whole_whens(batch, batch_whens)
        yield PriceEntry(provider, model, "USD", asked.effective_from, prices, source, whens, _BATCH)


def priced(row: Table, tier: str = "", rounding: Rounding = exactly) -> tuple[dict[str, str], tuple[When, ...]]:
    """Prices per 1M tokens by meter, and those under conditions in the order in which the first one counts.

    Raises Unfit when a price of tokens is no number the books can keep, or when there is none of prompt tokens.
    """
    if isinstance(row.get("tiered_pricing"), list) and not tier:
        return _tiered(row["tiered_pricing"], rounding)
    by_threshold: dict[int, dict[str, str]] = {}
    for field, value in row.items():
        found = _FIELD.fullmatch(field)
        if found is None or found["name"] not in _METER_FIELDS or (_BATCH if found["tier"] else "") != tier:
            continue
        prices = by_threshold.setdefault(int(found["above"] or 0) * 1000, {})
        if value is not None and not (found["name"].endswith("cache_hit") and "cached_input" in prices):
            prices[_METER_FIELDS[found["name"]]] = _price(field, value, rounding)
    base = by_threshold.pop(0, {})
    if "input" not in base:
        raise Unfit("it has no price per prompt token")
    bands = tuple(_band(over, by_threshold[over]) for over in sorted(by_threshold, reverse=True) if by_threshold[over])
    off_peak = row.get("off_peak_pricing")
    if isinstance(off_peak, dict) and not tier:
        if bands:
            raise Unfit("it has both bands and off-peak hours, whose order the table does not tell")
        return base, _off_peak(off_peak, rounding)
    return base, bands


def _price(field: str, value: object, rounding: Rounding) -> str:
    try:
        return per_million(decimal_of(value), rounding)
    except Unfit as why:
        raise Unfit(f"{field}: {why}") from None


def _band(over: int, prices: dict[str, str]) -> When:
    shown = f"{over // 1000}k" if over % 1000 == 0 else str(over)
    return When(f"> {shown}", {"input_over": over}, prices)


def _tiered(tiers: list[Any], rounding: Rounding) -> tuple[dict[str, str], tuple[When, ...]]:
    """Bands of the whole request, as the vendors of these entries charge."""
    found: list[tuple[int, dict[str, str]]] = []
    for tier in tiers:
        if not isinstance(tier, dict) or not isinstance(tier.get("range"), list) or len(tier["range"]) != 2:
            raise Unfit("its tiers are not by prompt tokens")
        prices = {
            meter: _price(field, tier[field], rounding) for field, meter in _METER_FIELDS.items() if field in tier
        }
        found.append((_whole(tier["range"][0]), prices))
    found.sort(key=lambda one: one[0])
    if not found or found[0][0] != 0 or "input" not in found[0][1]:
        raise Unfit("its tiers do not begin at 0 tokens")
    return found[0][1], tuple(_band(over, prices) for over, prices in reversed(found[1:]))


def _whole(value: object) -> int:
    number = decimal_of(value)
    if number != number.to_integral_value():
        raise Unfit(f"{value} is no whole number of tokens")
    return int(number)


def _off_peak(row: Table, rounding: Rounding) -> tuple[When, ...]:
    prices = {meter: _price(field, row[field], rounding) for field, meter in _METER_FIELDS.items() if field in row}
    windows, zone = row.get("windows"), str(row.get("weekday_timezone", "UTC"))
    if not prices or not isinstance(windows, list) or not windows:
        raise Unfit("its off-peak hours have no windows or no prices")
    shift = _minutes_ahead_of_utc(zone)
    whens = []
    for number, window in enumerate(windows, 1):
        if not isinstance(window, dict):
            raise Unfit("an off-peak window is not understood")
        condition: dict[str, Any] = {"zone": zone}
        if "weekdays" in window:
            condition["days"] = [_day(day) for day in window["weekdays"]]
        hours = window.get("hours_utc")
        spans = [span for text in ([hours] if isinstance(hours, str) else hours or ()) for span in _spans(text, shift)]
        if spans and spans != ["00:00-24:00"]:
            condition["hours"] = spans
        whens.append(When(f"off-peak {number}" if len(windows) > 1 else "off-peak", condition, prices))
    return tuple(whens)


def _day(number: object) -> str:
    if not isinstance(number, int) or not 1 <= number <= len(_DAYS):
        raise Unfit(f"{number!r} is no weekday of ISO 8601")
    return _DAYS[number - 1]


def _minutes_ahead_of_utc(zone: str) -> int:
    """What weekdays are told in, while hours are told in UTC: only a zone without summer time can have both."""
    try:
        known = ZoneInfo(zone)
    except (ValueError, KeyError, OSError):
        raise Unfit(f"{zone!r} is no time zone") from None
    offsets = {known.utcoffset(datetime(2026, month, 1)) for month in range(1, 13)}
    if len(offsets) != 1 or (offset := offsets.pop()) is None:
        raise Unfit(f"its weekdays are in {zone}, which has summer time, its hours in UTC")
    return int(offset.total_seconds()) // 60


def _spans(text: object, shift: int) -> list[str]:
    """Hours of UTC as hours of a zone `shift` minutes ahead, cut at the zone's midnight."""
    found = re.fullmatch(r"(\d\d):(\d\d)-(\d\d):(\d\d)", text if isinstance(text, str) else "")
    if found is None:
        raise Unfit(f"{text!r} is no span of hours")
    begin, end = (int(found[part]) * 60 + int(found[part + 1]) for part in (1, 3))
    length = (end - begin) % _MINUTES_PER_DAY or _MINUTES_PER_DAY
    if length == _MINUTES_PER_DAY:
        return ["00:00-24:00"]
    begin = (begin + shift) % _MINUTES_PER_DAY
    cut = [(begin, min(begin + length, _MINUTES_PER_DAY)), (0, begin + length - _MINUTES_PER_DAY)]
    return [f"{_clock(a)}-{_clock(b)}" for a, b in cut if b > a]


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _without_output(prices: dict[str, str]) -> dict[str, str]:
    return {meter: text for meter, text in prices.items() if meter == "input"}


def _untold(row: Table) -> Iterator[str]:
    """What an entry prices beside the tokens we carry."""
    beside = sorted(
        field for field, value in row.items() if is_price(field) and _is_priced(value) and not is_carried(field)
    )
    if beside:
        yield f"Carried without {', '.join(beside)}: the books have no meter or no condition for it."
    if "off_peak_pricing" in row:
        yield "Its off-peak hours are by weekday: this table knows no holidays."


def _is_priced(value: object) -> bool:
    return isinstance(value, Decimal | int | dict) and not isinstance(value, bool) and bool(value)


def is_price(field: str) -> bool:
    """Whether a field of an entry is a price, of whatever it is."""
    return "cost_per" in field or "token_cost" in field


def is_carried(field: str) -> bool:
    """Whether we have a meter for what this field prices."""
    found = _FIELD.fullmatch(field)
    return found is not None and found["name"] in _METER_FIELDS
