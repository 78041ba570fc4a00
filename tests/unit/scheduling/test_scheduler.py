"""Who may start at an engine: leaders and followers, lanes, shares of tenants, bounds, slots."""

import pytest

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_MS, NS_PER_S
from steelyard.kernel.prefix import Prompt, prompt_from
from steelyard.scheduling.scheduler import Scheduler
from steelyard.scheduling.wish import Capacity, QueueFull, Wish

SYSTEM = bytes(range(256)) * 6  # six blocks
AWAITED_NS = limits.LEADER_AWAITED_MS * NS_PER_MS


def asking(question: str, system: bytes = SYSTEM, **wish: int) -> Wish:
    return Wish(prompt=prompt_from("m", system + question.encode()), **wish)


class Engine:
    """A scheduler and what it has let start, by the order of coming."""

    def __init__(self, capacity: Capacity) -> None:
        self.scheduler = Scheduler(capacity)
        self.now_ns = 0
        self.started: list[int] = []
        self.slots: dict[int, int] = {}

    def come(self, wish: Wish) -> int:
        number = self.scheduler.arrive(wish, self.now_ns)
        self.look()
        return number

    def look(self) -> None:
        for number, slot in self.scheduler.starts(self.now_ns):
            self.started.append(number)
            self.slots[number] = slot

    def spoke(self, number: int) -> None:
        self.scheduler.spoke(number)
        self.look()

    def ended(self, number: int, used: int | None = None) -> None:
        self.scheduler.ended(number, used, self.now_ns)
        self.look()


def test_followers_of_an_unseen_beginning_wait_for_the_first_token_of_its_leader() -> None:
    engine = Engine(Capacity(8))
    leader, *followers = (engine.come(asking(f"question {number}")) for number in range(4))
    other = engine.come(asking("something else", b"another beginning " * 50))
    assert engine.started == [leader, other]
    engine.spoke(leader)
    assert engine.started == [leader, other, *followers]
    assert engine.come(asking("one more")) in engine.started, "by now everybody knows the beginning"


def test_a_beginning_too_short_to_be_worth_it_is_not_waited_for() -> None:
    engine = Engine(Capacity(8))
    wishes = [engine.come(asking(f"question {number}", SYSTEM[:300])) for number in range(2)]
    assert engine.started == wishes


@pytest.mark.parametrize("waiting", [False, True])
def test_a_leader_that_fails_makes_the_next_one_lead(waiting: bool) -> None:
    engine = Engine(Capacity(1 if waiting else 8))
    leader, second, third = (engine.come(asking(f"question {number}")) for number in range(3))
    engine.ended(leader)
    assert engine.started == [leader, second]
    engine.spoke(second)
    if waiting:
        engine.ended(second)
    assert engine.started == [leader, second, third]


def test_a_leader_is_waited_for_so_long_and_no_longer() -> None:
    engine = Engine(Capacity(8))
    leader = engine.come(asking("question"))
    engine.now_ns = NS_PER_S
    follower = engine.come(asking("another question"))
    assert engine.scheduler.wakes_ns() == NS_PER_S + AWAITED_NS
    engine.now_ns = NS_PER_S + AWAITED_NS - 1
    engine.look()
    assert engine.started == [leader]
    engine.now_ns += 1
    engine.look()
    assert engine.started == [leader, follower]
    assert engine.scheduler.wakes_ns() is None


def test_so_is_one_who_had_waited_for_a_place_before_whoever_is_looked_at_first() -> None:
    engine = Engine(Capacity(2))
    engine.come(asking("question", tenant_id=1))
    other = engine.come(Wish(3))
    first = engine.come(asking("another question", tenant_id=1))
    engine.now_ns = 5 * NS_PER_S
    engine.come(asking("a third question", tenant_id=2))  # it is his tenant's turn
    engine.ended(other)
    assert engine.scheduler.wakes_ns() == AWAITED_NS
    engine.now_ns = AWAITED_NS
    engine.look()
    assert engine.started[2:] == [first]


def test_who_has_waited_longer_for_his_context_waits_for_no_leader() -> None:
    engine = Engine(Capacity(8, tokens=1000))
    engine.come(Wish(tokens=1))
    follower = engine.come(asking("question", tokens=1000, within_s=86_400))
    engine.now_ns = AWAITED_NS
    leader = engine.come(asking("another question", tokens=1))
    assert engine.started[1:] == [leader]
    assert engine.scheduler.wakes_ns() is None, "nothing changes but by an end"
    for number in (1, leader):
        engine.ended(number)
    assert engine.started[-1] == follower


def test_who_is_waited_for_goes_before_a_batch_and_always_finds_a_place() -> None:
    engine = Engine(Capacity(4))
    lines = [engine.come(Wish(1, within_s=86_400)) for _ in range(6)]
    assert engine.started == lines[:3], "a quarter of the places is left to those who are waited for"
    chats = [engine.come(Wish(2)) for _ in range(3)]
    assert engine.started == [*lines[:3], chats[0]]
    engine.ended(lines[0])
    engine.ended(lines[1])
    assert engine.started == [*lines[:3], *chats], "no line of a batch starts while somebody waits"
    engine.ended(chats[0])
    assert engine.started[-1] == lines[3]


def test_the_line_of_a_batch_whose_deadline_is_next_goes_first_and_near_it_is_waited_for() -> None:
    engine = Engine(Capacity(1))
    chat = engine.come(Wish(1))
    late = engine.come(Wish(1, within_s=90_000))
    soon = engine.come(Wish(1, within_s=limits.BATCH_URGENT_S + 10))
    engine.ended(chat)
    assert engine.started == [chat, soon]
    engine.ended(soon)
    assert engine.started == [chat, soon, late]
    hurried = engine.come(Wish(1, within_s=limits.BATCH_URGENT_S + 10))
    engine.now_ns = 11 * NS_PER_S
    second = engine.come(Wish(2))
    engine.ended(late)
    engine.ended(engine.started[-1])
    assert sorted(engine.started[-2:]) == [hurried, second], "neither stands behind the other's lane"


def test_tenants_have_equal_shares_of_tokens_whoever_asks_more() -> None:
    engine = Engine(Capacity(1))
    running = engine.come(Wish(9))
    many = [engine.come(Wish(1, tokens=100)) for _ in range(12)]
    long = [engine.come(Wish(2, tokens=400)) for _ in range(3)]
    for _ in range(10):
        engine.ended(engine.started[-1])
    served = engine.started[1:]
    assert running not in served
    assert abs(sum(one in many for one in served) * 100 - sum(one in long for one in served) * 400) <= 400
    assert [one for one in served if one in many] == many[: sum(one in many for one in served)], "his own in turn"


def test_what_was_promised_and_not_used_is_given_back() -> None:
    engine = Engine(Capacity(1))
    first = engine.come(Wish(1, tokens=1000))
    second = engine.come(Wish(1, tokens=10))
    other = engine.come(Wish(2, tokens=100))
    again = engine.come(Wish(2, tokens=100))
    engine.ended(first, used=20)  # he has had 20, not 1000
    engine.ended(engine.started[-1])
    engine.ended(engine.started[-1])
    assert engine.started[:3] == [first, other, second]
    assert engine.started[3] == again


def test_context_is_promised_once_and_the_big_one_is_not_passed_by_for_ever() -> None:
    engine = Engine(Capacity(8, tokens=1000))
    small = engine.come(Wish(1, tokens=600))
    big = engine.come(Wish(2, tokens=500))
    after = engine.come(Wish(2, tokens=100))
    assert engine.started == [small]
    engine.ended(small)
    assert engine.started == [small, big, after]
    assert engine.scheduler.tokens == 600


def test_a_wish_beyond_all_context_runs_alone() -> None:
    engine = Engine(Capacity(8, tokens=1000))
    huge = engine.come(Wish(1, tokens=5000))
    small = engine.come(Wish(2, tokens=1))
    assert engine.started == [huge]
    engine.ended(huge)
    assert engine.started == [huge, small]


def test_a_full_line_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WISHES_WAITING_MAX", 3)
    monkeypatch.setattr(limits, "WISHES_PER_TENANT_MAX", 2)
    engine = Engine(Capacity(1))
    engine.come(Wish(9))
    engine.come(Wish(1))
    engine.come(Wish(1))
    with pytest.raises(QueueFull):
        engine.come(Wish(1))
    engine.come(Wish(2))
    with pytest.raises(QueueFull) as full:
        engine.come(Wish(3))
    assert full.value.retry_after_s == 1, "nothing is known yet"
    engine.come(Wish(3, within_s=90_000))  # the other lane has its own


def test_who_would_wait_too_long_is_told_how_long() -> None:
    engine = Engine(Capacity(1))
    numbers = [engine.come(Wish(tenant, tokens=1000)) for tenant in range(10)]
    for number in numbers[:2]:
        engine.now_ns += 10 * NS_PER_S
        engine.ended(number)
    with pytest.raises(QueueFull) as full:
        engine.come(Wish(99, tokens=1000))
    assert full.value.retry_after_s == 70, "seven times a thousand tokens wait at a hundred a second"


def test_who_floods_the_line_turns_nobody_else_away() -> None:
    engine = Engine(Capacity(1))
    first = engine.come(Wish(1, tokens=100))
    engine.come(Wish(1, tokens=100))
    engine.now_ns = 20 * NS_PER_S
    engine.ended(first)
    for _ in range(4):
        engine.come(Wish(1, tokens=100))
    with pytest.raises(QueueFull):
        engine.come(Wish(1, tokens=100))
    other = engine.come(Wish(2, tokens=100))
    engine.ended(engine.started[-1])
    assert engine.started[-1] == other, "it is his turn"


def test_a_burst_after_one_short_question_is_not_turned_away() -> None:
    engine = Engine(Capacity(32))
    alone = engine.come(Wish(1, tokens=600))
    engine.now_ns += NS_PER_S
    engine.ended(alone)
    engine.now_ns += 10 * NS_PER_S  # 600 tokens in eleven seconds were all that was asked for
    numbers = [engine.come(Wish(tenant, tokens=600)) for tenant in range(160)]
    assert engine.started == [alone, *numbers[:32]]


def test_a_withdrawn_wish_is_gone_and_ending_twice_changes_nothing() -> None:
    engine = Engine(Capacity(1, tokens=100))
    first, second, third = (engine.come(Wish(1, tokens=50)) for _ in range(3))
    engine.ended(second)
    engine.ended(second)
    engine.ended(first)
    engine.ended(first)
    assert engine.started == [first, third]
    assert (engine.scheduler.running, engine.scheduler.waiting, engine.scheduler.tokens) == (1, 0, 50)


def test_slots_with_caches_of_their_own_get_what_they_know() -> None:
    engine = Engine(Capacity(3, slots=True))
    first = engine.come(asking("question"))
    second = engine.come(asking("a question", b"another beginning " * 100))
    assert (engine.slots[first], engine.slots[second]) == (0, 1)
    engine.ended(first)
    engine.ended(second)
    again = engine.come(asking("a question, and what followed", b"another beginning " * 100))
    assert engine.slots[again] == 1
    fresh = engine.come(asking("unheard of", b"a third beginning " * 100))
    assert engine.slots[fresh] == 2, "the slot that was used longest ago, not one that holds something younger"
    third = engine.come(asking("question"))
    assert engine.slots[third] == 0


def test_followers_of_slots_with_caches_of_their_own_do_not_wait() -> None:
    engine = Engine(Capacity(3, slots=True))
    wishes = [engine.come(asking(f"question {number}")) for number in range(3)]
    assert engine.started == wishes
    assert sorted(engine.slots.values()) == [0, 1, 2]


def test_a_prompt_without_whole_blocks_leads_nobody() -> None:
    engine = Engine(Capacity(2))
    wishes = [engine.come(Wish(prompt=Prompt())) for _ in range(2)]
    assert engine.started == wishes
    engine.spoke(wishes[0])
