"""kill -9 of a writer with requests in flight, thirty times: never over, at most one read short and then flagged.

A prepared parent forks one writer per round, before anything is open. The writer keeps eight requests in flight; what
it sends goes into a file by `write`, which stands for the kernel's side of a socket: it survives the kill.
"""

import os
import random
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.metering import order, quote

from steelyard.kernel.clock import ManualClock, SystemClock
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Closed, End, Opened, Position
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.journal import Journal
from steelyard.metering.lock import is_held, synced
from steelyard.metering.meter import Meter, Reading
from steelyard.metering.reader import read
from steelyard.metering.recovery import recover
from steelyard.metering.slots import Slots

ROUNDS = 30
IN_FLIGHT = 8
READS_MAX = 40
SENT = struct.Struct("<QQ")  # request number, output tokens


def usage_of(output: int) -> Usage:
    """Counts that belong together: a torn set of them shows."""
    return Usage(input=3 * output, cached_input=5 * output, output=output)


def write_for_ever(directory: Path) -> None:
    """Open, deliver read by read, close; until killed."""
    journal = Journal.create(directory, segment_bytes=16 * 1024)
    slots = Slots.create(directory / "slots", IN_FLIGHT)
    meter = Meter(journal, slots, SystemClock(), EnergyClocks(directory / "energy"))
    sent = os.open(directory / "sent", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    chance = random.Random(directory.name)
    readings: list[tuple[int, Reading]] = []
    number = 0
    print("running", flush=True)
    while True:
        while len(readings) < IN_FLIGHT:
            number += 1
            readings.append((number, meter.open(order(number), quote())))
        at = chance.randrange(IN_FLIGHT)
        which, reading = readings[at]
        if reading.delivered.output >= READS_MAX or chance.random() < 0.05:
            reading.close(End.COMPLETE)
            del readings[at]
            continue
        usage = usage_of(reading.delivered.output + chance.randint(1, 4))
        reading.intend(usage)
        os.write(sent, SENT.pack(which, usage.output))
        reading.commit(usage)


def fork_writers() -> None:
    """The parent of the writers: one line in, a directory; one fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            write_for_ever(Path(line.strip()))
        print(pid, flush=True)


@pytest.fixture
def parent() -> Iterator["subprocess.Popen[str]"]:
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.test_journal_kill"],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    yield process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(20)
    process.stdout.close()


def kill_in_mid_write(parent: "subprocess.Popen[str]", directory: Path, after_s: float) -> None:
    assert parent.stdin is not None
    assert parent.stdout is not None
    print(directory, file=parent.stdin, flush=True)
    lines = [parent.stdout.readline().strip() for _ in range(2)]  # the pid and "running", in either order
    pid = int(next(line for line in lines if line != "running"))
    death = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    select.select([], [], [], after_s)
    os.kill(pid, signal.SIGKILL)
    if death is not None:
        assert select.select([death], [], [], 20)[0]
        os.close(death)
    while is_held(directory):
        pass


def sent_by(directory: Path) -> dict[int, list[int]]:
    """For each request the output counts that left, in order."""
    sent: dict[int, list[int]] = {}
    for number, output in SENT.iter_unpack((directory / "sent").read_bytes()):
        sent.setdefault(number, []).append(output)
    return sent


def check(directory: Path) -> tuple[int, int, int]:
    """(closed, recovered, of these short). Every request is settled once, at what had left."""
    mark = synced(directory)
    batch = read(directory, Position(), until=None, max_records=10**7)
    assert batch.end >= mark
    opened: dict[bytes, Opened] = {}
    settled: dict[bytes, Closed] = {}
    for record in batch.records:
        if isinstance(record, Opened):
            assert record.request_id not in opened
            opened[record.request_id] = record
        else:
            assert record.request_id in opened
            assert record.request_id not in settled
            settled[record.request_id] = record
    pending = [one for request_id, one in opened.items() if request_id not in settled]
    recovered = recover(directory, pending, ManualClock())
    assert recover(directory, pending, ManualClock()) == recovered
    assert len(pending) <= IN_FLIGHT
    sent = sent_by(directory)
    assert {number.to_bytes(16, "big") for number in sent} <= opened.keys()
    short = 0
    for record in [*settled.values(), *recovered]:
        reads = [0, *sent.get(int.from_bytes(record.request_id, "big"), [])]
        assert record.usage == usage_of(record.usage.output), "counts of two reads are mixed"
        assert record.usage.output in reads[-2:], "over, or more than one read short"
        if record.usage.output != reads[-1]:
            assert record.short_by_one_read
            short += 1
    return len(settled), len(recovered), short


def test_thirty_kills_never_bill_over_and_flag_what_is_short(tmp_path: Path, parent: "subprocess.Popen[str]") -> None:
    chance = random.Random(20261123)
    closed = recovered = short = 0
    for round_ in range(ROUNDS):
        directory = tmp_path / f"w0-{round_}"
        kill_in_mid_write(parent, directory, after_s=chance.uniform(0.005, 0.1))
        counts = check(directory)
        closed, recovered, short = closed + counts[0], recovered + counts[1], short + counts[2]
    print(f"{closed} closed, {recovered} recovered, {short} of them one read short")
    assert closed > 100 * ROUNDS / 10
    assert recovered > 5 * ROUNDS
    assert short <= ROUNDS  # a writer has one send under way at a time


if __name__ == "__main__":
    fork_writers()
