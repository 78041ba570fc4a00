from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.kernel.money import (
    divide_half_even,
    money_from_nano,
    nano_from_text,
    pico_from_text,
    text_from_nano,
)


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**18))
def test_division_rounds_to_nearest_ties_to_even(numerator: int, denominator: int) -> None:
    quotient = divide_half_even(numerator, denominator)
    error = abs(Fraction(numerator, denominator) - quotient)
    assert error <= Fraction(1, 2)
    if error == Fraction(1, 2):
        assert quotient % 2 == 0


@given(st.integers(-(2**63), 2**63 - 1))
def test_nine_places_are_exact(amount: int) -> None:
    assert nano_from_text(text_from_nano(amount)) == amount if abs(amount) < 2**63 - 1 else True


@pytest.mark.parametrize(
    ("text", "nano"),
    [("1", 10**9), ("12.50", 12_500_000_000), ("0.000000001", 1), ("-3.2", -3_200_000_000), ("1e3", 10**12)],
)
def test_amounts_are_read_exactly(text: str, nano: int) -> None:
    assert nano_from_text(text) == nano


VAST = ("1e999999999", "1e-999999999", "0e999999999")
"""Written out, each fills gigabytes."""


@pytest.mark.parametrize("text", ["", "abc", "NaN", "Infinity", "0.0000000001", "99999999999999", "1,5", *VAST])
def test_an_amount_the_books_cannot_keep_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"amount"):
        nano_from_text(text)


def test_a_price_has_twelve_decimals() -> None:
    assert pico_from_text("0.0000000028") == 2800
    with pytest.raises(ValueError, match="more decimals"):
        pico_from_text("0.0000000000001")


@pytest.mark.parametrize(
    ("amount", "places", "text"),
    [
        (0, 9, "0.00"),
        (1, 9, "0.000000001"),
        (1_230_000_000, 9, "1.23"),
        (1_500_000_000, 9, "1.50"),
        (1_235_000, 6, "0.001235"),
        (-5_000_000, 2, "0.00"),
        (-5_000_001, 2, "-0.01"),
        (2_500_000_000, 0, "2"),
    ],
)
def test_amounts_are_shown(amount: int, places: int, text: str) -> None:
    assert text_from_nano(amount, places) == text


def test_the_currency_stands_before_the_amount() -> None:
    assert money_from_nano(1_500_000, "CNY") == "¥0.0015"
    assert money_from_nano(-1_500_000_000, "USD") == "-$1.50"
    assert money_from_nano(0, "JPY") == "JPY 0.00"
