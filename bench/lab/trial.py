"""One trial: a load against a port, while the processes behind it are weighed.

The shapes of load have the names the tables have: J32 and S32 (a small JSON, a stream of 66 events in one burst, at 32
connections), T500 (500 held streams of an event per 20 ms), P100K (a prompt of 100 KB) and C1 (one connection).
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.lab.load import Load
from bench.lab.weigh import Cores, cpu_s, on, rss_mb

_NOBODY = Load("127.0.0.1", 0, 32, 1.0, 0.5)
SHAPES: Mapping[str, Load] = {
    "J32": _NOBODY,
    "S32": replace(_NOBODY, stream=True),
    "T500": replace(_NOBODY, connections=500, stream=True, pace_ms=20),
    "P100K": replace(_NOBODY, connections=8, prompt_bytes=100_000),
    "C1": replace(_NOBODY, connections=1),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is asked, and the process whose tree is weighed; `beside`: one that works behind it, or 0."""

    label: str
    pid: int
    port: int
    key: str = "none"
    beside: int = 0
    settle: Callable[[], None] = lambda: None
    started_s: float = 0
    slow: bool = False
    model: str = "mock"


@dataclass(frozen=True, slots=True)
class Trial:
    """`cpu_us`: of the subject, per answer, or per event where streams are held. `beside_us`: of another process."""

    shape: str
    cpu_us: float
    beside_us: float
    rss_mb: float
    busy: float  # the share of its core the subject took
    per_s: float
    seen: dict[str, Any]


def trial(shape: str, load: Load, subject: Subject, cores: Cores) -> Trial:
    """Raises SystemExit when an answer was not what it must be: a figure of failures is none."""
    load = replace(load, port=subject.port, key=subject.key, model=subject.model)
    subject.settle()
    with on(cores.rest):
        command = [sys.executable, "-m", "bench.lab.load", json.dumps(asdict(load))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        if process.stdout is None or process.stdout.readline() != "begin\n":
            raise SystemExit(f"{subject.label}: the load {shape} did not begin.")
        before, beside_before = _weights(subject)
        line = process.stdout.readline()
        after, beside_after = _weights(subject)
        rss = rss_mb(subject.pid)
    if not line:
        raise SystemExit(f"{subject.label}: the load {shape} ended without a word.")
    seen = json.loads(line)
    units = seen["events" if load.pace_ms else "requests"]
    if seen["failures"] or not units:
        said = seen["first_failure"]
        raise SystemExit(f"{subject.label}, {shape}: {seen['failures']} of {units} answers failed: {said}")
    spent, beside = after - before, beside_after - beside_before
    rate = units / seen["seconds"]
    return Trial(shape, spent / units * 1e6, beside / units * 1e6, rss, spent / seen["seconds"], rate, seen)


def _weights(subject: Subject) -> tuple[float, float]:
    return cpu_s(subject.pid), cpu_s(subject.beside) if subject.beside else 0.0


def ids_in(file: Path) -> set[bytes]:
    """Request ids of whole answers, as the books have them."""
    return {bytes.fromhex(line.removeprefix("req_")) for line in file.read_text().split()} if file.exists() else set()
