"""Prices out of costs: exact, with every condition carried over, never less than asked for."""

from decimal import Decimal
from fractions import Fraction

import pytest

from steelyard.catalog.markup import Conversion, Wish, marked_up, marked_up_from_now
from steelyard.catalog.price_file import TariffDraft, parse_price_file
from steelyard.catalog.vendor_books import vendor_book
from steelyard.kernel.errors import CallerError

DAY_NS = 24 * 3600 * 10**9
COST = """
[[cost]]
upstream = "v"
model = "m"
currency = "USD"
effective_from = 2026-01-01T00:00:00Z
per = "1M tokens"
input = "0.0028"
cached_input = "0.000001"
output = "0.30"
source = "the vendor's list, read 2026-11-27"
  [[cost.when]]
  name = "peak"
  zone = "Asia/Shanghai"
  hours = ["09:00-12:00"]
  input = "0.0056"
"""


def cost(text: str = COST) -> TariffDraft:
    (found,) = parse_price_file(text).tariffs
    return found


def texts(draft: TariffDraft) -> dict[str, str]:
    return {str(line.meter): line.text for line in draft.lines}


def test_lines_and_variants_cost_so_many_percent_more() -> None:
    price = marked_up(cost(), Decimal("12.5"))
    assert texts(price) == {"input": "0.00315", "cached_input": "0.000002", "output": "0.3375"}
    assert (price.book, price.subject, price.model, price.currency) == ("price", "m", "", "USD")
    (variant,) = price.variants
    assert variant.when == cost().variants[0].when and variant.lines[0].text == "0.0063"
    assert price.source == "12.5 % on the vendor's list, read 2026-11-27"


def test_what_the_books_cannot_keep_is_rounded_up() -> None:
    """0.000001 is the least price per million tokens: 12.5 % more is 0.000001125."""
    assert texts(marked_up(cost(), Decimal("12.5")))["cached_input"] == "0.000002"
    assert texts(marked_up(cost(), Decimal(0)))["cached_input"] == "0.000001"


def test_a_price_may_be_in_another_currency_at_a_rate_that_is_named() -> None:
    price = marked_up(cost(), Decimal(20), Conversion("CNY", Fraction("7.1"), "7.1 (the bank)"), {"m": "ours"})
    assert (price.subject, price.currency, texts(price)["output"]) == ("ours", "CNY", "2.556")
    assert price.source.endswith("USD at 7.1 (the bank)")


def test_a_whole_book_keeps_every_ratio() -> None:
    for draft in vendor_book("deepseek").costs:
        price = marked_up(draft, Decimal(50))
        for line, sold in zip(draft.lines, price.lines, strict=True):
            assert Fraction(sold.pico, sold.per) >= Fraction(line.pico, line.per) * 3 / 2
            assert Fraction(sold.pico, sold.per) < Fraction(line.pico, line.per) * 3 / 2 + 1
        assert [one.when for one in price.variants] == [one.when for one in draft.variants]


def test_only_what_counts_now_and_what_follows_is_sold() -> None:
    costs = [*vendor_book("gemini").costs, *vendor_book("deepseek").costs]
    now_ns = 1_795_780_000 * 10**9  # 2026-11-27
    names = {"gemini-3.8-flash": "flash", "deepseek-v4-flash": "v4"}
    sold = marked_up_from_now(costs, names, Wish("20"), {}, now_ns)
    assert [(one.subject, texts(one)["input"]) for one in sold] == [("flash", "0.9"), ("flash", "1.8"), ("v4", "1.2")]


def test_what_cannot_be_is_refused() -> None:
    for percent in ("-100", "10001", "NaN", "Infinity"):
        with pytest.raises(CallerError) as refused:
            marked_up(cost(), Decimal(percent))
        assert refused.value.param == "percent"
    with pytest.raises(CallerError, match="number"):
        marked_up_from_now([cost()], {"m": "m"}, Wish("twenty"), {}, DAY_NS)
    with pytest.raises(CallerError, match="rate") as refused:
        marked_up_from_now([cost()], {"m": "m"}, Wish("20", "CNY"), {}, 2 * 10**18)
    assert refused.value.code == "rate_missing"
    with pytest.raises(CallerError, match="CNY, USD, EUR"):
        marked_up_from_now([cost()], {"m": "m"}, Wish("20", "XXX"), {}, DAY_NS)
    with pytest.raises(CallerError, match="names no model"):
        marked_up(cost(COST.replace('model = "m"\n', "")), Decimal(20))
