"""What goes wrong at a server of OpenAI's dialect: whose turn it is to act, by the inner code, else by the status.

Vendors of this dialect say "your account is empty" with 400, 402, 403 and 429; only the code beside it tells it from a
busy model, which would be asked again for ever. The codes are data: one that another vendor adds is a word more.
"""

from typing import Any

import msgspec

from steelyard.kernel.errors import UpstreamError
from steelyard.upstream.whose import Whose, refused

_WORDS = {
    Whose.HOUSE: """
        insufficient_quota invalid_api_key model_not_found billing_hard_limit_reached
        AuthenticationError AccessDenied AccountOverdueError ModelNotOpen InvalidEndpoint.ClosedEndpoint
        InvalidEndpointOrModel.NotFound
        InvalidApiKey Arrearage ModelNotFound Throttling.AllocationQuota
        1000 1001 1002 1003 1004 1112 1113 1121 1211 1304 1308 1309 1310 1311
    """,
    Whose.NOBODY: "rate_limit_exceeded Throttling.RateQuota 1302 1303 1305 1312",
    Whose.CUSTOMER: """
        context_length_exceeded content_filter content_policy_violation data_inspection_failed
        1210 1212 1213 1214 1215 1261 1301
    """,
}
"""By line: OpenAI, Ark, DashScope, Zhipu."""

BY_CODE = {code: whose for whose, codes in _WORDS.items() for code in codes.split()}
BY_STATUS = {
    **dict.fromkeys((401, 402, 403, 404), Whose.HOUSE),
    **dict.fromkeys((400, 413, 422, 451), Whose.CUSTOMER),  # 451: StepFun's word for a blocked content
    **dict.fromkeys((429, 529), Whose.NOBODY),
}


class Fault(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: Any = None


class _Body(msgspec.Struct):
    error: Fault | str | None = None
    message: str | None = None
    code: Any = None
    detail: Any = None


_decoder = msgspec.json.Decoder(_Body)


def refusal(upstream: str, body: bytes, status: int, retry_after: bytes = b"") -> UpstreamError:
    """The error behind an answer that is none."""
    try:
        read = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        read = _Body()
    message = sentence(read.error) or read.message or (read.detail if isinstance(read.detail, str) else "")
    inner = read.error if isinstance(read.error, Fault) else Fault(code=read.code)
    whose = BY_CODE.get(str(inner.code)) or BY_CODE.get(str(inner.type)) or BY_STATUS.get(status, Whose.VENDOR)
    return refused(upstream, whose, status, message or f"answered {status} without saying why", retry_after)


def sentence(fault: Fault | str | None) -> str:
    """What it says, in words."""
    return fault if isinstance(fault, str) else (fault.message or "") if fault is not None else ""
