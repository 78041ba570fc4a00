"""kill -9 while readers lag: what is billed had left user space, to the token or one read short."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from tests.crash.serve_flood import WORD
from tests.fakes.parties import KEY

from steelyard.kernel.clock import SystemClock
from steelyard.kernel.settled import Closed, Opened, Position
from steelyard.metering.reader import read
from steelyard.metering.recovery import recover
from steelyard.metering.slots import Slots

ROOT = Path(__file__).parents[2]
READERS = 4
BODY = json.dumps(
    {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5_000_000, "stream": True}
).encode()
HEAD = (
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    f"content-length: {len(BODY)}\r\n\r\n"
)


def connect(port: int) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=20)
    raw.sendall(HEAD.encode() + BODY)
    return raw


def read_all(raw: socket.socket) -> bytes:
    pieces = []
    while True:
        try:
            piece = raw.recv(1 << 20)
        except ConnectionResetError:
            piece = b""
        if not piece:
            raw.close()
            return b"".join(pieces)
        pieces.append(piece)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_billed_had_left_user_space(tmp_path: Path, seed: int) -> None:
    """Pitfall 4: what waits in a buffer of our own dies with us and is not counted."""
    random = Random(seed)
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.serve_flood", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    readers = [connect(int(child.stdout.readline())) for _ in range(1)]
    port = readers[0].getpeername()[1]
    readers += [connect(port) for _ in range(READERS - 1)]
    seen = [b""] * READERS
    for _ in range(random.randrange(5, 40)):  # some read a little, some hardly at all
        place = random.randrange(READERS)
        if select.select([readers[place]], [], [], 5)[0]:
            seen[place] += readers[place].recv(random.choice([100, 10_000, 300_000]))
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    child.stdout.close()

    series = tmp_path / "w0-1"
    records = read(series, Position(0, 0), until=None, max_records=1000).records
    opened = [r for r in records if isinstance(r, Opened)]
    assert not [r for r in records if isinstance(r, Closed)]
    settled = {c.request_id.hex(): c for c in recover(series, opened, SystemClock())}
    for place, raw in enumerate(readers):
        answer = seen[place] + read_all(raw)
        if not answer:
            continue  # its request was still being read when the worker died
        request_id = answer.split(b"x-request-id: req_")[1][:32].decode()
        whole = answer.count(WORD.encode())
        closed = settled.pop(request_id)
        assert closed.usage.output <= whole, "over-billed"
        assert closed.usage.output >= whole - 1, "more than one read short"
        if closed.usage.output < whole:
            assert closed.short_by_one_read
    assert all(c.usage.output == 0 for c in settled.values())


@pytest.mark.parametrize("unread", [False, True])
def test_bytes_that_nobody_read_make_the_kernel_drop_what_was_under_way(tmp_path: Path, unread: bool) -> None:
    """Pitfall 13: killed with unread input, a connection is reset, and what the kernel had taken of the answer is lost.
    Delivered means left user space: it is billed. Without unread input all of it arrives."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.serve_flood", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # most of the answer waits on the other side
    raw.settimeout(20)
    raw.connect(("127.0.0.1", int(child.stdout.readline())))
    raw.sendall(HEAD.encode() + BODY)
    answer = raw.recv(2000)
    request_id = answer.split(b"x-request-id: req_")[1][:32].decode()
    slots = Slots.open(tmp_path / "w0-1" / "slots")
    seen = [-1, 0]
    while seen[-1] != seen[-2]:  # until the kernel takes no more
        select.select([], [], [], 0.3)
        seen.append(slots.read_slot(0).committed.output)
    slots.close()
    if unread:
        os.kill(child.pid, signal.SIGSTOP)  # it cannot read any more
        raw.sendall(b"POST / HTTP/1.1\r\n")
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    answer += read_all(raw)
    records = read(tmp_path / "w0-1", Position(), until=None, max_records=9).records
    (closed,) = recover(tmp_path / "w0-1", [one for one in records if isinstance(one, Opened)], SystemClock())
    assert closed.request_id.hex() == request_id
    arrived = answer.count(WORD.encode())
    assert closed.usage.output in (seen[-1], seen[-1] + 1)
    if unread:
        assert arrived < closed.usage.output, "the reset dropped a part of it"
    else:
        assert closed.usage.output in (arrived, arrived - 1)
