"""Whose turn it is to act when an upstream refuses. Shared by the adapters, each of which has a table of its own."""

from enum import Enum

from steelyard.kernel.errors import UpstreamError


class Whose(Enum):
    """Who has to act."""

    CUSTOMER = "customer"  # his request is at fault, and he may read why
    HOUSE = "house"  # our key, money or registration: nothing a customer could mend, so he is not told
    NOBODY = "nobody"  # busy: the same request may do better in a moment
    VENDOR = "vendor"  # it failed


def refused(upstream: str, whose: Whose, status: int, message: str, retry_after: bytes = b"") -> UpstreamError:
    """The error behind an answer that is none. Its status is 0 where no customer may read its text."""
    match whose:
        case Whose.CUSTOMER:
            return UpstreamError(upstream, message, status=status if 400 <= status < 500 and status != 429 else 400)
        case Whose.HOUSE:
            return UpstreamError(upstream, f"answered {status}: {message}")
        case Whose.NOBODY:
            wait_s = int(retry_after) if retry_after.isdigit() else None
            busy = status if status in {429, 529} else 429
            return UpstreamError(upstream, message, status=busy, retryable=True, retry_after_s=wait_s)
        case Whose.VENDOR:
            return UpstreamError(upstream, message, status=status, retryable=status >= 500 or status in {408, 425})
