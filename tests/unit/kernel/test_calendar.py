"""Windows of a calendar: zones, weeks that begin where they are told to, clocks that change."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.kernel.calendar import WEEKDAYS, Calendar, Every, calendar_from
from steelyard.kernel.clock import NS_PER_HOUR, NS_PER_S
from steelyard.kernel.errors import CallerError


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * NS_PER_S


@pytest.mark.parametrize(
    ("calendar", "moment", "start", "end"),
    [
        (Calendar(Every.DAY, "Asia/Shanghai"), "2026-11-27T15:59:59Z", "2026-11-26T16:00:00Z", "2026-11-27T16:00:00Z"),
        (Calendar(Every.DAY, "Asia/Shanghai"), "2026-11-27T16:00:00Z", "2026-11-27T16:00:00Z", "2026-11-28T16:00:00Z"),
        (Calendar(Every.WEEK), "2026-11-27T12:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
        (Calendar(Every.WEEK, "UTC", 6), "2026-11-27T12:00:00Z", "2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"),
        (Calendar(Every.WEEK, "UTC", 4), "2026-11-27T00:00:00Z", "2026-11-27T00:00:00Z", "2026-12-04T00:00:00Z"),
        (Calendar(Every.MONTH), "2024-02-29T23:59:59Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"),
        (Calendar(Every.MONTH), "2026-12-31T00:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    ],
)
def test_a_window_holds_its_moment(calendar: Calendar, moment: str, start: str, end: str) -> None:
    assert calendar.window(ns(moment)) == (ns(start), ns(end))


def test_a_day_is_as_long_as_its_clocks_make_it() -> None:
    berlin = Calendar(Every.DAY, "Europe/Berlin")
    spring, autumn = berlin.window(ns("2026-03-29T12:00:00Z")), berlin.window(ns("2026-10-25T12:00:00Z"))
    assert (spring.end_ns - spring.start_ns, autumn.end_ns - autumn.start_ns) == (23 * NS_PER_HOUR, 25 * NS_PER_HOUR)


def test_a_day_without_midnight_begins_where_the_clocks_moved_to() -> None:
    day = Calendar(Every.DAY, "America/Santiago").window(ns("2026-09-06T12:00:00Z"))
    assert datetime.fromtimestamp(day.start_ns // NS_PER_S, UTC).isoformat() == "2026-09-06T04:00:00+00:00"
    assert day.end_ns - day.start_ns == 23 * NS_PER_HOUR


@given(
    moment=st.integers(0, 4_000_000_000).map(lambda seconds: seconds * NS_PER_S),
    every=st.sampled_from(list(Every)),
    zone=st.sampled_from(
        ["UTC", "Asia/Shanghai", "Europe/Berlin", "America/Santiago", "Pacific/Apia", "Asia/Kathmandu"]
    ),
    week_start=st.integers(0, 6),
)
def test_windows_cover_time_without_gap_or_overlap(moment: int, every: Every, zone: str, week_start: int) -> None:
    calendar = Calendar(every, zone, week_start)
    window = calendar.window(moment)
    assert window.start_ns <= moment < window.end_ns
    assert calendar.window(window.end_ns).start_ns == window.end_ns
    assert calendar.window(window.start_ns) == window


@pytest.mark.parametrize(
    ("words", "param"),
    [
        (("year",), "every"),
        (("day", "Mars/Olympus"), "zone"),
        (("day", "../etc"), "zone"),
        (("week", "UTC", "funday"), "week_start"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: tuple[str, ...], param: str) -> None:
    with pytest.raises(CallerError) as caught:
        calendar_from(*words)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert calendar_from("week", "Asia/Shanghai", WEEKDAYS[6]) == Calendar(Every.WEEK, "Asia/Shanghai", 6)
