"""The writer: durable order, full disks, failing syncs, one writer per series."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.metering import FaultyDisk, closed, moved, opened, wait_for

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError
from steelyard.kernel.settled import Moved, Position
from steelyard.metering.frames import HEADER_BYTES, frame_from, segment_path, segments
from steelyard.metering.journal import Journal
from steelyard.metering.lock import SeriesLock, is_held, synced
from steelyard.metering.reader import read

ALL = 10**9


def everything(directory: Path) -> list[object]:
    return list(read(directory, Position(), until=None, max_records=ALL).records)


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "w0-1")
    records = [opened(1), opened(2), closed(2), closed(1)]
    for record in records:
        journal.append(record)
    journal.close()
    assert everything(tmp_path / "w0-1") == records
    assert segment_path(tmp_path / "w0-1", 0).stat().st_size == journal.end.offset  # the unused tail is given back


def test_the_segment_has_its_space_from_the_start(tmp_path: Path) -> None:
    """Pitfall 5: sparse files fail later, in the middle of a request."""
    journal = Journal.create(tmp_path / "w0-1", segment_bytes=1 << 20)
    status = segment_path(tmp_path / "w0-1", 0).stat()
    journal.close()
    assert status.st_size == 1 << 20
    assert status.st_blocks * 512 >= 1 << 20


def test_the_syncer_publishes_by_itself(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "w0-1")
    journal.append(opened(1))
    end = journal.end
    wait_for(lambda: synced(tmp_path / "w0-1") == end)
    assert journal.synced == end
    journal.close()


def test_nothing_is_published_before_it_is_on_the_medium(tmp_path: Path) -> None:
    """Pitfall 10, invariant I8."""
    disk = FaultyDisk()
    journal = Journal.create(tmp_path / "w0-1", disk=disk)
    disk.may_sync.clear()
    journal.append(opened(1))
    wait_for(lambda: not journal._dirty)  # the syncer has begun
    assert synced(tmp_path / "w0-1") == Position(0, HEADER_BYTES)
    assert everything(tmp_path / "w0-1") == []
    disk.may_sync.set()
    journal.sync()
    assert everything(tmp_path / "w0-1") == [opened(1)]
    journal.close()


def test_what_is_appended_during_a_sync_waits_for_the_next_one(tmp_path: Path) -> None:
    directory = tmp_path / "w0-1"
    published: list[Position] = []

    class SlowDisk(FaultyDisk):
        def sync(self, fd: int) -> None:
            published.append(synced(directory) if (directory / "lock").exists() else Position())
            super().sync(fd)

    disk = SlowDisk()
    journal = Journal.create(directory, disk=disk)
    disk.may_sync.clear()
    begun = len(published)
    journal.append(opened(1))
    first = journal.end
    wait_for(lambda: len(published) > begun)  # the syncer is waiting for the disk
    journal.append(opened(2))
    disk.may_sync.set()
    wait_for(lambda: len(published) > begun + 1)
    assert published[begun + 1] == first
    journal.close()
    assert synced(directory) == journal.end


async def test_strict_durability_waits_for_the_sync(tmp_path: Path) -> None:
    disk = FaultyDisk()
    journal = Journal.create(tmp_path / "w0-1", disk=disk)
    disk.may_sync.clear()
    journal.append(opened(1))
    waiting = asyncio.ensure_future(journal.wait_synced())
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    disk.may_sync.set()
    await asyncio.wait_for(waiting, 20)
    assert journal.synced >= journal.end
    await journal.wait_synced()  # nothing to wait for
    journal.close()


def test_rotation_keeps_the_order_and_loses_nothing(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "w0-1", segment_bytes=2048)
    records = [record for number in range(200) for record in (opened(number), closed(number))]
    for record in records:
        journal.append(record)
    journal.close()
    assert journal.end.segment > 5
    assert everything(tmp_path / "w0-1") == records
    assert segments(tmp_path / "w0-1") == list(range(journal.end.segment + 1))
    sizes = [segment_path(tmp_path / "w0-1", number).stat().st_size for number in segments(tmp_path / "w0-1")]
    assert max(sizes) < 2048  # rotated segments are cut as well: zeros in the middle of one are damage


def test_the_next_segment_is_made_ahead_of_need_and_removed_when_unused(tmp_path: Path) -> None:
    directory = tmp_path / "w0-1"
    journal = Journal.create(directory, segment_bytes=4096)
    while journal.end.offset < 2048:
        journal.append(opened(1))
        journal.append(closed(1))
    wait_for(lambda: segments(directory) == [0, 1])
    assert everything(directory)
    journal.close()
    assert segments(directory) == [0]


def test_a_short_write_leaves_no_trace_and_closes_the_journal(tmp_path: Path) -> None:
    """Pitfall 6: the next append must not land behind a torn frame."""
    disk = FaultyDisk()
    directory = tmp_path / "w0-1"
    journal = Journal.create(directory, disk=disk)
    journal.append(opened(1))
    disk.bytes_left = 40
    with pytest.raises(BooksError, match="40 of"):
        journal.append(opened(2))
    assert journal.failed
    disk.bytes_left = None  # space is free again: too late, and nothing may follow
    with pytest.raises(BooksError):
        journal.append(closed(1))
    journal.close()
    batch = read(directory, Position(), until=None, max_records=ALL)
    assert batch.records == [opened(1)]
    assert batch.torn  # the wipe was refused as well, and the frame is recognised by its CRC


def test_a_short_write_is_wiped_when_the_disk_lets_us(tmp_path: Path) -> None:
    class OneShortWrite(FaultyDisk):
        def pwrite(self, fd: int, data: bytes, offset: int) -> int:
            if self.bytes_left is not None:
                left, self.bytes_left = self.bytes_left, None
                return os.pwrite(fd, data[:left], offset)
            return super().pwrite(fd, data, offset)

    disk = OneShortWrite()
    journal = Journal.create(tmp_path / "w0-1", disk=disk)
    disk.bytes_left = 40
    with pytest.raises(BooksError):
        journal.append(opened(1))
    journal.close()
    batch = read(tmp_path / "w0-1", Position(), until=None, max_records=ALL)
    assert batch.records == []
    assert not batch.torn


def test_on_a_full_disk_opens_are_refused_and_every_close_still_fits(tmp_path: Path) -> None:
    disk = FaultyDisk()
    journal = Journal.create(tmp_path / "w0-1", segment_bytes=8192, disk=disk)
    disk.full = True
    open_numbers: list[int] = []
    with pytest.raises(BooksError, match="cannot grow"):
        for number in range(1000):
            journal.append(opened(number))
            open_numbers.append(number)
    assert len(open_numbers) > 10
    with pytest.raises(BooksError, match="cannot grow"):
        for _ in range(1000):
            journal.append(moved(0))
    assert not journal.failed
    for number in open_numbers:
        journal.append(closed(number))
    disk.full = False
    journal.append(opened(9999))  # room again
    journal.close()
    kept = [one for one in everything(tmp_path / "w0-1") if not isinstance(one, Moved)]
    assert len(kept) == 2 * len(open_numbers) + 1


def test_a_close_fits_its_reserve() -> None:
    largest = closed(2**127)
    fields = {"closed_ns": 2**63, "first_token_ns": 2**63, "duration_ns": 2**63, "end": "upstream_error"}
    usage = type(largest.usage)(*[2**63] * 5)
    frame = frame_from(
        type(largest)(**{"request_id": b"\xff" * 16, "usage": usage, "short_by_one_read": True, **fields})
    )
    assert len(frame) <= limits.CLOSED_FRAME_BYTES_MAX


def test_a_full_disk_at_the_start_is_a_clean_refusal(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.full = True
    with pytest.raises(BooksError, match="No space left"):
        Journal.create(tmp_path / "w0-1", disk=disk)
    assert segments(tmp_path / "w0-1") == []
    assert not is_held(tmp_path / "w0-1")


def test_the_system_may_refuse_the_space_as_well(tmp_path: Path) -> None:
    """The same without a fake: a process that may write one megabyte only."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from steelyard.kernel.errors import BooksError\n"
        "from steelyard.metering.journal import Journal\n"
        "from steelyard.metering.slots import Slots\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "for create in (lambda: Journal.create(Path(sys.argv[1])), lambda: Slots.create(Path(sys.argv[2]), 1 << 14)):\n"
        "    try:\n"
        "        create()\n"
        "    except BooksError as error:\n"
        "        print(error)\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "w0-1"), str(tmp_path / "slots")]
    answer = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert [line.count("File too large") for line in answer.stdout.splitlines()] == [1, 1]
    assert segments(tmp_path / "w0-1") == []
    assert not (tmp_path / "slots").exists()


def test_a_record_too_large_for_a_frame_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "w0-1")
    with pytest.raises(BooksError):
        journal.append(opened(1, model="m" * limits.FRAME_BYTES_MAX))
    assert not journal.failed
    journal.append(opened(1))
    journal.close()
    assert everything(tmp_path / "w0-1") == [opened(1)]


def test_a_failed_sync_is_never_tried_again(tmp_path: Path) -> None:
    """Pitfall 12: a second fsync may succeed although the pages are lost."""
    disk = FaultyDisk()
    journal = Journal.create(tmp_path / "w0-1", disk=disk)
    before = journal.synced
    disk.sync_fails = True
    journal.append(opened(1))
    wait_for(lambda: journal.failed)
    syncs = disk.syncs
    disk.sync_fails = False
    with pytest.raises(BooksError):
        journal.append(opened(2))
    with pytest.raises(BooksError):
        journal.sync()
    journal.close()
    assert disk.syncs == syncs
    assert synced(tmp_path / "w0-1") == before


async def test_who_waits_for_a_failing_sync_is_told(tmp_path: Path) -> None:
    disk = FaultyDisk()
    journal = Journal.create(tmp_path / "w0-1", disk=disk)
    disk.may_sync.clear()
    disk.sync_fails = True
    journal.append(opened(1))
    waiting = asyncio.ensure_future(journal.wait_synced())
    await asyncio.sleep(0)
    disk.may_sync.set()
    with pytest.raises(BooksError):
        await asyncio.wait_for(waiting, 20)
    with pytest.raises(BooksError):
        await journal.wait_synced()
    journal.close()


def test_a_series_has_one_writer(tmp_path: Path) -> None:
    """Pitfall 7. A lost POSIX lock would let the second in: we open and close the lock file in between."""
    journal = Journal.create(tmp_path / "w0-1")
    assert is_held(tmp_path / "w0-1")
    (tmp_path / "w0-1" / "lock").read_bytes()
    with pytest.raises(BooksError, match="another process"):
        Journal.create(tmp_path / "w0-1")
    journal.close()
    assert not is_held(tmp_path / "w0-1")


def test_a_child_does_not_keep_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    """Pitfall 7: the descriptor is close-on-exec."""
    program = (
        "import os, signal, subprocess, sys\n"
        "from pathlib import Path\n"
        "from steelyard.metering.journal import Journal\n"
        "journal = Journal.create(Path(sys.argv[1]))\n"
        "child = subprocess.Popen(['sleep', '60'], close_fds=False)\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "w0-1")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert is_held(tmp_path / "w0-1")
        parent.kill()
        parent.wait()
        assert not is_held(tmp_path / "w0-1")
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def test_a_series_that_is_being_born_is_not_taken_for_dead(tmp_path: Path) -> None:
    (tmp_path / "w0-1").mkdir()
    assert is_held(tmp_path / "w0-1")
    assert synced(tmp_path / "w0-1") == Position()
    assert everything(tmp_path / "w0-1") == []


def test_a_dead_series_is_continued_in_a_fresh_segment(tmp_path: Path) -> None:
    """The books' own series outlives its process; a torn tail of the last life is cut off, not written over."""
    directory = tmp_path / "books"
    journal = Journal.create(directory)
    journal.append(closed(1))
    journal.close()
    with segment_path(directory, 0).open("ab") as file:
        file.write(frame_from(closed(2))[:-3])
    again = Journal.create(directory)
    again.append(closed(3))
    again.sync()
    batch = read(directory, Position(), until=None, max_records=ALL)
    assert batch.records == [closed(1), closed(3)]
    assert not batch.torn
    assert batch.end == again.end
    again.close()


def test_names_are_durable_before_they_are_relied_on(tmp_path: Path) -> None:
    """Found by the simulator: after a power loss a whole series was gone, or a segment had survived its lock."""
    seen: list[tuple[str, list[str]]] = []

    class Names(FaultyDisk):
        def sync_directory(self, path: Path) -> None:
            seen.append((path.name, sorted(entry.name for entry in path.iterdir())))
            super().sync_directory(path)

    Journal.create(tmp_path / "journal" / "w0-1", disk=Names()).close()
    assert seen == [
        ("journal", ["w0-1"]),
        ("w0-1", ["lock"]),
        ("w0-1", ["00000000.journal", "lock"]),
    ]


def test_a_lock_file_without_its_content_never_counts(tmp_path: Path) -> None:
    """Found by the simulator: after a power loss the lock had its name and was blank, so `verify` called it damaged."""
    done: list[str] = []

    class Order(FaultyDisk):
        def sync(self, fd: int) -> None:
            done.append(Path(f"/proc/self/fd/{fd}").readlink().name)
            super().sync(fd)

        def sync_directory(self, path: Path) -> None:
            done.append(path.name)
            super().sync_directory(path)

    Journal.create(tmp_path / "w0-1", disk=Order()).close()
    assert done.index("lock") < done.index("w0-1")


def test_a_lock_that_cannot_be_synced_is_let_go(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.sync_fails = True
    with pytest.raises(BooksError, match="Input/output error"):
        Journal.create(tmp_path / "w0-1", disk=disk)
    assert not is_held(tmp_path / "w0-1")


def _refused(*_: object) -> int:
    raise OSError(errno.ENOSPC, "no room")


@pytest.mark.parametrize(("call", "does"), [("pwrite", _refused), ("pwrite", lambda *_: 7), ("link", _refused)])
def test_a_lock_that_cannot_be_made_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, does: Callable[..., int]
) -> None:
    monkeypatch.setattr(os, call, does)
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(BooksError, match="no room"):
        Journal.create(tmp_path / "w0-1")
    assert set(Path("/proc/self/fd").iterdir()) <= before
    assert list((tmp_path / "w0-1").iterdir()) == []


def test_a_lock_that_is_cut_short_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"SYLO")
    with pytest.raises(ValueError, match="mmap"):
        SeriesLock.take(tmp_path)
    assert not is_held(tmp_path)


def test_without_a_thread_the_owner_tends_the_journal(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "w0-1", segment_bytes=4096, threaded=False)
    while journal.end.offset < 2048:
        journal.append(opened(1))
        journal.append(closed(1))
    assert journal.synced == Position(0, HEADER_BYTES)
    journal.tend()
    assert journal.synced == journal.end == synced(tmp_path / "w0-1")
    assert segments(tmp_path / "w0-1") == [0, 1]
    journal.close()
