"""Which variants of a tariff hold as far as that is decided when a request is opened: by the clock and by thinking.

Pure but for the calendars, which are made once a year. Local wall time decides: an hour that clocks repeat counts both
times, one that they skip never comes. What depends on counts (bands) is decided at rating, see rating.varied.
"""

from collections.abc import Iterable
from datetime import date, datetime, timedelta

from steelyard.catalog.calendars import year_of
from steelyard.kernel.calendar import zone_of
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.tariff import DAY_KINDS, DAYS, WORKDAY, Condition, Tariff, Thinking

_DAY = timedelta(days=1)


def met(tariff: Tariff, at_ns: int, thinking: Thinking) -> int:
    """A bit per variant: whether all that is decided at this moment holds."""
    bits = 0
    for index, variant in enumerate(tariff.variants):
        if holds(variant.when, at_ns, thinking):
            bits |= 1 << index
    return bits


def holds(when: Condition, at_ns: int, thinking: Thinking) -> bool:
    """Whether the condition holds, its bands apart."""
    if when.thinking is not None and thinking is not (Thinking.ON if when.thinking else Thinking.OFF):
        return False
    if not when.zone:
        return True
    local = datetime.fromtimestamp(at_ns // NS_PER_S, zone_of(when.zone))
    today = local.date()
    if not when.hours:
        return _is_day(when, today)
    minute = local.hour * 60 + local.minute
    for start, end in when.hours:
        if start < end:
            if start <= minute < end and _is_day(when, today):
                return True
        elif (minute >= start and _is_day(when, today)) or (minute < end and _is_day(when, today - _DAY)):
            return True  # a window over midnight belongs to the day it begins on
    return False


def make_calendars(tariffs: Iterable[Tariff], at_ns: int) -> None:
    """Make the calendars that these tariffs need this year and the next, before a request has to wait for them."""
    wanted = {variant.when.calendar for tariff in tariffs for variant in tariff.variants if variant.when.calendar}
    if wanted:
        year = datetime.fromtimestamp(at_ns // NS_PER_S, zone_of("UTC")).year
        for country in wanted:
            for one in (year, year + 1):
                year_of(country, one)


def _is_day(when: Condition, day: date) -> bool:
    if when.days:
        if when.days[0] in DAY_KINDS:
            workdays = year_of(when.calendar, day.year).workdays
            if (day.toordinal() in workdays) is not (when.days[0] == WORKDAY):
                return False
        elif DAYS[day.weekday()] not in when.days:
            return False
    return not (when.not_on_holidays and day.toordinal() in year_of(when.calendar, day.year).holidays)
