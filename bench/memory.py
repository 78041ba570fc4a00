"""`make bench-memory`: what a worker takes when much hangs on it, and that it ends somewhere.

Idle keep-alive connections, held streams, readers that do not read, and long prompts as fast as they can be taken. The
figure is the worker's resident memory (its highest while it lasts); a second row says what one of them adds.
"""

import argparse
import json
import resource
import select
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, replace

from bench.lab.load import Load
from bench.lab.stand import Stand, stand
from bench.lab.trial import SHAPES, Subject
from bench.lab.weigh import on, rss_mb
from bench.report import Report

IDLE, HELD, SLOW = 10_000, 2_000, 500
PROMPT_BYTES, PROMPTS_AT_ONCE = 1_000_000, 16
_FILES = 2 * IDLE + 4096
_SLOW_S, _HELD_S, _PROMPT_S = 5.0, 3.0, 5.0
_HELD_PACE_MS = 250  # all of them are to be held, by a core that is not to be busy
FIRST = "a worker that has served"


def served(place: Stand) -> Subject:
    """A worker of its own for each row, as memory that was had once is not given back; some ordinary requests old."""
    subject = place.ours()
    loaded(place, subject, replace(SHAPES["J32"], seconds=1.0))
    return subject


def idle(subject: Subject, count: int) -> float:
    """That many connections, each of which has had an answer."""
    request = f"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:{subject.port}\r\n\r\n".encode()
    with ExitStack() as stack:
        lines = []
        for _ in range(count):
            lines.append(stack.enter_context(socket.create_connection(("127.0.0.1", subject.port))))
            lines[-1].sendall(request)
        for line in lines:
            if not line.recv(4096).startswith(b"HTTP/1.1 200"):
                raise SystemExit("An idle connection was not answered.")
        return rss_mb(subject.pid)


def slow(subject: Subject, count: int) -> float:
    """Streams of 8,000 events that come as fast as they can, and are not read."""
    request = replace(SHAPES["T500"], port=subject.port, key=subject.key, pace_ms=1, pieces=8000).request()
    highest = 0.0
    with ExitStack() as stack:
        for _ in range(count):
            line = stack.enter_context(socket.socket())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect(("127.0.0.1", subject.port))
            line.sendall(request)
        until = time.monotonic() + _SLOW_S
        while time.monotonic() < until:
            highest = max(highest, rss_mb(subject.pid))
            time.sleep(0.1)
    return highest


def loaded(place: Stand, subject: Subject, load: Load) -> tuple[float, dict[str, float]]:
    """The highest RSS under a load, and what the load saw; answers that were refused are counted, not forbidden."""
    load = replace(load, port=subject.port, key=subject.key)
    with on(place.cores.rest):
        command = [sys.executable, "-m", "bench.lab.load", json.dumps(asdict(load))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    highest, said = 0.0, b""
    if process.stdout is None:
        raise SystemExit("The load says nothing.")
    while process.poll() is None:
        highest = max(highest, rss_mb(subject.pid))
        ready, _, _ = select.select([process.stdout], [], [], 0.1)
        said += process.stdout.readline() if ready else b""
    said += process.stdout.read()
    return highest, json.loads(said.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=int, default=IDLE)
    parser.add_argument("--held", type=int, default=HELD)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, files), hard))
    idles = min(options.idle, files - 1000)
    report = Report("memory", "RSS MB")
    with stand() as place:
        subject = served(place)
        at_rest = report.add(FIRST, rss_mb(subject.pid))
        highest = report.add(f"{idles:,} idle keep-alive connections", idle(subject, idles), FIRST)
        report.add("each of them, KB", (highest - at_rest) / idles * 1000)
        streams = replace(SHAPES["T500"], connections=options.held, seconds=_HELD_S, pace_ms=_HELD_PACE_MS, pieces=1000)
        highest, seen = loaded(place, served(place), streams)
        report.add(f"{options.held:,} streams asked for", highest, FIRST)
        report.add("refused of them", seen["failures"])
        report.add("each of the others, KB", (highest - at_rest) / max(1, options.held - seen["failures"]) * 1000)
        report.add(f"{SLOW} readers that do not read", slow(served(place), SLOW), FIRST)
        place.platform.settled()
        prompts = replace(
            SHAPES["P100K"], connections=PROMPTS_AT_ONCE, prompt_bytes=PROMPT_BYTES, seconds=_PROMPT_S, warm_s=0.5
        )
        subject = served(place)
        highest, seen = loaded(place, subject, prompts)
        report.add(f"{PROMPTS_AT_ONCE} prompts of {PROMPT_BYTES // 1_000_000} MB at once", highest, FIRST)
        report.add("as many MB of prompts/s", seen["requests"] * PROMPT_BYTES / seen["seconds"] / 1e6)
        report.add("afterwards", rss_mb(subject.pid), FIRST)
        if wrong := place.platform.lost(()):
            raise SystemExit(f"The books of this run are wrong, so there is no result: {wrong}.")
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
