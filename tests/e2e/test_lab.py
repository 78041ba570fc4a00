"""The benches' laboratory: each variant of our worker starts and answers, and who answers wrongly is named soon."""

import http.server
import signal
import sys
import threading
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


def test_who_answers_wrongly_is_named_with_what_he_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_WRONG_S", 0.1)
    sleeping = "import sys, time; print('no such model', file=sys.stderr); print('ready', flush=True); time.sleep(60)"
    subject = child.Child([sys.executable, "-c", sleeping], Cores.here().rest, tmp_path / "log")
    with http.server.HTTPServer(("127.0.0.1", 0), Wrong) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(SystemExit, match=r"500 out of order.*no such model"):
            child.until_answered(subject, server.server_port, b"GET / HTTP/1.1\r\n\r\n")
        server.shutdown()
    subject.stop()
