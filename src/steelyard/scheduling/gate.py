"""The scheduler at work: coroutines come to the gate of an engine, wait for their turn and leave.

Owns the waiting and the one timer; every decision is the scheduler's. Use from one event loop.
"""

import asyncio
from types import TracebackType
from typing import Self

from steelyard.kernel.clock import NS_PER_S, Clock
from steelyard.scheduling.scheduler import Scheduler
from steelyard.scheduling.wish import Capacity, QueueFull, Wish

__all__ = ["Capacity", "Gate", "Place", "QueueFull", "Wish"]


class Place:
    """A place at the engine. Leave it once the sequence has ended, however it did; as a context it leaves by itself."""

    __slots__ = ("_gate", "_spoke", "number", "slot", "used_tokens")

    def __init__(self, gate: "Gate", number: int, slot: int) -> None:
        self._gate = gate
        self._spoke = False
        self.number = number
        self.slot = slot  # -1: the engine has none of its own
        self.used_tokens: int | None = None  # of context, once that is known: fair shares count with it

    def spoke(self) -> None:
        """The sequence has a token. Called for each of them, it does something the first time."""
        if not self._spoke:
            self._spoke = True
            self._gate._said(self.number)

    def leave(self) -> None:
        """Safe to call twice."""
        self._gate._left(self.number, self.used_tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class Gate:
    """One per engine and event loop."""

    def __init__(self, capacity: Capacity, clock: Clock) -> None:
        self._scheduler = Scheduler(capacity)
        self._clock = clock
        self._waiters: dict[int, asyncio.Future[int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return self._scheduler.waiting

    @property
    def waiting_batch(self) -> int:
        """Of them, in the batch lane."""
        return self._scheduler.waiting_batch

    @property
    def running(self) -> int:
        return self._scheduler.running

    async def enter(self, wish: Wish) -> Place:
        """Wait for a place. Raises QueueFull at once; one who is cancelled while he waits has never been there."""
        number = self._scheduler.arrive(wish, self._clock.monotonic_ns())
        waiter = self._waiters[number] = asyncio.get_running_loop().create_future()
        self._let_in()
        try:
            return Place(self, number, await waiter)
        except asyncio.CancelledError:
            self._waiters.pop(number, None)
            self._left(number, None)
            raise

    def _let_in(self) -> None:
        now_ns = self._clock.monotonic_ns()
        for number, slot in self._scheduler.starts(now_ns):
            waiter = self._waiters.pop(number)
            if not waiter.done():
                waiter.set_result(slot)
        wakes_ns = self._scheduler.wakes_ns()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wakes_ns is not None:
            delay_s = max(0, wakes_ns - now_ns) / NS_PER_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._let_in)

    def _said(self, number: int) -> None:
        self._scheduler.spoke(number)
        self._let_in()

    def _left(self, number: int, used_tokens: int | None) -> None:
        self._scheduler.ended(number, used_tokens, self._clock.monotonic_ns())
        self._let_in()
