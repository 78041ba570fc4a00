"""Volcengine Ark (Doubao and others): what it does differently from OpenAI's dialect.

Its `max_tokens` bounds the answer without the reasoning; only `max_completion_tokens` bounds both, and the two may not
stand together (Volcengine, Chat API, document 82379/1494384). A model is named by its id or by an endpoint `ep-…`.
"""

import re
from typing import Any

from steelyard.kernel.faults import Fault
from steelyard.upstream.fault_table import FaultTable
from steelyard.upstream.openai_fault import STATUSES
from steelyard.upstream.thinking import WORDS, effort_for, thinking_of
from steelyard.upstream.vendor import Asked, Vendor, fields_of

FAULTS = FaultTable(
    {
        Fault.NO_MONEY: "*/AccountOverdueError */OperationDenied.ServiceOverdue",
        Fault.AUTH: """
            */AuthenticationError */AccessDenied */AccessDenied.* */OperationDenied.* */InvalidAccountStatus
        """,
        Fault.MODEL_MISSING: """
            */InvalidEndpointOrModel.* */ModelNotOpen */InvalidEndpoint.* */UnsupportedModel
            */OperationDenied.ServiceNotOpen
        """,
        Fault.QUOTA: "*/SetLimitExceeded */QuotaExceeded */QuotaExceeded.* */InferenceQuotaExceeded",
        Fault.RATE_LIMITED: """
            */RateLimitExceeded.* */RequestBurstTooFast */ServerOverloaded */ModelLoadingError
            */AccountRateLimitExceeded */EndpointRPMExceeded */EndpointTPMExceeded
            */ModelAccountRpmRateLimitExceeded */ModelAccountTpmRateLimitExceeded */ModelAccountIpmRateLimitExceeded
        """,
        Fault.CONTENT: """
            */InputTextRiskDetection */InputImageRiskDetection */OutputTextRiskDetection */OutputImageRiskDetection
            */SensitiveContentDetected */SensitiveContentDetected.*
            */InputTextSensitiveContentDetected */InputTextSensitiveContentDetected.*
            */InputImageSensitiveContentDetected */InputImageSensitiveContentDetected.*
            */InputVideoSensitiveContentDetected */InputVideoSensitiveContentDetected.*
            */OutputTextSensitiveContentDetected */OutputTextSensitiveContentDetected.*
        """,
        Fault.BAD_REQUEST: """
            */MissingParameter */MissingParameter.* */InvalidParameter */InvalidParameter.* */InvalidImageURL.*
            */OutofContextError
        """,
        Fault.SERVER: "*/InternalServiceError",
    },
    STATUSES,
)
"""The most exact line counts: `InvalidEndpoint.ClosedEndpoint` comes with 400, and is a registration of ours."""

_NEVER_THINKS = re.compile(r"doubao-(1-5-(?!thinking)|pro-|lite-)", re.IGNORECASE)
"""Beginnings of names of older models without reasoning, which know `max_tokens` only (not verified)."""

_EFFORTS = {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


def _fields(asked: Asked) -> dict[str, Any]:
    wanted = thinking_of(asked.upstream, asked.params)
    fields = {name: value for name, value in fields_of(asked).items() if name not in WORDS}
    if not _NEVER_THINKS.match(asked.model):
        fields["max_completion_tokens"] = fields.pop("max_tokens")
    if wanted.on is not None or wanted.auto:
        kind = "auto" if wanted.auto else "enabled" if wanted.on else "disabled"
        fields["thinking"] = {"type": kind}
    if (effort := effort_for(wanted, _EFFORTS)) is not None:
        fields["reasoning_effort"] = effort
    return fields


ARK = Vendor(fields=_fields, faults=FAULTS, base="/api/v3", completion_path="")
