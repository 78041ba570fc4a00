"""What commands take: plain values, checked field by field. Every refusal is a CallerError 400 naming the field."""

from fractions import Fraction
from typing import Any

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, bad_request
from steelyard.kernel.ids import id_from_text
from steelyard.kernel.money import INT64_MAX, nano_from_text, text_from_nano
from steelyard.ledger.operations import Why

Payload = dict[str, Any]
_AMOUNT_NANO_MAX = INT64_MAX // 1000  # so that an account's totals never reach the end of int64
_RATE_MAX = 10**18  # numerator and denominator fit int64


def text_of(payload: Payload, field: str) -> str:
    value = payload.get(field)
    if not isinstance(value, str) or not value:
        raise bad_request(f"'{field}' must be a text that is not empty.", field)
    return value


def integer_of(payload: Payload, field: str) -> int:
    value = payload.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > INT64_MAX:
        raise bad_request(f"'{field}' must be a whole number.", field)
    return value


def amount_of(payload: Payload, field: str = "amount", *, least: int = 1) -> int:
    """Decimal text as nano-units, from `least` on (below zero: to take instead of to give)."""
    try:
        amount_nano = nano_from_text(text_of(payload, field))
    except ValueError as error:
        raise bad_request(f"'{field}' is not usable: {error}.", field) from None
    if not least <= amount_nano <= _AMOUNT_NANO_MAX:
        below = "above 0" if least == 1 else f"at least {text_from_nano(least)}"
        raise bad_request(f"'{field}' must be {below} and at most {text_from_nano(_AMOUNT_NANO_MAX)}.", field)
    return amount_nano


def signed_amount_of(payload: Payload, field: str = "amount") -> int:
    """An amount above or below zero."""
    amount_nano = amount_of(payload, field, least=-_AMOUNT_NANO_MAX)
    if not amount_nano:
        raise bad_request(f"'{field}' must not be 0.", field)
    return amount_nano


def rate_of(payload: Payload) -> tuple[Fraction, str] | None:
    """A rate ("7.25" or "29/4") as an integer ratio, with its source; None when none is named."""
    if payload.get("rate") is None:
        return None
    text = text_of(payload, "rate")
    try:
        ratio = Fraction(text) if len(text) <= limits.RATE_CHARACTERS_MAX and "e" not in text.lower() else Fraction(0)
    except (ValueError, ZeroDivisionError):
        ratio = Fraction(0)
    if ratio <= 0 or max(ratio.numerator, ratio.denominator) > _RATE_MAX:
        raise bad_request("'rate' must be a number above 0 such as 7.25 or 29/4.", "rate")
    if payload.get("source") is None:
        raise bad_request("Name the 'source' of the rate: who says so.", "source")
    return ratio, text_of(payload, "source")


def key_of(payload: Payload) -> str | None:
    """The idempotency key, if there is one."""
    if payload.get("idempotency_key") is None:
        return None
    key = text_of(payload, "idempotency_key")
    if len(key) > limits.OPERATION_KEY_CHARACTERS_MAX:
        most = limits.OPERATION_KEY_CHARACTERS_MAX
        raise bad_request(f"'idempotency_key' has 1 to {most} characters.", "idempotency_key")
    return key


def why_of(payload: Payload, *, needed: bool = False) -> Why:
    """Reason (or note) and actor."""
    field = "note" if payload.get("reason") is None else "reason"
    reason, actor = payload.get(field) or "", payload.get("actor") or ""
    if not isinstance(reason, str) or len(reason) > limits.REASON_CHARACTERS_MAX:
        raise bad_request(f"'{field}' has at most {limits.REASON_CHARACTERS_MAX} characters.", field)
    if needed and not reason.strip():
        raise bad_request("This needs a 'reason'.", "reason")
    if not isinstance(actor, str) or len(actor) > limits.NAME_CHARACTERS_MAX:
        raise bad_request(f"'actor' has at most {limits.NAME_CHARACTERS_MAX} characters.", "actor")
    return Why(reason.strip(), actor.strip())


def request_id_of(payload: Payload) -> bytes:
    value = payload.get("request_id")
    if isinstance(value, bytes) and len(value) == 16:
        return value
    try:
        return id_from_text(str(value)[: limits.NAME_CHARACTERS_MAX])
    except ValueError:
        raise CallerError(404, "receipt_not_found", "There is no receipt with this id.", param="request_id") from None
