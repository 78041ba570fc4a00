"""When variants hold: edges of windows, weekends, China's holidays and worked weekends, clocks that change."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest
from msgspec import Raw

from steelyard.catalog.calendars import year_of
from steelyard.catalog.conditions import holds, make_calendars, met
from steelyard.catalog.price_file import parse_price_file
from steelyard.catalog.tariffs import at_open
from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.records import Order
from steelyard.kernel.tariff import Condition, Tariff, Thinking, Variant
from steelyard.kernel.thinking import thinking_of
from steelyard.upstream import thinking as upstream_thinking

WEEK = ("mon", "tue", "wed", "thu", "fri")
PEAK = Condition("Asia/Shanghai", WEEK, ((540, 720), (840, 1080)), "CN", not_on_holidays=True)
"""DeepSeek's: Monday to Friday from 9 to 12 and from 14 to 18 in Beijing, not on public holidays."""


def at(local: str, zone: str = "Asia/Shanghai", fold: int = 0) -> int:
    moment = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone), fold=fold)
    seconds = int(moment.astimezone(UTC).timestamp())
    return seconds * NS_PER_S


def in_peak(local: str) -> bool:
    return holds(PEAK, at(local), Thinking.UNSAID)


@pytest.mark.parametrize(
    ("clock", "peak"),
    [
        ("08:59:59", False), ("09:00:00", True), ("11:59:59", True), ("12:00:00", False), ("13:59:59", False),
        ("14:00:00", True), ("17:59:59", True), ("18:00:00", False), ("00:00:00", False), ("23:59:59", False),
    ],
)  # fmt: skip
def test_a_window_has_its_first_moment_and_not_its_last(clock: str, peak: bool) -> None:
    assert in_peak(f"2026-10-14T{clock}") is peak


def test_the_last_nanosecond_before_a_window_is_outside() -> None:
    nine = at("2026-10-14T09:00:00")
    assert [holds(PEAK, nine + ns, Thinking.UNSAID) for ns in (-1, 0)] == [False, True]
    assert [holds(PEAK, at("2026-10-14T12:00:00") + ns, Thinking.UNSAID) for ns in (-1, 0)] == [True, False]


@pytest.mark.parametrize(
    ("day", "peak"),
    [
        ("2026-10-16", True),  # Friday
        ("2026-10-17", False),  # Saturday
        ("2026-10-18", False),  # Sunday
        ("2026-10-19", True),  # Monday
        ("2026-10-01", False),  # National Day, a Thursday
        ("2026-10-07", False),  # a Wednesday off, worked for on the tenth
        ("2026-10-08", True),  # the Thursday after the holidays
        ("2026-10-10", False),  # a worked Saturday is no weekday
        ("2026-02-17", False),  # the Spring Festival, a Tuesday
    ],
)
def test_weekends_and_holidays_are_not_in_the_peak(day: str, peak: bool) -> None:
    assert in_peak(f"{day}T10:00:00") is peak


@pytest.mark.parametrize(
    ("day", "workday"),
    [
        ("2026-10-09", True),  # Friday
        ("2026-10-10", True),  # a worked Saturday
        ("2026-10-11", False),  # Sunday
        ("2026-10-05", False),  # a holiday on a Monday
        ("2026-09-20", True),  # a worked Sunday
        ("2026-09-26", False),  # Saturday
    ],
)
def test_working_days_go_by_the_calendar(day: str, workday: bool) -> None:
    noon = at(f"{day}T12:00:00")
    assert holds(Condition("Asia/Shanghai", ("workday",), (), "CN"), noon, Thinking.UNSAID) is workday
    assert holds(Condition("Asia/Shanghai", ("day off",), (), "CN"), noon, Thinking.UNSAID) is not workday


def test_the_day_is_that_of_the_zone() -> None:
    new_year = at("2026-01-01T00:30:00")  # in Beijing; the evening before elsewhere
    off = Condition("Asia/Shanghai", ("day off",), (), "CN")
    assert holds(off, new_year, Thinking.UNSAID)
    assert not holds(msgspec.structs.replace(off, zone="UTC"), new_year, Thinking.UNSAID)


@pytest.mark.parametrize(
    ("local", "night"),
    [
        ("2026-10-16T21:59:59", False),
        ("2026-10-16T22:00:00", True),  # Friday
        ("2026-10-17T05:59:59", True),  # the night of Friday goes on on Saturday
        ("2026-10-17T06:00:00", False),
        ("2026-10-17T22:00:00", False),  # Saturday's own night
        ("2026-10-16T05:59:59", False),  # the night of Thursday
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_it_begins_on(local: str, night: bool) -> None:
    friday = Condition("Asia/Shanghai", ("fri",), ((22 * 60, 6 * 60),))
    assert holds(friday, at(local), Thinking.UNSAID) is night


def test_until_midnight_may_be_written_both_ways() -> None:
    for end in (0, 24 * 60):
        late = Condition("UTC", ("fri",), ((22 * 60, end),))
        assert holds(late, at("2026-10-16T23:59:59", "UTC"), Thinking.UNSAID)
        assert not holds(late, at("2026-10-17T00:00:00", "UTC"), Thinking.UNSAID)


def test_an_hour_that_clocks_repeat_counts_both_times() -> None:
    """Berlin, 25 October 2026: 02:00 to 03:00 comes twice, in summer time and in winter time."""
    two = Condition("Europe/Berlin", (), ((2 * 60, 3 * 60),))
    first, second = (at("2026-10-25T02:30:00", "Europe/Berlin", fold) for fold in (0, 1))
    assert second - first == 3600 * NS_PER_S
    hour_before, hour_after = first - 3600 * NS_PER_S, second + 3600 * NS_PER_S
    assert [holds(two, ns, Thinking.UNSAID) for ns in (hour_before, first, second, hour_after)] == [0, 1, 1, 0]


def test_an_hour_that_clocks_skip_never_comes() -> None:
    """Berlin, 29 March 2026: 01:59:59 is followed by 03:00."""
    two = Condition("Europe/Berlin", (), ((2 * 60, 3 * 60),))
    three = Condition("Europe/Berlin", (), ((3 * 60, 4 * 60),))
    last = at("2026-03-29T01:59:59", "Europe/Berlin")
    assert not any(holds(two, last + s * NS_PER_S, Thinking.UNSAID) for s in range(0, 7200, 60))
    assert [holds(three, last + s * NS_PER_S, Thinking.UNSAID) for s in (0, 1, 3600, 3601)] == [
        False,
        True,
        True,
        False,
    ]


def test_thinking_holds_for_what_was_said() -> None:
    on, off = Condition(thinking=True), Condition(thinking=False)
    said = (Thinking.UNSAID, Thinking.ON, Thinking.OFF)
    assert [holds(on, 0, one) for one in said] == [False, True, False]
    assert [holds(off, 0, one) for one in said] == [False, False, True]
    assert all(holds(Condition(input_over=5), 0, one) for one in said), "bands are decided at rating"


def order(**params: object) -> Order:
    raw = {name: Raw(msgspec.json.encode(value)) for name, value in params.items()}
    return Order(bytes(16), "m", raw, 10, 10, 1, False)


def test_an_order_finds_its_variants() -> None:
    text = """
        [[price]]
        model = "m"
        currency = "CNY"
        effective_from = 2026-01-01T00:00:00Z
        per = "1M tokens"
        input = "1"
        cached_input = "1"
        output = "1"
        source = "s"
          [[price.when]]
          name = "morning"
          zone = "Asia/Shanghai"
          hours = ["09:00-12:00"]
          input = "2"
          [[price.when]]
          name = "thinking"
          thinking = true
          output = "3"
          [[price.when]]
          name = "long"
          input_over = 10
          input = "4"
    """
    tariff = parse_price_file(text).tariffs[0].tariff(1)
    morning, night = at("2026-10-14T10:00:00"), at("2026-10-14T01:00:00")
    assert at_open(tariff, order(), night).met == 0b100
    assert at_open(tariff, order(), morning).met == 0b101
    assert at_open(tariff, order(enable_thinking=True), morning).met == 0b111
    assert met(tariff, night, Thinking.ON) == 0b110
    plain = Tariff(1, "m", "CNY", 0, tariff.lines)
    assert at_open(plain, order(enable_thinking=True), morning) is plain, "what has no conditions costs nothing"


WORDS = [
    ({}, Thinking.UNSAID),
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Thinking.ON),
    ({"thinking": {"type": "disabled"}}, Thinking.OFF),
    ({"enable_thinking": True}, Thinking.ON),
    ({"enable_thinking": False}, Thinking.OFF),
    ({"reasoning_effort": "none"}, Thinking.OFF),
    ({"reasoning_effort": "minimal"}, Thinking.ON),
    ({"thinking_budget": 0}, Thinking.OFF),
    ({"thinking_budget": 5}, Thinking.ON),
    ({"enable_thinking": False, "reasoning_effort": "high"}, Thinking.OFF),
    ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, Thinking.ON),
]


@pytest.mark.parametrize(("params", "thinking"), WORDS)
def test_a_request_asks_for_thinking_in_any_dialect_as_upstreams_are_told(
    params: dict[str, object], thinking: Thinking
) -> None:
    said = order(**params).params
    assert thinking_of(said) is thinking
    told = upstream_thinking.thinking_of("vendor", said).on
    assert {None: Thinking.UNSAID, True: Thinking.ON, False: Thinking.OFF}[told] is thinking


@pytest.mark.parametrize("params", [{"thinking": {"type": "auto"}}, {"thinking": {"type": "adaptive"}}])
def test_a_model_that_may_choose_may_think(params: dict[str, object]) -> None:
    assert thinking_of(order(**params).params) is Thinking.ON


@pytest.mark.parametrize("params", [{"thinking": "on"}, {"enable_thinking": 1}, {"reasoning_effort": 3}])
def test_what_no_upstream_reads_says_nothing(params: dict[str, object]) -> None:
    assert thinking_of(order(**params).params) is Thinking.UNSAID
    assert thinking_of({"thinking": Raw(b"{")}) is Thinking.UNSAID


def test_calendars_are_made_ahead_for_this_year_and_the_next() -> None:
    off_duty = Condition("UTC", calendar="FI", not_on_holidays=True)
    tariff = Tariff(1, "m", "CNY", 0, (), variants=(Variant("x", off_duty, ()),))
    year_of.cache_clear()
    make_calendars([tariff], at("2031-06-01T00:00:00"))
    made = year_of.cache_info().misses
    assert made == 2
    year_of("FI", 2031), year_of("FI", 2032)
    assert year_of.cache_info().misses == made
