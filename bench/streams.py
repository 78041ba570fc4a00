"""`make bench-streams`: how many streams of an event per 20 ms one core can hold.

Held is a number of streams when the gap between two reads of one stream stays at 40 ms or below in 99 of 100 cases, and
none of them is refused or cut. The upstream itself, asked directly, says where the laboratory ends: beyond that nobody
is told anything.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace

from bench.lab.peers import PEERS
from bench.lab.stand import DIRECT, Stand, stand
from bench.lab.trial import SHAPES, Subject, Trial, trial
from bench.report import RUNS_MIN, Report, plain

LEVELS = (256, 512, 1024, 2048)
GAP_MS_MAX = 40
_BESIDE = ("nginx", "vllm-router")
_STREAM = replace(SHAPES["T500"], pieces=1000, warm_s=1.0, seconds=2.0)


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--levels", default=",".join(map(str, LEVELS)), help="how many streams, comma-separated, rising"
    )
    parser.add_argument("--peers", default=",".join(_BESIDE), help="whom to measure beside: parts of names, or none")
    parser.add_argument("--runs", type=int, default=RUNS_MIN)
    return parser.parse_args()


def main() -> int:
    options = asked()
    levels = [int(level) for level in options.levels.split(",")]
    with stand() as place:
        wanted = options.peers.split(",")
        peers = [place.peer(peer) for peer in PEERS if any(part in peer.label for part in wanted)]
        subjects = [place.direct, *filter(None, peers), place.ours()]
        found = {subject.label: climb(place, subject, levels, options.runs) for subject in subjects}
        if wrong := place.platform.lost(()):
            raise SystemExit(f"The books of this run are wrong, so there is no result: {wrong}.")
        if options.runs < RUNS_MIN or levels != list(LEVELS):
            return 0
        report = Report("streams", "streams held by one core")
        for label, steps in found.items():
            report.add(label, max((level for level, trials in steps.items() if held(trials)), default=0))
        for label, steps in found.items():
            for level, trials in steps.items():
                report.add(f"{label}, {level}: gap p99 ms", [gap_ms(one) for one in trials])
                if label != DIRECT:
                    report.add(f"{label}, {level}: CPU µs per event", [one.cpu_us for one in trials])
                    report.add(f"{label}, {level}: RSS MB", [one.rss_mb for one in trials])
        report.finish(skipped=place.skipped, peers=place.versions)
    return 0


def climb(place: Stand, subject: Subject, levels: Sequence[int], runs: int) -> dict[int, list[Trial]]:
    """The trials of each level, up to the first that is not held."""
    steps: dict[int, list[Trial]] = {}
    for level in levels:
        load = replace(_STREAM, connections=level)
        try:
            steps[level] = [trial(f"T{level}", load, subject, place.cores) for _ in range(runs)]
        except SystemExit as error:
            print(f"{level:5} {subject.label:20} refused: {error}", file=sys.stderr, flush=True)
            break
        print(said(subject.label, level, steps[level]), file=sys.stderr, flush=True)
        if not held(steps[level]):
            break
    return steps


def held(trials: Sequence[Trial]) -> bool:
    return statistics.median(map(gap_ms, trials)) <= GAP_MS_MAX


def gap_ms(one: Trial) -> float:
    return float(one.seen["gap_p99_us"]) / 1000


def said(label: str, level: int, trials: Sequence[Trial]) -> str:
    gap, cpu = statistics.median(map(gap_ms, trials)), statistics.median(one.cpu_us for one in trials)
    busy = statistics.median(one.busy for one in trials)
    return f"{level:5} {label:20} gap p99 {gap:6.1f} ms   {plain(cpu):>5} µs per event   core {busy:4.0%}"


if __name__ == "__main__":
    sys.exit(main())
