"""The way to the books: the socket while they answer, the lock of the directory, and who may have it."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steelyard.cli.desk import Desk, Line
from steelyard.cli.directory import directory_lock, is_held
from steelyard.kernel import limits
from steelyard.kernel.clock import SystemClock
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import BooksError, CallerError, StartError
from steelyard.ledger import wire

Reply = Callable[[int, str, Any], bytes]


@contextmanager
def answering(path: Path, reply: Reply) -> Iterator[None]:
    """Books that say hello and answer every question by `reply`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as file:
            while head := file.read(4):
                number, op, payload = msgspec.msgpack.decode(file.read(int.from_bytes(head, "little")))
                said = wire.frame(number, wire.OK, {}) if op == "hello" else reply(number, op, payload)
                if not said:
                    return
                connection.sendall(said)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(5)
        listener.close()


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path)
    data.prepare()
    data.database.touch()
    return data


def test_an_answer_is_found_among_notices(data: DataDir) -> None:
    def reply(number: int, op: str, payload: Any) -> bytes:
        return wire.frame(wire.NOTICE, "snapshot", {}) + wire.frame(number, wire.OK, [op, payload])

    with answering(data.socket, reply):
        assert Desk(data, SystemClock()).command("tenant.list", {"a": 1}) == ["tenant.list", {"a": 1}]


def test_a_refusal_of_the_books_passes_through(data: DataDir) -> None:
    refusal = wire.refusal(CallerError(409, "already_exists", "There is one.", param="name"))
    with answering(data.socket, lambda number, op, payload: wire.frame(number, wire.ERROR, refusal)):
        with pytest.raises(CallerError, match="There is one") as refused:
            Desk(data, SystemClock()).command("tenant.add", {"name": "x"})
        assert (refused.value.status, refused.value.param) == (409, "name")


def test_books_that_go_away_half_way_are_told(data: DataDir) -> None:
    with answering(data.socket, lambda number, op, payload: b""), pytest.raises(BooksError, match="went away"):
        Desk(data, SystemClock()).command("tenant.add", {"name": "x"})


def test_silent_books_are_not_waited_for_for_ever(data: DataDir) -> None:
    answered = threading.Event()

    def reply(number: int, op: str, payload: Any) -> bytes:
        answered.wait(5)
        return b""

    with answering(data.socket, reply), Line(data.socket) as line, pytest.raises(BooksError, match="went away"):
        try:
            line.command("status", {}, patience_s=0.05)
        finally:
            answered.set()


def test_a_directory_has_one_holder(data: DataDir) -> None:
    assert not is_held(data)
    with directory_lock(data, SystemClock()):
        assert is_held(data)
        with pytest.raises(StartError, match=f"process {os.getpid()}"), directory_lock(data, SystemClock()):
            pytest.fail("two holders")
    assert not is_held(data)


def test_the_books_of_a_killed_supervisor_are_waited_for(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file names a process that is gone while its descendant still holds the lock."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    data.lock.write_bytes(gone.stdout)
    held = os.open(data.lock, os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    release = threading.Timer(0.2, os.close, [held])
    release.start()
    with directory_lock(data, SystemClock()):
        assert data.lock.read_text() == str(os.getpid())
    release.join()

    monkeypatch.setattr(limits, "OLD_LOCK_S", 0)
    data.lock.write_bytes(gone.stdout)
    held = os.open(data.lock, os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(StartError, match="in use"), directory_lock(data, SystemClock()):
        pytest.fail("two holders")
    os.close(held)


def test_the_lock_travels_to_a_child_that_inherits_it(data: DataDir) -> None:
    """So the directory is free only when the books have written their last."""
    with directory_lock(data, SystemClock()) as descriptor:
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(descriptor,)
        )
    assert is_held(data)
    assert child.stdin is not None
    child.stdin.close()
    child.wait(10)
    assert not is_held(data)


def test_what_fails_while_the_directory_is_held_is_not_the_directorys_fault(data: DataDir) -> None:
    with pytest.raises(ConnectionRefusedError), directory_lock(data, SystemClock()):
        raise ConnectionRefusedError
    assert not is_held(data)
