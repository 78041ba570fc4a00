"""Money as integers: amounts in nano-units, prices in pico-units.

Owns parsing of decimal texts, half-even rounding and formatting. Knows no tariff and no account. No float ever enters
or leaves; a text that does not fit its unit exactly is refused, never rounded in silence.
"""

from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import NewType

Nano = NewType("Nano", int)
"""An amount: 1e-9 of a currency unit."""
Pico = NewType("Pico", int)
"""A price: 1e-12 of a currency unit."""

NANO_PER_UNIT = 10**9
PICO_PER_UNIT = 10**12
PICO_PER_NANO = 1000
INT64_MAX = 2**63 - 1
_DIGITS_MAX = 40  # before or behind the point; the books keep 31 at most

CURRENCIES = {"CNY": "¥", "USD": "$", "EUR": "€"}
"""Currencies an account may have (ISO 4217 code → sign)."""


def divide_half_even(numerator: int, denominator: int) -> int:
    """Integer quotient, ties to even. `denominator` must be positive; works for negative numerators."""
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    if twice > denominator or (twice == denominator and quotient % 2):
        quotient += 1
    return quotient


def _scaled(text: str, scale: int, what: str) -> int:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{what} {text!r} is not a decimal number") from None
    if not value.is_finite():
        raise ValueError(f"{what} {text!r} is not finite")
    if abs(value.adjusted()) > _DIGITS_MAX:  # as a fraction it would fill the memory
        raise ValueError(f"{what} {text!r} is nothing the books can keep")
    numerator, denominator = value.as_integer_ratio()
    whole, rest = divmod(numerator * scale, denominator)
    if rest:
        raise ValueError(f"{what} {text!r} has more decimals than the books keep")
    if abs(whole) > INT64_MAX:
        raise ValueError(f"{what} {text!r} is too large for the books")
    return whole


def nano_from_text(text: str) -> Nano:
    """An amount such as "12.50" as nano-units. Raises ValueError for no number or more than nine decimals."""
    return Nano(_scaled(text, NANO_PER_UNIT, "amount"))


def pico_from_text(text: str) -> Pico:
    """A price such as "0.0028" as pico-units. Raises ValueError for no number or more than twelve decimals."""
    return Pico(_scaled(text, PICO_PER_UNIT, "price"))


@lru_cache(maxsize=1024)  # a charge is told in a header and in the body
def text_from_nano(amount: int, places: int = 9) -> str:
    """Plain decimal text, at least two and at most `places` decimals, trailing zeros cut beyond the second.

    The text is exact for `places=9`; with fewer places it is rounded half-even and only good for showing.
    """
    if places == 9 and amount >= 0:  # every answer tells its charge: 0.9 µs instead of 2.2
        whole, fraction = divmod(amount, NANO_PER_UNIT)
        return f"{whole}.{f'{fraction:09d}'.rstrip('0').ljust(2, '0')}"
    shown = divide_half_even(amount, 10 ** (9 - places))
    sign = "-" if shown < 0 else ""
    whole, fraction = divmod(abs(shown), 10**places)
    digits = f"{fraction:0{places}d}" if places else ""
    kept = digits.rstrip("0")
    return f"{sign}{whole}.{kept.ljust(min(2, places), '0')}" if places else f"{sign}{whole}"


def money_from_nano(amount: int, currency: str, places: int = 9) -> str:
    """An amount with its currency sign, for people: `¥0.000123`, `-¥1.50`."""
    text = text_from_nano(amount, places)
    sign = CURRENCIES.get(currency, currency + " ")
    return f"-{sign}{text[1:]}" if text.startswith("-") else f"{sign}{text}"
