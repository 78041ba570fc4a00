"""`make bench-restart`: what `kill -9` of the local engine costs amid eight streams, on a quiet and on a busy machine.

From the kill to the moment when every stream is settled, and to the first answer of the engine that took its place.
Busy: beside as many processes that do nothing but count as there are CPUs for it. Each run has a platform of its own.
"""

import http.client
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPResponse
from pathlib import Path

import psutil

from bench.ladder import Up, up
from bench.report import RUNS_MIN, Report
from steelyard.kernel.cpus import cpus_allowed

_STREAMS, _TOKENS = 8, 400
_PATIENCE_S = 60
_ASKED = "Tell a very long story about the sea, its ships and all the people on them."


def ask(running: Up, *, stream: bool, tokens: int) -> HTTPResponse:
    line = http.client.HTTPConnection("127.0.0.1", running.port, timeout=_PATIENCE_S)
    asked = {"model": running.model, "messages": [{"role": "user", "content": _ASKED}], "ignore_eos": True}
    head = {"authorization": f"Bearer {running.key}", "content-type": "application/json"}
    line.request("POST", "/v1/chat/completions", json.dumps({**asked, "stream": stream, "max_tokens": tokens}), head)
    return line.getresponse()


def engine_of(running: Up) -> psutil.Process | None:
    for child in psutil.Process(running.child.pid).children(recursive=True):
        if "steelyard.processes.engine" in " ".join(child.cmdline()):
            return child
    return None


def posted(books: Path) -> int:
    """Requests that are in the books."""
    with closing(sqlite3.connect(f"file:{books}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM usage").fetchone()[0])


def recovered(is_settled: Callable[[], bool], ask: Callable[[], HTTPResponse], patience_s: int) -> tuple[float, float]:
    """Seconds from now until all is settled, and from now until there is an answer; 0 for what did not come."""
    began, settled, back = time.monotonic(), 0.0, 0.0
    while not back and time.monotonic() - began < patience_s:
        if not settled:
            settled = time.monotonic() - began if is_settled() else 0.0
        elif (answer := ask()).read() and answer.status == http.client.OK:
            back = time.monotonic() - began
        time.sleep(0.02)
    return settled, back


def one_run() -> tuple[float, float]:
    """Seconds from the kill until all is settled, and until there is an answer again."""
    with up() as running:
        engine = engine_of(running)
        if engine is None:
            raise SystemExit("There is no engine.")
        books = Path(engine.cmdline()[engine.cmdline().index("--data") + 1]) / "steelyard.db"
        ask(running, stream=False, tokens=4).read()
        streams = [ask(running, stream=True, tokens=_TOKENS) for _ in range(_STREAMS)]
        for stream in streams:
            stream.readline()
        before = posted(books)
        engine.kill()
        return recovered(
            lambda: posted(books) >= before + _STREAMS, lambda: ask(running, stream=False, tokens=4), _PATIENCE_S
        )


@contextmanager
def busy(count: int) -> Iterator[None]:
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


def told(report: Report, where: str, runs: Sequence[tuple[float, float]], beside: str = "") -> None:
    labels = ("to the last stream settled", "to the first answer")
    for label, found in zip(labels, zip(*runs, strict=True), strict=True):
        report.add(f"{where}: {label}", found, to=f"{beside}: {label}" if beside else "")
        print(f"{where}: {label}", *(f"{one:.2f}" for one in found))


def main() -> None:
    report, cpus = Report("restart", "s from kill -9"), cpus_allowed()
    told(report, "quiet", [one_run() for _ in range(RUNS_MIN)])
    with busy(cpus):
        told(report, "busy", [one_run() for _ in range(RUNS_MIN)], beside="quiet")
    report.finish(streams=_STREAMS)


if __name__ == "__main__":
    main()
