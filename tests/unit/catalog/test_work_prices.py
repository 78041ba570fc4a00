"""Prices of what is not text: read from a file, rated by the same code, refused where they are missing."""

import pytest

from steelyard.catalog.entry import WORK_PER
from steelyard.catalog.price_file import parse_price_file
from steelyard.catalog.price_text import price_text
from steelyard.catalog.tariffs import PRICE_NEEDS, usable
from steelyard.kernel.errors import BooksError, CallerError
from steelyard.kernel.quantities import WORK_METERS, Meter, Work
from steelyard.kernel.tariff import Tariff
from steelyard.rating.rate import work_of


def text(per: str, field: str, price: str) -> str:
    return f"""
        [[price]]
        model = "m"
        currency = "CNY"
        effective_from = 2026-01-01T00:00:00Z
        per = "{per}"
        {field} = "{price}"
        source = "a page"
    """


def tariff(per: str, field: str, price: str) -> Tariff:
    return parse_price_file(text(per, field, price)).tariffs[0].tariff(1)


@pytest.mark.parametrize(
    ("per", "field", "price", "work", "nano"),
    [
        ("10K characters", "character", "2.8", Work(character=25), 7_000_000),
        ("1M characters", "character", "1", Work(character=1), 1_000),
        ("1 second", "second", "0.066", Work(second=10_230), 675_180_000),
        ("1 hour", "second", "0.15", Work(second=1), 42),  # 41.67 nano: a rate per hour keeps its denominator
        ("1 image", "image", "0.02", Work(image=3), 60_000_000),
        ("1K pages", "page", "1.5", Work(page=1), 1_500_000),
        ("1 GB-day", "gb_day", "0.5", Work(gb_day=24_000), 500_000_000),
    ],
)
def test_a_unit_is_rated_to_the_last_decimal(per: str, field: str, price: str, work: Work, nano: int) -> None:
    (line,) = work_of(work, tariff(per, field, price))
    assert (line.meter, line.text, line.amount_nano) == (field, price, nano)
    assert work_of(Work(), tariff(per, field, price)) == ()


def test_what_has_no_price_is_neither_sold_nor_rated() -> None:
    images = tariff("1 image", "image", "0.02")
    with pytest.raises(BooksError, match="no price for page"):
        work_of(Work(image=1, page=1), images)
    assert usable("m", [images], images.effective_from_ns, "CNY", {Meter.IMAGE}) is images
    for needs in ({Meter.PAGE}, PRICE_NEEDS):
        with pytest.raises(CallerError) as refused:
            usable("m", [images], images.effective_from_ns, "CNY", needs)
        assert refused.value.code == "price_missing"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (text("1 image", "page", "1"), "'page': is not known. A [[price]] per 1 image has model"),
        (text("1 image", "image", "1").replace("source", "sauce"), "'sauce': is not known"),
        (text("1 image", "image", "1").replace('source = "a page"', ""), "'source': is missing"),
        (text("1 picture", "image", "1"), "is not known"),
        (text("1 image", "image", "10001"), "more than 10000 for 1 image"),
    ],
)
def test_complaints_name_the_field(changed: str, says: str) -> None:
    with pytest.raises(CallerError) as caught:
        parse_price_file(changed)
    assert says in caught.value.message


def test_every_unit_counts_a_meter_of_work() -> None:
    assert {meter for meter, _ in WORK_PER.values()} == set(WORK_METERS)


def test_what_is_written_reads_back_the_same() -> None:
    fee = text("1K tokens", "input", "1").replace("source", 'call = "0.01"\n        source')
    for per, (meter, _) in WORK_PER.items():
        drafts = parse_price_file(fee.replace('"m"', '"n"') + text(per, str(meter), "1.5")).tariffs
        assert parse_price_file(price_text(drafts)).tariffs == drafts
