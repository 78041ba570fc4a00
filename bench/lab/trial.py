"""One trial: a load against a port, while the processes behind it are weighed.

The shapes of load have the names the tables have: J32 and S32 (a small JSON, a stream of 66 events in one burst, at 32
connections), T500 (500 held streams of an event per 20 ms), P100K (a prompt of 100 KB) and C1 (one connection).
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.lab.load import Load
from bench.lab.weigh import Cores, cpu_s, pinned, rss_mb

_NOBODY = Load("127.0.0.1", 0, 32, 3.0)
SHAPES: Mapping[str, Load] = {
    "J32": _NOBODY,
    "S32": replace(_NOBODY, stream=True),
    "T500": replace(_NOBODY, connections=500, stream=True, pace_ms=20, warm_s=2.0),
    "P100K": replace(_NOBODY, connections=8, prompt_bytes=100_000),
    "C1": replace(_NOBODY, connections=1),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """`cpu_us`: of the subject, per answer, or per event where streams are held. `beside_us`: of another process."""

    shape: str
    cpu_us: float
    beside_us: float
    rss_mb: float
    busy: float  # the share of its core the subject took
    seen: dict[str, Any]

    @property
    def units(self) -> int:
        return int(self.seen["events" if self.shape.startswith("T") else "requests"])

    @property
    def per_s(self) -> float:
        return self.units / self.seen["seconds"]


def trial(shape: str, load: Load, pid: int, cores: Cores, beside: int = 0) -> Trial:
    """Load the port. `pid`: the subject, its threads and children; `beside`: one that works behind it, or 0.

    Raises SystemExit when an answer was not what it must be: a figure of failures is none.
    """
    command = [sys.executable, "-m", "bench.lab.load", json.dumps(asdict(load))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pinned(cores.rest))
    with process:
        if process.stdout is None or process.stdout.readline() != "begin\n":
            raise SystemExit(f"The load {shape} did not begin.")
        before, beside_before = cpu_s(pid), cpu_s(beside) if beside else 0.0
        line = process.stdout.readline()
        spent_s, beside_s = cpu_s(pid) - before, cpu_s(beside) - beside_before if beside else 0.0
        rss = rss_mb(pid)
    if not line:
        raise SystemExit(f"The load {shape} ended without a word.")
    seen = json.loads(line)
    units = seen["events" if load.pace_ms else "requests"]
    if seen["failures"] or not units:
        raise SystemExit(f"{shape}: {seen['failures']} of {units} answers failed: {seen['first_failure']}")
    return Trial(shape, spent_s / units * 1e6, beside_s / units * 1e6, rss, spent_s / seen["seconds"], seen)
