"""Closes that leave with the next record, or in the loop's next turn: nothing is lost in between."""

import errno
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from tests.fakes.metering import FaultyDisk, closed, opened, order, quote

from steelyard.kernel.clock import ManualClock
from steelyard.kernel.errors import BooksError, CallerError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Closed, End, Opened, Position
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.frames import frame_from, segments
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.reader import read
from steelyard.metering.recovery import recover
from steelyard.metering.slots import Slots

USAGE = Usage(20, 0, 7)


class CountingDisk(FaultyDisk):
    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self.writes += 1
        return super().pwrite(fd, data, offset)


class Desk:
    """A meter whose next turn comes when the test says so."""

    def __init__(self, folder: Path, segment_bytes: int = 1 << 16) -> None:
        self.directory = folder / "w0-1"
        self.disk = CountingDisk()
        self.turn: list[Callable[[], None]] = []
        self.journal = Journal.create(self.directory, segment_bytes=segment_bytes, disk=self.disk)
        self.slots = Slots.create(self.directory / "slots", 2)
        self.meter = Meter(self.journal, self.slots, ManualClock(), EnergyClocks(folder / "energy"), self.turn.append)

    def served(self, number: int) -> Closed:
        reading = self.meter.open(order(number), quote())
        reading.intend(USAGE)
        reading.commit(USAGE)
        return reading.close(End.COMPLETE)

    def next_turn(self) -> None:
        waiting, self.turn[:] = self.turn[:], []
        for one in waiting:
            one()

    def die(self) -> None:
        self.journal._late.clear()
        self.meter.close()

    def records(self) -> list[object]:
        with suppress(BooksError, OSError):  # of a living writer only what is on the medium is read
            self.journal.sync()
        return list(read(self.directory, Position(), until=None, max_records=10**6).records)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    with closing(made.meter):
        yield made


def test_closes_leave_together_in_the_next_turn_and_free_their_slots_then(desk: Desk) -> None:
    first, second = desk.served(1), desk.served(2)
    [_, with_second, _] = desk.records()
    assert with_second == first  # with the second open, in one write
    assert desk.slots.free_count == 1
    before = desk.disk.writes
    desk.next_turn()
    assert desk.disk.writes == before + 1
    assert desk.records()[-1] == second
    assert desk.slots.free_count == 2
    desk.next_turn()
    assert desk.disk.writes == before + 1


def test_whoever_finds_no_slot_has_those_freed_that_wait(desk: Desk) -> None:
    desk.served(1)
    running = desk.meter.open(order(2), quote())
    closing = desk.meter.open(order(3), quote())
    closing.close(End.COMPLETE)
    desk.meter.open(order(4), quote())
    with pytest.raises(CallerError, match="places"):
        desk.meter.open(order(5), quote())
    running.close(End.CLIENT_GONE)
    desk.meter.close()
    assert len(desk.records()) == 7


def test_a_worker_killed_in_between_is_settled_from_its_slot(desk: Desk) -> None:
    closes = desk.served(1)
    desk.die()
    [record] = desk.records()
    assert isinstance(record, Opened)
    [recovered] = recover(desk.directory, [record], ManualClock())
    assert recovered.usage == closes.usage == USAGE
    assert not recovered.short_by_one_read


def test_a_close_of_the_meter_leaves_nothing_waiting(desk: Desk) -> None:
    closes = desk.served(1)
    desk.meter.close()
    assert desk.records()[-1] == closes


async def test_strict_durability_includes_what_waits(desk: Desk) -> None:
    closes = desk.served(1)
    await desk.journal.wait_synced()
    assert desk.records()[-1] == closes
    assert desk.journal.synced == desk.journal.end == desk.journal.due


def test_when_the_common_write_fails_the_closed_keep_their_slots(desk: Desk) -> None:
    desk.served(1)
    desk.disk.bytes_left = 60
    with pytest.raises(CallerError, match="journal"):
        desk.meter.open(order(2), quote())
    assert desk.meter.failed
    assert desk.slots.free_count == 1  # the second's, of whom nothing is on record
    desk.next_turn()
    assert desk.slots.free_count == 1
    with pytest.raises(BooksError):
        desk.journal.append_soon(closed(1), 0)
    desk.meter.close()
    opened_one = desk.records()[0]
    assert isinstance(opened_one, Opened)
    [recovered] = recover(desk.directory, [opened_one], ManualClock())
    assert recovered.usage == USAGE


def test_what_waits_stays_before_a_rotation(tmp_path: Path) -> None:
    """It has its room in the old segment, also on a disk on which no other can be made."""
    disk = CountingDisk()
    journal = Journal.create(tmp_path / "w0-1", segment_bytes=8192, disk=disk)
    disk.full = True
    numbers: list[int] = []
    with pytest.raises(BooksError, match="cannot grow"):
        for number in range(1000):
            journal.append(opened(number))
            numbers.append(number)
    written: list[int] = []
    journal.written = written.extend
    for number in numbers:
        journal.append_soon(closed(number), number)
    with pytest.raises(BooksError, match="cannot grow"):
        for number in range(1000, 2000):
            journal.append(opened(number))
            numbers.append(number)
    assert written == [number for number in numbers if number < 1000]
    journal.close()
    assert segments(tmp_path / "w0-1") == [0]
    kept = read(tmp_path / "w0-1", Position(), until=None, max_records=10**6)
    assert len(kept.records) == len(numbers) + len(written)
    assert not kept.torn


def test_nothing_is_written_behind_closes_that_could_not_be(tmp_path: Path) -> None:
    """Neither into the next segment, on a disk that says no once."""

    class Once(CountingDisk):
        refuses_bytes = len(frame_from(closed(1)))  # closes by themselves: before a rotation

        def pwrite(self, fd: int, data: bytes, offset: int) -> int:
            if len(data) == self.refuses_bytes:
                self.refuses_bytes = 0
                raise OSError(errno.EIO, "Input/output error")
            return super().pwrite(fd, data, offset)

    journal = Journal.create(tmp_path / "w0-1", segment_bytes=8192, disk=Once(), threaded=False)
    with closing(journal), pytest.raises(BooksError):
        for number in range(1, 100):
            journal.append(opened(number))
            journal.append_soon(closed(number), number)
    assert journal.failed
    assert segments(tmp_path / "w0-1") == [0]
