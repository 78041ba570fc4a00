"""Decimals that come in exactly, or not at all."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.imports.amounts import Unfit, decimal_of, exact_json, nearest_pico, per_million, product
from steelyard.kernel.errors import CallerError


@given(st.integers(0, 10**13))
def test_whole_pico_units_per_token_come_through_exactly(pico: int) -> None:
    text = per_million(Decimal(pico).scaleb(-12))
    assert Fraction(text) == Fraction(pico, 10**6)
    assert "E" not in text and not text.startswith(".")


def test_json_numbers_keep_every_digit() -> None:
    found = exact_json('{"a": 2.8e-08, "b": 0.1, "c": 3, "d": 1.6000000000000000100}', "f")
    assert found["a"] == Decimal("2.8e-8") and found["b"] == Decimal("0.1") and found["c"] == 3
    assert str(found["d"]) == "1.6000000000000000100", "a float would have lost it"
    assert per_million(found["a"]) == "0.028"


def test_what_does_not_fit_is_refused_with_the_nearest_or_rounded_where_asked() -> None:
    noise = decimal_of("0.0000016000000000000001")
    with pytest.raises(Unfit, match=r"1\.6000000000000001 per 1M tokens .* the nearest they keep is 1\.6$"):
        per_million(noise)
    assert per_million(noise, nearest_pico) == "1.6"
    assert per_million(Decimal("1.5e-12"), nearest_pico) == per_million(Decimal("2.5e-12"), nearest_pico) == "0.000002"


@pytest.mark.parametrize("value", [True, None, 0.5, "x", "NaN", "-1", Decimal("Infinity"), "1e99999", [], "1e-60"])
def test_what_is_no_amount(value: object) -> None:
    with pytest.raises(Unfit):
        decimal_of(value)


def test_more_than_the_books_take() -> None:
    with pytest.raises(Unfit, match="more than the books take"):
        per_million(Decimal(101))
    assert product(Decimal("0.3572"), Decimal(2)) == Decimal("0.7144")


def test_no_json() -> None:
    with pytest.raises(CallerError, match="prices is not JSON"):
        exact_json("{", "prices")
