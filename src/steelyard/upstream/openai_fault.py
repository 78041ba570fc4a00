"""What goes wrong at a server of OpenAI's dialect: a fault by the inner code, else by the status.

Vendors of this dialect say "your account is empty" with 400, 402, 403 and 429; only the code beside it tells it from a
busy model, which would be asked again for ever. The codes are data: one that another vendor adds is a word more.
"""

import re
from datetime import datetime
from typing import Any

import msgspec

from steelyard.kernel.clock import NS_PER_S
from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.whose import refused

_FLAGGED = frozenset({"reasons", "flagged_input"})
_FRAMED = re.compile(rb"^data:(.*)", re.MULTILINE)
_MOMENT = re.compile(r"(20\d\d-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)")

STATUSES = FaultTable(
    {
        Fault.BAD_REQUEST: "400/* 413/* 422/*",
        Fault.AUTH: "401/* 403/*",
        Fault.NO_MONEY: "402/*",
        Fault.MODEL_MISSING: "404/*",
        Fault.CONTENT: "451/*",  # StepFun's word for it
        Fault.RATE_LIMITED: "429/* 529/*",
    }
)
"""What statuses mean in this dialect where no code says otherwise; the tables of vendors go on from it."""

ANY = FaultTable(
    {
        Fault.NO_MONEY: """
            */insufficient_quota */billing_hard_limit_reached
            */AccountOverdueError
            */Arrearage
            */1112 */1113 */1121
        """,
        Fault.AUTH: """
            */invalid_api_key
            */AuthenticationError */AccessDenied
            */InvalidApiKey
            */1000 */1001 */1002 */1003 */1004
        """,
        Fault.MODEL_MISSING: """
            */model_not_found
            */ModelNotOpen */InvalidEndpoint.ClosedEndpoint */InvalidEndpointOrModel.NotFound
            */ModelNotFound
            */1211 */1311
        """,
        Fault.QUOTA: "*/Throttling.AllocationQuota */1304 */1308 */1309 */1310",
        Fault.RATE_LIMITED: "*/rate_limit_exceeded */Throttling.RateQuota */1302 */1303 */1305 */1312",
        Fault.CONTENT: "*/content_filter */content_policy_violation */data_inspection_failed */1301",
        Fault.BAD_REQUEST: "*/context_length_exceeded */1210 */1212 */1213 */1214 */1215 */1261",
    },
    STATUSES,
)
"""Of a server nobody knows: by line, the words of OpenAI, Ark, DashScope and Zhipu, whose models others serve too."""


class Complaint(msgspec.Struct):
    """`status` and `details` are Google's: a word for the status, and reasons that say more. `metadata` is
    OpenRouter's, whose 403 is a wrong key or a flagged input."""

    message: str | None = None
    type: str | None = None
    code: Any = None
    status: Any = None
    details: Any = None
    metadata: Any = None

    @property
    def words(self) -> tuple[object, ...]:
        """What a table may know it by, the most exact first."""
        flagged = isinstance(self.metadata, dict) and not _FLAGGED.isdisjoint(self.metadata)
        reasons = ("content_policy_violation",) if flagged else map(_reason, self._details)
        return (*reasons, self.code, self.type, self.status)

    @property
    def wait(self) -> bytes:
        """How long it wants to be left alone, in whole seconds; empty when it does not say."""
        delays = (str(each.get("retryDelay", "")).removesuffix("s").partition(".")[0] for each in self._details)
        return next((delay for delay in delays if delay.isdigit()), "").encode()

    @property
    def _details(self) -> list[dict[str, Any]]:
        return [each for each in self.details if isinstance(each, dict)] if isinstance(self.details, list) else []


def _reason(detail: dict[str, Any]) -> object:
    """A reason as it is; of a quota that was passed, whether it is one of a day."""
    violations = detail.get("violations")
    if isinstance(violations, list) and any("PerDay" in str(each) for each in violations):
        return "QUOTA_PER_DAY"
    return detail.get("reason")


class _BaseResp(msgspec.Struct):
    """MiniMax's own form, beside the dialect's or instead of it. A code of 0 is no error."""

    status_code: Any = 0
    status_msg: Any = ""


class Body(msgspec.Struct):
    """Every form an error was seen in; `error` is the dialect's own."""

    error: Complaint | str | None = None
    message: Any = None
    code: Any = None
    detail: Any = None
    base_resp: _BaseResp | None = None

    def complaint(self, *, is_answer: bool = False) -> Complaint | None:
        """What it complains of; None when it does not. What stands beside a piece of an answer may mean anything."""
        if isinstance(self.error, str):
            return Complaint(self.error, code=self.code)
        if self.error is not None:
            return self.error
        if self.base_resp is not None and self.base_resp.status_code:
            return Complaint(_text(self.base_resp.status_msg), code=self.base_resp.status_code)
        if is_answer:
            return None
        said = _text(self.message) or _text(self.detail)
        return Complaint(said, code=self.code) if said or self.code else None


def _text(found: Any) -> str | None:
    return found if isinstance(found, str) else None


_decoder = msgspec.json.Decoder(Body | list[Body])  # Gemini's come in a list


def refusal(
    upstream: str, body: bytes, status: int, retry_after: bytes = b"", faults: FaultTable = ANY
) -> UpstreamError:
    """The error behind an answer that is none: one with another status than 200, or without a stream of events. Asked
    for a stream, DashScope frames it as one."""
    framed = _FRAMED.search(body)
    try:
        read = _decoder.decode(body if framed is None else framed[1])
        told = next((each.complaint() for each in (read if isinstance(read, list) else [read])), None)
    except (msgspec.DecodeError, UnicodeDecodeError):
        told = None
    if status == 200 and told is None:
        return UpstreamError(upstream, "answered without a stream of events")
    told = told or Complaint()
    if status == 200:
        return failed(upstream, told, faults)
    fault = faults.of(status, *told.words, message=told.message or "")
    message = told.message or f"answered {status} without saying why"
    return _dated(refused(upstream, fault, status, message, retry_after or told.wait))


def failed(upstream: str, told: Complaint, faults: FaultTable = ANY) -> UpstreamError:
    """The error behind an answer that began with 200."""
    fault = faults.of(0, *told.words, message=told.message or "")
    message = told.message or "failed without saying why"
    if fault is Fault.SERVER:
        return UpstreamError(upstream, message, retryable=True)
    return _dated(refused(upstream, fault, 0, message))


def _dated(error: UpstreamError) -> UpstreamError:
    """With the moment of the reset, where a used-up quota names one in its words."""
    if error.fault is Fault.QUOTA:
        error.reset_ns = reset_of(error.message)
    return error


def reset_of(words: str) -> int | None:
    """The moment in a sentence like "…将在 2026-01-27 15:00:00 重置": Beijing's time, as nanoseconds since 1970 UTC."""
    found = _MOMENT.search(words)
    if found is None:
        return None
    try:
        moment = datetime.fromisoformat(f"{found[1]}T{found[2]}+08:00")
    except ValueError:
        return None
    return int(moment.timestamp()) * NS_PER_S
