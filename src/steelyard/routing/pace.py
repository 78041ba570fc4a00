"""How often an offer may be asked: calls and tokens a minute, within this worker's share of its bounds.

A bucket holds ten seconds' worth, because vendors look at shorter times than a minute as well. Pure: time comes in.
"""

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_S

_MINUTE_NS = 60 * NS_PER_S


class Bucket:
    """What may still be taken, in units × the nanoseconds of a minute; refilled by time, below zero after a big one."""

    __slots__ = ("_at_ns", "_level", "_per_minute")

    def __init__(self) -> None:
        self._per_minute = 0  # nothing was asked of it yet
        self._level = 0
        self._at_ns = 0

    def has(self, per_minute: int, amount: int, now_ns: int) -> bool:
        """Whether so much may be taken now. What is more than a full bucket may be taken from a full one."""
        most = max(per_minute * _MINUTE_NS // limits.PACE_PARTS, _MINUTE_NS)
        if per_minute != self._per_minute:  # another bound begins full
            self._per_minute, self._level = per_minute, most
        else:
            self._level = min(most, self._level + (now_ns - self._at_ns) * per_minute)
        self._at_ns = now_ns
        return self._level >= min(amount * _MINUTE_NS, most)

    def take(self, amount: int) -> None:
        """After `has`."""
        self._level -= amount * _MINUTE_NS
