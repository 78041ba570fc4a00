"""The benches' laboratory: each variant of our worker starts and answers, and who answers wrongly is named soon."""

import http.server
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.lab import child
from bench.lab.stand import OURS, Stand, stand
from bench.lab.weigh import Cores


@pytest.fixture(scope="module")
def laboratory() -> Iterator[Stand]:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with stand() as found:
            yield found
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("label", OURS)
def test_every_variant_answers(laboratory: Stand, label: str) -> None:
    laboratory.ours(label)  # raises SystemExit when it does not start, or answers anything but 200


class Wrong(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500, "out of order")


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[child.Child]:
    """Somebody else listens for him."""
    monkeypatch.setattr(child, "_WRONG_S", 0.1)
    sleeping = "import sys, time; print('no such model', file=sys.stderr); print('ready', flush=True); time.sleep(60)"
    made = child.Child([sys.executable, "-c", sleeping], Cores.here().rest, tmp_path / "log")
    yield made
    made.stop()


def test_who_answers_wrongly_is_named_with_what_he_said(subject: child.Child) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Wrong) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(SystemExit, match=r"500 out of order.*no such model"):
            child.until_answered(subject, server.server_port, b"GET / HTTP/1.1\r\n\r\n")
        server.shutdown()


def test_who_accepts_and_never_answers_is_named_as_soon(subject: child.Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_START_S", 20)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(SystemExit, match=r"nothing.*no such model"):
        child.until_answered(subject, silent.getsockname()[1], b"GET / HTTP/1.1\r\n\r\n")
    assert time.monotonic() - subject.born < 10
