"""What goes wrong at a server of Anthropic's dialect: a fault by status and error type.

The classes are data, so that another vendor's words are a line more. What is the platform's own (its key, its money,
the model's name at the vendor) is never told to a customer.
"""

from typing import Any

import msgspec

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.upstream.openai_fault import ANY
from steelyard.upstream.whose import refused

BY_TYPE = {
    "invalid_request_error": Fault.BAD_REQUEST,
    "request_too_large": Fault.BAD_REQUEST,
    "authentication_error": Fault.AUTH,
    "permission_error": Fault.AUTH,
    "billing_error": Fault.NO_MONEY,
    "not_found_error": Fault.MODEL_MISSING,
    "rate_limit_error": Fault.RATE_LIMITED,
    "overloaded_error": Fault.RATE_LIMITED,
    "api_error": Fault.SERVER,
    "timeout_error": Fault.SERVER,
}
BY_STATUS = {
    **dict.fromkeys((400, 413, 422), Fault.BAD_REQUEST),
    401: Fault.AUTH,
    402: Fault.NO_MONEY,
    403: Fault.AUTH,
    404: Fault.MODEL_MISSING,
    **dict.fromkeys((429, 529), Fault.RATE_LIMITED),
}
STATUS_OF = {"overloaded_error": 529, "rate_limit_error": 429}
"""Errors inside a stream have no status of their own."""

OUR_MONEY = ("credit balance", "spend limit", "spend_limit", "insufficient balance", "insufficient_quota")
"""Words by which a refusal of any class is an unpaid bill of ours: no waiting and no customer can mend it."""


class Complaint(msgspec.Struct):
    """`type` is Anthropic's; `code` is what servers of other origin send beside or instead."""

    type: str | None = None
    message: str | None = None
    code: Any = None
    details: Any = None


class _Body(msgspec.Struct):
    error: Complaint | str | None = None
    message: str | None = None


_decoder = msgspec.json.Decoder(_Body)


def failed(upstream: str, told: Complaint | str | None) -> UpstreamError:
    """The error behind an `error` event of a stream that began with 200."""
    kind = _kind(told)
    status = STATUS_OF.get(kind, 0)
    fault = Fault.NO_MONEY if _is_our_bill(told, "") else BY_TYPE.get(kind, Fault.SERVER)
    message = _sentence(told) or "failed without saying why"
    again = BY_TYPE.get(kind) in {Fault.RATE_LIMITED, Fault.SERVER}
    return UpstreamError(upstream, message, status=status, retryable=again).known_as(fault)


def refusal(upstream: str, body: bytes, status: int, retry_after: bytes = b"") -> UpstreamError:
    """The error behind an answer that is none. `status` of the error is 0 where no customer may read its text."""
    told: Complaint | str | None = None
    message = ""
    try:
        read = _decoder.decode(body)
        told, message = read.error, _sentence(read.error) or read.message or ""
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    message = message or f"answered {status} without saying why"
    fault = _by_code(status, told) or BY_STATUS.get(status) or BY_TYPE.get(_kind(told), Fault.SERVER)
    if _is_our_bill(told, message):
        fault = Fault.NO_MONEY
    return refused(upstream, fault, status, message, retry_after)


def _by_code(status: int, told: Complaint | str | None) -> Fault | None:
    """What a vendor of other origin has a code of its own for, which may stand in the type's place (Zhipu's 1113: our
    account is empty, under 429)."""
    return None if told is None or isinstance(told, str) else ANY.known(status, told.code, told.type)


def _kind(told: Complaint | str | None) -> str:
    return "" if told is None or isinstance(told, str) else told.type or ""


def _is_our_bill(told: Complaint | str | None, message: str) -> bool:
    details = "" if told is None or isinstance(told, str) else told.details or ""
    words = f"{message or _sentence(told)} {details}".lower()
    return any(word in words for word in OUR_MONEY)


def _sentence(told: Complaint | str | None) -> str:
    return told if isinstance(told, str) else (told.message or "") if told is not None else ""
