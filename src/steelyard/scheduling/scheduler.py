"""Who may start at one engine, and when: fair lanes, a leader for each new beginning, bounds of context and queues.

Pure: comings, first tokens, ends and the time are calls, the answer is who starts. What it promises: nobody starts
beyond the engine's capacity; who waits for a leader waits `limits.LEADER_AWAITED_MS` at most; what nobody waits for
starts only when nobody waits, leaves a quarter of the places to those who do, and makes way for them where the engine
can let it rest; every wish starts or is withdrawn.
"""

from dataclasses import dataclass
from typing import NamedTuple

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_MS, NS_PER_S
from steelyard.scheduling.fair import FairQueue, Waiting, due_ns
from steelyard.scheduling.prefixes import PerSlot, Shared
from steelyard.scheduling.wish import Capacity, Lane, QueueFull, Start, Wish

_AWAITED_NS = limits.LEADER_AWAITED_MS * NS_PER_MS
_URGENT_NS = limits.BATCH_URGENT_S * NS_PER_S
_PACE_NS = limits.PACE_KEPT_S * NS_PER_S
_CALM_NS = limits.BATCH_RETURNS_MS * NS_PER_MS


@dataclass(slots=True)
class _Running:
    one: Waiting
    lane: Lane
    slot: int
    leads: bool
    since_ns: int
    spoke: bool = False

    @property
    def wish(self) -> Wish:
        return self.one.wish


class Scheduler:
    """One per engine, or per worker and engine. `now_ns` is any clock that never steps back."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._interactive = FairQueue()
        self._batch = FairQueue(by_deadline=True)
        self._waiting: dict[int, tuple[Waiting, FairQueue]] = {}
        self._running: dict[int, _Running] = {}
        self._held: dict[int, Waiting] = {}
        self._shared = Shared() if capacity.leader_first and not capacity.slots else None
        self._slots = PerSlot(capacity.sequences) if capacity.slots else None
        self._batch_running = 0
        self._silent = 0  # that run and are waited for, and have no token yet
        self._calm_ns: int | None = None  # when it will have been long enough since anybody was waited for
        self._now_ns = 0  # as it was said last
        self._pace = _Pace()
        self._number = 0
        self.tokens = 0  # promised to what runs

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def waiting_batch(self) -> int:
        return self._batch.count

    def arrive(self, wish: Wish, now_ns: int) -> int:
        """The number by which it is known from here on. Raises QueueFull at once rather than late."""
        lane = self._batch if wish.within_s else self._interactive
        if lane.count >= limits.WISHES_WAITING_MAX or lane.waits_of(wish.tenant_id) >= limits.WISHES_PER_TENANT_MAX:
            raise QueueFull(self._wait_s(lane.before(wish), now_ns))
        if lane is self._interactive and lane.count:
            wait_s = self._wait_s(lane.before(wish), now_ns)
            if wait_s > limits.WISH_WAIT_S_MAX:
                raise QueueFull(wait_s)
        self._number += 1
        one = Waiting(self._number, wish, now_ns)
        self._put(one, lane)
        return one.number

    def starts(self, now_ns: int) -> list[Start]:
        """Those that may start now, in this order; they run from here on."""
        started: list[Start] = []
        self._now_ns = now_ns
        if self._calm_ns is not None and self._calm_ns <= now_ns:
            self._calm_ns = None
        if self._held:
            self._release(now_ns)
        if self._batch.count:
            self._hurry(now_ns)
        while len(self._running) < self._capacity.sequences and self._waiting:
            one = self._next()
            if one is None:
                break
            started.append(self._start(one, now_ns))
        return started

    def spoke(self, number: int) -> None:
        """Its first token is there."""
        running = self._running.get(number)
        if running is None or running.spoke:
            return
        running.spoke = True
        self._silent -= running.lane is Lane.INTERACTIVE
        if running.leads and self._shared is not None:
            running.leads = False
            self._shared.done(running.wish.prompt)
            self._let_go()

    def rests(self, now_ns: int) -> list[int]:
        """Lines of batches that must stop before the next step, for those who are waited for: they wait again from here
        on, under the same number. Ask again after `starts` until there are none."""
        if not self._capacity.rests or not self._batch_running or not self._waited_for:
            return []
        able = [one for one in self._running.values() if self._can_rest(one, now_ns)]
        able.sort(key=lambda one: (not one.spoke, due_ns(one.one)))
        rested: list[int] = []
        while able and self._in_the_way(able):
            last = able.pop()
            self._stopped(last)
            self._batch.give_back(last.wish.tenant_id, last.wish.tokens)
            self._put(last.one, self._batch)
            rested.append(last.one.number)
        return rested

    def ended(self, number: int, used_tokens: int | None, now_ns: int) -> None:
        """It has ended, failed or gone, running or not. `used_tokens` of context, where known. Once is enough."""
        if (found := self._waiting.get(number)) is not None:
            self._take(*found, served=False)
            if found[1] is self._interactive:
                self._calm(now_ns)
            return
        running = self._running.get(number)
        if running is None:
            return
        wish = running.wish
        self._stopped(running)
        if running.lane is Lane.INTERACTIVE:
            self._calm(now_ns)
        self._pace.ended(now_ns - running.since_ns, now_ns)
        if used_tokens is not None and used_tokens < wish.tokens:
            lane = self._batch if running.lane is Lane.BATCH else self._interactive
            lane.give_back(wish.tenant_id, wish.tokens - used_tokens)

    def wakes_ns(self) -> int | None:
        """When `starts` may have another answer although nothing has happened."""
        awaited_ns = min(one.since_ns for one in self._held.values()) + _AWAITED_NS if self._held else None
        calm_ns = self._calm_ns if self._batch.count else None
        return min((one for one in (awaited_ns, calm_ns) if one is not None), default=None)

    # --- inside -------------------------------------------------------------------------------------------------

    def _next(self) -> Waiting | None:
        """Whose turn it is. One whose context is not free yet is waited for: nobody smaller goes before it for ever."""
        one = self._first(self._interactive)
        if one is None and not self._interactive.count and self._batch_running < self._batch_most:
            one = self._first(self._batch)
        return one if one is not None and self._fits(one.wish) else None

    def _first(self, lane: FairQueue) -> Waiting | None:
        return next((one for one in lane.in_turn() if not one.held and not self._waits_for_leader(one)), None)

    def _fits(self, wish: Wish, freed_tokens: int = 0) -> bool:
        most = self._capacity.tokens
        return not most or not self._running or self.tokens - freed_tokens + wish.tokens <= most

    @property
    def _waited_for(self) -> bool:
        """Whether somebody waits for an answer, here or from the engine."""
        return self._interactive.count > 0 or len(self._running) > self._batch_running

    @property
    def _batch_most(self) -> int:
        """Lines of batches that may run now. Those that can rest run all when nobody has been waited for lately; else a
        few, and none starts while the first token of an answer is computed: each one more makes the step longer."""
        if not self._capacity.rests:
            return self._capacity.batch
        if self._silent:
            return 0
        return self._capacity.beside if self._waited_for or self._calm_ns is not None else self._capacity.batch

    def _can_rest(self, running: _Running, now_ns: int) -> bool:
        if running.lane is not Lane.BATCH or (running.spoke and running.wish.unbroken):
            return False
        return due_ns(running.one) - now_ns > _URGENT_NS

    def _in_the_way(self, able: list[_Running]) -> bool:
        """Whether the last of those who are able to rest must: its prompt would be computed before somebody's first
        token, or too many decode beside those who are waited for, or it has the place or the context of one of them."""
        if not able[-1].spoke and (self._silent or self._interactive.count):
            return True
        if self._batch_running > self._capacity.beside:
            return True
        one = self._first(self._interactive)
        if one is None:
            return False
        if not self._fits(one.wish):
            return len(able) == len(self._running) or self._fits(one.wish, sum(each.wish.tokens for each in able))
        return len(self._running) >= self._capacity.sequences

    def _stopped(self, running: _Running) -> None:
        """It runs no more, for now or for ever."""
        del self._running[running.one.number]
        self.tokens -= running.wish.tokens
        self._batch_running -= running.lane is Lane.BATCH
        self._silent -= running.lane is Lane.INTERACTIVE and not running.spoke
        if self._slots is not None:
            self._slots.free(running.slot)
        if running.leads and self._shared is not None:
            self._shared.lost(running.wish.prompt)
            self._let_go()

    def _calm(self, now_ns: int) -> None:
        """One who was waited for has gone. After the last of them lines of batches come back, but not at once: who had
        an answer asks again, and one that comes back computes again what was in its last block."""
        if not self._waited_for and self._capacity.rests:
            self._calm_ns = now_ns + _CALM_NS

    def _waits_for_leader(self, one: Waiting) -> bool:
        if self._shared is None or not self._shared.leaders or one.overdue:
            return False
        if one.since_ns + _AWAITED_NS <= self._now_ns:  # its context or its place took that long to be free
            return False
        if self._shared.gain(one.wish.prompt) < limits.LEADER_GAIN_BLOCKS_MIN:
            return False
        one.held = True
        self._held[one.number] = one
        return True

    def _start(self, one: Waiting, now_ns: int) -> Start:
        found, lane = self._waiting[one.number]
        self._take(found, lane, served=True)
        wish = one.wish
        kind = Lane.BATCH if lane is self._batch else Lane.INTERACTIVE
        slot = self._slots.take(wish.prompt) if self._slots is not None else -1
        leads = self._shared.lead(wish.prompt) if self._shared is not None else False
        self._running[one.number] = _Running(one, kind, slot, leads, now_ns)
        self._batch_running += kind is Lane.BATCH
        self._silent += kind is Lane.INTERACTIVE
        self.tokens += wish.tokens
        return Start(one.number, slot)

    def _put(self, one: Waiting, lane: FairQueue) -> None:
        lane.put(one)
        self._waiting[one.number] = one, lane

    def _take(self, one: Waiting, lane: FairQueue, *, served: bool) -> None:
        lane.take(one, served=served)
        del self._waiting[one.number]
        self._held.pop(one.number, None)

    def _let_go(self) -> None:
        """What leaders compute has changed: everybody is looked at again."""
        for one in self._held.values():
            one.held = False
        self._held.clear()

    def _release(self, now_ns: int) -> None:
        for one in [one for one in self._held.values() if one.since_ns + _AWAITED_NS <= now_ns]:
            one.held, one.overdue = False, True
            del self._held[one.number]

    def _hurry(self, now_ns: int) -> None:
        """What has waited until its deadline is near is waited for now."""
        for one in [one for one in self._batch.all() if due_ns(one) - now_ns <= _URGENT_NS]:
            self._take(one, self._batch, served=False)
            one.held = False
            self._put(one, self._interactive)

    def _wait_s(self, tokens: int, now_ns: int) -> int:
        """How long one is likely to wait behind so many, in whole seconds; 1 when nothing is known yet.

        What runs now comes free within the time that a run takes: how little was asked for lately says nothing.
        """
        run_ns = self._pace.run_ns(now_ns)
        return max(1, tokens * run_ns // (self.tokens * NS_PER_S)) if self.tokens else 1


class _Pace:
    """How long a run took lately."""

    def __init__(self) -> None:
        self._since_ns = 0
        self._sum = self._before = _Runs(0, 0)

    def ended(self, run_ns: int, now_ns: int) -> None:
        self._turn(now_ns)
        self._sum = _Runs(self._sum.ended + 1, self._sum.ns + run_ns)

    def run_ns(self, now_ns: int) -> int:
        """The mean of those that ended; 0 when none did."""
        self._turn(now_ns)
        ended = self._sum.ended + self._before.ended
        return (self._sum.ns + self._before.ns) // ended if ended else 0

    def _turn(self, now_ns: int) -> None:
        parts = (now_ns - self._since_ns) // _PACE_NS
        if parts:
            self._before = self._sum if parts == 1 else _Runs(0, 0)
            self._sum = _Runs(0, 0)
            self._since_ns += parts * _PACE_NS


class _Runs(NamedTuple):
    ended: int
    ns: int
