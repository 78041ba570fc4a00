"""Pieces that are passed on without waiting: what is committed, in every order of leaving, failing and closing."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.metering import FaultyDisk, order, quote
from tests.fakes.parties import FakeAnswer

from steelyard.kernel.clock import ManualClock
from steelyard.kernel.errors import ClientGone, UpstreamError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Event
from steelyard.kernel.run import Signal
from steelyard.kernel.settled import End
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter, Reading
from steelyard.metering.slots import Slots


class SlowAnswer(FakeAnswer):
    """Its pieces leave when the test says so: `leave` is the turn's end."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving: list[Signal[None]] = []

    def send(self, piece: bytes) -> Signal[None]:  # type: ignore[override]
        self.sent.append(piece)
        self.leaving.append(Signal())
        return self.leaving[-1]

    def leave(self) -> None:
        self.leaving.pop(0).give()


class Desk:
    """One slot, and what its reader after a kill would find in it."""

    def __init__(self, folder: Path) -> None:
        journal = Journal.create(folder / "w0-1", segment_bytes=1 << 16, disk=FaultyDisk())
        self.slots = Slots.create(folder / "w0-1" / "slots", 1)
        self.meter = Meter(journal, self.slots, ManualClock(), EnergyClocks(folder / "energy"))
        self.answer = SlowAnswer()

    def open(self, number: int = 1) -> Reading:
        return self.meter.open(order(number), quote())

    def counts(self) -> tuple[int, int]:
        """Output tokens as intended and as committed."""
        slot = self.slots.read_slot(0)
        return slot.intended.output, slot.committed.output


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.meter.close()


def used(output: int) -> Usage:
    return Usage(20, 0, output)


def said(text: str, output: int, *, estimated: bool = False) -> Event:
    return Event(text, used(output), estimated=estimated)


async def test_it_is_committed_when_it_has_left_and_nobody_waits(desk: Desk) -> None:
    reading = desk.open()
    assert reading.pass_on(desk.answer, 0, said("a", 1), used(1)) is None
    assert (desk.counts(), reading.delivered) == ((1, 0), Usage())
    desk.answer.leave()
    assert (desk.counts(), reading.delivered) == ((1, 1), used(1))
    assert not reading.close(End.COMPLETE).short_by_one_read


async def test_the_next_one_is_intended_when_the_one_before_is_committed(desk: Desk) -> None:
    """Two in one turn: were both intended at once, the first's commit would count the second."""
    reading = desk.open()
    reading.pass_on(desk.answer, 0, said("a", 1), used(1))
    sending = reading.pass_on(desk.answer, 0, said("b", 2), used(2))
    assert sending is not None
    behind = asyncio.ensure_future(sending)
    await asyncio.sleep(0)
    assert (desk.counts(), desk.answer.sent) == ((1, 0), [b"0:a;"])
    desk.answer.leave()
    await asyncio.sleep(0)
    assert (desk.counts(), desk.answer.sent) == ((2, 1), [b"0:a;", b"0:b;"])
    desk.answer.leave()
    await behind
    assert desk.counts() == (2, 2)
    assert reading.pass_on(desk.answer, 0, said("c", 3), used(3)) is None


async def test_the_last_piece_is_waited_for_behind_the_one_before(desk: Desk) -> None:
    reading = desk.open()
    reading.pass_on(desk.answer, 0, said("a", 1), used(1))
    sending = reading.deliver(desk.answer, b"end", used(1))
    assert sending is not None
    last = asyncio.ensure_future(sending)
    await asyncio.sleep(0)
    assert desk.answer.sent == [b"0:a;"]
    desk.answer.leave()
    await asyncio.sleep(0)
    assert not last.done()
    desk.answer.leave()
    await last
    reading.commit(used(1))
    assert reading.close(End.COMPLETE).usage == used(1)


async def test_what_never_leaves_is_not_counted_and_whoever_comes_next_is_told(desk: Desk) -> None:
    reading = desk.open()
    reading.pass_on(desk.answer, 0, said("a", 1), used(1))
    desk.answer.leave()
    reading.pass_on(desk.answer, 0, said("b", 2), used(2))
    desk.answer.leaving.pop().fail(ClientGone("gone"))
    assert desk.counts() == (2, 1)
    sending = reading.pass_on(desk.answer, 0, said("c", 3), used(3))
    assert sending is not None
    with pytest.raises(ClientGone):
        await sending
    closed = reading.close(End.CLIENT_GONE)
    assert (closed.usage, closed.short_by_one_read) == (used(1), True)


async def test_what_leaves_after_the_close_touches_no_slot(desk: Desk) -> None:
    """By then the slot is another request's."""
    reading = desk.open()
    reading.pass_on(desk.answer, 0, said("a", 1), used(1))
    closed = reading.close(End.DRAINED)
    assert (closed.usage, closed.short_by_one_read) == (Usage(), True)
    other = desk.open(2)
    other.intend(used(7))
    desk.answer.leave()
    assert desk.counts() == (7, 0)
    assert reading.delivered == Usage()


async def test_a_failure_is_told_behind_what_was_passed_on(desk: Desk) -> None:
    reading = desk.open()
    reading.pass_on(desk.answer, 0, said("a", 1), used(1))
    failing = asyncio.ensure_future(reading.fail(desk.answer, UpstreamError("fake", "is broken")))
    await asyncio.sleep(0)
    assert desk.answer.sent == [b"0:a;"]
    desk.answer.leave()
    await asyncio.sleep(0)
    assert (desk.answer.sent, desk.counts()) == ([b"0:a;", b"failed"], (1, 1))
    desk.answer.leave()
    await failing
    closed = reading.close(End.UPSTREAM_ERROR)
    assert (closed.usage, closed.short_by_one_read) == (used(1), False)


async def test_one_who_is_cancelled_while_he_waits_has_what_had_left(desk: Desk) -> None:
    reading = desk.open()
    reading.pass_on(desk.answer, 0, said("a", 1), used(1))
    sending = reading.pass_on(desk.answer, 0, said("b", 2), used(2))
    assert sending is not None
    waiting = asyncio.ensure_future(sending)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert reading.close(End.CLIENT_GONE).short_by_one_read
    desk.answer.leave()
    assert desk.answer.sent == [b"0:a;"]


async def test_an_answer_that_has_to_be_waited_for_is(desk: Desk) -> None:
    """Over ASGI nobody tells when a piece has left but the server's own coroutine."""
    reading, answer = desk.open(), FakeAnswer(pieces=1)
    sending = reading.pass_on(answer, 0, said("a", 1), used(1))
    assert sending is not None and desk.counts() == (1, 0)
    await sending
    assert desk.counts() == (1, 1)
    sending = reading.pass_on(answer, 0, said("b", 2), used(2))
    assert sending is not None
    with pytest.raises(ClientGone):
        await sending
    assert desk.counts() == (2, 1)


async def test_whose_counts_they_are_is_that_of_what_left(desk: Desk) -> None:
    """Another event may have been heard before the one before has left."""
    reading = desk.open()
    reading.pass_on(desk.answer, 0, said("a", 1), used(1))
    sending = reading.pass_on(desk.answer, 0, said("b", 2, estimated=True), used(2))
    assert sending is not None
    waiting = asyncio.ensure_future(sending)
    desk.answer.leave()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not reading.close(End.CLIENT_GONE).estimated
