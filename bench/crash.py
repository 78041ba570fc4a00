"""`make crash`: the public proof at length, half of the kills on SQLite and half on PostgreSQL.

Runs `steelyard prove` as a user does and keeps its table in bench/results/crash.json. Fails when a proof does.
"""

import argparse
import json
import subprocess
import sys
import time

from bench import report

PLACES = {"SQLite": [], "PostgreSQL": ["--postgres"]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=2000, help="in all")
    parser.add_argument("--seed", type=int, default=20261127)
    parser.add_argument("--no-engine", action="store_true")
    arguments = parser.parse_args()
    campaigns = []
    for place, options in PLACES.items():
        kills = arguments.kills // len(PLACES)
        command = [sys.executable, "-m", "steelyard.cli.main", "prove", "--json", "--kills", str(kills)]
        command += ["--seed", str(arguments.seed), *options, *(["--no-engine"] if arguments.no_engine else [])]
        print(f"{place}: {kills} kills, seed {arguments.seed}", flush=True)
        started = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(done.stdout)
            return done.returncode
        table = json.loads(done.stdout)
        seconds = round(time.monotonic() - started)
        campaigns.append({"books": place, "kills": kills, "seed": arguments.seed, "seconds": seconds} | table)
        _keep(campaigns, engine=not arguments.no_engine)
        print("\n".join(f"{name.replace('_', ' '):<20} {count:>9,}" for name, count in table.items()), flush=True)
    return 0


def _keep(campaigns: list[dict[str, object]], *, engine: bool) -> None:
    report.RESULTS.mkdir(exist_ok=True)
    record = {"name": "crash", "engine": engine} | report.circumstances() | {"campaigns": campaigns}
    report.write(report.RESULTS / "crash.json", record)


if __name__ == "__main__":
    sys.exit(main())
