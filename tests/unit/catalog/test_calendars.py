"""The calendar of China in 2026 as it was announced: holidays, and the weekend days that are worked for them."""

from datetime import date

import pytest

from steelyard.catalog.calendars import is_calendar, year_of


def kind(country: str, day: str) -> tuple[bool, bool]:
    """Whether it is a holiday, whether it is a working day."""
    asked = date.fromisoformat(day)
    year = year_of(country, asked.year)
    return asked.toordinal() in year.holidays, asked.toordinal() in year.workdays


@pytest.mark.parametrize("day", ["2026-01-04", "2026-02-14", "2026-02-28", "2026-05-09", "2026-09-20", "2026-10-10"])
def test_a_weekend_day_that_is_worked_is_a_working_day(day: str) -> None:
    assert date.fromisoformat(day).weekday() >= 5
    assert kind("CN", day) == (False, True)


@pytest.mark.parametrize("day", ["2026-02-17", "2026-02-23", "2026-05-05", "2026-10-01", "2026-10-05", "2026-10-07"])
def test_a_holiday_on_a_weekday_is_a_day_off(day: str) -> None:
    assert date.fromisoformat(day).weekday() < 5
    assert kind("CN", day) == (True, False)


@pytest.mark.parametrize(
    ("day", "holiday", "workday"),
    [("2026-10-08", False, True), ("2026-10-11", False, False), ("2026-10-03", True, False)],
)
def test_other_days_go_by_the_week(day: str, holiday: bool, workday: bool) -> None:
    assert kind("CN", day) == (holiday, workday)


def test_other_countries_have_other_holidays_and_weekends() -> None:
    assert kind("DE", "2026-10-01") == (False, True)
    assert kind("DE", "2026-10-03") == (True, False)
    assert kind("SA", "2026-11-27") == (False, False)  # a Friday


def test_calendars_are_named_by_two_letters() -> None:
    assert is_calendar("CN") and is_calendar("DE")
    assert not any(map(is_calendar, ("", "XX", "CHN", "cn", "China")))
