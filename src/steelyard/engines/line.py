"""The line before the decoder of an engine of ours: one per engine, whichever worker its sequences come from.

Owns the waiting and the one timer; who starts and who rests when is the scheduler's decision. Knows no decoder and no
connection: it says `begin` to whoever's turn it is, and `rest` to who must make way. Used from one event loop.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from steelyard.engines.asked import Ask
from steelyard.kernel.clock import NS_PER_S, Clock, SystemClock
from steelyard.kernel.prefix import prompt_from
from steelyard.scheduling.scheduler import Scheduler
from steelyard.scheduling.wish import Capacity, Turn, Wish


class Waits(Protocol):
    """Who stands in the line."""

    def begin(self) -> None:
        """It is his turn, for the first time or again after a rest; he leaves the line when he has ended."""

    def rest(self) -> None:
        """He makes way before the next step and stands in the line again."""


class Line:
    """Those who wait and those who run, by their numbers."""

    def __init__(self, capacity: Capacity, clock: Clock | None = None) -> None:
        self._scheduler = Scheduler(capacity)
        self._clock = clock or SystemClock()
        self._here: dict[int, Waits] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._letting_in = False
        self._again = False

    @property
    def count(self) -> int:
        """Who waits or runs."""
        return self._scheduler.waiting + self._scheduler.running

    @property
    def waiting(self) -> tuple[int, int]:
        """Who waits, and how many of them in the batch lane."""
        return self._scheduler.waiting, self._scheduler.waiting_batch

    def come(self, who: Waits, wish: Wish) -> int:
        """The number by which he leaves. Raises QueueFull. `let_in` must follow."""
        number = self._scheduler.arrive(wish, self._clock.monotonic_ns())
        self._here[number] = who
        return number

    def spoke(self, number: int) -> None:
        """His sequence has its first token: others who begin alike need not compute that again."""
        self._scheduler.spoke(number)
        self.let_in()

    def leave(self, number: int, used_tokens: int | None = None) -> None:
        """He has ended or gone. Once is enough."""
        self._here.pop(number, None)
        self._scheduler.ended(number, used_tokens, self._clock.monotonic_ns())
        self.let_in()

    @contextmanager
    def until_told(self) -> Iterator[None]:
        """Nobody begins or rests before all of a step has been told: who has ended in it is no longer there to rest."""
        self._letting_in = True
        try:
            yield
        finally:
            self._letting_in = False
            if self._again:
                self.let_in()

    def let_in(self) -> None:
        """Begin with whoever may, and let rest who is in the way. One who leaves or rests meanwhile makes room for the
        next in the same call."""
        self._again = True
        if self._letting_in:
            return
        self._letting_in = True
        try:
            while self._again:
                self._again = False
                now_ns = self._clock.monotonic_ns()
                for number in self._scheduler.rests(now_ns):
                    self._again = True
                    self._here[number].rest()
                for number, _ in self._scheduler.starts(now_ns):
                    self._here[number].begin()
        finally:
            self._letting_in = False
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakes_ns = self._scheduler.wakes_ns()
        if wakes_ns is not None:
            delay_s = max(0, wakes_ns - self._clock.monotonic_ns()) / NS_PER_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.let_in)


def wish_of(ask: Ask, prompt_tokens: int, turn: Turn, context: int) -> Wish:
    """What a sequence wants of the engine: its context is the prompt's tokens and the most it may answer."""
    if isinstance(ask.prompt, str):
        text = ask.prompt.encode()
    else:
        text = b"".join(token.to_bytes(8, "little", signed=True) for token in ask.prompt)
    tokens = min(context, prompt_tokens + ask.max_tokens)
    return Wish(turn.tenant_id, prompt_from("", text), tokens, turn.within_s, not ask.resumes)
