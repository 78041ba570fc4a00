"""What goes wrong at a server of Anthropic's dialect: whose turn it is to act, by status and error type.

The classes are data, so that another vendor's words are a line more. What is the platform's own (its key, its money,
the model's name at the vendor) is never told to a customer.
"""

from typing import Any

import msgspec

from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.whose import Whose, refused

BY_TYPE = {
    "invalid_request_error": Whose.CUSTOMER,
    "request_too_large": Whose.CUSTOMER,
    "authentication_error": Whose.HOUSE,
    "permission_error": Whose.HOUSE,
    "billing_error": Whose.HOUSE,
    "not_found_error": Whose.HOUSE,
    "rate_limit_error": Whose.NOBODY,
    "overloaded_error": Whose.NOBODY,
    "api_error": Whose.VENDOR,
    "timeout_error": Whose.VENDOR,
}
BY_STATUS = {
    400: Whose.CUSTOMER,
    413: Whose.CUSTOMER,
    422: Whose.CUSTOMER,
    401: Whose.HOUSE,
    402: Whose.HOUSE,
    403: Whose.HOUSE,
    404: Whose.HOUSE,
    429: Whose.NOBODY,
    529: Whose.NOBODY,
}
STATUS_OF = {"overloaded_error": 529, "rate_limit_error": 429}
"""Errors inside a stream have no status of their own."""

OUR_MONEY = ("credit balance", "spend limit", "spend_limit", "insufficient balance", "insufficient_quota")
"""Words by which a refusal of any class is an unpaid bill of ours: no waiting and no customer can mend it."""


class Fault(msgspec.Struct):
    """`type` is Anthropic's; `code` is what servers of other origin send beside or instead."""

    type: str | None = None
    message: str | None = None
    code: Any = None
    details: Any = None


class _Body(msgspec.Struct):
    error: Fault | str | None = None
    message: str | None = None


_decoder = msgspec.json.Decoder(_Body)


def failed(upstream: str, fault: Fault | str | None) -> UpstreamError:
    """The error behind an `error` event of a stream that began with 200."""
    kind = "" if fault is None or isinstance(fault, str) else fault.type or ""
    status = STATUS_OF.get(kind, 0)
    message = _sentence(fault) or "failed without saying why"
    return UpstreamError(upstream, message, status=status, retryable=BY_TYPE.get(kind) in {Whose.NOBODY, Whose.VENDOR})


def refusal(upstream: str, body: bytes, status: int, retry_after: bytes = b"") -> UpstreamError:
    """The error behind an answer that is none. `status` of the error is 0 where no customer may read its text."""
    fault: Fault | str | None = None
    message = ""
    try:
        read = _decoder.decode(body)
        fault, message = read.error, _sentence(read.error) or read.message or ""
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    kind = "" if fault is None or isinstance(fault, str) else fault.type or ""
    message = message or f"answered {status} without saying why"
    told = f"{message} {'' if fault is None or isinstance(fault, str) else fault.details or ''}".lower()
    whose = BY_STATUS.get(status) or BY_TYPE.get(kind, Whose.VENDOR)
    if any(word in told for word in OUR_MONEY):
        whose = Whose.HOUSE
    return refused(upstream, whose, status, message, retry_after)


def _sentence(fault: Fault | str | None) -> str:
    return fault if isinstance(fault, str) else (fault.message or "") if fault is not None else ""
