"""The thirteen pitfalls of a journal that is to survive kill -9, and where each has its test. New ones stand below.

1, 2   send, then bump               test_slots, crash/test_journal_kill (30 kills: never over)
3      only aligned stores           test_slots (every single store), tidy (no pack_into)
4      bytes in our own buffer       crash/test_slow_reader_kill, gateway/test_public (a reader who stops)
5      sparse mappings               crash/test_full_disk (SIGBUS, and how ours do not), test_slots, test_journal
6      short writes, full disks      test_journal, test_meter, crash/test_full_disk
7      one writer                    here, test_journal
8      reuse of a slot               test_slots, test_recovery
9      the bookkeeper is killed      crash/test_recovery_kill, processes/test_books_process
10     power loss                    test_journal, test_slots; the simulator
11     clocks that step back         test_meter
12     a failed fsync                test_journal, test_slots, here
13     unread bytes at the kill      crash/test_slow_reader_kill
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fakes.metering import FaultyDisk, closed, opened

from steelyard.kernel.clock import ManualClock
from steelyard.kernel.errors import BooksError
from steelyard.kernel.settled import Position
from steelyard.metering.frames import HEADER_BYTES, segment_path, segments
from steelyard.metering.journal import Journal
from steelyard.metering.lock import is_held
from steelyard.metering.reader import read
from steelyard.metering.recovery import recover

TESTS = Path(__file__).parents[2]
PITFALLS = 13


def test_every_pitfall_has_its_test() -> None:
    named: set[int] = set()
    for path in TESTS.rglob("test_*.py"):
        for text in re.findall(r'"""Pitfalls? ([\d, and]+)', path.read_text(encoding="utf-8")):
            named |= {int(number) for number in re.findall(r"\d+", text)}
    assert named == set(range(1, PITFALLS + 1))


WRITER = """
import os, signal, sys
from pathlib import Path
from tests.fakes.metering import closed, opened
from steelyard.metering.journal import Journal
journal = Journal.create(Path(sys.argv[1]), threaded=False)
number = 0
"""


@contextmanager
def process(program: str, directory: Path) -> Iterator["subprocess.Popen[str]"]:
    running = subprocess.Popen(
        [sys.executable, "-c", WRITER + program, str(directory)],
        cwd=TESTS.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert running.stdin is not None and running.stdout is not None
    try:
        yield running
    finally:
        running.kill()
        running.wait(20)
        running.stdin.close()
        running.stdout.close()


def said(running: "subprocess.Popen[str]") -> str:
    assert running.stdout is not None
    assert select.select([running.stdout], [], [], 30)[0], "it says nothing"
    return running.stdout.readline().strip()


def test_a_forked_child_keeps_the_lock_so_nobody_takes_its_parents_place(tmp_path: Path) -> None:
    """Pitfall 7: a fork without exec inherits the descriptor, and with it the lock. Nothing of ours forks; should
    something, the series stays locked as long as the child lives: refused, never written twice."""
    child_sleeps = "child = os.fork() or signal.pause()\nprint(child, flush=True)\nsignal.pause()\n"
    with process(child_sleeps, tmp_path / "w0-1") as parent:
        child = int(said(parent))
        try:
            parent.kill()
            parent.wait(20)
            assert is_held(tmp_path / "w0-1")
            with pytest.raises(BooksError, match="still has a writer"):
                recover(tmp_path / "w0-1", [], ManualClock())
            with pytest.raises(BooksError, match="another process"):
                Journal.create(tmp_path / "w0-1")
        finally:
            death = os.pidfd_open(child) if hasattr(os, "pidfd_open") else None
            os.kill(child, signal.SIGKILL)
            if death is not None:
                assert select.select([death], [], [], 20)[0]
                os.close(death)
        assert not is_held(tmp_path / "w0-1")


def test_nothing_of_ours_forks() -> None:
    """Pitfall 7: `subprocess` closes descriptors and execs; these do not."""
    for path in (TESTS.parent / "src").rglob("*.py"):
        assert not re.search(r"os\.fork|multiprocessing|ProcessPool", path.read_text(encoding="utf-8")), path


def test_the_lock_outlives_a_reader_of_its_file(tmp_path: Path) -> None:
    """Pitfall 7: a POSIX lock of the process would be lost when any descriptor of the file is closed."""
    look = (
        "for line in sys.stdin:\n"
        "    Path(sys.argv[1], 'lock').read_bytes()\n"
        "    with open(Path(sys.argv[1], 'lock'), 'r+b'): pass\n"
        "    print('looked', flush=True)\n"
    )
    with process("print('open', flush=True)\n" + look, tmp_path / "w0-1") as writer:
        assert said(writer) == "open"
        print("look", file=writer.stdin, flush=True)
        assert said(writer) == "looked"
        assert is_held(tmp_path / "w0-1")
        with pytest.raises(BooksError, match="another process"):
            Journal.create(tmp_path / "w0-1")


def test_a_stopped_writer_is_alive_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """The zombie: SIGSTOP, everybody takes it for dead, SIGCONT. Its series is its own until the process has ended;
    its successor has another one (the epoch is in the name), and the books turn it away (processes/test_books)."""
    write = (
        "for line in sys.stdin:\n"
        "    number += 1\n"
        "    journal.append(opened(number))\n"
        "    journal.append(closed(number))\n"
        "    journal.sync()\n"
        "    print(number, flush=True)\n"
    )
    directory = tmp_path / "w0-1"
    with process(write, directory) as writer:
        print("one", file=writer.stdin, flush=True)
        assert said(writer) == "1"
        writer.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED | os.WNOWAIT)
        for refused in (lambda: recover(directory, [], ManualClock()), lambda: Journal.create(directory)):
            with pytest.raises(BooksError):
                refused()
        Journal.create(tmp_path / "w0-2").close()
        before = read(directory, Position(), until=None, max_records=99)
        assert before.records == [opened(1), closed(1)]
        writer.send_signal(signal.SIGCONT)
        print("two", file=writer.stdin, flush=True)
        assert said(writer) == "2"
        assert read(directory, before.end, until=None, max_records=99).records == [opened(2), closed(2)]


def dead_series(directory: Path, requests: int = 400) -> list[object]:
    journal = Journal.create(directory, segment_bytes=16384)
    records: list[object] = []
    for number in range(requests):
        for record in (opened(number), closed(number)):
            journal.append(record)
            records.append(record)
    journal.close()
    return records


def test_a_zeroed_page_is_noticed(tmp_path: Path) -> None:
    dead_series(tmp_path / "w0-1")
    with segment_path(tmp_path / "w0-1", 0).open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))
    with pytest.raises(BooksError, match="damaged"):
        read(tmp_path / "w0-1", Position(), until=None, max_records=9999)


def test_a_zeroed_page_that_was_never_synced_is_the_end(tmp_path: Path) -> None:
    """What the disk had not promised may be gone after a power loss; what stands before it counts."""
    disk = FaultyDisk()
    journal = Journal.create(tmp_path / "w0-1", segment_bytes=65536, disk=disk, threaded=False)
    for number in range(100):
        journal.append(closed(number))
    disk.sync_fails = True  # nor at its end
    journal.tend()
    journal.close()
    with segment_path(tmp_path / "w0-1", 0).open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096 if journal.end.offset > 8192 else journal.end.offset - 4096))
    batch = read(tmp_path / "w0-1", Position(), until=None, max_records=9999)
    assert 0 < len(batch.records) < 100
    assert batch.records == [closed(number) for number in range(len(batch.records))]
    assert batch.end.offset <= 4096


@pytest.mark.parametrize("over", [True, False])
def test_a_duplicated_segment_is_noticed(tmp_path: Path, over: bool) -> None:
    """Its header names the place it was made for, so its records never count twice."""
    dead_series(tmp_path / "w0-1")
    place = 1 if over else segments(tmp_path / "w0-1")[-1] + 1
    shutil.copy(segment_path(tmp_path / "w0-1", 0), segment_path(tmp_path / "w0-1", place))
    with pytest.raises(BooksError, match="belongs elsewhere"):
        read(tmp_path / "w0-1", Position(), until=None, max_records=9999)


def test_a_missing_segment_is_loud(tmp_path: Path) -> None:
    dead_series(tmp_path / "w0-1")
    segment_path(tmp_path / "w0-1", 1).unlink()
    with pytest.raises(BooksError, match="is missing"):
        read(tmp_path / "w0-1", Position(), until=None, max_records=9999)


def test_a_refused_spare_segment_is_no_failure_and_asked_for_again_at_the_rotation(tmp_path: Path) -> None:
    disk = FaultyDisk()
    journal = Journal.create(tmp_path / "w0-1", segment_bytes=8192, disk=disk, threaded=False)
    disk.full = True
    number = 0
    while journal.end.offset < 6000:
        number += 1
        journal.append(opened(number))
        journal.append(closed(number))
        journal.tend()
    assert not journal.failed
    assert segments(tmp_path / "w0-1") == [0]
    disk.full = False
    while journal.end.segment == 0 or journal.end.offset < 6000:
        number += 1
        journal.append(opened(number))
        journal.append(closed(number))
        journal.tend()
    assert segments(tmp_path / "w0-1") == [0, 1, 2], "the next spare one is there again"
    journal.close()
    assert len(read(tmp_path / "w0-1", Position(), until=None, max_records=9999).records) == 2 * number


def test_a_failed_sync_of_a_rotated_segment_is_as_fatal_as_one_of_the_current(tmp_path: Path) -> None:
    """Pitfall 12: the records of the old segment may be lost, so nothing behind them is published."""
    disk = FaultyDisk()
    journal = Journal.create(tmp_path / "w0-1", segment_bytes=8192, disk=disk, threaded=False)
    number = 0
    while journal.end.segment == 0:
        number += 1
        journal.append(opened(number))
        journal.append(closed(number))
    before = journal.synced
    disk.sync_fails = True
    journal.tend()
    disk.sync_fails = False
    journal.tend()
    assert journal.failed
    assert journal.synced == before == Position(0, HEADER_BYTES)
    with pytest.raises(BooksError):
        journal.append(opened(9999))
    journal.close()
