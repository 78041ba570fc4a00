"""Children of a measurement: started on their core, ended with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.lab.weigh import Cores, on

_START_S = 240
_WRONG_S = 20  # of answers but 200, or of none: who starts slowly refuses connections until then, or nearly so


class Child:
    """A process of its own group. `says_ready`: wait for that word; raises SystemExit when it does not come."""

    def __init__(
        self,
        command: Sequence[str],
        cores: frozenset[int],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        says_ready: bool = True,
    ) -> None:
        self.command, self.log = command, log
        self.born = time.monotonic()
        with log.open("ab") as errors, on(cores):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if says_ready else errors,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        if says_ready and self._process.stdout is not None:
            while not (said := self._process.stdout.readline()).startswith(b"ready"):
                if not said:
                    self._process.wait()
                    raise SystemExit(f"{self.last_words()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def last_words(self) -> str:
        log = self.log.read_text(errors="replace").strip()
        return f"{Path(self.command[0]).name} did not start: {log[-600:]}"

    def stop(self, patience_s: float = 60) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)  # and what it left behind
            self._process.wait()


@contextmanager
def mock(cores: Cores, log: Path) -> Iterator[int]:
    """The known upstream; its port."""
    port = free_port()
    started = Child([sys.executable, "-m", "bench.lab.mock", "--port", str(port)], cores.rest, log)
    try:
        yield port
    finally:
        started.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_answered(child: Child, port: int, request: bytes) -> float:
    """Seconds from its birth until it answers the request with 200. Raises SystemExit when that does not come, or when
    it has accepted connections for a while and answered nothing, or something else."""
    said, since = b"nothing", 0.0
    while time.monotonic() - child.born < _START_S:
        if not child.alive:
            raise SystemExit(child.last_words())
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_WRONG_S / 2) as line:
            since = since or time.monotonic()
            line.sendall(request)
            said = line.recv(4096) or said
            if said.startswith(b"HTTP/1.1 200"):
                return time.monotonic() - child.born
        if since and time.monotonic() - since > _WRONG_S:
            break
        time.sleep(0.02)
    log = child.log.read_text(errors="replace").strip()
    raise SystemExit(f"{' '.join(child.command[:3])} answered {said[:600]!r}; its last words: {log[-600:]}")
