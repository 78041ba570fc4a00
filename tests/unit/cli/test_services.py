"""What `up` runs and how it sees that it is well: real sockets, small fake processes."""

import asyncio
import os
import signal
import socket
import sys
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from steelyard.cli.services import (
    books_check,
    books_service,
    check_space,
    engine_check,
    engine_service,
    reachable_host,
    reserve_port,
    worker_check,
    worker_service,
)
from steelyard.config import Settings
from steelyard.engines.leash import KEY_VARIABLE
from steelyard.gateway.server import public_socket
from steelyard.kernel import limits
from steelyard.kernel.directory import DataDir
from steelyard.kernel.errors import StartError

WORKER = """
import socket, sys, threading
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("127.0.0.1", int(sys.argv[1]))); listener.listen(); print("up", flush=True)
def serve(connection):
    with connection:
        while connection.recv(4096):
            connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


async def nothing(greeting: str) -> None:
    return None


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def workers(port: int) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Two processes that answer on one shared port."""
    command = [sys.executable, "-c", WORKER, str(port)]
    started = [await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE) for _ in range(2)]
    for one in started:
        assert one.stdout is not None
        assert await one.stdout.readline() == b"up\n"
    yield started
    for one in started:
        one.kill()
        await one.wait()


def test_secrets_are_not_in_any_command(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    services = [
        books_service(settings, 7),
        engine_service(settings, tmp_path / "m.gguf", "hush", nothing),
        worker_service(settings, 0, {KEY_VARIABLE: "hush"}),
    ]
    assert [one.name for one in services] == ["books", "engine", "worker-0"]
    assert not any("hush" in part for one in services for part in one.command())
    assert services[0].keep == (7,)
    assert [KEY_VARIABLE in one.environment for one in services] == [False, True, True]


def test_strict_durability_reaches_the_workers(tmp_path: Path) -> None:
    for durability in ("normal", "strict"):
        command = worker_service(Settings(data=tmp_path, durability=durability), 0, {}).command()
        assert ("--strict" in command) == (durability == "strict")


def test_a_reserved_port_is_ours_alone_but_workers_share_it(port: int) -> None:
    with reserve_port("127.0.0.1", port):
        for _ in range(2):
            public_socket("127.0.0.1", port).close()
        with socket.socket() as stranger, pytest.raises(OSError):
            stranger.bind(("127.0.0.1", port))


@pytest.mark.parametrize("share", [False, True])
def test_a_taken_port_is_told_even_when_its_owner_would_share(port: int, share: bool) -> None:
    with socket.socket() as taken:
        if share:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(StartError, match=f"Port {port} on 127.0.0.1 is taken"):
            reserve_port("127.0.0.1", port)


def test_an_address_that_is_not_this_machines_is_not_said_to_be_freed(port: int) -> None:
    with pytest.raises(StartError, match=r"cannot be used \(.*\). Choose another with --port or --host."):
        reserve_port("203.0.113.9", port)


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = namedtuple("space", "free")
    settings = Settings(data=tmp_path, workers=2)
    needed = 2 * limits.SEGMENT_BYTES + limits.BOOKS_SEGMENT_BYTES + limits.FREE_BYTES_MIN
    monkeypatch.setattr("shutil.disk_usage", lambda path: space(needed))
    check_space(settings)
    monkeypatch.setattr("shutil.disk_usage", lambda path: space(needed - 1))
    with pytest.raises(StartError, match="disk is full"):
        check_space(settings)


async def test_living_workers_are_well(port: int, workers: list[asyncio.subprocess.Process]) -> None:
    pids = {f"worker-{number}": one.pid for number, one in enumerate(workers)}
    assert await worker_check("127.0.0.1", port)(pids) == frozenset()


@pytest.mark.parametrize("hung", [0, 1])
async def test_the_one_that_hangs_is_found_among_those_that_share_the_port(
    port: int, workers: list[asyncio.subprocess.Process], hung: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEALTH_REPLY_S", 0.5)
    pids = {f"worker-{number}": one.pid for number, one in enumerate(workers)}
    os.kill(workers[hung].pid, signal.SIGSTOP)
    found = frozenset[str]()
    for _ in range(20):  # the kernel chooses: a round in 256 misses the hanging one, and one meets nobody else
        found = await worker_check("127.0.0.1", port)(pids)
        if found == {f"worker-{hung}"}:
            break
    assert found == {f"worker-{hung}"}


async def test_silent_engines_and_books_are_found(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENGINE_HEALTH_REPLY_S", 0.2)
    monkeypatch.setattr(limits, "TELLER_REPLY_S", 0.2)
    assert await engine_check(lambda: f"127.0.0.1:{port}")({"engine": 1}) == {"engine"}
    assert await books_check(DataDir(tmp_path))({"books": 1}) == {"books"}


async def test_an_engine_that_loads_is_alive(port: int, workers: list[asyncio.subprocess.Process]) -> None:
    assert await engine_check(lambda: f"127.0.0.1:{port}")({"engine": 1}) == frozenset()


@pytest.mark.parametrize(("bound", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.5", "10.0.0.5")])
def test_the_address_to_show_is_one_that_can_be_reached(bound: str, reached: str) -> None:
    assert reachable_host(bound) == reached


@pytest.mark.parametrize(("days", "stores"), [(30, True), (1, True), (0, False)])
def test_how_long_responses_are_stored_is_told_to_books_and_workers(days: int, stores: bool) -> None:
    settings = Settings(store_days=days)
    books = books_service(settings, 3).command()
    assert books[books.index("--store-days") + 1] == str(days)
    assert ("--no-store" in worker_service(settings, 0, {}).command()) is not stores
