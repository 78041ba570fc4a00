"""A tenant's statement re-adds to the nano, and neighbouring periods join."""

import itertools

import pytest
from tests.unit.reports.shop import DAY_NS, FAR, NOON_NS, SMOL, Shop

from steelyard.kernel.clock import NS_PER_S, day_of, iso_from_ns
from steelyard.kernel.errors import BooksError, CallerError
from steelyard.kernel.quantities import Usage
from steelyard.ledger.purses import wallet_balances
from steelyard.reports.statement import statement
from steelyard.storage import tables

TENANTS = ["acme", "beta", "gamma"]


@pytest.mark.parametrize("tenant", TENANTS)
def test_the_whole_statement_is_the_wallet(busy: Shop, tenant: str) -> None:
    found = statement(busy.books, tenant)
    who = busy.keys[tenant][0]
    his = [one for one in busy.rated if one.settlement.opened.tenant_id == who.id]
    assert (found.opening_nano, found.topups_nano) == (0, busy.topped_up[tenant])
    assert found.charges_nano == sum(min(one.charge_nano, one.settlement.opened.hold_nano) for one in his)
    assert found.closing_nano == wallet_balances(busy.books)[who.id]
    assert sum(line.requests for line in found.charges) == len(his)
    for bucket in ("input", "cached_input", "cache_write", "output", "reasoning"):
        wanted = sum(getattr(one.settlement.closed.usage, bucket) for one in his)
        assert sum(getattr(line, bucket) for line in found.charges) == wanted
    assert {line.model for line in found.charges} == {FAR if tenant == "gamma" else SMOL}
    assert found.currency == who.currency


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("cuts", [[3], [5, 17, 29], list(range(1, 40))])
def test_neighbouring_periods_join(busy: Shop, tenant: str, cuts: list[int]) -> None:
    edges = [None, *(day_of(NOON_NS) + cut * DAY_NS for cut in cuts), None]
    parts = [statement(busy.books, tenant, *pair) for pair in itertools.pairwise(edges)]
    full = statement(busy.books, tenant)
    for earlier, later in itertools.pairwise(parts):
        assert earlier.closing_nano == later.opening_nano
    for part in parts:
        assert part.opening_nano + part.topups_nano - part.charges_nano == part.closing_nano
        assert part.charges_nano == sum(line.amount_nano for line in part.charges)
        assert part.topups_nano == sum(topup.amount_nano for topup in part.topups)
    assert parts[-1].closing_nano == full.closing_nano
    assert tuple(line for part in parts for line in part.charges) == full.charges
    assert tuple(topup for part in parts for topup in part.topups) == full.topups


def test_lines_are_dated_by_posting(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**9, "by bank")
    shop.clock.advance(day_of(NOON_NS) + DAY_NS - shop.clock.now_ns() - NS_PER_S // 4)  # just before midnight
    shop.sell(shop.request("acme", Usage(input=1)))  # posted just after it
    found = statement(shop.books, "acme")
    (line,) = found.charges
    assert (line.day, line.day_start_ns) == (iso_from_ns(day_of(NOON_NS) + DAY_NS)[:10], day_of(NOON_NS) + DAY_NS)
    (topup,) = found.topups
    assert (topup.note, topup.amount_nano, topup.posted_ns) == ("by bank", 10**9, NOON_NS)
    assert statement(shop.books, "acme", None, day_of(NOON_NS) + DAY_NS).charges == ()


def test_a_request_that_cost_nothing_is_listed(shop: Shop) -> None:
    shop.tenant("acme")
    shop.sell(shop.request("acme", Usage()))
    (line,) = statement(shop.books, "acme").charges
    assert (line.requests, line.amount_nano) == (1, 0)


def test_a_wallet_entry_the_statement_cannot_explain_is_refused(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**9)
    shop.books.execute(tables.entries.update().values(fact="gift"))
    with pytest.raises(BooksError, match="re-add"):
        statement(shop.books, "acme")


def test_nobody_has_no_statement(shop: Shop) -> None:
    with pytest.raises(CallerError) as caught:
        statement(shop.books, "nobody")
    assert caught.value.status == 404


def test_a_top_up_on_the_edge_belongs_to_the_later_period(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**9)
    edge = shop.clock.now_ns()
    earlier, later = statement(shop.books, "acme", None, edge), statement(shop.books, "acme", edge, None)
    assert (earlier.topups_nano, earlier.closing_nano) == (0, 0)
    assert (later.opening_nano, later.topups_nano) == (0, 10**9)
