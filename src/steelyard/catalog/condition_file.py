"""Reads the [[price.when]] and [[cost.when]] tables of an entry: names, conditions and the lines that replace others.

The same for both books: which meters a variant may price, and how, is passed in. Checks that every condition can hold
and that what is said is used; which variant counts is told by catalog.conditions and rating.
"""

import re
from collections.abc import Callable, Collection
from typing import Any

from steelyard.catalog.calendars import is_calendar
from steelyard.catalog.entry import CALL, Wrong, flag_in, text_in
from steelyard.kernel import limits
from steelyard.kernel.calendar import zone_of
from steelyard.kernel.errors import CallerError
from steelyard.kernel.money import INT64_MAX
from steelyard.kernel.quantities import INPUT_METERS, OUTPUT_METERS, Meter
from steelyard.kernel.tariff import DAY_KINDS, DAYS, Condition, TariffLine, Variant

_CLOCK = ("zone", "days", "hours", "calendar", "not_on_holidays")
_BANDS = ("input_over", "input_up_to", "output_over", "output_up_to")
_CONDITIONS = (*_CLOCK, "thinking", *_BANDS)
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")

ReadLines = Callable[[dict[str, Any]], tuple[TariffLine, ...]]


def variants_in(
    entry: dict[str, Any], book: str, prices: Collection[str], read_lines: ReadLines
) -> tuple[Variant, ...]:
    """The variants of an entry in the order of the file. `prices`: fields of lines that a variant of it may have.

    Raises Wrong that says in which of the tables, and which field.
    """
    tables = entry.get("when", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise Wrong("when", f"must be written [[{book}.when]], with double brackets, once per variant")
    if len(tables) > limits.VARIANTS_MAX:
        raise Wrong("when", f"stands there more than {limits.VARIANTS_MAX} times. Write an entry with fewer variants")
    marginal = flag_in(entry, "marginal")
    variants: list[Variant] = []
    for number, table in enumerate(tables, 1):
        try:
            variant = _variant(table, book, prices, read_lines)
            if variant.name in {one.name for one in variants}:
                raise Wrong("name", "is that of another variant of this entry. Give each its own")
            if CALL in table and CALL not in entry:
                raise Wrong(CALL, f'is priced here only. Write {CALL} = "0" in the entry if it is free otherwise')
            if marginal:
                _check_marginal(variant)
        except Wrong as wrong:
            name = table.get("name")
            called = f" ({name[:64]})" if isinstance(name, str) and name.isprintable() else ""
            raise Wrong(wrong.field, wrong.sentence, f"[[{book}.when]] {number}{called}") from None
        variants.append(variant)
    if marginal and not any(one.when.bands_input or one.when.bands_output for one in variants):
        raise Wrong("marginal", f"needs a [[{book}.when]] with a band of tokens. Add one, or leave it out")
    return tuple(variants)


def _variant(table: dict[str, Any], book: str, prices: Collection[str], read_lines: ReadLines) -> Variant:
    for field in table:
        if field not in ("name", *_CONDITIONS, *prices):
            known = ", ".join(("name", *_CONDITIONS, *prices))
            raise Wrong(field, f"is not known. A [[{book}.when]] has {known}")
    if "name" not in table:
        raise Wrong("name", "is missing. Add it: it stands on receipts")
    name = text_in(table, "name")
    if len(name) > limits.NAME_CHARACTERS_MAX or not name.isprintable() or name != name.strip():
        raise Wrong("name", f"must be at most {limits.NAME_CHARACTERS_MAX} printable characters, no blank at an end")
    if not any(field in table for field in _CONDITIONS):
        raise Wrong("name", f"stands alone: the variant has no condition. Add one of {', '.join(_CONDITIONS)}")
    lines = read_lines(table)
    if not lines:
        raise Wrong("name", f"stands without a price. Add one of {', '.join(prices)}")
    return Variant(name, _condition(table), lines)


def _condition(table: dict[str, Any]) -> Condition:
    days, hours, calendar = _days(table), _hours(table), _calendar(table)
    not_on_holidays = flag_in(table, "not_on_holidays")
    by_calendar = not_on_holidays or days[:1] in [(kind,) for kind in DAY_KINDS]
    if by_calendar and not calendar:
        raise Wrong("calendar", 'is missing: which days are holidays differs. Add it, such as calendar = "CN"')
    if calendar and not by_calendar:
        kinds = " or ".join(f'days = "{kind}"' for kind in DAY_KINDS)
        raise Wrong("calendar", f"is not used. Add not_on_holidays = true or {kinds}, or leave it out")
    zone = _zone(table, needed=bool(days or hours or not_on_holidays))
    over_in, up_to_in = _band(table, "input_over", "input_up_to")
    over_out, up_to_out = _band(table, "output_over", "output_up_to")
    thinking = flag_in(table, "thinking") if "thinking" in table else None
    return Condition(
        zone, days, hours, calendar, not_on_holidays, thinking, over_in, up_to_in, over_out, up_to_out
    )  # fmt: skip


def _days(table: dict[str, Any]) -> tuple[str, ...]:
    if "days" not in table:
        return ()
    value = table["days"]
    if isinstance(value, str) and value in DAY_KINDS:
        return (value,)
    if not isinstance(value, list) or not value or not all(one in DAYS for one in value):
        kinds = " or ".join(f'"{kind}"' for kind in DAY_KINDS)
        raise Wrong("days", f"must be a list of {', '.join(DAYS)}, or {kinds}")
    if len(set(value)) < len(value):
        raise Wrong("days", "names a day twice. Name each once")
    return tuple(day for day in DAYS if day in value)


def _hours(table: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    if "hours" not in table:
        return ()
    value = table["hours"]
    if not isinstance(value, list) or not 1 <= len(value) <= limits.HOURS_MAX:
        raise Wrong("hours", f'must be a list of 1 to {limits.HOURS_MAX} windows, such as ["09:00-12:00"]')
    windows = []
    for window in value:
        found = _HOURS.fullmatch(window) if isinstance(window, str) else None
        if found is None:
            raise Wrong("hours", f'{window!r} is no window. Write "09:00-12:00", or "22:00-06:00" over midnight')
        hour, minute, end_hour, end_minute = found.groups()
        start = int(hour) * 60 + int(minute)
        end = 24 * 60 if end_hour is None else int(end_hour) * 60 + int(end_minute)
        if start == end:
            raise Wrong("hours", f'{window!r} is empty. For the whole day write "00:00-24:00"')
        windows.append((start, end))
    return tuple(windows)


def _calendar(table: dict[str, Any]) -> str:
    if "calendar" not in table:
        return ""
    value = text_in(table, "calendar")
    if not is_calendar(value):
        raise Wrong("calendar", f'{value!r} is not known. Write the two letters of a country, such as "CN"')
    return value


def _zone(table: dict[str, Any], *, needed: bool) -> str:
    if "zone" not in table:
        if needed:
            raise Wrong("zone", 'is missing: whose wall clock counts? Add it, such as zone = "Asia/Shanghai"')
        return ""
    value = text_in(table, "zone")
    try:
        zone_of(value)
    except CallerError:
        raise Wrong("zone", f"{value!r} is not in the IANA database; 'Asia/Shanghai' is") from None
    if not needed:
        raise Wrong("zone", "is not used. Add 'days' or 'hours', or leave it out")
    return value


def _band(table: dict[str, Any], over: str, up_to: str) -> tuple[int | None, int | None]:
    for field in (over, up_to):
        value = table.get(field, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not (field == up_to) <= value <= INT64_MAX:
            raise Wrong(field, f"must be a whole number of tokens, such as {field} = 32000")
    if table.get(up_to, INT64_MAX) <= table.get(over, 0):
        raise Wrong(up_to, f"must be more than '{over}'")
    return table.get(over), table.get(up_to)


def _check_marginal(variant: Variant) -> None:
    """A marginal band prices the tokens inside it, so it can only price those that it counts."""
    if variant.when.bands_input and variant.when.bands_output:
        raise Wrong("output_over", "and a band of the input cannot both be marginal. Write two variants")
    for banded, others, side in (
        (variant.when.bands_input, (*OUTPUT_METERS, Meter.CALL), "input"),
        (variant.when.bands_output, (*INPUT_METERS, Meter.CALL), "output"),
    ):
        for line in variant.lines if banded else ():
            if line.meter in others:
                raise Wrong(line.meter, f"is not priced by a marginal band of the {side}. Write a variant of its own")
