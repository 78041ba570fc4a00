"""The overview: today, sixty minutes, thirty days; gaps are zeros and currencies stay apart."""

from tests.unit.reports.shop import DAY_NS, FAR, NOON_NS, SMOL, Shop
from tests.unit.reports.test_sums import totals_of, within

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_HOUR, NS_PER_S, day_of
from steelyard.kernel.quantities import Usage
from steelyard.reports.overview import MINUTE_NS, overview
from steelyard.reports.sums import Totals, add_up


def test_an_empty_house_has_one_currency_and_all_its_buckets(shop: Shop) -> None:
    found = overview(shop.books, NOON_NS)
    assert found.today == (Totals("CNY"),)
    assert found.requests_ever == 0
    assert (found.models_today, found.tenants_today) == ((), ())
    assert [(series.currency, len(series.points)) for series in found.last_hour] == [("CNY", 60)]
    assert [(series.currency, len(series.points)) for series in found.last_30_days] == [("CNY", 30)]
    assert not any(point.requests or point.charge_nano for point in found.last_hour[0].points)


def test_today_is_the_utc_day(busy: Shop) -> None:
    last_close = max(one.settlement.closed.closed_ns for one in busy.rated)
    now_ns = last_close + NS_PER_S
    found = overview(busy.books, now_ns)
    expected = totals_of(within(busy, day_of(now_ns), None))
    assert found.day_start_ns == day_of(now_ns)
    assert {one.currency: one for one in found.today if one.requests} == expected
    assert {one.currency for one in found.today} == {"CNY", "USD"}
    assert add_up(group.totals for group in found.models_today) == tuple(expected[c] for c in sorted(expected))
    assert {group.name for group in found.tenants_today} <= {"acme", "beta", "gamma"}
    assert found.requests_ever == len(busy.rated)


def test_thirty_days_add_up_to_the_requests_of_thirty_days(busy: Shop) -> None:
    now_ns = max(one.settlement.closed.closed_ns for one in busy.rated)
    found = overview(busy.books, now_ns)
    expected = totals_of(within(busy, day_of(now_ns) - 29 * DAY_NS, None))
    for series in found.last_30_days:
        wanted = expected[series.currency]
        assert [point.start_ns for point in series.points] == [day_of(now_ns) - n * DAY_NS for n in range(29, -1, -1)]
        assert sum(point.requests for point in series.points) == wanted.requests
        assert sum(point.tokens for point in series.points) == wanted.tokens
        assert sum(point.charge_nano for point in series.points) == wanted.charge_nano
        assert sum(point.cost_nano for point in series.points) == wanted.cost_nano
    assert len(within(busy, None, None)) > sum(one.requests for one in expected.values())


def test_the_last_hour_goes_minute_by_minute(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**12)
    minutes = NOON_NS - NOON_NS % MINUTE_NS
    closes = [-NS_PER_HOUR - 1, -59 * MINUTE_NS, -59 * MINUTE_NS - 1, -MINUTE_NS, -1, 0, 30 * NS_PER_S]
    requests = []
    for offset in closes:
        shop.clock.advance(minutes + offset - shop.clock.now_ns())
        requests.append(shop.request("acme", Usage(input=10, output=1)))
    shop.sell(*requests)
    (series,) = overview(shop.books, minutes + 40 * NS_PER_S).last_hour
    assert [point.start_ns for point in series.points] == [minutes - n * MINUTE_NS for n in range(59, -1, -1)]
    assert [point.requests for point in series.points] == [1, *[0] * 57, 2, 2]
    assert series.points[-1].charge_nano == 2 * requests[0].charge_nano
    assert series.points[-1].tokens == 22


def test_the_currency_that_earns_most_today_comes_first(shop: Shop) -> None:
    shop.tenant("acme", "CNY")
    shop.tenant("gamma", "USD")
    shop.topup("gamma", 10**12)
    shop.sell(shop.request("gamma", Usage(input=100), model=FAR))
    found = overview(shop.books, shop.clock.now_ns())
    assert [one.currency for one in found.today] == ["USD", "CNY"]
    assert [one.currency for one in found.last_hour] == ["USD", "CNY"]
    assert found.today[1] == Totals("CNY")


def test_energy_is_set_against_the_tokens_it_was_used_for(shop: Shop) -> None:
    """A vendor's energy is not known, so his tokens make ours no cheaper."""
    shop.tenant("acme")
    shop.tenant("gamma", "USD")
    shop.sell(shop.request("acme", Usage(input=10, output=8, energy_uj=800)))
    shop.sell(shop.request("gamma", Usage(input=10, output=92), model=FAR))
    assert overview(shop.books, shop.clock.now_ns()).energy_output == 8


def test_the_overview_names_only_the_largest_tenants(shop: Shop) -> None:
    names = [f"t{number}" for number in range(limits.OVERVIEW_ROWS + 2)]
    for number, name in enumerate(names):
        shop.tenant(name)
        shop.topup(name, 10**12)
        shop.sell(shop.request(name, Usage(input=10 + number)))
    found = overview(shop.books, shop.clock.now_ns())
    assert [group.name for group in found.tenants_today] == names[::-1][: limits.OVERVIEW_ROWS]
    assert [group.name for group in found.models_today] == [SMOL]
    assert (found.tenants_left_out, found.models_left_out) == (2, 0)


def test_a_request_in_the_first_hour_of_a_day_counts_once_in_the_month(shop: Shop) -> None:
    """The hour's roll-up starts when the day's does."""
    shop.tenant("acme")
    shop.topup("acme", 10**12)
    shop.clock.advance(day_of(NOON_NS) + DAY_NS + NS_PER_S - shop.clock.now_ns())
    shop.sell(shop.request("acme", Usage(input=10)))
    (series,) = overview(shop.books, shop.clock.now_ns()).last_30_days
    assert [point.requests for point in series.points] == [*[0] * 29, 1]
