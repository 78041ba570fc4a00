"""Margin and usage reports add up to the usage rows and to the ledger, whatever they are grouped by."""

from collections import defaultdict
from collections.abc import Callable

import pytest
from tests.unit.reports.shop import DAY_NS, FAR, NOON_NS, SMOL, Shop

from steelyard.kernel.clock import NS_PER_HOUR, NS_PER_S, day_of, iso_from_ns
from steelyard.kernel.errors import CallerError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Rated
from steelyard.reports.accounts import accounts
from steelyard.reports.margin import margin
from steelyard.reports.sums import By, Totals, add_up
from steelyard.reports.usage import usage

BOUNDS = [
    (None, None),
    (day_of(NOON_NS) + 5 * DAY_NS, day_of(NOON_NS) + 20 * DAY_NS),  # day roll-ups
    (NOON_NS + 5 * DAY_NS, NOON_NS + 20 * DAY_NS + NS_PER_HOUR),  # hour roll-ups
    (NOON_NS + 5 * DAY_NS + 1, NOON_NS + 20 * DAY_NS + 7),  # usage rows
    (NOON_NS + 30 * DAY_NS, None),
    (None, NOON_NS + 3 * DAY_NS - 1),
]


def totals_of(rated: list[Rated]) -> dict[str, Totals]:
    """The same sums from what the shop remembers, by plain addition."""
    sums: dict[str, list[Totals]] = defaultdict(list)
    for one in rated:
        opened, used = one.settlement.opened, one.settlement.closed.usage
        overrun = max(0, one.charge_nano - opened.hold_nano)
        sums[opened.currency].append(
            Totals(
                opened.currency, 1, used.input, used.cached_input, used.output, used.cpu_ns, used.energy_uj,
                one.charge_nano, one.cost_nano, overrun, one.charge_nano - one.cost_nano - overrun,
                used.cache_write, used.reasoning, used.reused_input, used.reused_output,
                one.settlement.closed.measured_uj,
            )
        )  # fmt: skip
    return {currency: add_up(several)[0] for currency, several in sums.items()}


def within(shop: Shop, since_ns: int | None, until_ns: int | None) -> list[Rated]:
    return [
        one
        for one in shop.rated
        if (since_ns is None or one.settlement.closed.closed_ns >= since_ns)
        and (until_ns is None or one.settlement.closed.closed_ns < until_ns)
    ]


GROUPED: dict[By, Callable[[Rated], object]] = {
    By.MODEL: lambda one: one.settlement.opened.model,
    By.TENANT: lambda one: one.settlement.opened.tenant_id,
    By.KEY: lambda one: one.settlement.opened.key_id,
    By.DAY: lambda one: day_of(one.settlement.closed.closed_ns),
}


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("by", list(By))
def test_every_group_and_every_total_is_the_sum_of_its_requests(
    busy: Shop, by: By, bounds: tuple[int | None, int | None]
) -> None:
    rated = within(busy, *bounds)
    found = margin(busy.books, by, *bounds)
    assert {totals.currency: totals for totals in found.totals} == totals_of(rated)
    assert add_up(group.totals for group in found.groups) == found.totals
    expected: dict[object, list[Rated]] = defaultdict(list)
    for one in rated:
        expected[GROUPED[by](one)].append(one)
    shown = {
        (group.name if by is By.MODEL else group.id, group.totals.currency): group.totals for group in found.groups
    }
    assert shown == {
        (group, currency): totals for group, some in expected.items() for currency, totals in totals_of(some).items()
    }
    assert rated, "the window holds requests"


def test_the_busy_shop_has_what_makes_reports_hard(busy: Shop) -> None:
    totals = margin(busy.books, By.MODEL).totals
    assert [one.currency for one in totals] == ["CNY", "USD"]
    assert all(one.overrun_nano > 0 for one in totals)
    assert any(not one.charge_nano for one in busy.rated)


def test_margin_is_what_the_accounts_say(busy: Shop) -> None:
    balances: dict[tuple[str, str], int] = defaultdict(int)
    for account in accounts(busy.books):
        balances[account.kind, account.currency] += account.balance_nano
    for totals in margin(busy.books, By.TENANT).totals:
        currency = totals.currency
        assert totals.charge_nano == balances["revenue", currency]
        spent = (balances[kind, currency] for kind in ("expense-cpu", "expense-energy", "expense-vendor"))
        assert totals.cost_nano == sum(spent)
        assert totals.overrun_nano == balances["overrun", currency]
        assert totals.margin_nano == totals.charge_nano - totals.cost_nano - totals.overrun_nano


def test_groups_have_names_and_an_order(busy: Shop) -> None:
    by_tenant = margin(busy.books, By.TENANT).groups
    assert {group.name for group in by_tenant} == {"acme", "beta", "gamma"}
    cny = [group.totals.charge_nano for group in by_tenant if group.totals.currency == "CNY"]
    assert cny == sorted(cny, reverse=True)
    days = [group.name for group in margin(busy.books, By.DAY).groups if group.totals.currency == "CNY"]
    assert days == sorted(days)
    assert days[0] == iso_from_ns(busy.rated[0].settlement.closed.closed_ns)[:10]
    (acme,) = (group for group in usage(busy.books, By.KEY).groups if group.name == "acme-key")
    assert acme.note.startswith("acme/default sk-sy-")
    assert {group.name for group in margin(busy.books, By.MODEL).groups} == {SMOL, FAR}


def test_groups_beyond_the_limit_are_counted_and_still_in_the_totals(busy: Shop) -> None:
    all_days, some = margin(busy.books, By.DAY), margin(busy.books, By.DAY, limit=3)
    assert some.groups == all_days.groups[:3]
    assert some.left_off == len(all_days.groups) - 3
    assert some.totals == all_days.totals


@pytest.mark.parametrize("bounds", BOUNDS)
def test_usage_of_one_tenant_is_his_alone(busy: Shop, bounds: tuple[int | None, int | None]) -> None:
    beta = busy.keys["beta"][0].id
    his = [one for one in within(busy, *bounds) if one.settlement.opened.tenant_id == beta]
    found = usage(busy.books, By.DAY, *bounds, tenant="beta")
    assert {totals.currency: totals for totals in found.totals} == totals_of(his)


def test_usage_of_nobody_is_refused(shop: Shop) -> None:
    with pytest.raises(CallerError) as caught:
        usage(shop.books, By.DAY, tenant="nobody")
    assert caught.value.status == 404


def test_empty_books_report_nothing(shop: Shop) -> None:
    found = margin(shop.books, By.MODEL)
    assert (found.groups, found.totals, found.left_off) == ((), (), 0)


def test_a_close_on_the_edge_belongs_to_the_later_window(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**9)
    shop.clock.advance(day_of(NOON_NS) + DAY_NS - shop.clock.now_ns())  # midnight
    edge = shop.clock.now_ns()
    shop.sell(shop.request("acme", Usage(input=1)))
    for bound in (edge, edge + NS_PER_S):
        before, after = margin(shop.books, By.DAY, None, bound), margin(shop.books, By.DAY, bound, None)
        assert len(before.groups) + len(after.groups) == 1
    assert not margin(shop.books, By.DAY, None, edge).groups


def test_energy_per_token_counts_tokens_generated() -> None:
    assert Totals("CNY", output=4, energy_uj=10).energy_per_token_uj == 2  # 2.5 to even
    assert Totals("CNY", input=4, energy_uj=10).energy_per_token_uj is None
    assert (Totals("CNY", input=1, cached_input=2, output=4).prompt, Totals("CNY", 0, 1, 2, 4).tokens) == (3, 7)
