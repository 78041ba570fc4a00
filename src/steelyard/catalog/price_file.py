"""Reads price files: TOML with [[price]] and [[cost]] entries, checked field by field.

Owns the file format. Knows no database. A price is decimal text and must fit whole pico-units per token, so nothing is
rounded between the file and the books. What is not understood is refused; every complaint names entry and field.
"""

import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from steelyard.catalog.tariffs import TIERS
from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_HOUR, iso_from_ns
from steelyard.kernel.errors import CallerError
from steelyard.kernel.frozen import Record
from steelyard.kernel.money import CURRENCIES, INT64_MAX, PICO_PER_UNIT, pico_from_text
from steelyard.kernel.quantities import Meter
from steelyard.kernel.tariff import TariffLine

PRICE, COST = "price", "cost"
SUBJECT_FIELD = {PRICE: "model", COST: "upstream"}
MICROJOULES_PER_KWH = 3_600_000_000_000

_PER = {"1M tokens": 1_000_000, "1K tokens": 1_000, "1 token": 1}
_TOKEN_METERS = {
    str(meter): meter for meter in (Meter.INPUT, Meter.CACHED_INPUT, Meter.CACHE_WRITE, Meter.OUTPUT, Meter.REASONING)
}
_FIELDS = {
    PRICE: ("model", "currency", "effective_from", "per", "input", "cached_input", "output", "source"),
    COST: ("upstream", "currency", "effective_from", "cpu_hour", "watts_per_busy_core", "kwh", "source"),
}
_OF_TEXT = frozenset({"cached_input", "output"})
"""A model that only reads (embeddings, ranks, judges) uses neither: both may be left out together."""
_MAY_HAVE = {PRICE: ("tier", "cache_write", "reasoning"), COST: ()}
"""Tokens without a price of their own have that of `input` and of `output`, see rating.rate."""
_NUMBERS = frozenset((*_TOKEN_METERS, "cpu_hour", "watts_per_busy_core", "kwh"))
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TariffDraft(Record, frozen=True):
    """A tariff version as a file states it; it gets its id when it is loaded."""

    book: str  # "price" or "cost"
    subject: str
    currency: str
    effective_from_ns: int
    lines: tuple[TariffLine, ...]
    source: str
    watts_milli: int = 0
    tier: str = ""


class PriceFile(Record, frozen=True):
    """A checked file. `tariffs` stand in the order of the file, prices first."""

    tariffs: tuple[TariffDraft, ...]


class _Wrong(Exception):
    """One field is wrong: its name, and what is the matter with it and what to write instead."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field
        self.sentence = sentence


def parse_price_file(text: str) -> PriceFile:
    """The tariffs of a price file. Raises CallerError 400 that names every entry and field at fault."""
    if len(text.encode()) > limits.PRICE_FILE_BYTES_MAX:
        raise _refusal([f"The file is larger than {limits.PRICE_FILE_BYTES_MAX} bytes. Split it."])
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _refusal([f"This is not TOML: {error}. Correct that line."]) from None
    complaints: list[str] = []
    drafts: list[TariffDraft] = []
    first_with: dict[tuple[str, str, str, int], str] = {}
    for place, book, entry in _entries(document, complaints):
        subject = entry.get(SUBJECT_FIELD[book])
        where = f"{place} ({subject[:64]})" if isinstance(subject, str) and subject.isprintable() else place
        try:
            draft = _draft(book, entry)
            key = (book, draft.subject, draft.tier, draft.effective_from_ns)
            if key in first_with:
                raise _Wrong(
                    "effective_from", f"is the same as in {first_with[key]}. Give it another date or remove it"
                )
        except _Wrong as wrong:
            complaints.append(f"{where}, field '{wrong.field}': {wrong.sentence}.")
        else:
            first_with[key] = place
            drafts.append(draft)
    if not drafts and not complaints:
        complaints.append("The file has no [[price]] and no [[cost]] entry. Write at least one.")
    if complaints:
        raise _refusal(complaints)
    return PriceFile(tuple(drafts))


def _refusal(complaints: list[str]) -> CallerError:
    shown = complaints[: limits.PRICE_FILE_COMPLAINTS_MAX]
    if len(complaints) > len(shown):
        shown.append(f"… and {len(complaints) - len(shown)} more.")
    return CallerError(400, "invalid_price_file", "\n".join(shown), param="text")


def _entries(document: dict[str, Any], complaints: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place ("[[price]] 2"), book and fields of every entry that is a table."""
    for name in document:
        if name not in _FIELDS:
            complaints.append(f"'{name}' is not known here. A price file has only [[price]] and [[cost]] entries.")
    for book in _FIELDS:
        found = document.get(book, [])
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            complaints.append(f"'{book}' must be written [[{book}]], with double brackets, once per entry.")
            continue
        for number, entry in enumerate(found, 1):
            yield f"[[{book}]] {number}", book, entry


def _draft(book: str, entry: dict[str, Any]) -> TariffDraft:
    for field in entry:
        if field not in (*_FIELDS[book], *_MAY_HAVE[book]):
            raise _Wrong(field, f"is not known. A [[{book}]] has {', '.join((*_FIELDS[book], *_MAY_HAVE[book]))}")
    reads_only = _OF_TEXT.isdisjoint(entry)
    for field in _FIELDS[book]:
        if field not in entry and not (reads_only and field in _OF_TEXT):
            free = ' (what is free is written "0")' if field in _NUMBERS else ""
            raise _Wrong(field, f"is missing. Add it{free}")
    subject = _text(entry, SUBJECT_FIELD[book])
    check_subject(subject, lambda sentence: _Wrong(SUBJECT_FIELD[book], sentence))
    lines, watts_milli = (_price_lines(entry), 0) if book == PRICE else (_cost_lines(entry), _watts_milli(entry))
    return TariffDraft(
        book,
        subject,
        _currency(entry),
        _effective_from_ns(entry),
        lines,
        _text(entry, "source"),
        watts_milli,
        _tier(entry),
    )


def check_subject(name: str, error: Callable[[str], Exception]) -> None:
    """Raise `error(sentence)` unless the name of a model or upstream may be one."""
    if len(name) > limits.SUBJECT_CHARACTERS_MAX:
        raise error(f"has more than {limits.SUBJECT_CHARACTERS_MAX} characters. Shorten it")
    if not name.isprintable() or name != name.strip():
        raise error("has characters that cannot be printed, or blanks at an end. Remove them")


def _text(entry: dict[str, Any], field: str) -> str:
    value = entry[field]
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(field, "must be text in quotes, and not empty")
    return value


def _currency(entry: dict[str, Any]) -> str:
    value = _text(entry, "currency")
    if value not in CURRENCIES:
        raise _Wrong("currency", f"{value!r} is not kept by the books. Write one of {', '.join(CURRENCIES)}")
    return value


def _tier(entry: dict[str, Any]) -> str:
    if "tier" not in entry:
        return ""
    value = _text(entry, "tier")
    if value not in TIERS:
        raise _Wrong("tier", f"{value!r} is not known. Write {' or '.join(map(repr, TIERS))}, or leave it out")
    return value


def _effective_from_ns(entry: dict[str, Any]) -> int:
    value = entry["effective_from"]
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise _Wrong(
            "effective_from",
            "must be a date and time with an offset and without quotes, such as 2026-01-01T00:00:00+08:00",
        )
    ns = (value - _EPOCH) // timedelta(microseconds=1) * 1000
    if not 0 <= ns <= INT64_MAX:
        raise _Wrong("effective_from", f"must lie between 1970 and {iso_from_ns(INT64_MAX)[:4]}")
    return ns


def _price_lines(entry: dict[str, Any]) -> tuple[TariffLine, ...]:
    per = _PER.get(_text(entry, "per"))
    if per is None:
        raise _Wrong("per", f"{entry['per']!r} is not known. Write one of {', '.join(map(repr, _PER))}")
    return tuple(_token_line(entry, field, meter, per) for field, meter in _TOKEN_METERS.items() if field in entry)


def _token_line(entry: dict[str, Any], field: str, meter: Meter, per: int) -> TariffLine:
    text, pico = _decimal(entry, field)
    if pico % per:
        raise _Wrong(field, f"{text} per {per} tokens has more decimals than the books keep per token. Write fewer")
    if pico > limits.PRICE_PER_TOKEN_MAX * PICO_PER_UNIT * per:
        raise _Wrong(field, f"is more than {limits.PRICE_PER_TOKEN_MAX} per token. Check 'per'")
    return TariffLine(meter, text, pico, per)


def _cost_lines(entry: dict[str, Any]) -> tuple[TariffLine, ...]:
    cpu_text, cpu_pico = _decimal(entry, "cpu_hour")
    kwh_text, kwh_pico = _decimal(entry, "kwh")
    return (
        TariffLine(Meter.CPU, cpu_text, cpu_pico, NS_PER_HOUR),
        TariffLine(Meter.ENERGY, kwh_text, kwh_pico, MICROJOULES_PER_KWH),
    )


def _watts_milli(entry: dict[str, Any]) -> int:
    text, pico = _decimal(entry, "watts_per_busy_core")
    milli, rest = divmod(pico * 1000, PICO_PER_UNIT)
    if rest:
        raise _Wrong("watts_per_busy_core", f"{text} has more than three decimals. Write fewer")
    if milli > limits.WATTS_PER_CORE_MAX * 1000:
        raise _Wrong("watts_per_busy_core", f"is more than {limits.WATTS_PER_CORE_MAX} watts for one core. Check it")
    return milli


def _decimal(entry: dict[str, Any], field: str) -> tuple[str, int]:
    """The price as written and in pico-units."""
    value = entry[field]
    if not isinstance(value, str):
        raise _Wrong(field, f'must be decimal text in quotes, such as {field} = "0.50"')
    if value.startswith("-") and _DECIMAL.fullmatch(value[1:]):
        raise _Wrong(field, f"{value} is negative. A price is 0 or more")
    if not _DECIMAL.fullmatch(value):
        raise _Wrong(field, f'{value!r} is not a decimal number. Write digits and one point, such as "0.50"')
    try:
        return value, pico_from_text(value)
    except ValueError as error:
        raise _Wrong(field, f"{error}. Write a number the books can keep") from None
