"""`make bench-gateway`: what a request through the gateway costs, beside the gateways of others in one run.

A private platform, its worker alone on one core; upstream, load and books on the others. CPU is the process time of
the subject, of all its threads and children, divided by the answers (T500: by the events); it can be trusted within
10 % where the clock cannot. The books, which post behind the path, are a row of their own. At the end `verify` must be
clean and every whole answer must have its usage row, or there is no result.

    python -m bench.gateway                                    all of it: some minutes, written to results/
    python -m bench.gateway --only J32,S32 --seconds 3 --runs 1      ours alone, for one who changes it; not written
    python -m bench.gateway --only J32 --peers nginx,vllm-router     ... and two of the others beside it
    python -m bench.gateway --only J32 --profile /tmp/j32.pstats     under cProfile (then its figures are void)
    python -m bench.gateway --keep FILE                              goes on with the trials that FILE has
"""

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from bench.lab import platform
from bench.lab.peers import PEERS
from bench.lab.stand import DIRECT, OURS, Stand, stand
from bench.lab.told import told
from bench.lab.trial import SHAPES, Subject, Trial, ids_in, trial
from bench.report import RUNS_MIN, plain

_SLOW_SHAPES = frozenset({"J32", "S32", "C1"})
_SLOW_CONNECTIONS, _SLOW_S = 8, 4.0  # a gateway that needs 20 ms for an answer has some to show then


def asked(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="shapes, comma-separated: " + ", ".join(SHAPES))
    parser.add_argument("--peers", help="whom to measure beside: parts of their names, or none; all unless --only")
    parser.add_argument(
        "--variants",
        default="",
        help="of ours: asgi, off (the accounting), vendor (an upstream that bills), limits (per minute)",
    )
    parser.add_argument("--seconds", type=float, help="of each trial, after its warm-up")
    parser.add_argument("--runs", type=int, default=RUNS_MIN)
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="keep the trials there, turn by turn, and do none twice"
    )
    parser.add_argument("--profile", metavar="FILE", help="run the worker under cProfile and leave its figures there")
    options = parser.parse_args(arguments)
    options.whole = options.only is None and options.peers is None and not options.profile and options.runs >= RUNS_MIN
    options.variants = "asgi,off,vendor,limits" if options.whole else options.variants
    options.ours = [label for label, launch in OURS.items() if launch[-1] in options.variants or label == "steelyard"]
    options.shapes = options.only.split(",") if options.only else list(SHAPES)
    options.peers = options.peers.split(",") if options.peers else ["none"] if options.only or options.profile else [""]
    if unknown := [shape for shape in options.shapes if shape not in SHAPES]:
        parser.error(f"there is no {', '.join(unknown)}; choose among {', '.join(SHAPES)}")
    return options


class Bench:
    """Who is measured, and what was found."""

    def __init__(self, options: argparse.Namespace, place: Stand) -> None:
        self.options, self.place = options, place
        self.subjects: list[Subject] = []
        self.found: dict[tuple[str, str], list[Trial]] = {}
        self.answered: set[bytes] = set()

    def start(self) -> None:
        chosen = [peer for peer in PEERS if any(part in peer.label for part in self.options.peers)]
        self.subjects = [self.place.direct, *filter(None, map(self.place.peer, chosen))]
        wrap = ("-m", "cProfile", "-o", self.options.profile) if self.options.profile else ()
        for label in self.options.ours:
            self.subjects.append(self.place.ours(label, wrap))
            if label != "steelyard":
                continue
            own = self.subjects[-1]
            if "vendor" in self.options.variants:
                self.subjects.append(replace(own, label=f"{label}, vendor upstream", model=platform.VENDOR_MODEL))
            if "limits" in self.options.variants:
                self.subjects.append(replace(own, label=f"{label}, limits per minute", key=self.place.platform.limited))

    def run(self) -> None:
        """Every subject in every shape, in turn, as often as asked. Raises SystemExit when the books of a turn are
        wrong; what is kept is kept when they are right."""
        for turn in range(self.options.runs):
            fresh = []
            for shape in self.options.shapes:
                for subject in self.subjects:
                    done = self.found.setdefault((subject.label, shape), [])
                    if _can(subject, shape) and len(done) <= turn:
                        tried = self._trial(shape, subject)
                        done += tried
                        fresh += [(subject.label, one) for one in tried]
            if wrong := self.place.platform.lost(self.answered):
                raise SystemExit(f"The books of this run are wrong, so there is no result: {wrong}.")
            if self.options.keep:
                with self.options.keep.open("a") as file:
                    file.writelines(json.dumps({"label": label} | asdict(one)) + "\n" for label, one in fresh)

    def _trial(self, shape: str, subject: Subject) -> list[Trial]:
        """One, or none when somebody else's gateway does not stand it. Raises SystemExit when ours does not."""
        load, ids = SHAPES[shape], self.place.folder / "ids"
        if self.options.seconds:
            load = replace(load, seconds=self.options.seconds)
        if subject.slow:
            load = replace(load, connections=min(load.connections, _SLOW_CONNECTIONS), seconds=_SLOW_S)
        if subject.beside and not load.pace_ms:
            load = replace(load, ids=str(ids))
        try:
            one = trial(shape, load, subject, self.place.cores)
        except SystemExit as error:
            if subject.label.startswith("steelyard"):
                raise
            self.place.skip(f"{subject.label}, {shape}", str(error))
            return []
        print(said(subject.label, one), file=sys.stderr, flush=True)
        if load.ids:
            self.answered |= ids_in(ids)
        return [one]

    def recall(self) -> None:
        """The trials an earlier run kept."""
        if self.options.keep and self.options.keep.exists():
            for line in self.options.keep.read_text().splitlines():
                kept = json.loads(line)
                label = kept.pop("label")
                self.found.setdefault((label, kept["shape"]), []).append(Trial(**kept))


def _can(subject: Subject, shape: str) -> bool:
    if subject.label == DIRECT:
        return shape == "C1"
    return not subject.slow or shape in _SLOW_SHAPES


def said(label: str, one: Trial) -> str:
    """A trial as one line."""
    times = "gap_" if SHAPES[one.shape].pace_ms else ""
    p50, p99 = (one.seen[f"{times}p{percent}_us"] / 1000 for percent in (50, 99))
    beside = f"   books {plain(one.beside_us)} µs" if one.beside_us else ""
    return (
        f"{label:26} {one.shape:5}  {plain(one.cpu_us):>6} µs CPU  {one.per_s:>8,.0f} /s"
        f"   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   RSS {one.rss_mb:4.0f} MB   core {one.busy:4.0%}{beside}"
    )


def main() -> int:
    options = asked()
    with stand() as place:
        lab = Bench(options, place)
        lab.recall()
        lab.start()
        lab.run()
        print(f"The books are right: {len(lab.answered):,} answers, each with its usage row; verify is clean.")
        told(lab.found, lab.subjects, place.skipped, place.versions, written=options.whole)
    return 0


if __name__ == "__main__":
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("This measurement needs Linux: it puts what it weighs on a core of its own.")
    sys.exit(main())
