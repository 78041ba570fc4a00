"""Lines of batches make way between two steps for those who are waited for, and come back."""

import pytest
from tests.unit.scheduling.test_scheduler import Engine

from steelyard.kernel import limits
from steelyard.kernel.clock import NS_PER_MS, NS_PER_S
from steelyard.kernel.prefix import prompt_from
from steelyard.scheduling.wish import Capacity, Wish

DAY_S = 86_400
RETURNS_NS = limits.BATCH_RETURNS_MS * NS_PER_MS


class Resting(Engine):
    """An engine that lets lines of batches rest."""

    def __init__(self, sequences: int, tokens: int = 0) -> None:
        super().__init__(Capacity(sequences, tokens, rests=True))
        self.rested: list[int] = []

    def look(self) -> None:
        while rested := self.scheduler.rests(self.now_ns):
            self.rested += rested
            super().look()
        super().look()

    def lines(self, count: int, *, spoke: bool = True, **wish: int) -> list[int]:
        numbers = [self.come(Wish(1, within_s=DAY_S, **wish)) for _ in range(count)]
        for number in numbers if spoke else ():
            self.spoke(number)
        return numbers


def test_all_but_a_few_rest_beside_an_answer_and_come_back_when_nobody_has_asked_for_a_while() -> None:
    engine = Resting(16)
    lines = engine.lines(12)
    assert engine.started == lines
    chat = engine.come(Wish(2))
    assert sorted(engine.rested) == lines[2:], "an eighth of the places is theirs"
    assert engine.started[-1] == chat
    engine.spoke(chat)
    engine.ended(chat)
    assert engine.started[-1] == chat
    assert engine.scheduler.wakes_ns() == RETURNS_NS
    engine.now_ns += RETURNS_NS
    engine.look()
    assert sorted(engine.started[len(lines) + 1 :]) == lines[2:]
    assert engine.scheduler.wakes_ns() is None


def test_a_line_that_ends_puts_off_nobodys_return() -> None:
    engine = Resting(16)
    lines = engine.lines(12)
    engine.ended(engine.come(Wish(2)))
    engine.now_ns = RETURNS_NS - 1
    engine.ended(lines[0])
    assert engine.scheduler.wakes_ns() == RETURNS_NS


def test_nothing_of_a_batch_is_read_while_a_first_token_is_computed() -> None:
    engine = Resting(16)
    lines = engine.lines(2, spoke=False)
    chat = engine.come(Wish(2))
    assert sorted(engine.rested) == lines
    engine.spoke(chat)
    assert sorted(engine.started[-2:]) == lines, "beside its answer there is room for two"


def test_the_one_whose_deadline_is_last_rests_first() -> None:
    engine = Resting(8)
    soon, late = (engine.come(Wish(1, within_s=within_s)) for within_s in (DAY_S, 2 * DAY_S))
    engine.spoke(soon)
    engine.spoke(late)
    engine.come(Wish(2))
    assert engine.rested == [late]


def test_a_line_near_its_deadline_does_not_rest() -> None:
    engine = Resting(8)
    hurried, other = (engine.come(Wish(1, within_s=within_s)) for within_s in (limits.BATCH_URGENT_S + 10, DAY_S))
    engine.now_ns = 11 * NS_PER_S
    chat = engine.come(Wish(2))
    assert (engine.started, engine.rested) == ([hurried, other, chat], [other])


def test_a_line_that_rests_until_its_deadline_is_near_is_waited_for_like_others() -> None:
    engine = Resting(8)
    line = engine.come(Wish(1, within_s=limits.BATCH_URGENT_S + 10))
    engine.come(Wish(2))
    assert engine.rested == [line]
    engine.now_ns = 11 * NS_PER_S
    engine.look()
    assert engine.started[-1] == line


@pytest.mark.parametrize("spoke", [False, True])
def test_what_cannot_be_taken_up_again_rests_only_before_its_first_token(spoke: bool) -> None:
    engine = Resting(8)
    lines = engine.lines(2, spoke=spoke, unbroken=True)
    engine.come(Wish(2))
    assert sorted(engine.rested) == ([] if spoke else lines)


def test_a_place_and_context_are_made_for_whoever_waits_and_for_nobody_else() -> None:
    engine = Resting(16, tokens=1000)
    lines = engine.lines(2, tokens=400)
    first = engine.come(Wish(2, tokens=500))
    assert (engine.started[-1], engine.rested) == (first, [lines[1]])
    huge = engine.come(Wish(3, tokens=900))
    assert engine.rested == [lines[1]], "it would not find its context all the same"
    engine.ended(first)
    assert (engine.started[-1], engine.rested) == (huge, [lines[1], lines[0]])


def test_every_place_can_be_had_by_those_who_are_waited_for() -> None:
    engine = Resting(16)
    engine.lines(12)
    chats = [engine.come(Wish(2)) for _ in range(16)]
    assert engine.started[12:] == chats
    assert engine.scheduler.running == 16


def test_a_leader_that_rests_makes_the_one_it_made_way_for_lead() -> None:
    engine = Resting(16)
    prompt = prompt_from("m", b"a beginning that both have " * 50)
    line = engine.come(Wish(1, prompt, within_s=DAY_S))
    chat = engine.come(Wish(2, prompt))
    assert (engine.rested, engine.started) == ([line], [line, chat])
    engine.spoke(chat)
    assert engine.started == [line, chat, line]


def test_shares_of_tenants_count_what_was_used_once_however_often_it_rested() -> None:
    engine = Resting(8)
    line = engine.lines(1, tokens=1000)[0]
    for _ in range(3):
        chats = [engine.come(Wish(2)) for _ in range(8)]
        for chat in chats:
            engine.ended(chat)
    assert len(engine.rested) == 3
    engine.now_ns += RETURNS_NS
    engine.look()
    engine.ended(line, used=100)
    assert engine.scheduler._batch._served[1] == 100
    assert engine.scheduler.tokens == 0


def test_an_engine_that_cannot_let_rest_is_asked_for_no_rest() -> None:
    engine = Engine(Capacity(16))
    for _ in range(12):
        engine.come(Wish(1, within_s=DAY_S))
    engine.come(Wish(2))
    assert engine.scheduler.rests(0) == []
