"""The gate: coroutines that wait for their turn, leave, and are cancelled at any moment."""

import asyncio

import pytest

from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.prefix import prompt_from
from steelyard.scheduling.gate import Capacity, Gate, Place, QueueFull, Wish

LONG = Wish(prompt=prompt_from("m", b"a system prompt " * 100))


async def waiting(gate: Gate, count: int) -> None:
    while gate.waiting != count:
        await asyncio.sleep(0)


async def test_a_place_is_taken_at_once_and_the_next_one_waits_until_it_is_left() -> None:
    gate = Gate(Capacity(1), SystemClock())
    with await gate.enter(Wish(1)) as place:
        assert place.slot == -1
        second = asyncio.ensure_future(gate.enter(Wish(2)))
        await waiting(gate, 1)
    place.leave()
    (await second).leave()
    assert (gate.running, gate.waiting) == (0, 0)


async def test_followers_are_let_in_by_the_first_token() -> None:
    gate = Gate(Capacity(8), SystemClock())
    leader = await gate.enter(LONG)
    followers = [asyncio.ensure_future(gate.enter(LONG)) for _ in range(3)]
    await waiting(gate, 3)
    leader.spoke()
    leader.spoke()
    places = await asyncio.gather(*followers)
    assert gate.running == 4
    for place in (leader, *places):
        place.leave()


async def test_a_leader_that_is_cancelled_makes_the_next_one_lead() -> None:
    gate = Gate(Capacity(8), SystemClock())

    async def lead(place: "asyncio.Future[Place]") -> None:
        with await gate.enter(LONG) as mine:
            place.set_result(mine)
            await asyncio.Event().wait()

    place = asyncio.get_running_loop().create_future()
    leader = asyncio.ensure_future(lead(place))
    await place
    follower = asyncio.ensure_future(gate.enter(LONG))
    await waiting(gate, 1)
    leader.cancel()
    (await follower).leave()
    assert gate.running == 0


@pytest.mark.parametrize("granted", [False, True])
async def test_one_who_is_cancelled_at_the_gate_leaves_no_place_taken(granted: bool) -> None:
    gate = Gate(Capacity(1), SystemClock())
    place = await gate.enter(Wish(1))
    other = asyncio.ensure_future(gate.enter(Wish(1)))
    await waiting(gate, 1)
    if granted:
        place.leave()  # it is his now, but he has not run yet
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    place.leave()
    assert (gate.running, gate.waiting) == (0, 0)


async def test_the_wait_for_a_leader_ends_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.scheduling.scheduler._AWAITED_NS", 1_000_000)
    gate = Gate(Capacity(8), SystemClock())
    places = [await gate.enter(LONG), await gate.enter(LONG)]
    assert gate.running == 2
    for place in places:
        place.leave()


async def test_a_full_line_refuses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WISHES_WAITING_MAX", 0)
    with pytest.raises(QueueFull):
        await Gate(Capacity(1), SystemClock()).enter(Wish())
