"""Exact decimals out of what others write: prices per token, ratios, quotas.

Numbers come in as Decimal, int or text, never as float. What has more decimals than the books keep is refused with a
sentence, or rounded once, half-even, where whoever asks says so. Knows no format and no book.
"""

import json
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal, DecimalException, Inexact, InvalidOperation, Overflow
from typing import Any

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request

_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation, Overflow])
_ROUNDING = Context(prec=200, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, Overflow])
_MILLION = Decimal(1_000_000)
_PICO = Decimal("1e-12")
_EXPONENT_MAX = 40  # a number of more digits than this before or behind the point is a mistake

MISSHAPEN = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What reading an entry of somebody else's file raises when its shape is another."""
Rounding = Callable[[Decimal], Decimal]


class Unfit(Exception):
    """What cannot be carried over, in one sentence without a full stop."""


def exact_json(text: str | bytes, what: str) -> Any:
    """JSON with every number that is not whole as Decimal. Raises CallerError 400 naming `what`."""
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"{what} is not JSON: {error}.", "file") from None


def decimal_of(value: object) -> Decimal:
    """A number as its text says it. Raises Unfit for what is none, is negative or cannot be one of money."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise Unfit(f"{value!r} is no number")
    try:
        number = _EXACT.create_decimal(value)
    except DecimalException:
        raise Unfit(f"{value!r} is no number") from None
    if not number.is_finite() or (number and abs(number.adjusted()) > _EXPONENT_MAX):
        raise Unfit(f"{value!r} is no number the books can keep")
    if number < 0:
        raise Unfit(f"{value} is negative")
    return number


def product(*factors: Decimal) -> Decimal:
    """The factors multiplied, exactly."""
    result = Decimal(1)
    for factor in factors:
        result = _EXACT.multiply(result, factor)
    return result


def exactly(per_token: Decimal) -> Decimal:
    """The price if it fits whole pico-units per token. Raises Unfit."""
    if _EXACT.remainder(per_token, _PICO):
        nearest = plain(product(nearest_pico(per_token), _MILLION))
        raise Unfit(
            f"{plain(product(per_token, _MILLION))} per 1M tokens has more decimals than the books keep; "
            f"the nearest they keep is {nearest}"
        )
    return per_token


def nearest_pico(per_token: Decimal) -> Decimal:
    """The price rounded half-even to whole pico-units per token."""
    return per_token.quantize(_PICO, context=_ROUNDING)


def per_million(per_token: Decimal, rounding: Rounding = exactly) -> str:
    """A price per token as decimal text per 1M tokens. Raises Unfit."""
    if per_token > limits.PRICE_PER_TOKEN_MAX:
        raise Unfit(f"{plain(per_token)} per token is more than the books take")
    return plain(product(rounding(per_token), _MILLION))


def plain(number: Decimal) -> str:
    """Digits and at most one point, no trailing zeros."""
    return format(number.normalize(_EXACT), "f")


def refuse_large(size: int, what: str) -> None:
    """Raises CallerError 413 for a file that is not read."""
    if size > limits.IMPORT_FILE_BYTES_MAX:
        most = limits.IMPORT_FILE_BYTES_MAX
        raise CallerError(413, "too_large", f"{what} is larger than {most} bytes. Cut it into parts.", param="file")
