"""A private Steelyard that sells one model, served by the mock: books, one worker, a rich tenant with a key.

The worker runs on the measured core, the books with the rest. Started from the tree this file is in.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.lab.weigh import Cores, pinned
from steelyard.cli.desk import Line
from steelyard.kernel.directory import DataDir

MODEL, UPSTREAM, TENANT = "mock", "mock", "acme"
_MONEY = "9000000"
_PRICES = f"""
[[price]]
model = "{MODEL}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
per = "1M tokens"
input = "0.50"
cached_input = "0.05"
output = "1.50"
source = "an upstream for measurements"

[[cost]]
upstream = "{UPSTREAM}"
currency = "CNY"
effective_from = 2026-01-01T00:00:00+08:00
per = "1M tokens"
input = "0.30"
cached_input = "0.03"
output = "0.90"
source = "an upstream for measurements"
"""


class Started:
    """A child that said `ready`; its input is open as long as it may live. Raises SystemExit when it does not start."""

    def __init__(self, command: Sequence[str], cores: frozenset[int], log: Path, **environment: str) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                preexec_fn=pinned(cores),
            )
        said = b""
        while not said.startswith(b"ready"):
            said = self._process.stdout.readline() if self._process.stdout else b""
            if not said:
                self._process.wait()
                raise SystemExit(f"{' '.join(command)} did not start:\n{log.read_text()[-2000:]}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self, patience_s: float = 60) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


class Platform:
    """A running installation in a directory of its own."""

    def __init__(self, root: Path, upstream_port: int, cores: Cores) -> None:
        self.data = DataDir(root)
        self.data.prepare()
        self._cores = cores
        log = self.data.logs / "bench.log"
        books = [sys.executable, "-m", "steelyard.processes.books", "--data", str(root)]
        self.books = Started(books, cores.rest, log)
        self.command("prices.load", {"text": _PRICES})
        self.command("tenant.add", {"name": TENANT})
        self.command("wallet.topup", {"tenant": TENANT, "amount": _MONEY})
        self.key = str(self.command("key.add", {"tenant": TENANT, "name": "bench"})["key"])
        counts = {"context_tokens": 200_000, "max_output_tokens": 8192, "default_max_tokens": 512}
        names = {"name": MODEL, "upstream": UPSTREAM, "upstream_model": MODEL, "kind": "openai"}
        self.command("model.register", names | counts | {"address": f"127.0.0.1:{upstream_port}"})

    def command(self, op: str, payload: dict[str, Any]) -> Any:
        with Line(self.data.socket) as line:
            return line.command(op, payload)

    @contextmanager
    def worker(self, launch: Sequence[str] = ("-m", "steelyard.processes.worker"), *more: str) -> Iterator["Worker"]:
        """One worker on the measured core; drained at the end."""
        port = free_port()
        command = [sys.executable, *launch, "--data", str(self.data.root), "--port", str(port), *more]
        started = Started(command, self._cores.subject, self.data.logs / "bench.log")
        try:
            yield Worker(started.pid, port, self.key)
        finally:
            started.stop()

    def stop(self) -> None:
        self.books.stop()


class Worker:
    """Where it listens, and who it is."""

    def __init__(self, pid: int, port: int, key: str) -> None:
        self.pid, self.port, self.key = pid, port, key


@contextmanager
def mock(cores: Cores, log: Path) -> Iterator[int]:
    """The known upstream; its port."""
    port = free_port()
    started = Started([sys.executable, "-m", "bench.lab.mock", "--port", str(port)], cores.rest, log)
    try:
        yield port
    finally:
        started.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
