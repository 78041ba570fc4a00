"""The reader: bounds, rotation, torn and damaged files."""

import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.metering import FaultyDisk, closed, opened

from steelyard.kernel.errors import BooksError
from steelyard.kernel.frozen import JournalRecord
from steelyard.kernel.settled import Position
from steelyard.metering.frames import HEADER_BYTES, PREFIX, frame_from, segment_header, segment_path, segments
from steelyard.metering.journal import Journal
from steelyard.metering.reader import read, series

ALL = 10**9
RECORDS = [record for number in range(40) for record in (opened(number), closed(number))]


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """A series of several segments whose writer has ended."""
    directory = tmp_path / "w0-1"
    journal = Journal.create(directory, segment_bytes=2048)
    for record in RECORDS:
        journal.append(record)
    journal.close()
    return directory


def test_a_batch_is_bounded_and_the_next_one_goes_on_behind_it(dead: Path) -> None:
    position, found, batches = Position(), [], 0
    while True:
        batch = read(dead, position, until=None, max_records=7)
        assert len(batch.records) <= 7
        if not batch.records:
            break
        found += batch.records
        position = batch.end
        batches += 1
    assert found == RECORDS
    assert batches == -(-len(RECORDS) // 7)


def test_until_is_never_passed(dead: Path) -> None:
    middle = read(dead, Position(), until=None, max_records=50).end
    assert middle.segment > 0
    batch = read(dead, Position(), until=middle, max_records=ALL)
    assert batch.records == RECORDS[:50]
    assert batch.end == middle
    assert read(dead, middle, until=middle, max_records=ALL).records == []


def test_frames_larger_than_a_chunk_border_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.kernel.limits.JOURNAL_READ_BYTES", 300)
    journal = Journal.create(tmp_path / "w0-1")
    for record in RECORDS:
        journal.append(record)
    journal.close()
    assert read(tmp_path / "w0-1", Position(), until=None, max_records=ALL).records == RECORDS


def write_segment(directory: Path, number: int, body: bytes, name: str = "") -> None:
    directory.mkdir(exist_ok=True)
    (directory / "lock").write_bytes(bytes(64))
    segment_path(directory, number).write_bytes(segment_header(name or directory.name, number) + body)


FRAMES = [frame_from(record) for record in RECORDS[:6]]
WHOLE = b"".join(FRAMES)


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "survive"),
    [
        (lambda body: body, 6),
        (lambda body: body + bytes(10_000), 6),  # the pre-allocated rest
        (lambda body: body[:-1], 5),
        (lambda body: body[: -len(FRAMES[5]) + 3] + bytes(10_000), 5),  # cut within the length and CRC
        (lambda body: body[: -len(FRAMES[5]) + 20] + bytes(10_000), 5),  # cut within the body
        (flip(len(FRAMES[0]) + 30), 1),  # torn middle
        (flip(len(FRAMES[0]) + 3), 1),  # a length of 16 million
        (lambda body: body[: len(FRAMES[0])] + bytes(len(FRAMES[1])) + body[len(FRAMES[0]) + len(FRAMES[1]) :], 1),
    ],
)
def test_a_dead_segment_ends_where_its_bytes_stop_making_sense(
    tmp_path: Path, damage: Callable[[bytes], bytes], survive: int
) -> None:
    write_segment(tmp_path / "w0-1", 0, damage(WHOLE))
    batch = read(tmp_path / "w0-1", Position(), until=None, max_records=ALL)
    assert batch.records == RECORDS[:survive]
    assert batch.torn == (survive < 6)
    assert batch.end == Position(0, HEADER_BYTES + sum(len(frame) for frame in FRAMES[:survive]))


class LaterOpened(JournalRecord, frozen=True, tag=1):
    """A record as a later version may have it: its last field is a number, and that is zero."""

    request_id: bytes
    count: int = 0


def test_no_frame_is_whole_without_its_last_byte() -> None:
    """A segment is made of zeros: were the last byte one, a frame written one byte short would stand there whole."""
    frame = frame_from(LaterOpened(bytes(16)))  # type: ignore[arg-type]
    assert frame_from(opened(1))[-1] and frame[-1]


def test_frames_from_before_the_end_byte_are_read(tmp_path: Path) -> None:
    bodies = [b"\x01" + msgspec.msgpack.encode(record) for record in RECORDS]
    frames = [PREFIX.pack(len(body), zlib.crc32(body, len(body))) + body for body in bodies]
    write_segment(tmp_path / "w0-1", 0, b"".join(frames))
    batch = read(tmp_path / "w0-1", Position(), until=None, max_records=ALL)
    assert batch.records == RECORDS and not batch.torn


def test_the_segments_behind_a_torn_one_are_read(tmp_path: Path) -> None:
    write_segment(tmp_path / "w0-1", 0, WHOLE[:-1])
    write_segment(tmp_path / "w0-1", 1, frame_from(closed(77)))
    batch = read(tmp_path / "w0-1", Position(), until=None, max_records=ALL)
    assert batch.records == [*RECORDS[:5], closed(77)]
    assert batch.torn


WITHIN = HEADER_BYTES + 40  # the first frame of a segment


def _flipped(path: Path, content: bytes) -> None:
    path.write_bytes(content[:WITHIN] + bytes([content[WITHIN] ^ 16]) + content[WITHIN + 1 :])


def _zeroed(path: Path, content: bytes) -> None:
    path.write_bytes(content[:WITHIN] + bytes(len(content) - WITHIN))


def _cut(path: Path, content: bytes) -> None:
    path.write_bytes(content[:-1])


def _gone(path: Path, content: bytes) -> None:
    path.unlink()


def _doubled(path: Path, content: bytes) -> None:
    one, other, *_ = sorted(path.parent.glob("*.journal"))
    path.write_bytes((other if path == one else one).read_bytes())


@pytest.mark.parametrize("segment", [0, 1, -1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("damage", [_flipped, _zeroed, _cut, _gone, _doubled])
def test_damage_below_what_a_dead_writer_had_synced_is_noticed(
    dead: Path, damage: Callable[[Path, bytes], None], segment: int
) -> None:
    """Found by the simulator: the frames behind the damage were passed over in silence, and their requests lost."""
    path = segment_path(dead, segments(dead)[segment])
    damage(path, path.read_bytes())
    with pytest.raises(BooksError, match=r"damaged|missing|belongs elsewhere"):
        read(dead, Position(), until=None, max_records=ALL)
    if segment == -1:
        with pytest.raises(BooksError, match=r"damaged|missing|belongs elsewhere"):
            Journal.create(dead)


def test_a_segment_of_another_series_or_place_is_not_read(tmp_path: Path) -> None:
    write_segment(tmp_path / "w0-1", 0, WHOLE, name="w0-2")
    with pytest.raises(BooksError, match="belongs elsewhere"):
        read(tmp_path / "w0-1", Position(), until=None, max_records=ALL)
    segment_path(tmp_path / "w0-1", 0).rename(segment_path(tmp_path / "w0-1", 1))
    with pytest.raises(BooksError, match="missing"):
        read(tmp_path / "w0-1", Position(), until=None, max_records=ALL)


def test_a_blank_segment_made_ahead_is_no_damage(tmp_path: Path) -> None:
    write_segment(tmp_path / "w0-1", 0, WHOLE)
    segment_path(tmp_path / "w0-1", 1).write_bytes(bytes(4096))
    batch = read(tmp_path / "w0-1", Position(), until=None, max_records=ALL)
    assert batch.records == RECORDS[:6]
    assert not batch.torn


def test_damage_below_the_synced_position_of_a_living_writer_is_loud(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "w0-1")
    for record in RECORDS[:6]:
        journal.append(record)
    journal.sync()
    with segment_path(tmp_path / "w0-1", 0).open("r+b") as file:
        file.seek(HEADER_BYTES + 40)
        file.write(b"\xff\xff")
    with pytest.raises(BooksError, match="damaged"):
        read(tmp_path / "w0-1", Position(), until=None, max_records=ALL)
    journal.close()


def test_a_living_writer_is_read_up_to_its_synced_position_across_segments(tmp_path: Path) -> None:
    disk = FaultyDisk()
    journal = Journal.create(tmp_path / "w0-1", segment_bytes=4096, disk=disk)
    for record in RECORDS:
        journal.append(record)
    journal.sync()
    batch = read(tmp_path / "w0-1", Position(), until=None, max_records=ALL)
    assert batch.records == RECORDS
    assert batch.end == journal.end
    disk.may_sync.clear()
    journal.append(opened(999))
    assert read(tmp_path / "w0-1", batch.end, until=None, max_records=ALL).records == []
    disk.may_sync.set()
    journal.close()
    assert read(tmp_path / "w0-1", batch.end, until=None, max_records=ALL).records == [opened(999)]


def test_series_are_listed_by_name(tmp_path: Path) -> None:
    assert series(tmp_path / "nowhere") == []
    for name in ("w1-2", "books", "w0-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "stray").write_text("")
    assert [path.name for path in series(tmp_path)] == ["books", "w0-1", "w1-2"]


@given(st.data())
def test_no_damage_makes_up_a_record(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever happens to the bytes, what is read is a prefix of what was written."""
    at = data.draw(st.integers(0, len(WHOLE) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=64))
    body = (WHOLE[:at] + junk + WHOLE[at + len(junk) :]) if data.draw(st.booleans()) else WHOLE[:at]
    directory = tmp_path_factory.mktemp("any") / "w0-1"
    write_segment(directory, 0, body)
    batch = read(directory, Position(), until=None, max_records=ALL)
    assert batch.records == RECORDS[: len(batch.records)]
    assert batch.end.offset == HEADER_BYTES + sum(len(frame) for frame in FRAMES[: len(batch.records)])
