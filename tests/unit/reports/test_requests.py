"""Posted requests: pages that miss and repeat nothing, and details that trace every nano into the ledger."""

from collections import Counter

import pytest
from sqlalchemy import select, update
from tests.unit.reports.shop import DAY_NS, FAR, SMOL, Shop

from steelyard.kernel.errors import BooksError, CallerError
from steelyard.kernel.ids import text_from_id
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import End
from steelyard.ledger.grants import Given, post_grants
from steelyard.ledger.operations import Why
from steelyard.reports.accounts import entries
from steelyard.reports.receipts import posted_receipt
from steelyard.reports.requests import RequestFilter, detail, filter_choices, latest
from steelyard.storage import tables


def all_pages(shop: Shop, wanted: RequestFilter, limit: int) -> list[str]:
    seen, before = [], None
    while True:
        page = latest(shop.books, wanted, before=before, limit=limit)
        assert len(page.rows) <= limit
        seen += [row.request_id for row in page.rows]
        if page.older is None:
            return seen
        before = page.older


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_join_without_gap_or_repeat(busy: Shop, limit: int) -> None:
    newest_first = sorted((text_from_id(one.settlement.opened.request_id) for one in busy.rated), reverse=True)
    assert all_pages(busy, RequestFilter(), limit) == newest_first


def test_a_page_that_ends_with_the_last_row_has_no_older_one(busy: Shop) -> None:
    assert latest(busy.books, limit=len(busy.rated)).older is None
    assert latest(busy.books, limit=len(busy.rated) - 1).older is not None


@pytest.mark.parametrize(
    "wanted",
    [
        RequestFilter(tenant="beta"),
        RequestFilter(model=FAR),
        RequestFilter(end="refused"),
        RequestFilter(tenant="acme", end="complete"),
    ],
)
def test_a_filter_keeps_what_it_names(busy: Shop, wanted: RequestFilter) -> None:
    tenant_ids = {name: known[0].id for name, known in busy.keys.items()}
    expected = [
        text_from_id(one.settlement.opened.request_id)
        for one in busy.rated
        if (wanted.tenant is None or one.settlement.opened.tenant_id == tenant_ids[wanted.tenant])
        and (wanted.model is None or one.settlement.opened.model == wanted.model)
        and (wanted.end is None or one.settlement.closed.end == wanted.end)
    ]
    assert expected
    assert sorted(all_pages(busy, wanted, 5)) == sorted(expected)


def test_an_unknown_name_finds_nothing(busy: Shop) -> None:
    assert latest(busy.books, RequestFilter(tenant="nobody")).rows == ()


def test_a_broken_cursor_is_the_callers_fault(busy: Shop) -> None:
    with pytest.raises(CallerError) as caught:
        latest(busy.books, before="req_zz")
    assert (caught.value.status, caught.value.param) == (400, "before")


def test_a_row_carries_names_amounts_and_counts(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**9)
    used = Usage(input=16, cached_input=4, output=10, cpu_ns=300_000_000, energy_uj=2_400_000)
    shop.sell(shop.request("acme", used, hold_nano=23_000, end=End.CLIENT_GONE))
    (row,) = latest(shop.books).rows
    assert (row.tenant, row.project, row.key, row.model, row.upstream) == ("acme", "default", "acme-key", SMOL, "local")
    assert row.key_shown.startswith("sk-sy-")
    assert (row.prompt, row.cached_input, row.output) == (20, 4, 10)
    assert (row.charge_nano, row.hold_nano, row.overrun_nano) == (23_200, 23_000, 200)
    assert (row.cpu_cost_nano, row.energy_cost_nano, row.cost_nano) == (8_333, 400, 8_733)
    assert row.margin_nano == 23_200 - 8_733 - 200
    assert (row.end, row.stream, row.short_by_one_read) == ("client_gone", False, False)


def test_details_rate_again_to_what_was_posted(busy: Shop) -> None:
    for one in busy.rated:
        found = detail(busy.books, one.settlement.opened.request_id)
        assert found is not None
        summed = [sum(line.amount_nano for line in lines) for lines in (found.charge, found.cost, found.exchange)]
        if not one.payable_currency:
            assert summed == [one.charge_nano, one.cost_nano, 0]
        else:
            turned = one.cost_nano if one.payable_currency != found.row.currency else 0
            assert summed == [one.charge_nano, one.payable_nano, turned]
            assert (found.cost_tariff.currency, found.cost_tariff.source) == (one.payable_currency, "their list")
        assert (found.receipt.lines, found.receipt.amount_nano) == (found.charge, one.charge_nano)
        assert (found.receipt.state, found.receipt.batch) == ("posted", found.row.batch_id)
        assert found.receipt.prompt_tokens == found.row.prompt
        assert (found.price.id, found.cost_tariff.id) == (found.row.price_id, found.row.cost_id)
        assert found.receipt.chain == found.chain
        assert len(found.chain) == 64


def test_the_shares_of_all_requests_make_every_entry(busy: Shop) -> None:
    shares: Counter[int] = Counter()
    for one in busy.rated:
        found = detail(busy.books, one.settlement.opened.request_id)
        assert found is not None
        for share in found.entries:
            assert 0 < share.share_nano <= share.entry_nano
            shares[share.entry_id] += share.share_nano
        by_fact = {share.fact: share.share_nano for share in found.entries}
        assert by_fact.get("charge", 0) + by_fact.get("overrun", 0) == one.charge_nano
        costs = [by_fact.get(fact, 0) for fact in ("cpu", "energy", "vendor", "vendor-fx")]
        assert sum(costs) == one.cost_nano
        if one.payable_currency == "USD":
            assert by_fact.get("payable-fx", 0) == one.payable_nano
    page = entries(busy.books, limit=1000)
    assert page.older is None
    assert dict(shares) == {entry.id: entry.amount_nano for entry in page.rows if entry.fact != "topup"}
    vendors = {"vendor", "vendor-fx", "payable-fx"}
    assert {entry.fact for entry in page.rows} == {"topup", "charge", "overrun", "cpu", "energy", *vendors}


def test_an_unknown_request_has_no_detail(busy: Shop) -> None:
    assert detail(busy.books, b"?" * 16) is None


def test_amounts_that_do_not_rate_again_are_refused(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**9)
    shop.sell(shop.request("acme", Usage(input=1)))
    shop.books.execute(update(tables.usage).values(charge_nano=1))
    with pytest.raises(BooksError, match="I9"):
        detail(shop.books, shop.rated[0].settlement.opened.request_id)


def test_a_receipt_is_its_tenants_own(shop: Shop) -> None:
    acme, beta = shop.tenant("acme"), shop.tenant("beta")
    shop.topup("acme", 10**9)
    shop.sell(shop.request("acme", Usage(input=3, cached_input=2)))
    request_id = shop.rated[0].settlement.opened.request_id
    receipt = posted_receipt(shop.books, request_id, acme.id)
    assert receipt is not None
    assert receipt == posted_receipt(shop.books, request_id, None)
    assert (receipt.prompt_tokens, receipt.cached_tokens, receipt.amount) == (5, 2, "0.0000016")
    assert posted_receipt(shop.books, request_id, beta.id) is None
    assert posted_receipt(shop.books, b"?" * 16, None) is None


def test_filters_offer_what_is_known(busy: Shop) -> None:
    assert filter_choices(busy.books) == (("acme", "beta", "gamma"), (FAR, SMOL))
    assert busy.books.execute(select(tables.models)).all() == []  # sold before, though not offered now


def test_what_grants_paid_is_told_request_by_request(shop: Shop) -> None:
    """Grants, wallet, hold and what nothing was left for, over several requests of two models in one batch."""
    who = shop.tenant("acme", "CNY")
    shop.tenant("beta")
    shop.topup("acme", 20_000)
    shop.topup("beta", 10**9)
    for amount, days in ((25_000, 2), (10_000, 1)):  # the second one expires first
        given = Given(who.id, amount, shop.clock.now_ns() + days * DAY_NS)
        post_grants(shop.books, [given], Why("welcome", ""), shop.clock)
    used = Usage(output=10)  # 15 000
    shop.prices["twin"] = shop.prices[SMOL]
    sold = [
        shop.request("acme", used, hold_nano=14_000),
        shop.request("beta", used),
        shop.request("acme", used),
        shop.request("acme", used, model="twin"),
        shop.request("acme", used),
        shop.request("acme", used),
    ]
    shop.sell(*reversed(sold))  # however they come
    shares: Counter[int] = Counter()
    told = []
    for one in sold:
        found = detail(shop.books, one.settlement.opened.request_id)
        assert found is not None
        paid = {(share.fact, share.debit): share.share_nano for share in found.entries}
        assert sum(nano for (fact, _), nano in paid.items() if fact not in ("cpu", "energy")) == one.charge_nano
        assert found.row.overrun_nano == sum(nano for (fact, _), nano in paid.items() if fact == "overrun")
        assert found.row.margin_nano == one.charge_nano - one.cost_nano - found.row.overrun_nano
        for share in found.entries:
            shares[share.entry_id] += share.share_nano
        told.append(paid)
    early, late, wallet = ("grant-spent", "grant:acme#2"), ("grant-spent", "grant:acme#1"), ("charge", "wallet:acme")
    overrun = ("overrun", "overrun:acme")
    assert told == [
        {early: 10_000, late: 4_000, overrun: 1_000},
        {("charge", "wallet:beta"): 15_000},
        {late: 15_000},
        {late: 6_000, wallet: 9_000},
        {wallet: 11_000, overrun: 4_000},
        {overrun: 15_000},
    ]
    batch_id = max(share.batch_id for share in found.entries)
    booked = entries(shop.books, batch_id=batch_id, limit=100).rows
    assert dict(shares) == {entry.id: entry.amount_nano for entry in booked}
