"""The long campaign: many seeds, each a world of its own; stops at the first that fails and prints its last events.

A seed and a number of steps replay bit for bit.

  python -m tests.simulator --seeds 0..1000 --steps 10000 --jobs 2
  python -m tests.simulator --seeds 17 --steps 10000            one seed again
  python -m tests.simulator --seeds 0..200 --mutant watermark-ahead
"""

import argparse
import gc
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulator.simulation import Result

SUMS = ("steps", "requests", "posted", "short", "refused", "kills")
LONG_STEPS = 5_000_000  # a campaign this long must have seen every fault; the rarest come twice in a million


def run(seed: int, steps: int, mutant: str | None, folder: Path) -> "Result":
    from tests.simulator.mutants import mutated
    from tests.simulator.simulation import simulate

    sys.unraisablehook = lambda _: None  # generators of killed processes, collected in mid-air
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of processes that died before their first step
    gc.disable()  # a world is small, and collected as a whole when it is over
    with mutated(mutant) if mutant else nullcontext():
        result = simulate(seed, steps, folder)
    gc.collect()
    return result


def _in_own_folder(seed: int, steps: int, mutant: str | None, folder: Path) -> "Result":
    own = folder / str(os.getpid())
    own.mkdir(exist_ok=True)
    return run(seed, steps, mutant, own)


def results(seeds: range, arguments: argparse.Namespace, folder: Path) -> Iterator["Result"]:
    """The seeds' results, in their order."""
    if arguments.jobs == 1:
        for seed in seeds:
            yield run(seed, arguments.steps, arguments.mutant, folder)
        return
    with ProcessPoolExecutor(arguments.jobs) as pool:
        waiting, rest = [], iter(seeds)
        for seed in islice(rest, 2 * arguments.jobs):
            waiting.append(pool.submit(_in_own_folder, seed, arguments.steps, arguments.mutant, folder))
        while waiting:
            yield waiting.pop(0).result()
            for seed in islice(rest, 1):
                waiting.append(pool.submit(_in_own_folder, seed, arguments.steps, arguments.mutant, folder))


def main() -> int:
    arguments = _arguments()
    first, _, end = arguments.seeds.partition("..")
    seeds = range(int(first), int(end) if end else int(first) + 1)
    memory = Path("/dev/shm")
    totals: Counter[str] = Counter()
    tally: Counter[str] = Counter()
    digest = hashlib.sha256()
    begun = time.monotonic()
    failed = None
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        tempfile.tempdir = folder  # scratch databases of replays
        for result in results(seeds, arguments, Path(folder)):
            totals["seeds"] += 1
            totals.update({name: getattr(result, name) for name in SUMS})
            tally.update(result.tally)
            digest.update(result.fingerprint.encode())
            if sys.stderr.isatty() or totals["seeds"] % 50 == 0:
                _tell(result.seed, totals, time.monotonic() - begun)
            if result.faults:
                failed = result
                break
        tempfile.tempdir = None
    if failed is not None:
        print(f"seed {failed.seed} fails after {failed.steps} steps:")
        print(*(f"  {fault}" for fault in failed.faults[:10]), sep="\n")
        print("the last events:", *failed.trail, sep="\n  ")
        print(f"again: python -m tests.simulator --seeds {failed.seed} --steps {arguments.steps}")
    figures = _figures(arguments, totals, tally, time.monotonic() - begun)
    figures |= {"digest": digest.hexdigest()[:32], "failed_seeds": int(failed is not None)}
    _print(figures)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    incomplete = bool(figures["never_injected"]) and totals["steps"] >= LONG_STEPS
    return int(failed is not None or incomplete)


def _arguments() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__, formatter_class=shape)
    parser.add_argument("--seeds", default="0..100", help="A..B, B not included; or one seed (default: 0..100)")
    parser.add_argument("--steps", type=int, default=10_000, help="events under trouble, for each seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds")
    parser.add_argument("--mutant", help="run the program with this mistake in it (see mutants.py)")
    parser.add_argument("--json", type=Path, help="write the totals here")
    return parser.parse_args()


def _tell(seed: int, totals: Counter[str], seconds: float) -> None:
    moving = sys.stderr.isatty()
    print(
        f"{chr(13) if moving else ''}seed {seed}: {totals['steps']:,} steps, {totals['posted']:,} posted, "
        f"{totals['kills']:,} kills, {totals['steps'] / seconds:,.0f} steps/s ",
        end="" if moving else "\n",
        file=sys.stderr,
        flush=True,
    )


def _figures(
    arguments: argparse.Namespace, totals: Counter[str], tally: Counter[str], seconds: float
) -> dict[str, object]:
    from tests.simulator.faults import INJECTED

    return {
        "command": " ".join(["python -m tests.simulator", *sys.argv[1:]]),
        **totals,
        "seconds": round(seconds, 1),
        "steps_per_s": round(totals["steps"] / seconds),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "injected": dict(sorted(tally.items())),
        "never_injected": [name for name in INJECTED if not tally[name]],
    }


def _print(figures: dict[str, object]) -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
    width = 48
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{name}:", *(f"  {one:<{width}} {count:>12,}" for one, count in value.items()), sep="\n")
        elif isinstance(value, list):
            print(f"{name}: {', '.join(value) or 'none'}")
        else:
            print(f"{name:<{width + 2}} {f'{value:,}' if isinstance(value, int) else value:>12}")


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of ids are walked in the order of their hashes
        again = [sys.executable, "-m", "tests.simulator", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | {"PYTHONHASHSEED": "0"})
    sys.exit(main())
