"""Errors in the OpenAI dialect's shape: `{"error": {message, type, param, code}}`. Never a traceback or a secret."""

import msgspec

from steelyard.gateway.wire import Headers
from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, UpstreamError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


def error_body(error: CallerError) -> bytes:
    """The JSON body of an error answer."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    inner = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": inner})


def error_headers(error: CallerError) -> Headers:
    """Content type, and Retry-After where waiting helps."""
    headers: Headers = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    elif error.status in {402, 409, 429, 503}:
        headers.append((b"x-should-retry", b"false"))  # some clients repeat these by themselves
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def from_upstream(error: UpstreamError) -> CallerError:
    """What the customer is told when the upstream failed before the first byte."""
    if error.status == 400:
        return CallerError(400, "upstream_refused", error.message, param=error.param)
    if error.status in {413, 422, 451}:
        return CallerError(400, "upstream_refused", error.message)
    if error.status in {429, 529}:
        wait_s = min(max(1, error.retry_after_s or 1), limits.UPSTREAM_RETRY_AFTER_S_MAX)
        return CallerError(429, "overloaded", "The model is busy. Try again in a moment.", retry_after_s=wait_s)
    if error.retryable:
        return CallerError(
            503, "model_unavailable", "The model is starting or restarting. Try again in a moment.", retry_after_s=2
        )
    return CallerError(502, "upstream_failed", "The model failed before it answered; nothing was charged. Try again.")


def internal_error() -> CallerError:
    """A bug on our side; the log knows it by the request's id."""
    return CallerError(500, "internal_error", "Something failed on our side. Quote the x-request-id to report it.")
