"""Whatever the disk does and when: what was accepted is read back, and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.metering import FaultyDisk, closed, opened

from steelyard.kernel.errors import BooksError
from steelyard.kernel.settled import Closed, Opened, Position
from steelyard.metering.journal import Journal
from steelyard.metering.reader import read

WORK = st.tuples(st.sampled_from(["open", "close"]), st.integers(1, 12))  # so many at once
FAULTS = st.one_of(
    st.tuples(st.sampled_from(["disk_full", "disk_freed", "sync", "reader", "sync_fails", "restart"]), st.just(0)),
    st.tuples(st.just("short_write"), st.integers(0, 200)),
)
STEPS = st.lists(st.one_of(WORK, WORK, WORK, FAULTS), min_size=15, max_size=60)


@settings(max_examples=100)
@given(steps=STEPS, segment_bytes=st.sampled_from([2048, 4096]))
def test_accepted_means_readable(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], segment_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("any") / "books"
    disk = FaultyDisk()
    journal = Journal.create(directory, segment_bytes=segment_bytes, disk=disk)
    accepted: list[Opened | Closed] = []
    open_numbers: list[int] = []
    seen: list[Opened | Closed] = []
    position = Position()
    for number, (what, size) in enumerate(steps):
        match what:
            case "open" | "close":
                for at in range(size):
                    if what == "close" and not open_numbers:
                        break
                    record = opened(100 * number + at) if what == "open" else closed(open_numbers.pop(0))
                    try:
                        journal.append(record)
                    except BooksError:
                        assert what == "open" or journal.failed, "a close is refused only by a broken disk"
                        continue
                    accepted.append(record)
                    if what == "open":
                        open_numbers.append(100 * number + at)
            case "disk_full":
                disk.full = True
            case "disk_freed":
                disk.full, disk.bytes_left = False, None
            case "short_write":
                disk.bytes_left = size
            case "sync_fails":
                disk.sync_fails = True
            case "sync" if not disk.sync_fails and not journal.failed:
                journal.sync()
                assert journal.synced == journal.end
            case "reader":
                batch = read(directory, position, until=None, max_records=7)
                seen += batch.records
                position = batch.end
                assert seen == accepted[: len(seen)]
            case "restart":
                journal.close()
                disk = FaultyDisk()
                journal = Journal.create(directory, segment_bytes=segment_bytes, disk=disk)
                open_numbers.clear()
    journal.close()
    assert read(directory, Position(), until=None, max_records=10**6).records == accepted
    assert seen + read(directory, position, until=None, max_records=10**6).records == accepted
