"""Holiday calendars of countries: which days are public holidays, and which weekend days were made working days.

Owns the only use of the `holidays` library. A calendar is made once per country and year and kept; it reads no file and
no network after the library is loaded. What the library's release does not know yet, it does not say.
"""

from datetime import date
from functools import lru_cache
from typing import NamedTuple


class Year(NamedTuple):
    """One country's year, in ordinals of days (`date.toordinal`)."""

    holidays: frozenset[int]
    workdays: frozenset[int]  # neither weekend nor holiday, or a weekend day that was made a working day


def is_calendar(country: str) -> bool:
    """Whether there is a calendar of this ISO 3166 country (two letters)."""
    from holidays import list_supported_countries  # a third of a second that only conditional tariffs need

    return len(country) == 2 and country in list_supported_countries(include_aliases=False)


@lru_cache(maxsize=256)
def year_of(country: str, year: int) -> Year:
    """The calendar of a year. Raises NotImplementedError for a country that has none."""
    from holidays import country_holidays

    found = country_holidays(country, years=year)
    first, after = date(year, 1, 1).toordinal(), date(year + 1, 1, 1).toordinal()
    days = {ordinal: date.fromordinal(ordinal) for ordinal in range(first, after)}
    return Year(
        frozenset(ordinal for ordinal, day in days.items() if day in found),
        frozenset(ordinal for ordinal, day in days.items() if found.is_working_day(day)),
    )
