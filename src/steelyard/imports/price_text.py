"""Writes price files: entries of a foreign table as the TOML that `catalog.price_file` reads.

Owns the order of fields and the quoting. Every entry carries its source and the date it was read. Knows no table.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from steelyard.kernel.frozen import Record

PRICE, COST = "price", "cost"
BOOKS = (PRICE, COST)
METERS = ("input", "cached_input", "cache_write", "output", "reasoning")


class When(Record, frozen=True):
    """Prices under a condition; `condition` has the file's words (zone, days, hours, input_over …)."""

    name: str
    condition: dict[str, Any]
    prices: dict[str, str]


class PriceEntry(Record, frozen=True):
    """What one model costs at one vendor from a date on. `prices` are decimal texts per 1M tokens by meter."""

    vendor: str
    model: str
    currency: str
    effective_from: str  # RFC 3339 with an offset
    prices: dict[str, str]
    source: str
    whens: tuple[When, ...] = ()
    tier: str = ""


class Left(Record, frozen=True):
    """Something that could not be carried over, or only in part, and why (one sentence)."""

    what: str
    why: str


class Read(Record, frozen=True):
    """What reading a table gave."""

    entries: tuple[PriceEntry, ...]
    left: tuple[Left, ...]


def whole_prices(prices: Mapping[str, str]) -> dict[str, str]:
    """With a price for cached tokens: those of a model that names none cost what others of the prompt cost."""
    if "output" not in prices:
        return {meter: text for meter, text in prices.items() if meter not in {"cached_input", "reasoning"}}
    return {"cached_input": prices["input"]} | dict(prices)


def whole_whens(prices: Mapping[str, str], whens: Iterable[When]) -> tuple[When, ...]:
    """The same under conditions, where else cached tokens would keep what others of the prompt cost without them."""
    if "cached_input" in prices or "output" not in prices:
        return tuple(whens)
    return tuple(
        replace(when, prices={"cached_input": when.prices["input"]} | when.prices) if "input" in when.prices else when
        for when in whens
    )


def one_price_each(entries: Iterable[PriceEntry]) -> Read:
    """Entries fit for the price book, where a model has one price whoever serves it; the others are told."""
    first: dict[tuple[str, str, str], PriceEntry] = {}
    left: list[Left] = []
    for entry in entries:
        standing = first.setdefault((entry.model, entry.tier, entry.effective_from), entry)
        if standing is not entry and (standing.prices, standing.whens) != (entry.prices, entry.whens):
            why = f"Its price at {standing.vendor} stands there already. Name one vendor with --provider."
            left.append(Left(f"price of {entry.vendor}/{entry.model}", why))
    return Read(tuple(first.values()), tuple(left))


def price_text(entries: Iterable[PriceEntry], book: str) -> str:
    """The entries of one book of a file. There is no tier in the cost book."""
    return "".join(
        "\n".join(("", *_entry_lines(book, entry), "")) for entry in entries if book == PRICE or not entry.tier
    )


def _entry_lines(book: str, entry: PriceEntry) -> Iterable[str]:
    yield f"[[{book}]]"
    if book == COST:
        yield f"upstream = {_quoted(entry.vendor)}"
    yield f"model = {_quoted(entry.model)}"
    if entry.tier:
        yield f"tier = {_quoted(entry.tier)}"
    yield f"currency = {_quoted(entry.currency)}"
    yield f"effective_from = {entry.effective_from}"
    yield 'per = "1M tokens"'
    yield from _price_lines(entry.prices)
    yield f"source = {_quoted(entry.source)}"
    for when in entry.whens:
        yield f"  [[{book}.when]]"
        yield f"  name = {_quoted(when.name)}"
        for field, value in when.condition.items():
            yield f"  {field} = {_value(value)}"
        yield from (f"  {line}" for line in _price_lines(when.prices))


def _price_lines(prices: Mapping[str, str]) -> Iterable[str]:
    return (f"{meter} = {_quoted(prices[meter])}" for meter in METERS if meter in prices)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """A basic string of TOML; JSON's escapes are a part of its."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
