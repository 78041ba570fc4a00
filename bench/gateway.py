"""`make bench-gateway`: what a request through the gateway costs, all accounting included.

A private platform, its worker alone on one core; upstream, load and books on the others. CPU is the process time of
the worker, of all its threads, divided by the answers (T500: by the events); it can be trusted within 10 % where the
clock cannot. The books, which post behind the path, are a row of their own.

    python -m bench.gateway                                       all shapes, three runs, written to results/
    python -m bench.gateway --only J32,S32 --seconds 3 --runs 1   for one who changes the path; written nowhere
    python -m bench.gateway --only J32 --profile /tmp/j32.pstats  the same under cProfile (then its figures are void)
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.lab.platform import Platform, mock
from bench.lab.trial import SHAPES, Trial, trial
from bench.lab.weigh import Cores
from bench.report import RUNS_MIN, Report, plain

_WORKER = ("-m", "steelyard.processes.worker")


def asked(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SHAPES), help="shapes, comma-separated: " + ", ".join(SHAPES))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each trial, after its warm-up")
    parser.add_argument("--runs", type=int, default=RUNS_MIN)
    parser.add_argument("--profile", metavar="FILE", help="run the worker under cProfile and leave its figures there")
    return parser.parse_args(arguments)


def main() -> int:
    options = asked()
    shapes = options.only.split(",")
    if unknown := [shape for shape in shapes if shape not in SHAPES]:
        raise SystemExit(f"There is no {', '.join(unknown)}; choose among {', '.join(SHAPES)}.")
    launch = ("-m", "cProfile", "-o", options.profile, *_WORKER) if options.profile else _WORKER
    cores = Cores.here()
    found: dict[str, list[Trial]] = {shape: [] for shape in shapes}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, mock(cores, Path(name) / "mock.log") as port:
        platform = Platform(Path(name) / "data", port, cores)
        try:
            with platform.worker(launch) as worker:
                for _ in range(options.runs):
                    for shape in shapes:
                        load = replace(SHAPES[shape], port=worker.port, key=worker.key, seconds=options.seconds)
                        one = trial(shape, load, worker.pid, cores, platform.books.pid)
                        found[shape].append(one)
                        print(said(one), file=sys.stderr, flush=True)
        finally:
            platform.stop()
    if options.profile or options.runs < RUNS_MIN or set(shapes) != set(SHAPES):
        return 0
    report = Report("gateway", "CPU µs per request")
    for shape, trials in found.items():
        report.add(f"steelyard, {shape}", [one.cpu_us for one in trials])
        report.add(f"its books, {shape}", [one.beside_us for one in trials])
        report.add(f"steelyard, {shape}, per second", [one.per_s for one in trials])
        for place in ("p50_us", "p99_us"):
            report.add(f"steelyard, {shape}, {place[:3]}, ms", [one.seen[place] / 1000 for one in trials])
    report.add("steelyard, RSS, MB", statistics.median(trials[-1].rss_mb for trials in found.values()))
    report.finish()
    return 0


def said(one: Trial) -> str:
    """A trial as one line."""
    times = "gap_" if SHAPES[one.shape].pace_ms else ""
    p50, p99 = (one.seen[f"{times}p{percent}_us"] / 1000 for percent in (50, 99))
    return (
        f"{one.shape:5}  {plain(one.cpu_us):>6} µs CPU   books {plain(one.beside_us):>5} µs   {one.per_s:>8,.0f} /s"
        f"   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   RSS {one.rss_mb:4.0f} MB   core {one.busy:4.0%}"
    )


if __name__ == "__main__":
    sys.exit(main())
