"""The replay over real journals and books: clean ones are clean, and each kind of damage turns its invariant red."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from tests.fakes.ledger import Requests, books, outside
from tests.fakes.metering import FaultyDisk, order, quote

from steelyard import flow
from steelyard.kernel.clock import ManualClock
from steelyard.kernel.directory import DatabaseUrl
from steelyard.kernel.errors import BooksError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Closed, End, Moved, Opened
from steelyard.metering.energy import EnergyClocks
from steelyard.metering.frames import segments
from steelyard.metering.journal import Journal
from steelyard.metering.meter import Meter
from steelyard.metering.slots import Slots
from steelyard.processes import bookkeeper
from steelyard.processes.bookkeeper import Bookkeeper
from steelyard.processes.replay import TITLES, replay
from steelyard.storage.database import open_database

SEGMENT_BYTES = 16 * 1024
REQUESTS = 300  # several segments and, posted in bits, several batches


class Shop:
    """Books, one living worker's journal, and a bookkeeper that posts when told to."""

    def __init__(self, root: Path, place: Path | DatabaseUrl) -> None:
        self.root = root
        self.journals = root / "journal"
        self.database = place
        self.clock = ManualClock()
        self.requests = Requests(self.clock)
        self._engine = books(self.database, clock=self.clock)
        self.journal = self.new_journal("w0-2")
        self.bookkeeper = self.new_bookkeeper(3)
        self.progress: list[tuple[int, int]] = []

    def new_journal(self, name: str) -> Journal:
        return Journal.create(self.journals / name, segment_bytes=SEGMENT_BYTES)

    def new_bookkeeper(self, epoch: int) -> Bookkeeper:
        return Bookkeeper(self._engine, self.journals, epoch, self.clock, flow.settle)

    def serve(self, tenant_id: int = 1, usage: Usage | None = None, end: End = End.COMPLETE) -> Opened:
        opened = self.requests.opened(tenant_id)
        self.journal.append(opened)
        self.clock.advance(1_000_000)
        self.journal.append(msgspec.structs.replace(self.requests.closed(opened, usage), end=end.value))
        return opened

    def post(self) -> None:
        self.journal.sync()
        while self.bookkeeper.step().more:
            pass

    def red(self) -> set[str]:
        """The invariants that do not hold."""
        return {finding.invariant for finding in self.findings() if not finding.ok}

    def findings(self) -> list:
        engine = open_database(self.database, readonly=True)
        try:
            with engine.connect() as connection:
                found = replay(connection, self.journals, progress=lambda *at: self.progress.append(at))
        finally:
            engine.dispose()
        assert {finding.invariant for finding in found} == TITLES.keys()
        return found

    def damage(self, *statements: str) -> None:
        engine = outside(self.database)
        with engine.begin() as connection:
            for statement in statements:
                assert connection.execute(text(statement)).rowcount > 0, statement
        engine.dispose()

    def close(self) -> None:
        self.bookkeeper.close()
        self.journal.close()
        self._engine.dispose()


@pytest.fixture
def shop(tmp_path: Path, place: Path | DatabaseUrl):
    shop = Shop(tmp_path, place)
    yield shop
    shop.close()


@pytest.fixture
def busy(shop: Shop) -> Shop:
    for number in range(REQUESTS):
        shop.serve(tenant_id=1 + number % 2)
        if number % 70 == 0:
            shop.post()
    shop.post()
    assert len(segments(shop.journals / "w0-2")) > 2
    return shop


@pytest.mark.postgres
def test_sound_books_replay_to_the_same_bytes_and_tell_how_far_they_are(busy: Shop) -> None:
    assert busy.red() == set()
    assert busy.progress[-1] == (3 * REQUESTS, 3 * REQUESTS)
    assert [done for done, _ in busy.progress] == sorted(done for done, _ in busy.progress)


@pytest.mark.postgres
def test_what_is_still_on_its_way_is_no_damage(busy: Shop) -> None:
    running = busy.requests.opened()
    busy.journal.append(running)
    busy.serve()
    busy.journal.sync()  # opened, closed, synced and not yet posted
    assert busy.red() == set()
    busy.post()  # posted behind the watermark, which waits for the one that runs
    assert busy.red() == set()


@pytest.mark.postgres
def test_books_without_any_request_are_sound(shop: Shop) -> None:
    assert shop.red() == set()


@pytest.mark.postgres
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage SET first_token_ns = first_token_ns + 1 WHERE request_id = (SELECT max(request_id) FROM usage)",
        "UPDATE usage SET short_by_one_read = true WHERE request_id = (SELECT min(request_id) FROM usage)",
        "UPDATE usage SET output = output + 1 WHERE request_id = (SELECT min(request_id) FROM usage)",
        "UPDATE rollups SET requests = requests + 1 WHERE grain = 'day' AND tenant_id = 1",
        "DELETE FROM rollups WHERE grain = 'hour' AND tenant_id = 2",
        "UPDATE accounts SET debit_nano = debit_nano + 1 WHERE name = 'wallet:beta'",
        "UPDATE accounts SET credit_nano = credit_nano - 1 WHERE name = 'revenue:small'",
        "DELETE FROM usage WHERE request_id = (SELECT max(request_id) FROM usage)",
        "DELETE FROM entries WHERE fact = 'topup' AND batch_id = 1",
    ],
)
def test_i12_a_row_the_journals_do_not_give(busy: Shop, statement: str) -> None:
    busy.damage(statement)
    assert busy.red() == {"I12"}


def test_i12_a_request_that_no_journal_knows(busy: Shop) -> None:
    path = busy.journals / "w0-2" / "00000000.journal"
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"\xff")
    assert "I12" in busy.red()


def test_i12_a_request_closed_twice_with_other_counts(busy: Shop) -> None:
    opened = busy.serve()
    busy.post()
    busy.journal.append(busy.requests.closed(opened, Usage(output=1)))
    busy.journal.sync()
    assert busy.red() == {"I12"}


def test_i12_a_segment_below_the_watermark_is_missing(busy: Shop) -> None:
    (busy.journals / "w0-2" / "00000001.journal").unlink()
    assert "I12" in busy.red()


def test_i8_a_watermark_beyond_the_synced_end(busy: Shop) -> None:
    busy.damage('UPDATE watermarks SET "offset" = "offset" + 1')
    assert "I8" in busy.red()


def test_i8_a_watermark_beyond_the_end_of_a_dead_series(busy: Shop) -> None:
    busy.journal.close()
    assert busy.red() == set()
    busy.damage("UPDATE watermarks SET segment = segment + 1")
    assert "I8" in busy.red()


@pytest.mark.parametrize("alive", [True, False])
def test_i8_a_segment_above_the_watermark_is_missing(busy: Shop, alive: bool) -> None:
    at = busy.journal.end.segment
    while busy.journal.end.segment < at + 3:
        busy.serve()
    busy.journal.sync()
    if not alive:
        busy.journal.close()
    assert busy.red() == set()
    (busy.journals / "w0-2" / f"{at + 1:08d}.journal").unlink()
    assert busy.red() == {"I8"}


def test_i8_the_newest_segment_of_a_living_writer_is_missing(busy: Shop) -> None:
    at = busy.journal.end.segment
    while busy.journal.end.segment == at:
        busy.serve()
    busy.journal.sync()
    path = busy.journals / "w0-2" / f"{at + 1:08d}.journal"
    path.rename(busy.root / path.name)
    assert busy.red() == {"I8"}
    (busy.root / path.name).rename(path)


def test_i8_a_journal_that_is_gone(busy: Shop) -> None:
    (busy.journals / "w0-2").rename(busy.root / "elsewhere")
    assert busy.red() == {"I8", "I12"}
    (busy.root / "elsewhere").rename(busy.journals / "w0-2")


@pytest.mark.postgres
def test_i6_more_output_than_asked_for(shop: Shop) -> None:
    shop.serve(usage=Usage(1, 0, 100), end=End.CLIENT_GONE)
    shop.serve(usage=Usage(1, 0, 101))  # a whole answer in one piece: nobody could cut it
    shop.post()
    assert shop.red() == set()
    shop.serve(usage=Usage(1, 0, 101), end=End.CLIENT_GONE)
    shop.post()
    assert shop.red() == {"I6"}


def test_what_an_upstream_made_above_its_cap_is_overrun(shop: Shop) -> None:
    shop.serve(usage=Usage(output=1_000_000))
    shop.post()
    assert shop.red() == set()


def died(shop: Shop, *, short: bool = False) -> Closed:
    """A worker dies in mid-answer; returns the close that books will write for it."""
    directory = shop.journals / "w1-5"
    journal = shop.new_journal("w1-5")
    meter = Meter(journal, Slots.create(directory / "slots", 4), shop.clock, EnergyClocks(shop.root))
    reading = meter.open(order(7), quote())
    reading.intend(Usage(10, 0, 5))
    reading.commit(Usage(10, 0, 5))
    if short:
        reading.intend(Usage(10, 0, 6))
    meter.close()
    return Closed(reading.request_id, 0, Usage(10, 0, 5), End.WORKER_DIED, 0, 0, short)


def die(shop: Shop, *, short: bool = False) -> Closed:
    """A worker dies in mid-answer; returns the close that books wrote for it. It ends up posted."""
    closed = died(shop, short=short)
    shop.bookkeeper.close()
    shop.bookkeeper = shop.new_bookkeeper(6)
    shop.bookkeeper.start()
    return closed


@pytest.mark.postgres
@pytest.mark.parametrize("short", [False, True])
def test_what_a_dead_worker_left_is_replayed_with_the_recovered_closes(shop: Shop, short: bool) -> None:
    die(shop, short=short)
    assert (shop.journals / "books-6").is_dir()
    assert shop.red() == set()


@pytest.mark.parametrize("recovered", [False, True])
def test_a_moved_request_is_settled_where_it_went(shop: Shop, recovered: bool) -> None:
    """By the living and by the dead, and also when the close is met before the move (other books wrote it)."""
    opened = shop.requests.opened()
    shop.journal.append(opened)
    for _ in range(1200):  # more than one step reads
        shop.serve()
    moved = Moved(opened.request_id, shop.clock.now_ns(), opened.model, "elsewhere", 1, 2, 50)
    shop.journal.append(moved)
    if not recovered:
        shop.journal.append(shop.requests.closed(opened))
        shop.post()
    shop.journal.close()
    late = shop.new_bookkeeper(4)
    if recovered:
        while late._read():
            late._pending.clear()
        late.recover("w0-2")  # and dies before it has posted anything
        late.close()
        late = shop.new_bookkeeper(5)
    late.start()
    shop.bookkeeper = late
    with shop._engine.connect() as connection:
        query = "SELECT upstream, max_tokens, hold_nano FROM usage ORDER BY request_id"
        found = connection.execute(text(query)).first()
    assert found is not None and tuple(found) == ("elsewhere", 50, opened.hold_nano)
    assert shop.red() == set()


def test_a_recovery_that_is_tried_again_writes_the_same_closes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that could not sync what it had taken: the journal has the close twice, with one and the same moment."""
    disk = FaultyDisk()
    create = Journal.create
    monkeypatch.setattr(Journal, "create", lambda directory, **sizes: create(directory, disk=disk, **sizes))
    write = Journal.append

    def append(journal: Journal, record: Opened | Closed) -> None:
        write(journal, record)
        disk.sync_fails = not disk.syncs_failed
        disk.syncs_failed = True

    died(shop)
    late = shop.new_bookkeeper(7)
    disk.syncs_failed = False
    monkeypatch.setattr(Journal, "append", append)
    with pytest.raises(BooksError, match="cannot sync"):
        late.start()
    disk.sync_fails = False
    shop.clock.advance(1_000_000)
    late.start()
    shop.bookkeeper = late
    assert shop.red() == set()


def test_what_earlier_books_recovered_and_posted_is_not_recovered_again(shop: Shop) -> None:
    """Found by the simulator: books that died in between had other books write the same closes at another moment."""

    def refusing(epoch: int, refused: Callable[[Any], bool]) -> None:
        late = shop.new_bookkeeper(epoch)
        settle = late._settle

        def refuse(connection: Any, settlements: Any, *others: Any) -> Any:
            if refused(settlements):
                raise BooksError("refused")
            return settle(connection, settlements, *others)

        late._settle = refuse
        with pytest.raises(BooksError, match="refused"):
            late.start()
        late.close()

    posted = shop.requests.opened(1)
    shop.journal.append(posted)
    shop.post()
    shop.journal.append(shop.requests.opened(1))  # never closed, and the watermark stays before it
    shop.journal.append(shop.requests.closed(posted))
    shop.post()
    shop.journal.close()
    refusing(7, bool)  # it writes the close and cannot post it
    shop.clock.advance(1_000_000)
    refusing(8, lambda settlements: not settlements)  # it posts the close and cannot move the watermark
    shop.clock.advance(1_000_000)
    shop.bookkeeper = shop.new_bookkeeper(9)
    shop.bookkeeper.start()
    assert not (shop.journals / "books-9").exists()
    assert shop.red() == set()


def forge(shop: Shop, change: Callable[[list], None]) -> None:
    """Rewrite the books' recovered close, in the journal and in the database alike."""
    from steelyard.kernel.settled import Position
    from steelyard.metering.reader import read

    shop.bookkeeper.close()
    directory = shop.journals / "books-6"
    (closed,) = read(directory, Position(), until=None, max_records=10).records
    plain = msgspec.to_builtins(closed)
    change(plain)
    for path in directory.iterdir():
        path.unlink()
    journal = Journal.create(directory, segment_bytes=SEGMENT_BYTES)
    journal.append(msgspec.convert(plain, Closed))
    journal.close()


def test_i6_a_recovered_close_above_what_had_left(shop: Shop) -> None:
    die(shop)
    forge(shop, lambda fields: fields[3].__setitem__(2, 6))
    assert shop.red() == {"I6", "I12"}


def test_i6_a_shortfall_that_is_not_flagged(shop: Shop) -> None:
    die(shop, short=True)
    forge(shop, lambda fields: fields.__setitem__(7, False))
    assert shop.red() == {"I6", "I12"}


def test_i6_counts_without_a_slot_that_vouches_for_them(shop: Shop) -> None:
    die(shop)
    (shop.journals / "w1-5" / "slots").unlink()
    assert shop.red() == {"I6"}


def test_nothing_of_a_dead_worker_is_posted_before_it_is_durable(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(directory: Path) -> None:
        raise BooksError("Input/output error")

    monkeypatch.setattr(bookkeeper, "make_durable", refuse)
    served = shop.serve()
    shop.journal.close()  # for a reader, the end of its writer
    late = shop.new_bookkeeper(4)
    with pytest.raises(BooksError, match="Input/output error"):
        late.start()
    with pytest.raises(BooksError, match="Input/output error"):
        late.mark_dead("w0-2")
    assert not late.posted([served.request_id])


@pytest.mark.postgres
def test_every_bucket_is_replayed_and_counts_against_the_cap(shop: Shop) -> None:
    shop.serve(usage=Usage(5, 6, 7, 8, 9, 10, 11), end=End.CLIENT_GONE)
    shop.serve(usage=Usage(1, 0, 60, reasoning=40), end=End.CLIENT_GONE)
    shop.post()
    assert shop.red() == set()
    shop.damage("UPDATE usage SET estimated = (1 = 1) WHERE cache_write = 10")
    assert shop.red() == {"I12"}
    shop.serve(usage=Usage(1, 0, 60, reasoning=41), end=End.CLIENT_GONE)
    shop.post()
    assert shop.red() == {"I6", "I12"}


def test_i6_a_recovered_close_that_hides_whose_counts_it_has(shop: Shop) -> None:
    die(shop)
    forge(shop, lambda fields: fields.__setitem__(8, True))
    assert shop.red() == {"I6", "I12"}
