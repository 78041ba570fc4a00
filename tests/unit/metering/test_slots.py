"""The flight recorder: order of stores, reuse, damage, full disks."""

from itertools import pairwise
from pathlib import Path

import pytest
from tests.fakes.metering import FaultyDisk, commit, intend, request_id, wait_for

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError
from steelyard.kernel.quantities import Usage
from steelyard.metering.slots import CLAIMED, FREE, Slots


def test_a_claimed_cell_carries_the_request_and_no_counts(tmp_path: Path) -> None:
    slots = Slots.create(tmp_path / "slots", 4)
    index = slots.claim(b"\xff" * 16, watts_milli=11_000)
    assert index is not None
    state = slots.read_slot(index)
    assert (state.state, state.request_id, state.watts_milli) == (CLAIMED, b"\xff" * 16, 11_000)
    assert state.intended == state.committed == Usage()
    assert not state.short_by_one_read
    slots.close()


def test_counts_are_committed_only_after_the_send(tmp_path: Path) -> None:
    """Pitfalls 1 and 2: a kill between intent and commit leaves the earlier counts, and shows."""
    slots = Slots.create(tmp_path / "slots", 4)
    index = slots.claim(request_id(1))
    assert index is not None
    intend(slots, index, Usage(20, 5, 1), cpu_ns=100)
    state = slots.read_slot(index)
    assert state.committed == Usage()
    assert state.intended == Usage(20, 5, 1, 100)
    assert state.short_by_one_read
    commit(slots, index, 7, first=True)
    commit(slots, index, 9)
    state = slots.read_slot(index)
    assert state.committed == state.intended == Usage(20, 5, 1, 100)
    assert (state.first_token_ns, state.last_ns, state.short_by_one_read) == (7, 9, False)
    intend(slots, index, Usage(20, 5, 4), cpu_ns=200)
    state = slots.read_slot(index)
    assert state.committed == Usage(20, 5, 1, 100)
    assert state.intended == Usage(20, 5, 4, 200)
    slots.close()


def test_no_cell_straddles_a_sector(tmp_path: Path) -> None:
    """A power loss keeps or loses 512 bytes at once: two halves could be one request's id and another's counts."""
    slots = Slots.create(tmp_path / "slots", 20)
    for number in range(20):
        slots.claim(bytes([number + 1] * 16))
    content = (tmp_path / "slots").read_bytes()
    begins = sorted(content.index(bytes([number + 1] * 16)) - 8 for number in range(20))  # behind the state word
    (length,) = {later - earlier for earlier, later in pairwise(begins)}
    assert all(begin // 512 == (begin + length - 1) // 512 for begin in begins)
    slots.close()


def test_every_single_store_leaves_a_whole_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 3: the process may die between any two stores; the committed counts always belong together."""
    slots = Slots.create(tmp_path / "slots", 1)
    index = slots.claim(request_id(1))
    assert index is not None
    seen: list[Usage] = []

    class Watched:
        """Looks at the cell after every store, as a reader after a kill at that point would."""

        def __init__(self, words: memoryview) -> None:
            self.words = words

        def __getitem__(self, at: int | slice) -> int | memoryview:
            return self.words[at]

        def __setitem__(self, at: int, value: int) -> None:
            self.words[at] = value
            slots._words = self.words
            seen.append(slots.read_slot(0).committed)
            slots._words = self  # type: ignore[assignment]

    def put(_: object, at: int, *bank: int) -> None:
        """A kill may come amid a bank, too."""
        for place, value in enumerate(bank):
            slots._words[at // 8 + place] = value

    monkeypatch.setattr("steelyard.metering.slots._put", put)
    words = slots._words
    slots._words = Watched(words)  # type: ignore[assignment]
    for count in range(1, 6):
        intend(slots, index, Usage(count * 3, count * 5, count))
        sent_before = len(seen)
        assert all(usage.output < count for usage in seen)  # never ahead of the send
        commit(slots, index)
        assert len(seen) > sent_before
    slots._words = words
    assert len(seen) >= 5 * 6
    assert all((usage.input, usage.cached_input) == (usage.output * 3, usage.output * 5) for usage in seen)
    assert seen[-1].output == 5
    slots.close()


def test_an_intent_that_changes_no_count_is_not_short(tmp_path: Path) -> None:
    slots = Slots.create(tmp_path / "slots", 1)
    slots.claim(request_id(1))
    intend(slots, 0, Usage(20, 0, 3), cpu_ns=1)
    commit(slots, 0)
    intend(slots, 0, Usage(20, 0, 3), cpu_ns=2)  # the closing piece carries no new token
    assert not slots.read_slot(0).short_by_one_read
    slots.close()


def test_two_intents_without_a_commit_keep_the_committed_bank(tmp_path: Path) -> None:
    slots = Slots.create(tmp_path / "slots", 1)
    slots.claim(request_id(1))
    intend(slots, 0, Usage(20, 0, 1))
    commit(slots, 0)
    for output in (2, 3, 4):
        intend(slots, 0, Usage(20, 0, output))
        assert slots.read_slot(0).committed == Usage(20, 0, 1)
    commit(slots, 0)
    assert slots.read_slot(0).committed == Usage(20, 0, 4)
    slots.close()


def test_a_reused_cell_forgets_the_earlier_request(tmp_path: Path) -> None:
    """Pitfall 8."""
    slots = Slots.create(tmp_path / "slots", 1)
    slots.claim(request_id(1))
    intend(slots, 0, Usage(9, 9, 9))
    commit(slots, 0, 4, first=True)
    commit(slots, 0, 5)
    slots.free(0)
    assert slots.read_slot(0).state == FREE
    assert slots.read_slot(0).committed == Usage(9, 9, 9)  # still readable should the close record be lost
    assert slots.claim(request_id(2)) == 0
    state = slots.read_slot(0)
    assert state.request_id == request_id(2)
    assert (state.committed, state.intended, state.first_token_ns, state.last_ns) == (Usage(), Usage(), 0, 0)
    slots.close()


def test_a_full_house_claims_nothing(tmp_path: Path) -> None:
    slots = Slots.create(tmp_path / "slots", 3)
    taken = {slots.claim(request_id(number)) for number in range(3)}
    assert taken == {0, 1, 2}
    assert slots.claim(request_id(9)) is None
    slots.free(1)
    assert slots.claim(request_id(9)) == 1
    slots.close()


def test_the_file_has_its_space_from_the_start(tmp_path: Path) -> None:
    """Pitfall 5: a sparse mapping on a full disk kills the process."""
    slots = Slots.create(tmp_path / "slots", 1024)
    slots.close()
    status = (tmp_path / "slots").stat()
    assert status.st_blocks * 512 >= status.st_size > 1024 * 128


def test_a_full_disk_is_a_clean_refusal(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.full = True
    with pytest.raises(BooksError, match="No space left"):
        Slots.create(tmp_path / "slots", 4, disk=disk)
    assert not (tmp_path / "slots").exists()
    slots = Slots.create(tmp_path / "slots", 4)
    with pytest.raises(BooksError, match="exists"):
        Slots.create(tmp_path / "slots", 4)
    slots.close()


def test_another_process_sees_what_was_stored(tmp_path: Path) -> None:
    slots = Slots.create(tmp_path / "slots", 4)
    index = slots.claim(request_id(5))
    assert index is not None
    intend(slots, index, Usage(7, 1, 2))
    commit(slots, index)
    seen = Slots.open(tmp_path / "slots")
    assert seen.read_slot(index) == slots.read_slot(index)
    with pytest.raises(TypeError):
        commit(seen, index)
    seen.close()
    slots.close()


@pytest.mark.parametrize("content", [b"", b"x" * 7, bytes(128), b"x" * 4096])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "slots").write_bytes(content)
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(BooksError):
        Slots.open(tmp_path / "slots")
    assert set(Path("/proc/self/fd").iterdir()) <= before, "it is not kept open"


def test_a_cut_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BooksError):
        Slots.open(tmp_path / "slots")
    Slots.create(tmp_path / "slots", 4).close()
    whole = (tmp_path / "slots").read_bytes()
    (tmp_path / "slots").write_bytes(whole[:-8])
    with pytest.raises(BooksError):
        Slots.open(tmp_path / "slots")


def test_counts_are_on_the_medium_an_interval_after_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power loss: what the disk was last told is what a request in flight is settled at."""
    monkeypatch.setattr(limits, "SLOTS_SYNC_INTERVAL_MS", 1)
    disk = FaultyDisk()
    slots = Slots.create(tmp_path / "slots", 4, disk=disk)
    born = disk.syncs
    assert slots.claim(request_id(1)) is not None
    wait_for(lambda: disk.syncs > born)
    disk.may_sync.clear()  # the thread waits in the disk, not the one that counts
    intend(slots, 0, Usage(20, 0, 1))
    commit(slots, 0)
    intend(slots, 0, Usage(20, 0, 2))
    commit(slots, 0)
    before = disk.syncs
    disk.may_sync.set()
    wait_for(lambda: disk.syncs > before and not slots._dirty)
    slots.free(0)
    slots.close()


def test_whoever_comes_after_a_pause_is_synced_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SLOTS_SYNC_INTERVAL_MS", 0.1)
    slots = Slots.create(tmp_path / "slots", 4)
    for number in range(20):
        index = slots.claim(request_id(number))
        assert index is not None
        wait_for(lambda: not slots._dirty)
        slots.free(index)
        if number % 2:  # by then the thread sleeps, else perhaps not yet
            wait_for(lambda: not slots._told)
    slots.close()


def test_nothing_in_flight_syncs_nothing(tmp_path: Path) -> None:
    disk = FaultyDisk()
    slots = Slots.create(tmp_path / "slots", 4, disk=disk, threaded=False)
    born = disk.syncs
    slots.tend()
    assert disk.syncs == born
    slots.claim(request_id(1))
    slots.tend()
    slots.tend()
    assert disk.syncs == born + 1
    intend(slots, 0, Usage(20, 0, 1))
    commit(slots, 0)
    slots.tend()
    assert disk.syncs == born + 2
    slots.close()


def test_a_failed_sync_of_the_counts_is_never_tried_again(tmp_path: Path) -> None:
    """Pitfall 12 for the cells: they go on, a kill is still settled exactly, but the worker has to go."""
    disk = FaultyDisk()
    slots = Slots.create(tmp_path / "slots", 4, disk=disk, threaded=False)
    slots.claim(request_id(1))
    disk.sync_fails = True
    slots.tend()
    assert slots.failed
    disk.sync_fails = False
    syncs = disk.syncs
    intend(slots, 0, Usage(20, 0, 1))
    commit(slots, 0)
    slots.tend()
    assert disk.syncs == syncs
    assert slots.read_slot(0).committed == Usage(20, 0, 1)
    slots.close()


def version_1(path: Path, request: bytes) -> None:
    """A file as the first layout had it: slots of 16 words, banks of four, the second of them committed."""
    header = [int.from_bytes(b"SYSLOTS\n", "little"), 1, 2, 16]
    free = [0] * 16
    banks = [20, 5, 3, 90, 20, 5, 2, 80]  # input, cached, output, CPU: of generation 2, and of 1
    high, low = int.from_bytes(request[:8], "big"), int.from_bytes(request[8:], "big")
    taken = [CLAIMED, high, low, 2, 1, 7, 9, 11_000, *banks]
    words = [*header, *[0] * 12, *free, *taken]
    path.write_bytes(b"".join(word.to_bytes(8, "little") for word in words))


def test_a_file_of_the_first_layout_is_read_as_it_was_written(tmp_path: Path) -> None:
    version_1(tmp_path / "slots", request_id(9))
    slots = Slots.open(tmp_path / "slots")
    state = slots.read_slot(1)
    assert (slots.count, state.request_id, state.watts_milli) == (2, request_id(9), 11_000)
    assert (state.committed, state.intended) == (Usage(20, 5, 2, 80), Usage(20, 5, 3, 90))
    assert (state.first_token_ns, state.last_ns, state.estimated, state.short_by_one_read) == (7, 9, False, True)
    assert slots.read_slot(0).state == FREE
    slots.close()
    with pytest.raises(BooksError, match="another version"):  # nobody writes it any more
        Slots.open(tmp_path / "slots", readonly=False)
    whole = (tmp_path / "slots").read_bytes()
    (tmp_path / "slots").write_bytes(whole[:-8])
    with pytest.raises(BooksError):
        Slots.open(tmp_path / "slots")


def test_every_bucket_and_who_counted_belong_to_a_generation(tmp_path: Path) -> None:
    slots = Slots.create(tmp_path / "slots", 2)
    index = slots.claim(request_id(1))
    assert index is not None
    first, second = Usage(1, 2, 3, cache_write=4, reasoning=5), Usage(1, 2, 3, cache_write=4, reasoning=6)
    intend(slots, index, first, estimated=True)
    commit(slots, index)
    intend(slots, index, second)
    state = slots.read_slot(index)
    assert (state.committed, state.intended, state.estimated) == (first, second, True)
    assert state.short_by_one_read
    commit(slots, index)
    assert (slots.read_slot(index).committed, slots.read_slot(index).estimated) == (second, False)
    slots.close()
