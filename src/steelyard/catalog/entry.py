"""Reads the fields of one entry of a price file. Every complaint names the field and says what to write instead.

A price is decimal text that fits whole pico-units, so nothing is rounded between the file and the books. Knows neither
the two books nor which fields an entry has.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from steelyard.catalog.tariffs import TIERS
from steelyard.kernel import limits
from steelyard.kernel.clock import iso_from_ns
from steelyard.kernel.money import CURRENCIES, INT64_MAX, PICO_PER_UNIT, pico_from_text
from steelyard.kernel.quantities import Meter
from steelyard.kernel.tariff import TariffLine

PER = {"1M tokens": 1_000_000, "1K tokens": 1_000, "1 token": 1}
TOKEN_METERS = {
    str(meter): meter for meter in (Meter.INPUT, Meter.CACHED_INPUT, Meter.CACHE_WRITE, Meter.OUTPUT, Meter.REASONING)
}
REUSED_METERS = {str(meter): meter for meter in (Meter.REUSED_INPUT, Meter.REUSED_OUTPUT)}
"""Of answers that had been given before: customers pay for them, no vendor bills them."""

WORK_PER = {
    "1M characters": (Meter.CHARACTER, 1_000_000),
    "10K characters": (Meter.CHARACTER, 10_000),
    "1K characters": (Meter.CHARACTER, 1_000),
    "1 second": (Meter.SECOND, 1_000),
    "1 minute": (Meter.SECOND, 60_000),
    "1 hour": (Meter.SECOND, 3_600_000),
    "1 image": (Meter.IMAGE, 1),
    "1 page": (Meter.PAGE, 1),
    "1K pages": (Meter.PAGE, 1_000),
    "1 GB-day": (Meter.GB_DAY, 24_000),
}
"""Units of work that is not text: the meter that is counted, and how many of it the price buys."""
CALL = str(Meter.CALL)
"""The field of a fee per request, whatever `per` the tokens have."""

_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Wrong(Exception):
    """One field is wrong: its name, what is the matter with it and what to write instead.

    `inside` names the table within the entry that has the field; empty: the entry itself.
    """

    def __init__(self, field: str, sentence: str, inside: str = "") -> None:
        super().__init__(sentence)
        self.field = field
        self.sentence = sentence
        self.inside = inside

    def __str__(self) -> str:
        return f"{self.inside and f', {self.inside}'}, field '{self.field}': {self.sentence}."


def text_in(entry: dict[str, Any], field: str) -> str:
    value = entry[field]
    if not isinstance(value, str) or not value.strip():
        raise Wrong(field, "must be text in quotes, and not empty")
    return value


def flag_in(entry: dict[str, Any], field: str) -> bool:
    value = entry.get(field, False)
    if not isinstance(value, bool):
        raise Wrong(field, "must be true or false, without quotes")
    return value


def check_subject(name: str, error: Callable[[str], Exception]) -> None:
    """Raise `error(sentence)` unless the name of a model or upstream may be one."""
    if len(name) > limits.SUBJECT_CHARACTERS_MAX:
        raise error(f"has more than {limits.SUBJECT_CHARACTERS_MAX} characters. Shorten it")
    if not name.isprintable() or name != name.strip():
        raise error("has characters that cannot be printed, or blanks at an end. Remove them")


def subject_in(entry: dict[str, Any], field: str) -> str:
    """The name of a model or upstream."""
    name = text_in(entry, field)
    check_subject(name, lambda sentence: Wrong(field, sentence))
    return name


def currency_in(entry: dict[str, Any], field: str = "currency") -> str:
    value = text_in(entry, field)
    if value not in CURRENCIES:
        raise Wrong(field, f"{value!r} is not kept by the books. Write one of {', '.join(CURRENCIES)}")
    return value


def tier_in(entry: dict[str, Any]) -> str:
    if "tier" not in entry:
        return ""
    value = text_in(entry, "tier")
    if value not in TIERS:
        raise Wrong("tier", f"{value!r} is not known. Write {' or '.join(map(repr, TIERS))}, or leave it out")
    return value


def effective_from_in(entry: dict[str, Any]) -> int:
    """In nanoseconds since 1970 UTC."""
    value = entry["effective_from"]
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Wrong(
            "effective_from",
            "must be a date and time with an offset and without quotes, such as 2026-01-01T00:00:00+08:00",
        )
    ns = (value - _EPOCH) // timedelta(microseconds=1) * 1000
    if not 0 <= ns <= INT64_MAX:
        raise Wrong("effective_from", f"must lie between 1970 and {iso_from_ns(INT64_MAX)[:4]}")
    return ns


def per_in(entry: dict[str, Any]) -> int:
    """How many tokens the prices of the entry are for."""
    per = PER.get(text_in(entry, "per"))
    if per is None:
        raise Wrong("per", f"{entry['per']!r} is not known. Write one of {', '.join(map(repr, (*PER, *WORK_PER)))}")
    return per


def token_lines(entry: dict[str, Any], per: int) -> tuple[TariffLine, ...]:
    """A line for each token meter that the entry has a price of, and for a fee per call."""
    lines = [
        _token_line(entry, field, meter, per)
        for field, meter in (TOKEN_METERS | REUSED_METERS).items()
        if field in entry
    ]
    return (*lines, _call_line(entry)) if CALL in entry else tuple(lines)


def _call_line(entry: dict[str, Any]) -> TariffLine:
    text, pico = decimal_in(entry, CALL)
    if pico > limits.PRICE_PER_CALL_MAX * PICO_PER_UNIT:
        raise Wrong(CALL, f"is more than {limits.PRICE_PER_CALL_MAX} for one request. Check it")
    return TariffLine(Meter.CALL, text, pico, 1)


def work_line(entry: dict[str, Any]) -> TariffLine:
    """The line of an entry whose `per` is in WORK_PER: its field has the name of the meter."""
    meter, per = WORK_PER[entry["per"]]
    text, pico = decimal_in(entry, str(meter))
    if pico > limits.PRICE_PER_CALL_MAX * PICO_PER_UNIT:
        raise Wrong(str(meter), f"is more than {limits.PRICE_PER_CALL_MAX} for {entry['per']}. Check it")
    return TariffLine(meter, text, pico, per)


def _token_line(entry: dict[str, Any], field: str, meter: Meter, per: int) -> TariffLine:
    text, pico = decimal_in(entry, field)
    if pico % per:
        raise Wrong(field, f"{text} per {per} tokens has more decimals than the books keep per token. Write fewer")
    if pico > limits.PRICE_PER_TOKEN_MAX * PICO_PER_UNIT * per:
        raise Wrong(field, f"is more than {limits.PRICE_PER_TOKEN_MAX} per token. Check 'per'")
    return TariffLine(meter, text, pico, per)


def decimal_in(entry: dict[str, Any], field: str) -> tuple[str, int]:
    """The price as written and in pico-units."""
    value = entry[field]
    if not isinstance(value, str):
        raise Wrong(field, f'must be decimal text in quotes, such as {field} = "0.50"')
    if value.startswith("-") and _DECIMAL.fullmatch(value[1:]):
        raise Wrong(field, f"{value} is negative. A price is 0 or more")
    if not _DECIMAL.fullmatch(value):
        raise Wrong(field, f'{value!r} is not a decimal number. Write digits and one point, such as "0.50"')
    try:
        return value, pico_from_text(value)
    except ValueError as error:
        raise Wrong(field, f"{error}. Write a number the books can keep") from None
