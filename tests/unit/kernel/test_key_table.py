"""The table of live keys: what the writer stores, every reader sees; nothing that ended is found, and none is lost."""

import hashlib
import random
from pathlib import Path

import pytest

from steelyard.kernel import limits
from steelyard.kernel.errors import BooksError
from steelyard.kernel.key_table import KeyTable, KeyTableWriter, Sizes
from steelyard.kernel.records import Caller

KEYS = 10_000


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def caller(number: int) -> Caller:
    project = (number - 1) // 10 + 1
    return Caller(number, project, project, f"tenant {project} 北京", "default", "CNY")


def test_ten_thousand_keys_are_found_by_every_reader_and_those_that_ended_are_not(tmp_path: Path) -> None:
    writer = KeyTableWriter.create(tmp_path / "keys", Sizes.of(KEYS, KEYS, KEYS // 10, KEYS // 10 * 96))
    early = KeyTable(tmp_path / "keys")
    assert all(writer.add(digest(number), caller(number)) for number in range(1, KEYS + 1))
    ended = set(random.Random(6).sample(range(1, KEYS + 1), 3000))
    assert early.get(digest(min(ended))) == caller(min(ended)), "and it is kept for the next time"
    for number in sorted(ended):
        writer.end(number)
    for table in (early, KeyTable(tmp_path / "keys")):
        assert len(table) == KEYS - len(ended)
        for number in range(1, KEYS + 1):
            expected = None if number in ended else caller(number)
            assert table.get(digest(number)) == table.get(digest(number)) == table.of_key(number) == expected
        assert not any(table.get(digest(-number)) for number in range(1, KEYS))
        table.close()
    assert dict(writer.live()) == {digest(n): caller(n) for n in range(1, KEYS + 1) if n not in ended}


def test_a_project_pays_with_its_oldest_live_key(tmp_path: Path) -> None:
    writer = KeyTableWriter.create(tmp_path / "keys", Sizes.of(30, 30, 3, 1000))
    numbers = list(range(1, 31))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        writer.add(digest(number), caller(number))
    assert [one.key_id for one in writer.payers(9)] == [1, 11, 21]
    assert [one.key_id for one in writer.payers(2)] == [1, 11]
    for number in (1, *range(11, 21)):
        writer.end(number)
    assert [one.key_id for one in writer.payers(9)] == [2, 21]
    assert writer.of_project(2) is None and writer.of_project(99) is None and writer.of_key(0) is None


def test_what_has_no_room_is_said_and_a_copy_has_it(tmp_path: Path) -> None:
    writer = KeyTableWriter.create(tmp_path / "small", Sizes.of(0, 0, 0, 0))
    reader = KeyTable(tmp_path / "small")
    number = 0
    while writer.add(digest(number + 1), caller(number + 1)):
        number += 1
        assert number < limits.KEY_TABLE_SLOTS_MIN
    assert writer.crowded and reader.get(digest(number)) == caller(number) and reader.get(digest(number + 1)) is None
    writer.end(1)
    larger = writer.grown(tmp_path / "large", 5000)
    assert not larger.crowded and len(larger) == number - 1
    assert all(larger.add(digest(n), caller(n)) for n in range(number + 1, number + 5000))
    assert larger.get(digest(1)) is None and larger.get(digest(number)) == caller(number)
    assert writer.get(digest(2)) == caller(2), "the old one goes on until it is let go"


def test_a_key_that_comes_back_is_live_again(tmp_path: Path) -> None:
    writer = KeyTableWriter.create(tmp_path / "keys", Sizes.of(0, 0, 0, 0))
    for _ in range(3):
        assert writer.add(digest(1), caller(1)) and writer.add(digest(1), caller(1))
        assert len(writer) == 1 and writer.get(digest(1)) == caller(1)
        writer.end(1)
        writer.end(1)
        assert len(writer) == 0 and writer.get(digest(1)) is None


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * 8192])
def test_another_file_is_no_key_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(BooksError):
        KeyTable(tmp_path / "keys")
    with pytest.raises(BooksError):
        KeyTable(tmp_path / "none")
