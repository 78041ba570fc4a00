"""Everything that can go wrong, by whose turn it is to act.

    SteelyardError
    ├── CallerError        the customer (or operator) must change something; carries status, code, sentence, what to do
    ├── UpstreamError      an engine or vendor failed; carries its Fault (kernel.faults), and retryable
    ├── ClientGone         the customer hung up; what had left is settled
    ├── BooksError         the books refuse: unbalanced, unknown account, broken journal
    ├── WriterLost         another process has become the writer of the books; this one must end
    └── StartError         the platform cannot start; one line for the person at the terminal

Anything else that is raised is a bug. Messages never carry a secret.
"""

from typing import Self

from steelyard.kernel import limits
from steelyard.kernel.faults import Fault, fault_of


class SteelyardError(Exception):
    """The root; never raised itself."""


class CallerError(SteelyardError):
    """A request that cannot be served as asked.

    `status` is the HTTP status, `code` a stable word for programs, `message` one sentence that says what is wrong and
    what to do, `param` the field at fault, `retry_after_s` set when waiting helps.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class UpstreamError(SteelyardError):
    """An upstream refused, failed or went away.

    `status` is its HTTP status, 0 when there was none or no customer may read the text; `fault` what was wrong, read
    from the status where nobody knows better; `param` the field of the request at fault; `retry_after_s` how long it
    wants to be left alone; `reset_ns` the moment at which an exhausted quota is filled again, where it said so.
    """

    def __init__(
        self,
        upstream: str,
        message: str,
        *,
        status: int = 0,
        retryable: bool = False,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.upstream = upstream
        self.message = message
        self.status = status
        self.retryable = retryable
        self.param = param
        self.retry_after_s = retry_after_s
        self.fault = fault_of(status)
        self.reset_ns: int | None = None

    def known_as(self, fault: Fault, reset_ns: int | None = None) -> Self:
        """The same error, by one who knows more than its status."""
        self.fault = fault
        self.reset_ns = reset_ns
        return self


class ClientGone(SteelyardError):
    """The customer's connection is lost; the piece being sent may not have left."""


class BooksError(SteelyardError):
    """The books refuse an operation, or found themselves damaged."""


class WriterLost(SteelyardError):
    """Another process has become the writer of the books. What this one knows is old: it writes nothing more."""


class StartError(SteelyardError):
    """The platform cannot start. The text is one line that says what to do."""


def bad_request(message: str, param: str | None = None, code: str = "invalid_request") -> CallerError:
    """400: the request itself is wrong; `param` names the field."""
    return CallerError(400, code, message, param=param)


def unknown_key() -> CallerError:
    """401: no key, an unknown key or a revoked one; the three are not told apart."""
    return CallerError(
        401,
        "invalid_api_key",
        "The API key is missing, unknown or revoked. Send a valid one as 'Authorization: Bearer sk-sy-…'.",
    )


def unknown_model(model: str) -> CallerError:
    """404: nobody offers this model."""
    return CallerError(
        404,
        "model_not_found",
        f"The model {model!r} does not exist. GET /v1/models lists what you can ask for.",
        param="model",
    )


def wallet_empty() -> CallerError:
    """402: the wallet cannot cover even the prompt and one token."""
    return CallerError(
        402, "insufficient_quota", "The wallet cannot cover this request. Ask your operator for a top-up, or send less."
    )


def money_held() -> CallerError:
    """429: the wallet has the money, but requests that run hold it; waiting helps."""
    return CallerError(
        429,
        "money_held",
        "All that the wallet can pay with is set aside for requests that still run. Try again in a moment, or send "
        "fewer at a time.",
        retry_after_s=limits.RETRY_AFTER_S,
    )


def price_missing(model: str) -> CallerError:
    """503: no tariff in force, so nothing is served (fail closed)."""
    return CallerError(
        503,
        "price_missing",
        f"The model {model!r} has no price in force. The operator must load one before it is served.",
    )


def cost_missing(model: str) -> CallerError:
    """503: no cost tariff in force that prices all that can be used, so nothing is served (fail closed)."""
    return CallerError(
        503,
        "price_missing",
        f"What the model {model!r} costs where it is served is in no cost book. The operator must load a [[cost]].",
    )


def rate_missing(model: str, currency: str, into: str) -> CallerError:
    """503: a vendor is paid in a currency that nothing turns into the customer's."""
    return CallerError(
        503,
        "price_missing",
        f"The model {model!r} costs us {currency}, and no rate turns that into {into}. "
        f"The operator must load a [[rate]] from {currency} to {into}.",
    )


def overloaded(what: str, retry_after_s: int = 1) -> CallerError:
    """429: a bound is reached; waiting helps."""
    return CallerError(429, "overloaded", f"{what} Try again in a moment.", retry_after_s=retry_after_s)


def perhaps_done(reason: str) -> CallerError:
    """503 without a word of when to repeat it: whoever, or whose client, moves money again may move it twice."""
    sentence = f"{reason} Perhaps it is done: look before you do it again, or use the same idempotency key."
    return CallerError(503, "books_unavailable", sentence)


def unavailable(code: str, message: str, retry_after_s: int = 1) -> CallerError:
    """503: a part of the platform is away; waiting helps."""
    return CallerError(503, code, message, retry_after_s=retry_after_s)
