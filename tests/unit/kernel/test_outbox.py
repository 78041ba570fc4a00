"""What leaves together, what leaves at once, and who is told."""

import asyncio
from typing import cast

import pytest

from steelyard.kernel.outbox import Outbox
from steelyard.kernel.run import Signal

LONE_TURNS = 8


class Line:
    """A transport; `room`: how many bytes the system takes."""

    def __init__(self, written: list[bytes], room: int = 100) -> None:
        self.written, self.room, self.closing = written, room, False

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.room -= len(data)

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return max(0, -self.room)


class Sender:
    def __init__(self) -> None:
        self.leaving: Signal[None] = Signal()
        self.told: list[str] = []
        self.leaving.resume = lambda: self.told.append("left")

    def late(self) -> None:
        self.told.append("late")


class Desk:
    """An outbox and a connection."""

    def __init__(self, room: int = 1000) -> None:
        self.outbox, self.written = Outbox(), list[bytes]()
        self.line = Line(self.written, room)

    def send(self, data: bytes, sender: Sender | None = None) -> bool:
        return self.outbox.send(cast(asyncio.Transport, self.line), data, sender)

    async def be_alone(self) -> None:
        for _ in range(LONE_TURNS):
            assert not self.send(b".")
            await asyncio.sleep(0)
        self.written.clear()


async def test_pieces_of_one_turn_leave_at_its_end_in_order_and_their_senders_are_told_behind_the_last() -> None:
    desk, first, second = Desk(), Sender(), Sender()
    assert not desk.send(b"a", first)
    assert not desk.send(b"b", second)
    first.leaving.resume = lambda: first.told.append(b"".join(desk.written).decode())
    assert (desk.written, first.told) == ([], [])
    await asyncio.sleep(0)
    assert (desk.written, first.told, second.told) == ([b"a", b"b"], ["ab"], ["left"])


async def test_who_is_alone_turn_after_turn_waits_for_the_end_of_none() -> None:
    desk, sender = Desk(), Sender()
    await desk.be_alone()
    assert desk.send(b"a", sender)
    assert (desk.written, sender.told) == ([b"a"], [])


async def test_from_time_to_time_a_turn_is_looked_at_and_two_in_one_are_company() -> None:
    desk = Desk()
    await desk.be_alone()
    at_once = 0
    while desk.send(b"a"):
        at_once += 1
        assert at_once < 1000
    desk.send(b"b")
    assert len(desk.written) == at_once > 0
    await asyncio.sleep(0)
    assert not desk.send(b"c")
    assert desk.written[at_once:] == [b"a", b"b"]
    await asyncio.sleep(0)
    assert not desk.send(b"d")


async def test_one_that_stays_alone_goes_on_without_waiting_behind_the_turn_that_was_looked_at() -> None:
    desk = Desk()
    await desk.be_alone()
    while desk.send(b"a"):
        pass
    await asyncio.sleep(0)
    assert desk.send(b"b")


@pytest.mark.parametrize("closing", [False, True])
async def test_a_piece_that_is_not_taken_at_once_is_left_to_its_sender(closing: bool) -> None:
    desk, sender = Desk(LONE_TURNS), Sender()
    await desk.be_alone()
    desk.line.closing = closing
    desk.line.room = 1 if closing else 0
    assert not desk.send(b"a", sender)
    assert (desk.written, sender.told) == ([b"a"], ["late"])
