"""Calendar windows: the day, week or month of a zone that holds a moment.

Pure: the moment comes in, two moments go out. A window begins where local midnight is, so a day has 23 to 25 hours
where clocks change; where midnight itself is skipped, it begins at the first moment that exists. Zones are named as in
the IANA database.
"""

from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, assert_never
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import bad_request

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Every(StrEnum):
    """How long a window is."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Window(NamedTuple):
    """From `start_ns` to `end_ns`, the end excluded."""

    start_ns: int
    end_ns: int


class Calendar(NamedTuple):
    """A way of cutting time into windows. `week_start` counts from Monday = 0 and only matters for weeks."""

    every: Every
    zone: str = "UTC"
    week_start: int = 0

    def window(self, moment_ns: int) -> Window:
        """The window that holds the moment."""
        zone = zone_of(self.zone)
        local = datetime.fromtimestamp(moment_ns // NS_PER_S, zone).date()
        match self.every:
            case Every.DAY:
                first, after = local, local + timedelta(days=1)
            case Every.WEEK:
                first = local - timedelta(days=(local.weekday() - self.week_start) % 7)
                after = first + timedelta(days=7)
            case Every.MONTH:
                first = local.replace(day=1)
                after = (first + timedelta(days=31)).replace(day=1)
            case _:
                assert_never(self.every)
        return Window(_midnight_ns(first, zone), _midnight_ns(after, zone))


def calendar_from(every: str, zone: str = "UTC", week_start: str = WEEKDAYS[0]) -> Calendar:
    """A calendar from an operator's words. Raises CallerError 400 naming the word that is none."""
    if every not in set(Every):
        raise bad_request(f"'every' must be one of {', '.join(Every)}.", "every")
    if week_start not in WEEKDAYS:
        raise bad_request(f"'week_start' must be one of {', '.join(WEEKDAYS)}.", "week_start")
    zone_of(zone)
    return Calendar(Every(every), zone, WEEKDAYS.index(week_start))


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """The zone of that name. Raises CallerError 400 when the IANA database has none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise bad_request(f"There is no time zone named {name!r}; 'Asia/Shanghai' is one.", "zone") from None


def _midnight_ns(day: date, zone: ZoneInfo) -> int:
    """The first moment of a local day. A skipped midnight, read as before the change, is where the clocks moved to."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC).timestamp()) * NS_PER_S
