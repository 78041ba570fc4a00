"""What is left of our money at a vendor, as the vendor tells it: amounts stay decimal texts, nothing is added up."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.frozen import Record


class Balance(Record, frozen=True):
    """Our account at a vendor in one currency. `parts` are the vendor's own divisions of `total`, by its names."""

    currency: str
    total: str
    parts: dict[str, str] = msgspec.field(default_factory=dict)
    usable: bool = True  # the vendor would serve on it


@dataclass(frozen=True, slots=True)
class BalanceAt:
    """Where it is asked for, and how the answer is read: `read` raises ValueError for what cannot be read."""

    path: str
    read: Callable[[bytes], tuple[Balance, ...]]

    def of(self, upstream: str, body: bytes) -> tuple[Balance, ...]:
        """One for each currency. Raises UpstreamError."""
        try:
            return self.read(body)
        except ValueError:  # msgspec's and those of texts that are no decimals
            raise UpstreamError(upstream, "answered a balance that cannot be read") from None
