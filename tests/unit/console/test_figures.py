"""Figures as they stand on a page."""

import pytest

from steelyard.console import figures
from steelyard.kernel.quantities import Meter
from steelyard.kernel.settled import AmountLine


@pytest.mark.parametrize(
    ("nano", "places", "text", "exact"),
    [
        (0, None, "¥0.00", "¥0.00"),
        (123_456, None, "¥0.000123", "¥0.000123456"),
        (900, None, "¥0.000000900", "¥0.0000009"),
        (1_500_000_000, None, "¥1.5000", "¥1.50"),
        (1_234_567_891_234_567, None, "¥1,234,567.89", "¥1234567.891234567"),
        (-582, 9, "−¥0.000000582", "-¥0.000000582"),
        (-1_500_000_000, 2, "−¥1.50", "-¥1.50"),
        (5_000_000_000, 6, "¥5.000000", "¥5.00"),
        (-1_234_000_000_000, 0, "−¥1,234", "-¥1234.00"),
    ],
)
def test_amounts_are_short_in_view_and_exact_beside(nano: int, places: int | None, text: str, exact: str) -> None:
    shown = figures.amount(nano, "CNY", places)
    assert (shown.text, shown.exact, shown.negative) == (text, exact, nano < 0)


def test_a_currency_without_a_sign_keeps_its_code() -> None:
    assert figures.amount(1_234_500_000_000, "CHF", 2).text == "CHF 1,234.50"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(1, 3, "33.3 %"), (2, 3, "66.7 %"), (-1, 8, "−12.5 %"), (5, 5, "100.0 %"), (0, 7, "0.0 %"), (1, 0, "–")],
)
def test_percentages(part: int, whole: int, text: str) -> None:
    assert figures.percent(part, whole) == text


def test_a_percentage_of_huge_amounts_is_exact() -> None:
    whole = 3 * 10**30
    assert figures.percent(whole // 3, whole) == "33.3 %"


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "–"),
        (1_240_000, "1.2 ms"),
        (412_900_000, "412 ms"),
        (3_214_000_000, "3.21 s"),
        (125_000_000_000, "2 min 05 s"),
    ],
)
def test_durations(ns: int, text: str) -> None:
    assert figures.duration(ns) == text


@pytest.mark.parametrize(
    ("microjoules", "text"),
    [(27_000, "0.027 J"), (2_400_000, "2.40 J"), (3_600 * 10**6, "1.00 Wh"), (7_200 * 10**9, "2.00 kWh")],
)
def test_energy(microjoules: int, text: str) -> None:
    assert figures.energy(microjoules) == text


def test_energy_per_token_needs_a_token() -> None:
    assert figures.energy_per_token(10, 0) == "–"
    assert figures.energy_per_token(3_000_000, 2) == "1.50 J"


@pytest.mark.parametrize(("value", "text"), [(950, "950"), (1000, "1k"), (12_500, "12.5k"), (3_000_000, "3M")])
def test_axis_labels(value: int, text: str) -> None:
    assert figures.compact(value) == text


@pytest.mark.parametrize(
    ("line", "price", "quantity"),
    [
        (AmountLine(Meter.OUTPUT, 1200, "1.50", 10**6, 0), "¥1.50 / 1M", "1,200"),
        (AmountLine(Meter.INPUT, 7, "0.0015", 1000, 0), "¥0.0015 / 1K", "7"),
        (AmountLine(Meter.CACHED_INPUT, 7, "0.000001", 1, 0), "¥0.000001 / 1", "7"),
        (AmountLine(Meter.CPU, 20_000_000, "0.10", 3_600_000_000_000, 0), "¥0.10 / h", "20 ms"),
        (AmountLine(Meter.ENERGY, 160_000, "0.60", 3_600_000_000_000, 0), "¥0.60 / kWh", "0.160 J"),
    ],
)
def test_a_lines_price_keeps_the_sources_text(line: AmountLine, price: str, quantity: str) -> None:
    assert figures.price(line, "CNY") == price
    assert figures.quantity(line.meter, line.quantity) == quantity
