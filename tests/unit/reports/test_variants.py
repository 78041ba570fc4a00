"""Requests under variants: receipts name them, exports and verify recompute them, re-rating has its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.unit.reports.conftest import new_books
from tests.unit.reports.shop import SMOL, Shop

from steelyard.catalog.price_file import parse_price_file
from steelyard.catalog.store import load_price_file, tariffs_by_id
from steelyard.kernel.clock import NS_PER_HOUR, NS_PER_S
from steelyard.kernel.quantities import Usage
from steelyard.kernel.tariff import Thinking
from steelyard.ledger.verify import verify
from steelyard.rating.rate import rate
from steelyard.reports.check import check
from steelyard.reports.export import Wanted, export
from steelyard.reports.receipts import posted_receipt
from steelyard.reports.requests import detail
from steelyard.reports.rerate import book_of, rerate_period
from steelyard.storage import tables

PRICE = f"""
[[price]]
model = "{SMOL}"
currency = "CNY"
effective_from = 2026-02-01T00:00:00Z
per = "1M tokens"
input = "1"
cached_input = "0.1"
output = "4"
source = "a list with a peak"
"""
PEAK = """
[[price.when]]
name = "peak"
zone = "Asia/Shanghai"
hours = ["14:00-20:01"]
input = "2"
output = "8"
"""
THINKING = """
[[price.when]]
name = "thinking"
thinking = true
output = "6"
"""
LONG = """
[[price.when]]
name = "long"
input_over = 100
input = "3"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Open at noon UTC, 20:00 in Beijing: a peak of another minute."""
    with new_books(tmp_path) as books:
        made = Shop.open(books)
        made.tenant("acme")
        made.topup("acme", 10**12)
        (price,) = load_price_file(books, parse_price_file(PRICE + PEAK + THINKING + LONG).tariffs, 0).inserted
        made.prices[SMOL] = (price, made.prices[SMOL][1])
        yield made


def sell_three(shop: Shop) -> list[bytes]:
    """In the peak; after it and thinking; after it and long."""
    peak = shop.request("acme", Usage(50, 0, 10))
    shop.clock.advance(NS_PER_HOUR)
    thinking = shop.request("acme", Usage(50, 0, 10, reasoning=5), thinking=Thinking.ON)
    long = shop.request("acme", Usage(150, 0, 10))
    shop.sell(peak, thinking, long)
    return [one.settlement.opened.request_id for one in (peak, thinking, long)]


def test_a_receipt_names_the_variant_of_each_line(shop: Shop) -> None:
    told = [posted_receipt(shop.books, request_id, None) for request_id in sell_three(shop)]
    assert [[(line.meter, line.variant, line.text) for line in one.lines] for one in told if one] == [
        [("input", "peak", "2"), ("output", "peak", "8")],
        [("input", "", "1"), ("output", "thinking", "6"), ("reasoning", "thinking", "6")],
        [("input", "long", "3"), ("output", "", "4")],
    ]
    assert [one.amount_nano for one in told if one] == [180_000, 50_000 + 90_000, 450_000 + 40_000]


def test_the_books_keep_what_was_met_and_hold(shop: Shop) -> None:
    sell_three(shop)
    columns = tables.usage.c
    rows = shop.books.execute(select(columns.price_when, columns.thinking).order_by(columns.request_id)).all()
    assert [tuple(row) for row in rows] == [(0b101, 0), (0b110, 1), (0b100, 0)]
    findings = verify(shop.books, rate, tariffs_by_id(shop.books))
    assert [one for one in findings if not one.ok] == []


def test_a_page_shows_the_variants_too(shop: Shop) -> None:
    found = detail(shop.books, sell_three(shop)[0])
    assert found is not None and {line.variant for line in found.charge} == {"peak"}


def test_another_condition_in_the_books_is_seen(shop: Shop) -> None:
    request_id = sell_three(shop)[0]
    columns = tables.usage.c
    shop.books.execute(tables.usage.update().where(columns.request_id == request_id).values(price_when=0))
    wrong = {one.invariant for one in verify(shop.books, rate, tariffs_by_id(shop.books)) if not one.ok}
    assert {"I9", "I11"} <= wrong


def test_a_customer_recomputes_it_from_the_file_alone(shop: Shop) -> None:
    sell_three(shop)
    lines = list(export(shop.books, Wanted()))
    assert check(lines).ok
    renamed = [line.replace(b'"variant":"peak"', b'"variant":"cheap"') for line in lines]
    assert renamed != lines and not check(renamed).ok
    tariff = next(place for place, line in enumerate(lines) if json.loads(line)["line"] == "tariff")
    lines[tariff] = lines[tariff].replace(b'"text":"8"', b'"text":"7"').replace(b"8000000000000", b"7000000000000")
    assert not check(lines).ok


def test_rating_again_goes_by_the_moment_of_opening_and_what_was_said(shop: Shop) -> None:
    """The same numbers in another book; then one whose peak is later, and one without any."""
    sell_three(shop)
    until = shop.clock.now_ns() + NS_PER_S

    def difference(text: str) -> int:
        found = rerate_period(shop.books, book_of(text, parse_price_file(text).tariffs), 0, until)
        return sum(one.difference_nano for one in found.differences)

    assert difference(PRICE + PEAK + THINKING + LONG) == 0
    assert difference(PRICE + THINKING + LONG) == -(50_000 + 40_000)
    later = PEAK.replace("14:00-20:01", "20:30-22:00")
    assert difference(PRICE + later + THINKING + LONG) == -90_000 + (50_000 + 30_000) + (40_000 - 150_000)


def test_a_fee_per_request_is_posted_and_proved(shop: Shop) -> None:
    text = PRICE.replace('output = "4"', 'output = "4"\ncall = "0.01"').replace("2026-02-01", "2026-02-02")
    (price,) = load_price_file(shop.books, parse_price_file(text).tariffs, 0).inserted
    shop.prices[SMOL] = (price, shop.prices[SMOL][1])
    shop.sell(shop.request("acme", Usage(50, 0, 10)), shop.request("acme", Usage()))
    assert [one.charge_nano for one in shop.rated] == [50_000 + 40_000 + 10_000_000, 0]
    assert [one for one in verify(shop.books, rate, tariffs_by_id(shop.books)) if not one.ok] == []
    assert check(list(export(shop.books, Wanted()))).ok
