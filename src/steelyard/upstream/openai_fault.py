"""What goes wrong at a server of OpenAI's dialect: a fault by the inner code, else by the status.

Vendors of this dialect say "your account is empty" with 400, 402, 403 and 429; only the code beside it tells it from a
busy model, which would be asked again for ever. The codes are data: one that another vendor adds is a word more.
"""

from typing import Any

import msgspec

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.upstream.whose import refused

_WORDS = {
    Fault.NO_MONEY: """
        insufficient_quota billing_hard_limit_reached
        AccountOverdueError
        Arrearage
        1112 1113 1121
    """,
    Fault.AUTH: """
        invalid_api_key
        AuthenticationError AccessDenied
        InvalidApiKey
        1000 1001 1002 1003 1004
    """,
    Fault.MODEL_MISSING: """
        model_not_found
        ModelNotOpen InvalidEndpoint.ClosedEndpoint InvalidEndpointOrModel.NotFound
        ModelNotFound
        1211 1311
    """,
    Fault.QUOTA: "Throttling.AllocationQuota 1304 1308 1309 1310",
    Fault.RATE_LIMITED: "rate_limit_exceeded Throttling.RateQuota 1302 1303 1305 1312",
    Fault.CONTENT: "content_filter content_policy_violation data_inspection_failed 1301",
    Fault.BAD_REQUEST: "context_length_exceeded 1210 1212 1213 1214 1215 1261",
}
"""By line: OpenAI, Ark, DashScope, Zhipu."""

BY_CODE = {code: fault for fault, codes in _WORDS.items() for code in codes.split()}
BY_STATUS = {
    401: Fault.AUTH,
    402: Fault.NO_MONEY,
    403: Fault.AUTH,
    404: Fault.MODEL_MISSING,
    **dict.fromkeys((400, 413, 422), Fault.BAD_REQUEST),
    451: Fault.CONTENT,  # StepFun's word for it
    **dict.fromkeys((429, 529), Fault.RATE_LIMITED),
}


class Complaint(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: Any = None


class _Body(msgspec.Struct):
    error: Complaint | str | None = None
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
    inner = read.error if isinstance(read.error, Complaint) else Complaint(code=read.code)
    fault = BY_CODE.get(str(inner.code)) or BY_CODE.get(str(inner.type)) or BY_STATUS.get(status, Fault.SERVER)
    return refused(upstream, fault, status, message or f"answered {status} without saying why", retry_after)


def sentence(told: Complaint | str | None) -> str:
    """What it says, in words."""
    return told if isinstance(told, str) else (told.message or "") if told is not None else ""
