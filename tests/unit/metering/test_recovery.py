"""After a crash: from the files alone, never over, flagged when short."""

from pathlib import Path

import msgspec
import pytest
from tests.fakes.metering import FaultyDisk, closed, commit, hear, intend, opened, order, quote, request_id
from tests.unit.metering.test_slots import version_1

from steelyard.kernel.clock import ManualClock
from steelyard.kernel.errors import BooksError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Closed, End, Opened, Position
from steelyard.metering.energy import CpuClock, EnergyClocks, clock_path
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.reader import read
from steelyard.metering.recovery import make_durable, recover
from steelyard.metering.slots import Slots

CLOCK = ManualClock()


def series(tmp_path: Path) -> tuple[Journal, Slots]:
    directory = tmp_path / "w0-1"
    journal = Journal.create(directory, segment_bytes=1 << 16)
    return journal, Slots.create(directory / "slots", 4)


def unclosed(directory: Path) -> list[Opened]:
    found: dict[bytes, Opened] = {}
    for record in read(directory, Position(), until=None, max_records=10**6).records:
        if isinstance(record, Opened):
            found[record.request_id] = record
        else:
            found.pop(record.request_id, None)
    return list(found.values())


def recovered(tmp_path: Path) -> list[Closed]:
    return recover(tmp_path / "w0-1", unclosed(tmp_path / "w0-1"), CLOCK)


def test_an_interrupted_request_is_settled_at_its_committed_counts(tmp_path: Path) -> None:
    cpu = [0]
    engine = CpuClock(clock_path(tmp_path / "energy", "local"), lambda: cpu[0])
    journal, slots = series(tmp_path)
    clock = ManualClock()
    meter = Meter(journal, slots, clock, EnergyClocks(tmp_path / "energy"))
    done = meter.open(order(1), quote())
    running = meter.open(order(2), quote(watts_milli=10_000))
    clock.advance(40)
    running.intend(Usage(20, 0, 1))
    running.commit(Usage(20, 0, 1))
    done.close(End.COMPLETE)
    cpu[0] += 1_000_000
    engine.tick(1)
    clock.advance(60)
    running.intend(Usage(20, 0, 7))
    running.commit(Usage(20, 0, 7))
    running.intend(Usage(20, 0, 9))
    meter.close()  # the process ends here
    engine.close()
    [record] = recovered(tmp_path)
    assert record == Closed(
        request_id=request_id(2),
        closed_ns=max(CLOCK.now_ns(), running.opened.opened_ns),
        usage=Usage(20, 0, 7, cpu_ns=1_000_000, energy_uj=10_000),
        end="worker_died",
        first_token_ns=40,
        duration_ns=100,
        short_by_one_read=True,
        heard=Usage(20, 0, 9),
    )
    assert recovered(tmp_path) == [record]  # killed in recovery and run again: the same


@pytest.mark.parametrize("intended", [False, True])
def test_zero_tokens_delivered_are_charged_nothing(tmp_path: Path, intended: bool) -> None:
    journal, slots = series(tmp_path)
    slots.claim(request_id(1))
    journal.append(opened(1, slot=0))
    intend(slots, 0, Usage(20, 0, 0))
    commit(slots, 0)  # the role chunk
    if intended:
        intend(slots, 0, Usage(20, 0, 1))
    journal.close()
    slots.close()
    [record] = recovered(tmp_path)
    assert record.usage == Usage()
    assert record.short_by_one_read == intended


def test_what_has_no_output_tokens_is_charged_once_it_has_left(tmp_path: Path) -> None:
    journal, slots = series(tmp_path)
    for number, sent in enumerate((True, False)):
        slots.claim(request_id(number))
        journal.append(msgspec.structs.replace(opened(number, slot=number), max_tokens=0))
        intend(slots, number, Usage(20, 0, 0))
        if sent:
            commit(slots, number)
    journal.close()
    slots.close()
    whole, cut = recovered(tmp_path)
    assert (whole.usage.prompt, whole.short_by_one_read) == (20, False)
    assert (cut.usage.prompt, cut.short_by_one_read) == (0, True)


def test_a_slot_that_went_on_to_another_request_says_nothing(tmp_path: Path) -> None:
    """Pitfall 8: the request id in the slot decides."""
    journal, slots = series(tmp_path)
    journal.append(opened(1, slot=0))
    slots.claim(request_id(2))
    journal.append(opened(2, slot=0))
    intend(slots, 0, Usage(20, 0, 5))
    commit(slots, 0)
    journal.close()
    slots.close()
    first, second = recovered(tmp_path)
    assert (first.request_id, first.usage, first.short_by_one_read) == (request_id(1), Usage(), True)
    assert (second.request_id, second.usage, second.short_by_one_read) == (request_id(2), Usage(20, 0, 5), False)


def test_the_close_in_the_journal_wins_over_the_slot(tmp_path: Path) -> None:
    """Pitfall 8: killed between the close record and the freeing of the slot."""
    journal, slots = series(tmp_path)
    slots.claim(request_id(1))
    journal.append(opened(1, slot=0))
    intend(slots, 0, Usage(20, 0, 5))
    commit(slots, 0)
    journal.append(closed(1))
    journal.close()
    slots.close()
    assert recovered(tmp_path) == []


def test_a_freed_slot_still_settles_a_close_that_was_lost(tmp_path: Path) -> None:
    """Power loss: the slot's page reached the medium, the close record did not."""
    journal, slots = series(tmp_path)
    slots.claim(request_id(1))
    journal.append(opened(1, slot=0))
    intend(slots, 0, Usage(20, 0, 5))
    commit(slots, 0)
    slots.free(0)
    journal.close()
    slots.close()
    [record] = recovered(tmp_path)
    assert record.usage == Usage(20, 0, 5)


def test_without_a_slot_file_nothing_is_charged_and_the_record_says_so(tmp_path: Path) -> None:
    journal, slots = series(tmp_path)
    journal.append(opened(1, slot=0))
    journal.append(opened(2, slot=99))
    journal.close()
    slots.close()
    assert [record.short_by_one_read for record in recovered(tmp_path)] == [True, True]
    (tmp_path / "w0-1" / "slots").write_bytes(b"")
    assert [record.usage for record in recovered(tmp_path)] == [Usage(), Usage()]
    (tmp_path / "w0-1" / "slots").unlink()
    assert [record.usage for record in recovered(tmp_path)] == [Usage(), Usage()]


def test_a_living_writer_is_never_recovered(tmp_path: Path) -> None:
    """A stopped process is alive: it may wake up and go on writing."""
    journal, slots = series(tmp_path)
    journal.append(opened(1))
    with pytest.raises(BooksError, match="still has a writer"):
        recover(tmp_path / "w0-1", [opened(1)], CLOCK)
    journal.close()
    slots.close()


def test_a_request_does_not_end_before_it_began(tmp_path: Path) -> None:
    journal, slots = series(tmp_path)
    journal.append(opened(1, opened_ns=CLOCK.now_ns() + 10))
    journal.close()
    slots.close()
    assert recovered(tmp_path)[0].closed_ns == CLOCK.now_ns() + 10


def test_all_that_a_dead_writer_left_becomes_durable(tmp_path: Path) -> None:
    """Found by the simulator: after a kill and then a power loss the books had more than the journal."""
    journal, slots = series(tmp_path)
    journal.close()
    slots.close()
    synced: list[str] = []

    class Files(FaultyDisk):
        def sync(self, fd: int) -> None:
            synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
            super().sync(fd)

    disk = Files()
    make_durable(tmp_path / "w0-1", disk)
    assert synced == ["00000000.journal", "lock", "slots"]
    disk.sync_fails = True
    with pytest.raises(BooksError, match="w0-1 cannot be synced: Input/output error"):
        make_durable(tmp_path / "w0-1", disk)


def test_what_an_older_version_left_is_settled_after_an_upgrade(tmp_path: Path) -> None:
    journal, slots = series(tmp_path)
    journal.append(opened(9, slot=1))
    journal.close()
    slots.close()
    version_1(tmp_path / "w0-1" / "slots", request_id(9))
    [record] = recovered(tmp_path)
    assert record.usage == Usage(20, 5, 2, cpu_ns=80, energy_uj=record.usage.energy_uj)
    assert record.short_by_one_read and not record.estimated


@pytest.mark.parametrize(
    "usage",
    [Usage(20, 0, 1, cache_write=3, reasoning=2), Usage(reused_input=20, reused_output=3)],
    ids=["new", "reused"],
)
@pytest.mark.parametrize("estimated", [False, True])
def test_who_counted_survives_the_worker(tmp_path: Path, estimated: bool, usage: Usage) -> None:
    journal, slots = series(tmp_path)
    meter = Meter(journal, slots, ManualClock(), EnergyClocks(tmp_path / "energy"))
    running = meter.open(order(1), quote())
    hear(running, 0, estimated)
    running.intend(usage)
    running.commit(usage)
    hear(running, 0, not estimated)
    running.intend(usage + (Usage(reused_output=1) if usage.is_reused else Usage(output=1)))
    meter.close()
    [record] = recovered(tmp_path)
    assert (record.usage, record.estimated) == (usage, estimated)
