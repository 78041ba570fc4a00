"""Who is connected to a server of this process, and waiting for the first: real sockets."""

import os
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from steelyard.processes.visitors import Visitors

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
LONG_S = 60


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def over() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_who_is_connected_is_seen_until_he_has_gone(server: socket.socket, over: tuple[int, int]) -> None:
    address = server.getsockname()
    visitors = Visitors(address[1], over[0])
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_connection(other.getsockname()):
        assert not visitors.any(), "who is connected to another server is no visitor"
    for _ in range(3):
        with socket.create_connection(address):
            accepted, _ = server.accept()
            assert visitors.any()
        accepted.close()
        assert not visitors.any()
    visitors.close()


def test_waiting_ends_with_each_who_comes_even_before_it_begins(server: socket.socket, over: tuple[int, int]) -> None:
    address = server.getsockname()
    visitors = Visitors(address[1], over[0])
    for comes_first in (True, False, True):
        waiting = threading.Thread(target=visitors.wait, args=(LONG_S,))
        if not comes_first:
            waiting.start()
        with socket.create_connection(address):
            if comes_first:
                waiting.start()
            waiting.join(LONG_S / 2)
            assert not waiting.is_alive()
            server.accept()[0].close()
    waiting = threading.Thread(target=visitors.wait, args=(LONG_S,))
    waiting.start()
    os.write(over[1], b".")
    waiting.join(LONG_S / 2)
    assert not waiting.is_alive()
    visitors.close()


def test_where_nothing_can_be_told_somebody_is_there(over: tuple[int, int]) -> None:
    visitors = Visitors(1, over[0])
    assert visitors.any()
    visitors.wait(LONG_S)
    visitors.close()
