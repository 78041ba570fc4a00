"""The scheduler under random histories: its bounds hold at every step, and everybody starts in the end.

Beside it a little engine in simulated time, where leaders first must save what they promise to save.
"""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_MS
from steelyard.kernel.prefix import Prompt
from steelyard.scheduling.scheduler import Scheduler
from steelyard.scheduling.wish import Capacity, QueueFull, Wish

SEQUENCES, TOKENS = 4, 1000


class Histories(RuleBasedStateMachine):
    """Three tenants, prompts with a few beginnings in common."""

    capacity = Capacity(SEQUENCES, TOKENS)

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(self.capacity)
        self.now_ns = 0
        self.waiting: dict[int, tuple[Wish, int]] = {}
        self.running: dict[int, Wish] = {}
        self.silent: set[int] = set()

    @rule(
        tenant=st.integers(0, 2),
        chain=st.lists(st.integers(0, 1), max_size=5),
        tokens=st.sampled_from([1, 100, 700, 3000]),
        batch=st.booleans(),
        unbroken=st.booleans(),
    )
    def come(self, tenant: int, chain: list[int], tokens: int, batch: bool, unbroken: bool) -> None:
        blocks = tuple(hash(tuple(chain[: end + 1])) for end in range(len(chain)))
        wish = Wish(tenant, Prompt(blocks), tokens, 86_400 if batch else 0, unbroken)
        try:
            number = self.scheduler.arrive(wish, self.now_ns)
        except QueueFull as full:
            assert any(not one.within_s for one, _ in self.waiting.values()), "one who need not wait is not refused"
            assert not batch and full.retry_after_s > limits.WISH_WAIT_S_MAX
            return
        self.waiting[number] = wish, self.now_ns
        self.look()

    def look(self) -> None:
        for _ in range(limits.WISHES_WAITING_MAX):
            rested = self.scheduler.rests(self.now_ns)
            for number in rested:
                self.rest(number)
            self.start()
            if not rested:
                return
        raise AssertionError("what rests does not start in the same breath")

    def rest(self, number: int) -> None:
        wish = self.running.pop(number)
        assert self.capacity.rests
        assert wish.within_s, "nobody who is waited for rests"
        assert number in self.silent or not wish.unbroken
        self.silent.discard(number)
        self.waiting[number] = wish, self.now_ns

    def start(self) -> None:
        for number, _ in self.scheduler.starts(self.now_ns):
            wish, _ = self.waiting.pop(number)
            waiting = [one for one, _ in self.waiting.values() if not one.within_s]
            assert not (wish.within_s and waiting), "a batch never starts while somebody waits"
            self.running[number] = wish
            self.silent.add(number)

    @precondition(lambda self: self.silent)
    @rule(data=st.data())
    def speak(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.silent)))
        self.silent.discard(number)
        self.scheduler.spoke(number)
        self.look()

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data(), used=st.none() | st.integers(0, 3000))
    def end(self, data: st.DataObject, used: int | None) -> None:
        number = data.draw(st.sampled_from(sorted([*self.running, *self.waiting])))
        self.running.pop(number, None)
        self.waiting.pop(number, None)
        self.silent.discard(number)
        self.scheduler.ended(number, used, self.now_ns)
        self.look()

    @rule(ms=st.integers(1, 2 * limits.LEADER_AWAITED_MS))
    def wait(self, ms: int) -> None:
        self.now_ns += ms * NS_PER_MS
        self.look()

    @invariant()
    def nobody_is_beyond_the_bounds(self) -> None:
        assert len(self.running) == self.scheduler.running <= self.capacity.sequences
        assert len(self.waiting) == self.scheduler.waiting
        promised = sum(wish.tokens for wish in self.running.values())
        assert promised == self.scheduler.tokens
        assert promised <= TOKENS or len(self.running) == 1
        assert sum(wish.within_s > 0 for wish in self.running.values()) <= 3

    @invariant()
    def an_idle_engine_leaves_nobody_waiting(self) -> None:
        assert self.running or not self.waiting or self.scheduler.wakes_ns() is not None

    @invariant()
    def no_line_of_a_batch_is_in_the_way(self) -> None:
        """Who waits for an answer waits for its leader, or for what those have who cannot rest."""
        if not self.capacity.rests:
            return
        able = [one for number, one in self.running.items() if one.within_s and not self.stays(number)]
        waiting = [one for one, _ in self.waiting.values() if not one.within_s]
        if waiting and self.scheduler.wakes_ns() is None:
            assert len(able) < len(self.running)
        silent = [number for number in self.silent if not self.running[number].within_s]
        if silent:
            assert not any(self.running[number].within_s for number in self.silent)
        if any(not one.within_s for one in self.running.values()):
            assert len(able) <= self.capacity.beside

    def stays(self, number: int) -> bool:
        return number not in self.silent and self.running[number].unbroken

    @invariant()
    def nobody_waits_for_a_leader_beyond_the_bound(self) -> None:
        wakes_ns = self.scheduler.wakes_ns()
        assert wakes_ns is None or wakes_ns > self.now_ns

    def teardown(self) -> None:
        """All that came has started or gone once what runs has ended, however it went."""
        for _ in range(len(self.waiting) + len(self.running)):
            if not self.running:
                break
            number = min(self.running)
            del self.running[number]
            self.silent.discard(number)
            self.scheduler.ended(number, None, self.now_ns)
            self.wait(limits.BATCH_RETURNS_MS)
        assert not self.waiting


class RestingHistories(Histories):
    """At an engine that lets lines of batches rest."""

    capacity = Capacity(SEQUENCES * 2, TOKENS, batch_sequences=3, rests=True)


TestHistories = Histories.TestCase
TestRestingHistories = RestingHistories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRestingHistories.settings = TestHistories.settings


def simulated_ms(*, leader_first: bool, seed: int) -> int:
    """When the last of 32 requests ends that begin with one unseen system prompt.

    The engine computes what it has not cached of all prompts that run, 4 tokens a millisecond, before it decodes (as
    OpenVINO's was measured to do: 32 cold requests compute the same beginning 32 times).
    """
    pick = random.Random(seed)
    scheduler = Scheduler(Capacity(32, leader_first=leader_first))
    beginning = tuple(pick.getrandbits(60) for _ in range(10))  # 640 tokens
    cached: set[int] = set()
    to_compute: dict[int, int] = {}
    chains: dict[int, tuple[int, ...]] = {}
    left: dict[int, int] = {}
    for _ in range(32):
        chain = (*beginning, pick.getrandbits(60))
        chains[scheduler.arrive(Wish(prompt=Prompt(chain), tokens=100), 0)] = chain
    now_ms = 0
    while chains:
        for number, _ in scheduler.starts(now_ms * NS_PER_MS):
            to_compute[number] = 64 * sum(block not in cached for block in chains[number])
            left[number] = 32
        now_ms += 1
        work = 4
        for number in list(to_compute):
            done = min(work, to_compute[number])
            work -= done
            to_compute[number] -= done
            if not to_compute[number]:
                del to_compute[number]
                cached.update(chains[number])
                scheduler.spoke(number)
        for number in [number for number in left if number not in to_compute]:
            left[number] -= 1
            if not left[number]:
                del left[number], chains[number]
                scheduler.ended(number, None, now_ms * NS_PER_MS)
    return now_ms


def test_leaders_first_save_what_a_burst_would_compute_again() -> None:
    for seed in range(3):
        apart, together = (simulated_ms(leader_first=first, seed=seed) for first in (False, True))
        assert apart > 32 * 160, "every one computes 640 tokens"
        assert together < apart / 4
