"""The clock of connections: one timer that passes all of them once a turn, a few at each tick.

Owns when a connection is looked at, and the time as of the last tick, which is as exact as its readers need. Makes no
timer per request, and none while there is nothing to watch. Knows nothing of what it watches.
"""

import asyncio
from typing import Protocol

_SLOTS = 8


class Watched(Protocol):
    """Something whose patience may end."""

    def look(self, now_s: float) -> None:
        """See whether it has: called at least once a turn. May remove itself."""
        ...


class Wheel:
    """One turn takes `turn_s` seconds. `now_s` is the loop's time at the last tick."""

    def __init__(self, turn_s: float) -> None:
        self.now_s = 0.0
        self._tick_s = turn_s / _SLOTS
        self._slots: tuple[set[Watched], ...] = tuple(set() for _ in range(_SLOTS))
        self._next = self._filled = 0
        self._slot_of: dict[Watched, set[Watched]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, watched: Watched) -> None:
        """Watch it from now on."""
        self._filled = (self._filled + 1) % _SLOTS
        slot = self._slots[self._filled]
        slot.add(watched)
        self._slot_of[watched] = slot
        if self._timer is None:
            self._arm()

    def discard(self, watched: Watched) -> None:
        """Watch it no more."""
        slot = self._slot_of.pop(watched, None)
        if slot is not None:
            slot.discard(watched)

    def stop(self) -> None:
        """Look at nothing again until something is added."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self.now_s = loop.time()
        self._timer = loop.call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._slot_of:
            self._arm()
        slot = self._slots[self._next]
        self._next = (self._next + 1) % _SLOTS
        for watched in tuple(slot):
            watched.look(self.now_s)
