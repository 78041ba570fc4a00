"""Readings: what a close record says, and what happens when a part refuses."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import msgspec
import pytest
from tests.fakes.metering import FaultyDisk, hear, opened, order, quote, request_id

from steelyard.kernel.clock import NS_PER_S, ManualClock
from steelyard.kernel.errors import CallerError
from steelyard.kernel.offers import Offer
from steelyard.kernel.quantities import Usage
from steelyard.kernel.records import Caller, Quote
from steelyard.kernel.settled import Closed, End, Moved, Opened, Position
from steelyard.kernel.tariff import Tariff, Thinking
from steelyard.metering.closing import settled_usage
from steelyard.metering.energy import CpuClock, EnergyClock, EnergyClocks, clock_path
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.reader import read
from steelyard.metering.slots import Slots


@dataclass
class Desk:
    """A meter with everything around it under the test's control."""

    directory: Path
    disk: FaultyDisk
    slots: Slots
    clock: ManualClock
    meter: Meter
    engine: CpuClock
    cpu: list[int]

    def records(self) -> list[Opened | Closed]:
        return read(self.directory, Position(), until=None, max_records=10**6).records

    def gpu(self, name: str = "gpu") -> tuple[EnergyClock, Quote]:
        """The clock of a GPU engine, and a quote for it at 10 W."""
        there = quote(watts_milli=10_000)
        there = msgspec.structs.replace(there, offer=msgspec.structs.replace(there.offer, upstream=name))
        return EnergyClock(clock_path(self.directory.parent / "energy", name)), there


def unmeasured(gpu: EnergyClock) -> None:
    """Its counter could not be read, once."""
    gpu.add(0, 1, None)
    gpu.add(0, 1, 0)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    disk, clock, cpu = FaultyDisk(), ManualClock(), [0]
    engine = CpuClock(clock_path(tmp_path / "energy", "local"), lambda: cpu[0])
    journal = Journal.create(tmp_path / "w0-1", segment_bytes=1 << 16, disk=disk)
    slots = Slots.create(tmp_path / "w0-1" / "slots", 2)
    meter = Meter(journal, slots, clock, EnergyClocks(tmp_path / "energy"))
    yield Desk(tmp_path / "w0-1", disk, slots, clock, meter, engine, cpu)
    meter.close()
    engine.close()


def test_a_whole_answer_is_closed_with_all_it_used(desk: Desk) -> None:
    reading = desk.meter.open(order(1, sequences=2), quote(watts_milli=10_000))
    assert desk.meter.in_flight == 1
    assert not reading.started
    desk.clock.advance(300)
    reading.intend(Usage(20, 5, 1))
    assert reading.started
    assert reading.delivered == Usage()
    reading.commit(Usage(20, 5, 1))
    desk.cpu[0] += NS_PER_S
    desk.engine.tick(2)
    desk.clock.advance(700)
    reading.intend(Usage(20, 5, 8))
    reading.commit(Usage(20, 5, 8))
    assert reading.delivered == Usage(20, 5, 8)
    record = reading.close(End.COMPLETE)
    assert record == Closed(
        request_id=request_id(1),
        closed_ns=desk.clock.now_ns(),
        usage=Usage(20, 5, 8, cpu_ns=NS_PER_S, energy_uj=10_000_000),  # half a second for each of two sequences
        end="complete",
        first_token_ns=300,
        duration_ns=1_000,
    )
    assert desk.meter.in_flight == 0
    assert desk.slots.free_count == 2
    desk.meter.close()
    assert desk.records() == [reading.opened, record]


def test_a_moved_request_is_settled_where_it_is_served_and_costs_what_that_takes(desk: Desk) -> None:
    other = CpuClock(clock_path(desk.directory.parent / "energy", "elsewhere"), lambda: desk.cpu[0])
    reading = desk.meter.open(order(1), quote(watts_milli=10_000))
    desk.cpu[0] += NS_PER_S
    desk.engine.tick(1)
    other.tick(1)
    there, cost = msgspec.structs.replace, Tariff(7, "elsewhere", "CNY", 0, (), watts_milli=2_000)
    offer = there(quote().offer, upstream="elsewhere")
    reading.move(there(quote(), offer=offer, cost=cost, max_tokens=9))
    desk.cpu[0] += 2 * NS_PER_S
    other.tick(1)
    reading.intend(Usage(1, 0, 1))
    assert desk.slots.read_slot(reading.opened.slot).watts_milli == 2_000
    reading.commit(Usage(1, 0, 1))
    closed = reading.close(End.COMPLETE)
    other.close()
    desk.meter.close()
    opened, moved, written = desk.records()
    assert isinstance(opened, Opened) and isinstance(moved, Moved) and written == closed
    assert moved.moves(opened) == reading.opened
    assert (reading.opened.upstream, reading.opened.cost_id, reading.opened.max_tokens) == ("elsewhere", 7, 9)
    assert reading.opened.hold_nano == opened.hold_nano
    assert (closed.usage.cpu_ns, closed.usage.energy_uj) == (2 * NS_PER_S, 4_000_000)


def test_each_field_of_an_open_record_stands_in_its_place(desk: Desk) -> None:
    there = msgspec.structs.replace
    price, cost = Tariff(11, "m", "CNY", 0, (), met=12), Tariff(13, "there", "CNY", 0, (), watts_milli=14, met=15)
    caller, offer = Caller(16, 17, 18, "t", "p", "CNY"), Offer(19, "other", "there", "h:1", "m", 99, 99)
    asked = there(order(20, sequences=21), params={"enable_thinking": msgspec.Raw(b"true")})
    terms = Quote(caller, offer, price, cost, 22, 23, False, 24, "w0-1", None, 25)
    reading = desk.meter.open(asked, terms, b"why")
    assert reading.opened == Opened(
        request_id=request_id(20),
        opened_ns=24,
        slot=0,
        tenant_id=18,
        project_id=17,
        key_id=16,
        model="other",
        upstream="there",
        price_id=11,
        cost_id=13,
        currency="CNY",
        hold_nano=22,
        max_tokens=23,
        sequences=21,
        stream=True,
        lease="w0-1",
        rate_id=25,
        why=b"why",
        tried=(),
        price_when=12,
        cost_when=15,
        thinking=Thinking.ON,
    )
    assert desk.slots.read_slot(0).watts_milli == 14
    desk.clock.advance(300)
    hear(reading, 0, estimated=True)
    reading.intend(Usage(20, 0, 3))
    reading.commit(Usage(20, 0, 3))
    reading.intend(Usage(20, 0, 4))
    reading.heard(Usage(20, 0, 9))
    desk.clock.advance(700)
    assert reading.close(End.CLIENT_GONE) == Closed(
        request_id=request_id(20),
        closed_ns=desk.clock.now_ns(),
        usage=Usage(20, 0, 3),
        end="client_gone",
        first_token_ns=300,
        duration_ns=1_000,
        short_by_one_read=True,
        estimated=True,
        heard=Usage(20, 0, 9),
        measured_uj=0,
    )


def test_close_is_idempotent(desk: Desk) -> None:
    reading = desk.meter.open(order(1), quote())
    first = reading.close(End.CLIENT_GONE)
    assert reading.close(End.COMPLETE) is first
    assert desk.meter.in_flight == 0
    desk.meter.close()
    assert len(desk.records()) == 2


def test_a_piece_that_was_not_drained_is_not_charged_and_flagged(desk: Desk) -> None:
    reading = desk.meter.open(order(1), quote())
    reading.intend(Usage(20, 0, 3))
    reading.commit(Usage(20, 0, 3))
    reading.intend(Usage(20, 0, 4))
    record = reading.close(End.CLIENT_GONE)
    assert record.usage == Usage(20, 0, 3)
    assert record.short_by_one_read


@pytest.mark.parametrize(("end", "prompt"), [(End.CLIENT_GONE, 0), (End.UPSTREAM_ERROR, 0), (End.COMPLETE, 20)])
def test_an_answer_cut_before_its_first_token_is_worth_nothing(desk: Desk, end: End, prompt: int) -> None:
    reading = desk.meter.open(order(1), quote(watts_milli=1_000))
    desk.cpu[0] += 1_000_000
    desk.engine.tick(1)
    reading.intend(Usage(20, 0, 0))  # the role chunk: text of no token
    reading.commit(Usage(20, 0, 0))
    assert reading.close(end).usage == Usage(prompt, 0, 0, cpu_ns=1_000_000, energy_uj=1_000)


def test_nothing_delivered_is_closed_with_nothing(desk: Desk) -> None:
    record = desk.meter.open(order(1), quote()).close(End.REFUSED)
    assert record.usage == Usage()
    assert record.first_token_ns == 0
    assert not record.short_by_one_read


def test_committing_something_else_than_intended_is_a_bug(desk: Desk) -> None:
    reading = desk.meter.open(order(1), quote())
    reading.intend(Usage(20, 0, 1))
    with pytest.raises(ValueError, match="intended"):
        reading.commit(Usage(20, 0, 2))
    assert reading.close(End.UPSTREAM_ERROR).usage == Usage()


def test_more_requests_than_slots_are_told_to_wait(desk: Desk) -> None:
    readings = [desk.meter.open(order(number), quote()) for number in (1, 2)]
    with pytest.raises(CallerError) as refusal:
        desk.meter.open(order(3), quote())
    assert (refusal.value.status, refusal.value.code) == (429, "overloaded")
    readings[0].close(End.COMPLETE)
    assert desk.meter.open(order(3), quote()).opened.slot == readings[0].opened.slot


def test_a_failed_journal_opens_nothing_and_keeps_the_slots_of_the_running(desk: Desk) -> None:
    """Pitfall 6: new paid requests are refused, running streams finish on their slots."""
    reading = desk.meter.open(order(1), quote())
    reading.intend(Usage(20, 0, 3))
    reading.commit(Usage(20, 0, 3))
    desk.disk.bytes_left = 10
    with pytest.raises(CallerError) as refusal:
        desk.meter.open(order(2), quote())
    assert (refusal.value.status, refusal.value.code) == (503, "journal_failed")
    assert desk.meter.failed
    assert desk.slots.free_count == 1
    record = reading.close(End.COMPLETE)
    assert record.usage == Usage(20, 0, 3)
    assert desk.meter.in_flight == 0
    assert desk.slots.free_count == 1  # not given back: recovery reads it
    assert desk.slots.read_slot(reading.opened.slot).committed == Usage(20, 0, 3)


def test_a_retired_meter_lets_the_running_finish(desk: Desk) -> None:
    reading = desk.meter.open(order(1), quote())
    desk.meter.retire()
    with pytest.raises(CallerError) as refusal:
        desk.meter.open(order(2), quote())
    assert refusal.value.code == "draining"
    reading.close(End.DRAINED)
    desk.meter.close()
    assert len(desk.records()) == 2


def test_the_wall_clock_may_step_back_but_the_journal_does_not(desk: Desk) -> None:
    """Pitfall 11."""
    first = desk.meter.open(order(1), quote(priced_ns=desk.meter.now_ns()))
    desk.clock._now_ns -= 3600 * NS_PER_S
    desk.clock._monotonic_ns += 50
    second = desk.meter.open(order(2), quote(priced_ns=desk.meter.now_ns()))
    record = first.close(End.COMPLETE)
    assert second.opened.opened_ns >= first.opened.opened_ns
    assert record.closed_ns >= first.opened.opened_ns
    assert record.duration_ns == 50


def test_an_upstream_without_a_clock_costs_no_cpu(desk: Desk) -> None:
    (desk.directory.parent / "energy" / "local.clock").unlink()
    reading = desk.meter.open(order(1), quote(watts_milli=1_000))
    assert reading.close(End.COMPLETE).usage == Usage()


def test_counts_are_estimated_while_a_sequence_has_no_others(desk: Desk) -> None:
    reading = desk.meter.open(order(1, sequences=2), quote())
    for sequence, estimated in ((0, True), (1, True), (0, False)):
        hear(reading, sequence, estimated)
        reading.intend(Usage(20, 0, 1))
        reading.commit(Usage(20, 0, 1))
    hear(reading, 1, False)
    reading.intend(Usage(20, 0, 2))
    assert reading.close(End.CLIENT_GONE).estimated, "what was told of both has not left"
    whole = desk.meter.open(order(2), quote())
    hear(whole, 0, True)
    hear(whole, 0, False)
    whole.intend(Usage(20, 0, 1))
    whole.commit(Usage(20, 0, 1))
    assert not whole.close(End.COMPLETE).estimated


def test_an_answer_cut_in_the_middle_of_its_reasoning_is_charged(desk: Desk) -> None:
    reading = desk.meter.open(order(1), quote())
    thought = Usage(20, 0, 0, cache_write=4, reasoning=3)
    reading.intend(thought)
    reading.commit(thought)
    assert reading.close(End.CLIENT_GONE).usage == thought


def test_measured_energy_is_kept_apart_from_modelled(desk: Desk) -> None:
    gpu, there = desk.gpu()
    gpu.add(1, 1, 0)
    reading = desk.meter.open(order(1, sequences=2), there)
    gpu.add(NS_PER_S, 4, 8_000_000)
    assert reading.spent(Usage()).energy_uj == 4_000_000
    reading.intend(Usage(1, 0, 1))
    reading.commit(Usage(1, 0, 1))
    record = reading.close(End.COMPLETE)
    assert (record.usage.cpu_ns, record.usage.energy_uj, record.measured_uj) == (NS_PER_S // 2, 4_000_000, 4_000_000)
    reading = desk.meter.open(order(2), there)
    gpu.add(NS_PER_S, 1, None)
    record = reading.close(End.COMPLETE)
    assert (record.usage.energy_uj, record.measured_uj) == (10_000_000, 0)
    gpu.close()


def test_what_the_engine_does_while_a_request_waits_is_not_its_own(desk: Desk) -> None:
    left, reading = desk.meter.open(order(1), quote()), desk.meter.open(order(2, sequences=2), quote(10_000))
    left.waits()
    reading.waits()
    desk.cpu[0] += NS_PER_S
    desk.engine.tick(1)
    assert left.close(End.CLIENT_GONE).usage == Usage(), "it never began"
    reading.begins()
    desk.cpu[0] += 2 * NS_PER_S
    desk.engine.tick(1)
    reading.begins()
    desk.cpu[0] += 6 * NS_PER_S
    desk.engine.tick(2)
    reading.intend(Usage(20, 0, 2))
    assert desk.slots.read_slot(reading.opened.slot).intended.cpu_ns == 8 * NS_PER_S
    reading.commit(Usage(20, 0, 2))
    used = reading.close(End.COMPLETE).usage
    assert (used.cpu_ns, used.energy_uj) == (8 * NS_PER_S, 80_000_000)


def test_the_engine_is_told_how_many_sequences_it_has_of_ours(desk: Desk) -> None:
    (first, here), (second, elsewhere) = desk.gpu(), desk.gpu("gpu-2")
    one, two = desk.meter.open(order(1, sequences=2), here), desk.meter.open(order(2), here)
    assert first.running() == 3
    two.waits()
    assert first.running() == 2
    two.begins()
    one.move(elsewhere)
    assert (first.running(), second.running()) == (1, 2)
    for reading in (one, two, one):
        reading.close(End.COMPLETE)
    assert (first.running(), second.running()) == (0, 0)
    first.close()
    second.close()


def test_so_is_what_is_measured_meanwhile(desk: Desk) -> None:
    gpu, there = desk.gpu()
    gpu.add(1, 1, 0)
    for gap, measured_uj in ((False, 7_000_000), (True, 0)):
        reading = desk.meter.open(order(1, sequences=2), there)
        reading.waits()
        gpu.add(NS_PER_S, 1, 90_000_000)
        reading.begins()
        gpu.add(NS_PER_S, 1, 3_000_000)
        if gap:
            unmeasured(gpu)
        reading.begins()
        gpu.add(NS_PER_S, 2, 4_000_000)
        record = reading.close(End.COMPLETE)
        assert record.measured_uj == measured_uj
        assert record.usage.cpu_ns == 2 * NS_PER_S
    gpu.close()


def test_nor_what_it_does_while_a_sequence_rests_and_its_runs_add_up(desk: Desk) -> None:
    reading = desk.meter.open(order(1, sequences=2), quote(watts_milli=10_000))
    reading.waits()
    for used_ns, sequences, told in (
        (5, 1, reading.begins),
        (1_001, 1, reading.begins),
        (2_002, 2, reading.stops),
        (4_001, 1, reading.stops),
        (90_001, 1, reading.begins),
        (8_001, 1, reading.begins),
    ):
        desk.cpu[0] += used_ns
        desk.engine.tick(sequences)
        told()
    desk.cpu[0] += 32_002
    desk.engine.tick(2)
    counted_ns = 1_001 + 2_002 + 4_001 + 8_001 + 32_002
    reading.intend(Usage(20, 0, 2))
    assert desk.slots.read_slot(reading.opened.slot).intended.cpu_ns == counted_ns, "what a kill -9 would leave"
    reading.commit(Usage(20, 0, 2))
    reading.stops()
    reading.stops()
    desk.cpu[0] += NS_PER_S
    desk.engine.tick(1)
    assert reading.close(End.CLIENT_GONE).usage.cpu_ns == counted_ns, "its customer left while it rested"
    reading.stops()
    assert desk.engine._clock.running() == 0, "what is closed has no more to stop"


def test_a_run_that_was_not_measured_makes_all_of_them_modelled(desk: Desk) -> None:
    gpu, there = desk.gpu()
    gpu.add(1, 1, 0)
    for gap, measured_uj in ((False, 5_000_000), (True, 0)):
        reading = desk.meter.open(order(1), there)
        gpu.add(NS_PER_S, 1, 3_000_000)
        reading.stops()
        gpu.add(NS_PER_S, 1, 90_000_000)
        if gap:
            unmeasured(gpu)
        reading.begins()
        gpu.add(NS_PER_S, 1, 2_000_000)
        record = reading.close(End.COMPLETE)
        assert record.measured_uj == measured_uj
        assert record.usage.cpu_ns == 2 * NS_PER_S
    gpu.close()


@pytest.mark.parametrize("end", list(End), ids=str)
@pytest.mark.parametrize("spent", [(0, 0), (3, 0), (0, 5), (3, 5)], ids=str)
def test_what_is_settled_is_what_was_delivered_and_what_it_took(end: End, spent: tuple[int, int]) -> None:
    """Whatever was counted for the delivered tokens themselves; nothing of an answer that was cut before its first."""
    cpu_ns, energy_uj = spent
    for counts in product((0, 2), repeat=len(Usage.__struct_fields__)):
        delivered = Usage(*counts)
        settled = settled_usage(opened(1), delivered, end, cpu_ns, 0, energy_uj)
        counted = delivered if delivered.generated or end.whole else Usage()
        assert settled == msgspec.structs.replace(counted, cpu_ns=cpu_ns, energy_uj=energy_uj)
