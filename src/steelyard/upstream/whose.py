"""Whose turn it is to act when an upstream refuses, and what a customer may read of it. Adapters bring the tables."""

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.faults import Fault

_TOLD = frozenset({413, 422, 451})
"""Statuses that mean a fault of the customer's beside 400; under others vendors tell of one all the same."""


def refused(upstream: str, fault: Fault, status: int, message: str, retry_after: bytes = b"") -> UpstreamError:
    """The error behind an answer that is none. Its status is 0 where no customer may read its text."""
    wait_s = int(retry_after) if retry_after.isdigit() and len(retry_after) < 10 else None
    if fault.is_customers:
        told = status if status in _TOLD else 400
        return UpstreamError(upstream, message, status=told).known_as(fault)
    if fault.is_ours:
        until_s = wait_s if fault is Fault.QUOTA else None  # the others are mended by a person
        said = f"answered {status}: {message}" if status else message
        return UpstreamError(upstream, said, retry_after_s=until_s).known_as(fault)
    if fault is Fault.RATE_LIMITED:
        busy = status if status in {429, 529} else 429
        return UpstreamError(upstream, message, status=busy, retryable=True, retry_after_s=wait_s).known_as(fault)
    again = status >= 500 or status in {408, 425}
    return UpstreamError(upstream, message, status=status, retryable=again).known_as(fault)


def not_carried(upstream: str, where: str, why: str) -> UpstreamError:
    """A field that cannot be carried over; the customer reads this."""
    error = UpstreamError(upstream, f"'{where}' cannot be carried over: {why}.", status=400, param=where)
    return error.known_as(Fault.NOT_CARRIED)
