"""Time as an argument. The only place that reads the machine's clocks; everything else takes a Clock."""

import time
from datetime import UTC, datetime
from typing import Protocol

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
NS_PER_HOUR = 3600 * NS_PER_S


class Clock(Protocol):
    """Wall time orders nothing by itself (it may step back); durations come from `monotonic_ns`."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds of a clock that never steps back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's own clocks: its functions themselves, because each request asks them a dozen times."""

    now_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)


class ManualClock:
    """A clock that moves only when told to: for tests and the simulator."""

    def __init__(self, now_ns: int = 1_790_000_000 * NS_PER_S) -> None:
        self._now_ns = now_ns
        self._monotonic_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def advance(self, ns: int) -> None:
        self._now_ns += ns
        self._monotonic_ns += ns


def iso_from_ns(ns: int) -> str:
    """RFC 3339 text in UTC with milliseconds: `2026-11-23T22:28:01.123Z`."""
    moment = datetime.fromtimestamp(ns // NS_PER_S, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % NS_PER_S // NS_PER_MS:03d}Z"


def hour_of(ns: int) -> int:
    """Start of the UTC hour that holds `ns`, in nanoseconds."""
    return ns - ns % NS_PER_HOUR


def day_of(ns: int) -> int:
    """Start of the UTC day that holds `ns`, in nanoseconds."""
    return ns - ns % (24 * NS_PER_HOUR)
