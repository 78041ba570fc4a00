"""Re-rating: the difference is what rating each request again gives, its correction is posted once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from tests.unit.reports.conftest import new_books
from tests.unit.reports.shop import DAY_NS, NOON_NS, SMOL, Shop, busy_shop

from steelyard.catalog.demo import demo_price_text
from steelyard.catalog.price_file import parse_price_file
from steelyard.catalog.store import load_price_file, tariffs_by_id
from steelyard.kernel.errors import CallerError
from steelyard.kernel.quantities import Usage
from steelyard.ledger.purses import wallet_balances
from steelyard.ledger.teller import Teller
from steelyard.ledger.verify import verify
from steelyard.processes.cashier import Cashier
from steelyard.processes.rerating import post_rerating
from steelyard.rating.rate import charge_of, rate
from steelyard.reports.rerate import Book, Rerating, book_of, rerate_period
from steelyard.reports.statement import statement
from steelyard.storage import tables

OUTPUT = 'output = "1.50"'


@pytest.fixture
def trading(tmp_path: Path) -> Iterator[Shop]:
    """A busy shop of one's own, to post in."""
    with new_books(tmp_path) as books:
        yield busy_shop(books)


def book(output: str, more: str = "") -> Book:
    changed = demo_price_text().replace(OUTPUT, f'output = "{output}"') + more
    assert changed != demo_price_text()
    return book_of(changed, parse_price_file(changed).tariffs)


def all_of(shop: Shop, other: Book) -> Rerating:
    return rerate_period(shop.books, other, 0, shop.clock.now_ns())


def post(shop: Shop, found: Rerating, **more: object) -> dict:
    shop.clock.advance(10 * DAY_NS)
    names = ("tenant_id", "model", "currency", "wallet_nano", "overrun_nano")
    corrections = [{name: getattr(one, name) for name in names} for one in found.differences]
    payload = {"book": found.book, "since_ns": found.since_ns, "until_ns": found.until_ns, "corrections": corrections}
    payload |= {"last_batch": found.last_batch, "reason": "wrong price", "actor": "ada"}
    return post_rerating(shop.books, payload | more, shop.clock).reply


def sound(shop: Shop) -> None:
    findings = verify(shop.books, rate, tariffs_by_id(shop.books))
    assert [one for one in findings if not one.ok] == []
    for tenant in shop.keys:
        statement(shop.books, tenant)  # re-adds, or raises


def balance(shop: Shop, tenant: str) -> int:
    return wallet_balances(shop.books)[shop.keys[tenant][0].id]


def test_the_demo_book_has_the_price_that_is_changed_here() -> None:
    assert OUTPUT in demo_price_text()


@pytest.mark.parametrize("output", ["1.00", "9.99"])
def test_the_difference_is_that_of_every_request_rated_again(busy: Shop, output: str) -> None:
    other = book(output)
    found = rerate_period(busy.books, other, 0, busy.clock.now_ns())
    assert found.requests == len(busy.rated)
    tariff = next(version for version in other.versions[SMOL] if not version.tier)
    for one in found.differences:
        mine = [
            r.settlement
            for r in busy.rated
            if (r.settlement.opened.tenant_id, r.settlement.opened.model) == (one.tenant_id, one.model)
        ]
        if one.model != SMOL:
            assert (one.unpriced, one.difference_nano, one.wallet_nano, one.overrun_nano) == (len(mine), 0, 0, 0)
            continue
        charges = [sum(line.amount_nano for line in charge_of(s.closed.usage, tariff)) for s in mine]
        assert (one.requests, one.unpriced) == (len(mine), 0)
        assert one.rerated_nano == sum(charges)
        overrun = sum(max(0, c - s.opened.hold_nano) for c, s in zip(charges, mine, strict=True))
        before = [
            (r.charge_nano, r.settlement.opened.hold_nano)
            for r in busy.rated
            if (r.settlement.opened.tenant_id, r.settlement.opened.model) == (one.tenant_id, one.model)
        ]
        assert one.charge_nano == sum(charge for charge, _ in before)
        assert one.overrun_nano == overrun - sum(max(0, charge - hold) for charge, hold in before)
        assert one.wallet_nano + one.overrun_nano == one.difference_nano != 0


def test_a_period_and_the_open_time_decide(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**12)
    shop.sell(shop.request("acme", Usage(0, 0, 1000)))
    middle = shop.clock.now_ns()
    shop.clock.advance(DAY_NS)
    shop.sell(shop.request("acme", Usage(0, 0, 1000)))
    later = demo_price_text().split("[[price]]")[1].split("[[")[0].replace(OUTPUT, 'output = "8.00"')
    later = "[[price]]" + later.replace("2026-01-01", "2099-01-01")
    whole = rerate_period(shop.books, book("2.00", "\n" + later), 0, shop.clock.now_ns())
    assert whole.differences[0].difference_nano == 2 * (2_000_000 - 1_500_000)  # the later version was never in force
    assert rerate_period(shop.books, book("2.00"), 0, middle).requests == 1
    assert rerate_period(shop.books, book("2.00"), middle, shop.clock.now_ns()).requests == 1


@pytest.mark.parametrize("output", ["1.00", "9.99"])
def test_a_posted_correction_moves_wallets_once_and_the_books_hold(trading: Shop, output: str) -> None:
    shop = trading
    other = book(output)
    found = all_of(shop, other)
    before = {name: balance(shop, name) for name in shop.keys}
    first = post(shop, found)
    wanted = {one.tenant: one.wallet_nano for one in found.differences}
    for name in shop.keys:
        assert balance(shop, name) == before[name] - wanted.get(name, 0)
    sound(shop)
    again = post(shop, found)
    assert (again["batch"], again["posted_before"]) == (first["batch"], True)
    assert {name: balance(shop, name) for name in shop.keys} == {
        name: before[name] - wanted.get(name, 0) for name in shop.keys
    }
    same = rerate_period(shop.books, other, found.since_ns, found.until_ns)
    assert all(one.difference_nano == 0 for one in same.differences), "nothing is left to correct"
    row = shop.books.execute(select(tables.corrections)).one()
    assert (row.reason, row.actor, row.batch_id) == ("wrong price", "ada", first["batch"])


def test_a_second_book_corrects_the_same_period_from_where_the_first_left_it(trading: Shop) -> None:
    shop = trading
    start = {name: balance(shop, name) for name in shop.keys}
    found = all_of(shop, book("9.99"))
    post(shop, found)
    second = rerate_period(shop.books, book("1.00"), found.since_ns, found.until_ns)
    direct = {one.tenant: one.rerated_nano for one in second.differences}
    post(shop, second)
    sound(shop)
    assert sum(start.values()) < sum(balance(shop, name) for name in shop.keys), "it is cheaper than it was at first"
    third = rerate_period(shop.books, book("1.00"), found.since_ns, found.until_ns)
    assert {one.tenant: one.charge_nano for one in third.differences} == direct
    assert all(one.wallet_nano == one.overrun_nano == 0 for one in third.differences), "nothing is left to correct"


def test_periods_do_not_overlap_and_have_ended(trading: Shop) -> None:
    shop = trading
    found = all_of(shop, book("2.00"))
    post(shop, found)
    part = rerate_period(shop.books, book("3.00"), NOON_NS, found.until_ns)
    with pytest.raises(CallerError) as refused:
        post(shop, part)
    assert (refused.value.status, refused.value.code) == (409, "period_overlaps")
    coming = rerate_period(shop.books, book("3.00"), found.until_ns, shop.clock.now_ns() + 100 * DAY_NS)
    with pytest.raises(CallerError) as early:
        post(shop, coming)
    assert (early.value.status, early.value.param) == (400, "until")


def test_a_wallet_gives_no_more_than_it_has(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 1_500_100)
    shop.sell(shop.request("acme", Usage(0, 0, 1000), hold_nano=10**10))
    assert balance(shop, "acme") == 100
    found = all_of(shop, book("2.50"))
    assert found.differences[0].wallet_nano == 1_000_000
    assert post(shop, found)["taken"] == [{"tenant_id": 1, "wallet_nano": 100}]
    assert balance(shop, "acme") == 0
    overrun = shop.books.execute(
        text("SELECT debit_nano - credit_nano FROM accounts WHERE name = 'overrun:acme'")
    ).scalar_one()
    assert overrun == 999_900
    sound(shop)


@pytest.mark.parametrize(
    ("output", "credited", "wallet"),
    [
        ("1.00", (), -1_000_000),  # both cost 1 500 000 at first
        ("1.00", ("0.0002",), -800_000),  # a part of what the other book gives back was given
        ("1.00", ("0.0005",), -500_000),
        ("1.00", ("0.0015",), -500_000),  # all of it, and more than the difference: kept, and not charged again
        ("1.00", ("0.0001", "0.0001"), -800_000),
        ("2.00", ("0.0015",), 1_000_000),  # a dearer book charges its difference
    ],
)
def test_what_was_credited_back_is_not_given_back_again(
    shop: Shop, output: str, credited: tuple[str, ...], wallet: int
) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**12)
    shop.sell(shop.request("acme", Usage(0, 0, 1000)), shop.request("acme", Usage(0, 0, 1000)))
    credit = Cashier(shop.clock, Teller(), lambda: None).commands()["wallet.credit"]
    request_id = shop.rated[0].settlement.opened.request_id
    for at, amount in enumerate(credited):
        more = {"reason": "was cut", "actor": "mia", "idempotency_key": str(at)}
        credit(shop.books, {"request_id": request_id, "amount": amount} | more)
    before = balance(shop, "acme")
    found = all_of(shop, book(output))
    (one,) = found.differences
    assert (one.wallet_nano, one.overrun_nano) == (wallet, 0)
    assert one.charge_nano + one.difference_nano == one.rerated_nano
    post(shop, found)
    assert balance(shop, "acme") == before - wallet
    sound(shop)
    (left,) = rerate_period(shop.books, book(output), found.since_ns, found.until_ns).differences
    assert (left.difference_nano, left.wallet_nano) == (0, 0)


def test_what_was_given_back_while_the_period_was_rated_is_not_given_back_twice(shop: Shop) -> None:
    shop.tenant("acme")
    shop.topup("acme", 10**12)
    shop.sell(shop.request("acme", Usage(0, 0, 1000)), shop.request("acme", Usage(0, 0, 1000)))
    slow = all_of(shop, book("1.00"))
    credit = Cashier(shop.clock, Teller(), lambda: None).commands()["wallet.credit"]
    credit(shop.books, {"request_id": shop.rated[0].settlement.opened.request_id, "reason": "was cut"})
    before = balance(shop, "acme")
    with pytest.raises(CallerError) as refused:
        post(shop, slow)
    assert (refused.value.status, refused.value.code) == (409, "changed_meanwhile")
    found, other = (rerate_period(shop.books, book(price), 0, slow.until_ns) for price in ("1.00", "1.10"))
    post(shop, found)
    assert balance(shop, "acme") == before + 500_000, "of the other request alone"
    assert post(shop, found)["posted_before"] is True
    with pytest.raises(CallerError) as again:
        post(shop, other)
    assert again.value.code == "changed_meanwhile"
    sound(shop)


def test_a_batch_is_rated_again_at_the_prices_of_batches(trading: Shop) -> None:
    before = all_of(trading, book("1.00"))
    _, cost = trading.prices[SMOL]
    (batch,) = load_price_file(trading.books, parse_price_file(demo_price_text()).tariffs, NOON_NS).inserted
    trading.prices[SMOL] = (batch, cost)
    trading.sell(trading.request("acme", Usage(0, 0, 1_000_000)))
    assert trading.rated[-1].charge_nano == 750_000_000
    sound(trading)
    dearer = demo_price_text().replace(OUTPUT, 'output = "1.00"').replace('output = "0.75"', 'output = "0.60"')
    after = all_of(trading, book_of(dearer, parse_price_file(dearer).tariffs))

    def total(found: Rerating) -> int:
        return sum(one.rerated_nano for one in found.differences)

    assert total(after) - total(before) == 600_000_000
    only_normal = dearer.partition("# The same model in a batch")[0]
    assert total(all_of(trading, book_of(only_normal, parse_price_file(only_normal).tariffs))) - total(before) == 10**9
