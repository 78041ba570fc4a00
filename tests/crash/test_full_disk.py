"""A file system that is really full, or read-only: what a fake disk cannot show. Linux, with the right to mount one.

Each case is a function that runs in a process of its own, in a mount namespace of its own, on a tmpfs of one megabyte.
"""

import errno
import mmap
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.metering import closed, commit, intend, opened, request_id

from steelyard.kernel.errors import BooksError
from steelyard.kernel.quantities import Usage
from steelyard.kernel.settled import Position
from steelyard.metering.journal import Journal
from steelyard.metering.reader import read
from steelyard.metering.slots import Slots

ROOT = Path(__file__).parents[2]
SPACE = 1 << 20


def fill(folder: Path) -> Path:
    """Take all that is left."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return ballast


def sparse_mapping(folder: Path) -> None:
    """What the slots must never be: the store into a page without space is the end of the process."""
    with (folder / "sparse").open("w+b") as file:
        file.truncate(65536)
        fill(folder)
        words = memoryview(mmap.mmap(file.fileno(), 65536)).cast("Q")
        print("mapped", flush=True)
        words[4096] = 1
    print("survived")


def slots(folder: Path) -> None:
    ballast = fill(folder)
    try:
        Slots.create(folder / "slots", 1024)
        raise AssertionError("no space, and yet created")
    except BooksError as error:
        assert "No space left" in str(error)
    assert not (folder / "slots").exists()
    ballast.unlink()
    made = Slots.create(folder / "slots", 1024)
    fill(folder)
    for number in range(1024):  # every page of it
        index = made.claim(request_id(number))
        assert index is not None
        intend(made, index, Usage(1, 0, number))
        commit(made, index)
    made.sync()
    assert {made.read_slot(index).committed.output for index in range(1024)} == set(range(1024))
    made.close()


def journal(folder: Path) -> None:
    made = Journal.create(folder / "w0-1", segment_bytes=65536, threaded=False)
    ballast = fill(folder)
    numbers: list[int] = []
    try:
        for number in range(100_000):
            made.append(opened(number))
            numbers.append(number)
            made.tend()  # refused the spare segment meanwhile, which is no failure
    except BooksError as error:
        assert "cannot grow" in str(error)
    assert len(numbers) > 100 and not made.failed
    for number in numbers:
        made.append(closed(number))
    made.sync()
    ballast.unlink()
    made.append(opened(10**6))
    made.append(closed(10**6))
    made.close()
    batch = read(folder / "w0-1", Position(), until=None, max_records=10**6)
    assert len(batch.records) == 2 * len(numbers) + 2 and not batch.torn


def read_only(folder: Path) -> None:
    made = Journal.create(folder / "w0-1", segment_bytes=65536)
    made.append(opened(1))
    made.close()
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    for create in (
        lambda: Journal.create(folder / "w0-2", segment_bytes=65536),
        lambda: Journal.create(folder / "w0-1", segment_bytes=65536),
        lambda: Slots.create(folder / "slots", 4),
    ):
        try:
            create()
            raise AssertionError("read-only, and yet created")
        except BooksError as error:
            assert "Read-only file system" in str(error)
    assert read(folder / "w0-1", Position(), until=None, max_records=9).records == [opened(1)]


def database(folder: Path) -> None:
    """The database's own log finds no space: nothing is lost, and posted once when there is some again."""
    from sqlalchemy.exc import OperationalError
    from tests.unit.processes.test_replay import Shop

    shop = Shop(folder, folder / "books.db")
    shop.journal.close()
    shop.journal = Journal.create(folder / "journal" / "w0-4", segment_bytes=256 * 1024)
    for _ in range(300):
        shop.serve(usage=Usage(1, 2, 3))
    shop.journal.sync()
    ballast = fill(folder)
    for _ in range(2):
        try:
            shop.bookkeeper.step()
            raise AssertionError("no space, and yet posted")
        except OperationalError as error:
            assert "full" in str(error)
    ballast.unlink()
    shop.post()
    with shop._engine.connect() as books:
        found = books.exec_driver_sql("SELECT count(*), count(DISTINCT request_id), sum(output) FROM usage").one()
    assert tuple(found) == (300, 300, 900)
    assert shop.red() == set()


CASES = {one.__name__: one for one in (sparse_mapping, slots, journal, read_only, database)}


def on_a_tiny_disk(case: str, folder: Path, space: int = SPACE) -> "subprocess.CompletedProcess[str]":
    """Run the case in a namespace of its own; skipped where the kernel does not let us make one."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare here")
    command = [unshare, "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--"]
    mount = f"mount -t tmpfs -o size={space} none {folder}"
    if subprocess.run([*command, "bash", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    script = f"{mount} && exec {sys.executable} -m {__name__} {case} {folder}"
    return subprocess.run([*command, "bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


def test_pitfall_5_a_sparse_mapping_on_a_full_disk_is_the_end_of_the_process(tmp_path: Path) -> None:
    """Pitfall 5: so that nobody takes the allocation of the slots for a luxury."""
    done = on_a_tiny_disk("sparse_mapping", tmp_path)
    assert done.stdout == "mapped\n"
    assert done.returncode in (-signal.SIGBUS, 128 + signal.SIGBUS)


@pytest.mark.parametrize("case", ["slots", "journal", "read_only"])
def test_pitfalls_5_and_6_what_is_allocated_can_be_written_and_the_rest_is_refused(tmp_path: Path, case: str) -> None:
    """Pitfalls 5 and 6 without a fake."""
    done = on_a_tiny_disk(case, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_database_without_space_for_its_log_posts_everything_later_and_once(tmp_path: Path) -> None:
    done = on_a_tiny_disk("database", tmp_path, 4 * SPACE)
    assert (done.returncode, done.stderr) == (0, "")


if __name__ == "__main__":
    CASES[sys.argv[1]](Path(sys.argv[2]))
