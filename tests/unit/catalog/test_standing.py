"""What counts at a moment and when that changes, for people who look."""

from datetime import datetime

from steelyard.catalog.price_file import parse_price_file
from steelyard.catalog.standing import Standing, standing_at
from steelyard.kernel.clock import iso_from_ns

TEXT = """
[[price]]
model = "m"
currency = "CNY"
effective_from = 2026-01-01T00:00:00Z
per = "1M tokens"
input = "1"
cached_input = "0.1"
output = "2"
source = "a"
  [[price.when]]
  name = "night"
  zone = "Europe/Berlin"
  hours = ["22:00-06:00"]
  input = "0.5"
  [[price.when]]
  name = "thinking"
  thinking = true
  output = "4"
"""


def at(moment: str, text: str = TEXT) -> Standing:
    versions = [draft.tariff(number) for number, draft in enumerate(parse_price_file(text).tariffs, 1)]
    (found,) = standing_at("price", versions, int(datetime.fromisoformat(moment).timestamp()) * 10**9)
    return found


def test_by_day_the_request_decides_and_the_base_counts() -> None:
    day = at("2026-06-01T12:00:00+02:00")
    assert [(row.variant, row.counts) for row in day.rows] == [("night", False), ("thinking", None), ("", True)]
    assert day.now.prices["input"] == "1"
    assert iso_from_ns(day.next_ns or 0) == "2026-06-01T20:00:00.000Z"


def test_by_night_the_first_that_holds_counts_alone() -> None:
    night = at("2026-06-01T23:00:00+02:00")
    assert [row.counts for row in night.rows] == [True, False, False]
    assert night.now.prices == {"input": "0.5"}
    assert iso_from_ns(night.next_ns or 0) == "2026-06-02T04:00:00.000Z"


def test_the_next_change_is_by_the_wall_clock_of_its_zone() -> None:
    """In the night of 2026-10-25 the clocks go back: 06:00 is 05:00 UTC then."""
    assert iso_from_ns(at("2026-10-24T23:00:00+02:00").next_ns or 0) == "2026-10-25T05:00:00.000Z"


def test_a_newer_version_is_a_change_too() -> None:
    newer = TEXT.partition("  [[price.when]]")[0]
    both = newer + newer.replace("2026-01-01", "2026-03-01").replace('"2"', '"3"')
    found = at("2026-02-01T00:00:00+00:00", both)
    assert (found.version, iso_from_ns(found.next_ns or 0)) == (1, "2026-03-01T00:00:00.000Z")
    assert at("2026-03-01T00:00:00+00:00", both).next_ns is None


def test_before_the_first_version_nothing_stands() -> None:
    versions = [draft.tariff(1) for draft in parse_price_file(TEXT).tariffs]
    assert standing_at("price", versions, 10**18) == ()


def test_whether_bands_price_the_whole_request_or_what_is_inside_them() -> None:
    banded = (
        TEXT.partition("  [[price.when]]")[0]
        + "marginal = true\n[[price.when]]\nname = 'x'\ninput_over = 9\ninput = '3'\n"
    )
    assert at("2026-02-01T00:00:00+00:00", banded).marginal and not at("2026-02-01T00:00:00+00:00").marginal
