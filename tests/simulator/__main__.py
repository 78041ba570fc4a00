"""The long campaign: `python -m tests.simulator --seeds 0..1000 --steps 12000`.

Runs every seed, prints a progress line, and stops at the first seed that fails with what was found and the last events.
The same seed and steps replay bit for bit.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", default="0..100", help="A..B, B not included; or one seed")
    parser.add_argument("--steps", type=int, default=10_000, help="events under trouble, for each seed")
    parser.add_argument("--mutant", help="run the program with this mistake in it (see mutants.py)")
    parser.add_argument("--json", type=Path, help="write the totals here")
    arguments = parser.parse_args()
    first, _, end = arguments.seeds.partition("..")
    seeds = range(int(first), int(end) if end else int(first) + 1)
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of ids are walked in the order of their hashes
        again = [sys.executable, "-m", "tests.simulator", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | {"PYTHONHASHSEED": "0"})
    sys.unraisablehook = lambda _: None  # generators of killed processes, collected in mid-air
    from tests.simulator.mutants import mutated
    from tests.simulator.simulation import simulate

    memory = Path("/dev/shm")
    totals: Counter[str] = Counter()
    begun = time.monotonic()
    failed = None
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for seed in seeds:
            with mutated(arguments.mutant) if arguments.mutant else nullcontext():
                result = simulate(seed, arguments.steps, Path(folder))
            totals["seeds"] += 1
            for name in ("steps", "requests", "posted", "short", "refused", "kills", "power_losses"):
                totals[name] += getattr(result, name)
            seconds = time.monotonic() - begun
            print(
                f"\rseed {seed}: {totals['seeds']} seeds, {totals['steps']:,} steps, {totals['posted']:,} posted, "
                f"{totals['kills']} kills, {totals['steps'] / seconds:,.0f} steps/s ",
                end="",
                file=sys.stderr,
            )
            if result.faults:
                failed = result
                break
    print(file=sys.stderr)
    if failed is not None:
        print(f"seed {failed.seed} fails after {failed.steps} steps:")
        print(*(f"  {fault}" for fault in failed.faults[:10]), sep="\n")
        print("the last events:", *failed.trail, sep="\n  ")
        print(f"again: python -m tests.simulator --seeds {failed.seed} --steps {arguments.steps}")
    elif len(seeds) == 1:
        print(f"{result.fingerprint}")
    seconds = time.monotonic() - begun
    figures = {
        "command": f"python -m tests.simulator --seeds {arguments.seeds} --steps {arguments.steps}",
        **totals,
        "failed_seeds": int(failed is not None),
        "seconds": round(seconds, 1),
        "steps_per_s": round(totals["steps"] / seconds),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return int(failed is not None)


if __name__ == "__main__":
    sys.exit(main())
