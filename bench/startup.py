"""`make bench-startup`: how soon a gateway without an engine answers, how much memory its worker takes, how big it is.

From the start of `steelyard up --no-engine` to the first answer of the public port: in an empty directory to /healthz,
and with books that are there to a paid answer. The installed size is that of the package and all it needs, as their
wheels list their files.
"""

import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import psutil

from bench.lab.child import Child, free_port, mock, until_answered
from bench.lab.load import Load
from bench.lab.platform import furnish
from bench.lab.weigh import Cores, rss_mb
from bench.report import RUNS_MIN, Report

_PLAIN = b"GET %b HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer %b\r\n\r\n"


@contextmanager
def up(data: Path, log: Path) -> Iterator[tuple[Child, int]]:
    """`steelyard up`, just begun, and its port."""
    port = free_port()
    command = [sys.executable, "-m", "steelyard.cli.main", "up", "--no-engine", "--no-embeddings"]
    command += ["--data", str(data), "--port", str(port)]
    child = Child(command, frozenset(os.sched_getaffinity(0)), log, says_ready=False)
    try:
        yield child, port
    finally:
        child.stop()


def worker_of(child: Child) -> int:
    for one in psutil.Process(child.pid).children(recursive=True):
        if "steelyard.processes.worker" in " ".join(one.cmdline()):
            return int(one.pid)
    raise SystemExit("There is no worker.")


def one_run(folder: Path, upstream: int) -> dict[str, float]:
    data, log, found = folder / "data", folder / "log", {}
    with up(data, log) as (child, port):
        found["first start, empty directory, to /healthz"] = until_answered(
            child, port, _PLAIN % (b"/healthz", b"none")
        )
        keys = furnish(data, upstream)
    with up(data, log) as (child, port):
        load = Load("127.0.0.1", port, 1, 0, key=keys.customer)
        found["later start, to a paid answer"] = until_answered(child, port, load.request())
        worker = worker_of(child)
        found["RSS of the worker MB, one answer served"] = rss_mb(worker)
        for path in (b"/console", b"/console/sign-in", b"/admin/v1/tenants"):
            ask(port, _PLAIN % (path, keys.operator.encode()))
        found["RSS of the worker MB, console and admin API loaded"] = rss_mb(worker)
        found["RSS of all processes MB"] = rss_mb(child.pid)
    return found


def ask(port: int, request: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
        line.sendall(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        said = b""
        while piece := line.recv(65_536):
            said += piece
    if not said or said[9:10] == b"5":
        raise SystemExit(f"{request.splitlines()[0]!r} was answered {said[:300]!r}")


def installed_mb() -> float:
    """10⁶ bytes of the package and of all that it needs without extras."""
    total, known, waiting = 0, set(), ["steelyard"]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in known:
            continue
        known.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        total += sum(size(Path(str(file.locate()))) for file in found.files or () if not str(file).startswith(".."))
        waiting += [re.split(r"[ ;<>=!~\[(]", need)[0] for need in found.requires or () if "extra ==" not in need]
    source = Path(__file__).parent.parent / "src"
    total += sum(size(file) for file in source.rglob("*") if file.suffix != ".pyc")
    return total / 1e6


def size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def main() -> int:
    cores = Cores.here()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, mock(cores, Path(name) / "mock.log") as upstream:
        runs = []
        for number in range(RUNS_MIN):
            folder = Path(name) / str(number)
            folder.mkdir()
            runs.append(one_run(folder, upstream))
    report = Report("startup", "s")
    for label in runs[0]:
        report.add(label, [run[label] for run in runs])
    report.add("installed MB, with all it needs", installed_mb())
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
