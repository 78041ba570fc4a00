"""Reads the price data of genai-prices: the installed package's, or its JSON file.

Owns its shapes: prices per million tokens (USD) with whole-request tiers, dated and hourly constraints of which the
last that holds counts, variants by the request's context. Layout read from genai-prices 0.2.3.
"""

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from steelyard.imports.amounts import MISSHAPEN, Unfit, decimal_of, per_million, plain, product
from steelyard.imports.litellm_prices import Asked
from steelyard.imports.price_text import Left, PriceEntry, Read, When, whole_prices, whole_whens
from steelyard.kernel.errors import StartError
from steelyard.kernel.extras import how_to_get

_METER_KEYS = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
}
_PER_TOKEN = Decimal("1e-6")
_BATCH = {"processing": "batch"}
_MIDNIGHT = "T00:00:00Z"

Prices = Mapping[str, Any]


def installed_data() -> list[Any]:
    """The providers of the installed package in the shape of its JSON file. Raises StartError when there is none."""
    try:
        module = importlib.import_module("genai_prices.data")
    except ImportError:
        raise StartError(
            "The package genai-prices is not installed here. Name its data file with --file, or install it: "
            f"{how_to_get('genai-prices')}"
        ) from None
    return [_plain(provider) for provider in module.providers]


def genai_prices(providers: Sequence[Any], asked: Asked) -> Read:
    """The token prices in force at the date asked for and those that begin later, and what cannot be carried over."""
    entries: list[PriceEntry] = []
    left: list[Left] = []
    for provider in providers:
        if not isinstance(provider, dict) or (asked.provider and provider.get("id") != asked.provider):
            continue
        pages = provider.get("pricing_urls") or []
        origin = f", {pages[0]}" if pages else ""
        source = f"genai-prices{origin}, read {asked.read_on}"
        for model in provider.get("models", ()):
            name = f"{provider.get('id')}/{model.get('id')}"
            try:
                found = tuple(_model_entries(str(provider.get("id")), model, source, asked))
            except Unfit as why:
                left.append(Left(name, f"{why}."))
                continue
            except MISSHAPEN:
                left.append(Left(name, "Its shape is not that of genai-prices."))
                continue
            entries += found
            left += [Left(name, sentence) for sentence in _untold(model)]
    return Read(tuple(entries), tuple(left))


def _model_entries(vendor: str, model: Mapping[str, Any], source: str, asked: Asked) -> Iterator[PriceEntry]:
    listed, variants = _listed(model.get("prices")), model.get("price_variants") or ()
    name = str(model["id"])
    for at in _starts((*listed, *variants), asked.effective_from):
        standing, hourly = _in_force(listed, at)
        begins = (_begins(standing) if at == asked.effective_from else None) or at
        base, bands = _priced(standing["prices"], asked)
        if bands and hourly:
            raise Unfit("it has both tiers and hours, whose order the data does not tell")
        whens = (*(_window(one, standing["prices"], asked) for one in hourly), *bands)
        yield PriceEntry(vendor, name, "USD", begins, whole_prices(base), source, whole_whens(base, whens))
        batch = [one for one in variants if one.get("when") == _BATCH and (_begins(one) or at) <= at]
        if batch and not any(map(_is_hourly, batch)):
            merged = dict(standing["prices"])
            for variant in reversed(batch):  # the first that names a price counts
                merged |= {key: price for key, price in variant["prices"].items() if price is not None}
            cheaper, batch_bands = _priced(merged, asked)
            bands = whole_whens(cheaper, batch_bands)
            yield PriceEntry(vendor, name, "USD", begins, whole_prices(cheaper), source, bands, "batch")


def _listed(prices: object) -> list[Mapping[str, Any]]:
    """Conditional prices, also of a model that has only one."""
    if isinstance(prices, dict):
        return [{"prices": prices}]
    if not isinstance(prices, list) or not prices:
        raise Unfit("it has no prices")
    return prices


def _starts(dated: Iterable[Mapping[str, Any]], effective_from: str) -> list[str]:
    """The moment asked for, and every later one at which something changes."""
    return [effective_from, *sorted({begins for one in dated if (begins := _begins(one)) and begins > effective_from})]


def _in_force(listed: Sequence[Mapping[str, Any]], at: str) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """What counts at a moment, and the hourly prices that go before it, the one that counts first in front."""
    begun = [place for place, one in enumerate(listed) if not _is_hourly(one) and (_begins(one) or at) <= at]
    place = begun[-1] if begun else 0
    return listed[place], [one for number, one in enumerate(listed) if _is_hourly(one) and number > place][::-1]


def _is_hourly(one: Mapping[str, Any]) -> bool:
    return "start_time" in (one.get("constraint") or {})


def _begins(one: Mapping[str, Any]) -> str | None:
    start = (one.get("constraint") or {}).get("start_date")
    return f"{start}{_MIDNIGHT}" if start else None


def _priced(prices: Prices, asked: Asked) -> tuple[dict[str, str], tuple[When, ...]]:
    base: dict[str, str] = {}
    bands: dict[int, dict[str, str]] = {}
    for key, meter in _METER_KEYS.items():
        value = prices.get(key)
        if isinstance(value, dict):
            base[meter] = _price(key, value.get("base"), asked)
            for tier in value.get("tiers", ()):
                bands.setdefault(int(tier["start"]), {})[meter] = _price(key, tier["price"], asked)
        elif value is not None:
            base[meter] = _price(key, value, asked)
    if "input" not in base:
        raise Unfit("it has no price per prompt token")
    return base, tuple(When(f"> {over}", {"input_over": over}, bands[over]) for over in sorted(bands, reverse=True))


def _window(one: Mapping[str, Any], base: Prices, asked: Asked) -> When:
    constraint = one["constraint"]
    begin, end = (_clock(constraint[name]) for name in ("start_time", "end_time"))
    hours = [f"{begin}-{end}"] if begin < end else [f"{begin}-24:00", f"00:00-{end}"]
    if end == "00:00":
        hours = [f"{begin}-24:00"]
    prices, bands = _priced({**base, **one["prices"]}, asked)
    if bands:
        raise Unfit("it has both tiers and hours, whose order the data does not tell")
    return When(" and ".join(hours) + " UTC", {"zone": "UTC", "hours": hours}, prices)


def _clock(value: object) -> str:
    """Hours and minutes in UTC out of 00:30:00Z. Raises Unfit for another offset."""
    try:
        found = time.fromisoformat(str(value))
    except ValueError:
        raise Unfit(f"{value!r} is no time of day") from None
    offset = datetime.combine(date(2026, 1, 1), found).utcoffset()
    if offset:
        raise Unfit(f"{value!r} is not told in UTC")
    return f"{found:%H:%M}"


def _price(key: str, value: object, asked: Asked) -> str:
    try:
        return per_million(product(decimal_of(value), _PER_TOKEN), asked.rounding)
    except Unfit as why:
        raise Unfit(f"{key}: {why}") from None


def _untold(model: Mapping[str, Any]) -> Iterator[str]:
    keys = {key for one in _listed(model["prices"]) for key, value in one["prices"].items() if value is not None}
    if beside := sorted(keys - _METER_KEYS.keys()):
        yield f"Carried without {', '.join(beside)}: the books have no meter for it."
    if any(map(_is_hourly, _listed(model["prices"]))):
        yield "Its hours count every day: this data knows no weekdays and no holidays."
    others = [variant["when"] for variant in model.get("price_variants") or () if variant.get("when") != _BATCH]
    if others:
        shown = sorted({f"{key}={value}" for when in others for key, value in when.items()})
        yield f"Carried without the prices for {', '.join(shown)}: the books have no condition for it."


def _plain(value: object) -> object:
    """The package's objects as the values its JSON file has."""
    if isinstance(value, Decimal):
        return Decimal(plain(value))
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if type(value).__name__ == "ModelPrice":
        return {key: _plain(one) for key, one in vars(value).items() if one is not None}
    return value
