"""How one end of the socket hears the other: whole messages, in order, and no more of them in one turn than is good for
whoever else waits for the loop."""

import asyncio

import msgspec

from steelyard.kernel import limits
from steelyard.ledger.wire import NOTICE, Link, frame

COUNT = 40
LONG = "x" * (limits.SOCKET_HEARD_AT_ONCE_BYTES // 8)


class Listener(Link):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def on_message(self, number: int, op: str, payload: msgspec.Raw) -> None:
        self.heard.append(op)

    def on_gone(self) -> None:
        self.heard.append("gone")


def said(first: int, count: int) -> bytes:
    return b"".join(frame(NOTICE, str(number), LONG) for number in range(first, first + count))


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


async def test_a_long_read_is_heard_in_several_turns() -> None:
    link = Listener()
    link.data_received(said(0, COUNT))
    turns = []
    while len(link.heard) < COUNT:
        turns.append(len(link.heard))
        await asyncio.sleep(0)
    assert 0 < turns[0] <= 8
    assert len(turns) >= COUNT // 10
    assert link.heard == numbers(COUNT)


async def test_what_comes_meanwhile_is_heard_behind_it() -> None:
    link = Listener()
    whole = said(0, COUNT + 2)
    cut = len(said(0, COUNT)) + 100  # amid a message
    link.data_received(whole[:cut])
    assert len(link.heard) < COUNT
    link.data_received(whole[cut:])
    assert len(link.heard) < COUNT
    while len(link.heard) < COUNT + 2:
        await asyncio.sleep(0)
    assert link.heard == numbers(COUNT + 2)


async def test_who_is_gone_has_been_heard_to_the_end() -> None:
    link = Listener()
    link.data_received(said(0, COUNT))
    link.connection_lost(None)
    assert link.heard == [*numbers(COUNT), "gone"]
    await asyncio.sleep(0)
    assert link.heard == [*numbers(COUNT), "gone"]
