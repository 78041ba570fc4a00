"""Whether a worker takes one more request that is to be paid for: decided by three figures before its body is read.

Owns the counting (requests that run, bytes of their bodies, how late the loop is). What runs is never touched: only new
requests are refused, early and with a time to come back, so that memory and delay stay bounded. Knows no HTTP.
"""

import asyncio
from typing import NamedTuple

from steelyard.kernel import limits
from steelyard.kernel.errors import CallerError, overloaded, unavailable

_TICK_S = 0.1
_DIGITS = 20  # of any length in bytes


class Load(NamedTuple):
    """What a worker has on it."""

    requests: int = 0
    body_bytes: int = 0
    late_ms: int = 0  # the loop was at least so late, twice in a row


def refusal(load: Load, more_bytes: int) -> CallerError | None:
    """Why a request with a body of so many bytes is not taken now; None: it is. The only one is always taken."""
    if load.requests >= limits.SLOTS_PER_WORKER:
        return overloaded(f"All {limits.SLOTS_PER_WORKER} places for running requests are taken.")
    if load.requests and load.body_bytes + more_bytes > limits.BODIES_BYTES_MAX:
        return overloaded("The prompts that are being answered fill the memory there is for them.")
    if load.requests and load.late_ms > limits.LOOP_LATE_MS_MAX:
        wait_s = min(1 + load.late_ms // 1000, limits.OVERLOADED_RETRY_AFTER_S_MAX)
        return unavailable("busy", "This worker is late with what it has begun. Try again in a moment.", wait_s)
    return None


class Admission:
    """One per worker. Each request `enter`s and `leave`s with what it has counted for."""

    def __init__(self) -> None:
        self._requests = 0
        self._bytes = 0
        self._late_ms = 0  # the lesser of the last two ticks
        self._last_late_ms = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    @property
    def load(self) -> Load:
        return Load(self._requests, self._bytes, self._late_ms)

    def enter(self, declared: bytes) -> int:
        """Count a request by its Content-Length, if it has one; returns for how many bytes it counts.

        Raises CallerError 429 or 503.
        """
        try:
            held_bytes = int(declared) if declared.isdigit() else 0
        except ValueError:  # thousands of noughts stand before it: a head may have them, a number of Python's may not
            held_bytes = int(declared.lstrip(b"0")[:_DIGITS] or 0)
        held_bytes = min(held_bytes, limits.BODY_BYTES_MAX)  # a longer one is refused when it is read
        crowded = self._requests >= limits.SLOTS_PER_WORKER or self._bytes + held_bytes > limits.BODIES_BYTES_MAX
        if (crowded or self._late_ms > limits.LOOP_LATE_MS_MAX) and (error := refusal(self.load, held_bytes)):
            raise error
        self._requests += 1
        self._bytes += held_bytes
        if self._timer is None:
            self._wind(asyncio.get_running_loop())
        return held_bytes

    def add(self, more_bytes: int) -> int:
        """A body turned out so much longer than it was said to be, or shorter; returns the same."""
        self._bytes += more_bytes
        return more_bytes

    def leave(self, body_bytes: int) -> None:
        """The request has ended, and its body is let go."""
        self._requests -= 1
        self._bytes -= body_bytes

    def _wind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_s = loop.time() + _TICK_S
        self._timer = loop.call_later(_TICK_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """A stall that comes once (a machine that slept) is no load: two in a row are."""
        late_ms = int((loop.time() - self._due_s) * 1000)
        self._late_ms, self._last_late_ms = min(late_ms, self._last_late_ms), late_ms
        self._timer = None
        if self._requests:
            self._wind(loop)
        else:
            self._late_ms = self._last_late_ms = 0
