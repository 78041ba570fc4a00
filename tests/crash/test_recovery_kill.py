"""kill -9 of the books while they settle what a dead worker left, again and again: each request once, at its counts."""

import select
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random

from tests.fakes.ledger import Requests, books
from tests.fakes.metering import commit, intend, wait_for

from steelyard.kernel.directory import DataDir
from steelyard.kernel.quantities import Usage
from steelyard.metering.journal import Journal
from steelyard.metering.slots import Slots

REQUESTS = 2400
KILLS = 4


def left_behind(data: DataDir) -> None:
    """A dead worker's series: a third closed, a third with counts in their slots, a third with nothing delivered."""
    requests = Requests()
    journal = Journal.create(data.journals / "w0-1", segment_bytes=2 * 1024 * 1024)
    slots = Slots.create(data.journals / "w0-1" / "slots", REQUESTS)
    for number in range(REQUESTS):
        opened = requests.opened()
        slot = slots.claim(opened.request_id)
        assert slot is not None
        opened = type(opened)(**{name: getattr(opened, name) for name in opened.__struct_fields__} | {"slot": slot})
        journal.append(opened)
        if number % 3:
            intend(slots, slot, Usage(0, 0, 0))
            commit(slots, slot)
        if number % 3 == 1:
            intend(slots, slot, Usage(10, 0, 7))
            commit(slots, slot)
        if number % 3 == 0:
            journal.append(requests.closed(opened))
            slots.free(slot)
    journal.close()
    slots.close()


def start(data: DataDir) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "steelyard.processes.books", "--data", str(data.root)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )


def until_it_recovers(data: DataDir, process: "subprocess.Popen[bytes]") -> None:
    """Its own journal is there, or (nothing was left to settle) it is ready."""
    lives = len(list(data.journals.glob("books-*/lock")))
    wait_for(
        lambda: (
            bool(select.select([process.stdout], [], [], 0)[0]) or len(list(data.journals.glob("books-*/lock"))) > lives
        )
    )


def end(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    process.send_signal(number)
    assert process.stdin is not None and process.stdout is not None
    process.wait(30)
    process.stdin.close()
    process.stdout.close()


def posted(data: DataDir) -> tuple[int, int]:
    with closing(sqlite3.connect(data.database)) as database:
        rows = database.execute("SELECT count(*), count(DISTINCT request_id) FROM usage").fetchone()
    return rows[0], rows[1]


def test_killed_in_recovery_and_again_it_settles_each_request_once(tmp_path: Path) -> None:
    """Pitfall 9: the watermark is in the transaction of what was posted, so a recovery is simply run again."""
    data = DataDir(tmp_path / "data")
    data.prepare()
    books(data.database).dispose()
    left_behind(data)
    chance = Random(9)
    half_way = 0
    for _ in range(KILLS):
        process = start(data)
        assert process.stdout is not None
        until_it_recovers(data, process)
        select.select([process.stdout], [], [], chance.random() * 0.3)
        end(process, signal.SIGKILL)
        half_way += 0 < posted(data)[0] < REQUESTS
    process = start(data)
    wait_for(lambda: posted(data)[0] >= REQUESTS)
    end(process, signal.SIGTERM)
    assert posted(data) == (REQUESTS, REQUESTS)
    with closing(sqlite3.connect(data.database)) as database:
        ends = dict(database.execute("SELECT end, count(*) FROM usage GROUP BY end").fetchall())
        delivered = database.execute("SELECT sum(output) FROM usage WHERE end = 'worker_died'").fetchone()[0]
    assert ends == {"complete": REQUESTS // 3, "worker_died": 2 * REQUESTS // 3}
    assert delivered == 7 * REQUESTS // 3
    command = [sys.executable, "-m", "steelyard.cli.main", "verify", "--data", str(data.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"{half_way} of {KILLS} kills found a part of it posted")
