"""What is left of our money at a vendor, as the vendor tells it: amounts stay decimal texts, nothing is added up."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from msgspec import Raw

from steelyard.kernel.errors import UpstreamError
from steelyard.kernel.frozen import Record

_DECIMAL = re.compile(r"-?\d+(\.\d+)?")


def decimal_text(raw: Raw) -> str:
    """An amount as it was written, number or text. Raises ValueError for what is no decimal."""
    text = bytes(raw).decode().strip('"')
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text!r} is no amount")
    return text


class Balance(Record, frozen=True):
    """Our account at a vendor in one currency. `parts` are the vendor's own divisions of `total`, by its names."""

    currency: str
    total: str
    parts: dict[str, str] = msgspec.field(default_factory=dict)
    usable: bool = True  # the vendor would serve on it


@dataclass(frozen=True, slots=True)
class BalanceAt:
    """Where it is asked for, and how the answer is read.

    `path` lies below the address, whose `/v1` is left out. `read` takes the body and the vendor's host (some sell in
    another currency at another host) and raises ValueError for what cannot be read.
    """

    path: str
    read: Callable[[bytes, str], tuple[Balance, ...]]

    def of(self, upstream: str, body: bytes, host: str) -> tuple[Balance, ...]:
        """One for each currency. Raises UpstreamError."""
        try:
            return self.read(body, host)
        except (msgspec.DecodeError, ValueError):
            raise UpstreamError(upstream, "answered a balance that cannot be read") from None
